package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

var one = record(netip.MustParseAddr("192.0.2.1"), 300)

func query(t testing.TB, typ dnsmessage.Type, edns bool) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("wWw.Site.example."), Type: typ, Class: dnsmessage.ClassINET}},
	}
	if edns {
		opt := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("."), Class: 4096}, Body: &dnsmessage.OPTResource{}}
		m.Additionals = append(m.Additionals, opt)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReply(t *testing.T) {
	for _, tt := range []struct {
		typ     dnsmessage.Type
		edns    bool
		answers int
	}{
		{dnsmessage.TypeA, false, 1},
		{dnsmessage.TypeA, true, 1},
		{dnsmessage.TypeAAAA, true, 0},
	} {
		b, ok := one.reply(nil, query(t, tt.typ, tt.edns))
		var m dnsmessage.Message
		if err := m.Unpack(b); err != nil || !ok {
			t.Fatalf("%v: %v, %x", tt, err, b)
		}
		if m.ID != 7 || !m.Response || !m.RecursionAvailable || m.RCode != 0 {
			t.Errorf("%v: header %+v", tt, m.Header)
		}
		if q := m.Questions[0]; q.Name.String() != "wWw.Site.example." || q.Type != tt.typ {
			t.Errorf("%v: question %v", tt, q)
		}
		if len(m.Answers) != tt.answers || (len(m.Additionals) > 0) != tt.edns {
			t.Errorf("%v: %d answers, %d additional", tt, len(m.Answers), len(m.Additionals))
		}
		for _, r := range m.Answers {
			if a := r.Body.(*dnsmessage.AResource).A; a != [4]byte{192, 0, 2, 1} || r.Header.TTL != 300 || r.Header.Name.String() != "wWw.Site.example." {
				t.Errorf("%v: answer %v", tt, r)
			}
		}
	}
}

func TestConverse(t *testing.T) {
	q := query(t, dnsmessage.TypeA, false)
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)
	want, _ := one.reply(nil, q)
	want = append(binary.BigEndian.AppendUint16(nil, uint16(len(want))), want...)
	var got bytes.Buffer
	stream := struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(append(framed, framed...)), &got}
	if err := one.converse(stream); err != io.EOF {
		t.Error(err)
	}
	if !bytes.Equal(got.Bytes(), append(want, want...)) {
		t.Errorf("two questions are answered by %x", got.Bytes())
	}
}

func TestReplyAllocatesNothing(t *testing.T) {
	q, b := query(t, dnsmessage.TypeA, true), make([]byte, datagram)
	if n := testing.AllocsPerRun(100, func() { one.reply(b[:0], q) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzReply(f *testing.F) {
	f.Add(query(f, dnsmessage.TypeA, true))
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, q []byte) {
		if b, ok := one.reply(nil, q); ok && (len(b) < headerSize || b[2]&0x80 == 0) {
			t.Errorf("%x is answered by %x", q, b)
		}
	})
}
