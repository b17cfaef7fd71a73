package main

import (
	"errors"
	"fmt"

	"golang.org/x/net/dns/dnsmessage"
)

// pack makes a question for the A records of each name. Their ids are zero.
func pack(names []string) ([][]byte, error) {
	if len(names) == 0 {
		return nil, errors.New("there are no names")
	}
	queries := make([][]byte, len(names))
	for i, name := range names {
		n, err := dnsmessage.NewName(name + ".")
		if err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		m := dnsmessage.Message{
			Header:    dnsmessage.Header{RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		}
		if queries[i], err = m.Pack(); err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
	}
	return queries, nil
}
