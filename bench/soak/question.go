package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// A kind is what is special about a name.
type kind uint8

const (
	popular kind = iota // asked again and again: to be had from the cache
	unique              // never asked before: upstream has to be asked
	blocked             // in the list in both of its versions
)

func (k kind) String() string { return [...]string{"popular", "unique", "blocked"}[k] }

// Of 100 questions so many are for names of these kinds; the others are popular.
const (
	uniqueShare  = 10
	blockedShare = 5
	streamShare  = 2 // of 100 questions so many are asked over TCP
)

// A question is one of a [mix].
type question struct {
	kind   kind
	stream bool
	number uint32 // among its kind
}

// A mix is what is asked, and what has to be answered.
type mix struct {
	queries [3][][]byte // packed, with an id of zero; none of unique names
	address [4]byte     // of all names that are not blocked
}

func newMix(names, listed []string, address [4]byte) (*mix, error) {
	m := &mix{address: address}
	var err error
	if m.queries[popular], err = packAll(names); err != nil {
		return nil, err
	}
	m.queries[blocked], err = packAll(listed)
	return m, err
}

func packAll(names []string) ([][]byte, error) {
	if len(names) == 0 {
		return nil, errors.New("there are no names")
	}
	var all [][]byte
	for _, name := range names {
		q, err := packed(name)
		if err != nil {
			return nil, err
		}
		all = append(all, q)
	}
	return all, nil
}

const headerSize = 12 // RFC 1035, section 4.1.1

// packed returns a question for the A record of the name.
func packed(name string) ([]byte, error) {
	b := []byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0} // RD, one question
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return nil, fmt.Errorf("%q is no name", name)
		}
		b = append(b, byte(len(label)))
		b = append(b, label...)
	}
	b = append(b, 0, 0, 1, 0, 1)
	if len(b) > headerSize+255+4 {
		return nil, fmt.Errorf("%q is too long for a name", name)
	}
	return b, nil
}

// pick returns the i-th question. It follows from i alone.
func (m *mix) pick(i uint64) question {
	h := scatter(i)
	q := question{stream: h>>32%100 < streamShare, number: uint32(h >> 40)}
	switch r := h % 100; {
	case r < uniqueShare:
		q.kind, q.number = unique, uint32(i)
	case r < uniqueShare+blockedShare:
		q.kind = blocked
	}
	return q
}

// scatter is the finalizer of SplitMix64: neighbours become strangers.
func scatter(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// append appends the question as a message to b.
func (m *mix) append(b []byte, q question, id uint16) []byte {
	start := len(b)
	if all := m.queries[q.kind]; len(all) > 0 {
		b = append(b, all[int(q.number)%len(all)]...)
	} else {
		b = append(b, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9, 'u')
		for shift := 28; shift >= 0; shift -= 4 {
			b = append(b, "0123456789abcdef"[q.number>>shift&15])
		}
		b = append(b, "\x07missing\x03org\x00\x00\x01\x00\x01"...)
	}
	binary.BigEndian.PutUint16(b[start:], id)
	return b
}

// What is wrong with an answer.
var (
	errServfail = errors.New("SERVFAIL")
	errRcode    = errors.New("another rcode than it should have")
	errQuestion = errors.New("the answer to another question")
	errAddress  = errors.New("another address")
	errBroken   = errors.New("no answer that can be read")
)

// check says what is wrong with the answer to a question, which query holds.
func (m *mix) check(k kind, query, answer []byte) error {
	if len(answer) < headerSize || answer[2]&0x82 != 0x80 {
		return errBroken // it is a question, or cut off, which no answer here needs to be
	}
	if !bytes.HasPrefix(answer[headerSize:], query[headerSize:]) {
		return errQuestion
	}
	rcode, answers := answer[3]&15, binary.BigEndian.Uint16(answer[6:])
	switch {
	case rcode == 2:
		return errServfail
	case k == blocked && (rcode != 3 || answers != 0), k != blocked && rcode != 0:
		return errRcode
	case k == blocked:
		return nil
	}
	return m.checkAddress(answer)
}

func (m *mix) checkAddress(answer []byte) error {
	var p dnsmessage.Parser
	if _, err := p.Start(answer); err != nil {
		return errBroken
	}
	if err := p.SkipAllQuestions(); err != nil {
		return errBroken
	}
	h, err := p.AnswerHeader()
	if err != nil || h.Type != dnsmessage.TypeA {
		return errAddress
	}
	if a, err := p.AResource(); err != nil || a.A != m.address {
		return errAddress
	}
	return nil
}
