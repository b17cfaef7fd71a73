package main

import (
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestCheck(t *testing.T) {
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	q, err := query("www.example")
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(q); err != nil {
		t.Fatal(err)
	}
	m.Response = true
	m.Answers = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET},
		Body:   &dnsmessage.AResource{A: one.As4()},
	}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if err := check(b, one); err != nil {
		t.Error(err)
	}
	if err := check(b, two); err != errWrong {
		t.Errorf("another address: %v", err)
	}
	if err := check(q, one); err != errWrong {
		t.Errorf("no answer: %v", err)
	}
	if err := check(b[:20], one); err == nil || err == errWrong {
		t.Errorf("cut off: %v", err)
	}
}
