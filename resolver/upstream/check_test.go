package upstream

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// packed packs a message that was changed for the test.
func packed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestQuery(t *testing.T) {
	q := Question{Name: www.Name, Type: dns.TypeAAAA, Class: dns.ClassINET, DO: true, CD: true, ECS: netip.MustParsePrefix("198.51.103.77/22")}
	b := appendQuery([]byte("before"), &q, 0x1234, manner{edns: true, mixed: true, pad: true})[len("before"):]
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	o := m.IsEdns0()
	if m.Id != 0x1234 || !m.RecursionDesired || !m.CheckingDisabled || o == nil || !o.Do() || o.UDPSize() != udpSize || len(b)%padding != 0 {
		t.Errorf("%v in %d octets", m, len(b))
	}
	if len(o.Option) != 2 || o.Option[0].String() != "198.51.100.0/22/0" {
		t.Errorf("options %v", o.Option)
	}
	if got := m.Question[0]; !strings.EqualFold(got.Name, "www.example.com.") || got.Qtype != dns.TypeAAAA {
		t.Errorf("asked %v", got)
	}
	for _, ad := range []bool{false, true} {
		if err := m.Unpack(appendQuery(nil, &q, 1, manner{ad: ad})); err != nil || m.AuthenticatedData != ad || !m.CheckingDisabled {
			t.Errorf("asked for AD: %t, %v, %v", ad, m, err)
		}
	}
	long := Question{Name: strings.Repeat("\x3f"+strings.Repeat("a", 63), 3) + "\x3d" + strings.Repeat("b", 61) + "\x00", ECS: netip.MustParsePrefix("2001:db8::/128")}
	if err := long.valid(); err != nil {
		t.Error(err)
	}
	if n := len(appendQuery(nil, &long, 1, manner{edns: true})); n > maxQuery {
		t.Errorf("the longest query has %d octets, more than %d", n, maxQuery)
	}
}

func TestQuestions(t *testing.T) {
	for _, name := range []string{"", "www", "\x03ww\x00", "\x00\x00", "\x03www\x00x", "\xc0\x0c", strings.Repeat("\x01a", 127) + "\x01a\x00"} {
		if err := (&Question{Name: name}).valid(); err == nil {
			t.Errorf("%q is taken for a name", name)
		}
	}
	for _, name := range []string{"\x00", "\x03www\x00", strings.Repeat("\x01a", 127) + "\x00"} {
		if err := (&Question{Name: name}).valid(); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestCheck(t *testing.T) {
	ecs := www
	ecs.ECS = netip.MustParsePrefix("198.51.100.0/24")
	subnet := func(addr string, bits uint8) func(m *dns.Msg) {
		return func(m *dns.Msg) {
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: bits, SourceScope: 20, Address: netip.MustParseAddr(addr).AsSlice()}}
		}
	}
	tests := []struct {
		what   string
		q      Question
		change func(m *dns.Msg)
		octets func(b []byte) []byte
		err    error
	}{
		{what: "right", q: www},
		{what: "another id", q: www, change: func(m *dns.Msg) { m.Id++ }, err: errMismatch},
		{what: "no reply", q: www, change: func(m *dns.Msg) { m.Response = false }, err: errMismatch},
		{what: "another opcode", q: www, change: func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, err: errMismatch},
		{what: "another name", q: www, change: func(m *dns.Msg) { m.Question[0].Name = "wwx.example.com." }, err: errMismatch},
		{what: "another type", q: www, change: func(m *dns.Msg) { m.Question[0].Qtype++ }, err: errMismatch},
		{what: "another class", q: www, change: func(m *dns.Msg) { m.Question[0].Qclass++ }, err: errMismatch},
		{what: "two questions", q: www, change: func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, err: errMismatch},
		{what: "no question and an answer", q: www, change: func(m *dns.Msg) { m.Question = nil }, err: errMismatch},
		{what: "no question, refused", q: www, change: func(m *dns.Msg) { m.Question, m.Answer, m.Rcode = nil, nil, dns.RcodeRefused }},
		{what: "no question, no failure", q: www, change: func(m *dns.Msg) { m.Question, m.Answer = nil, nil }, err: errMismatch},
		{what: "another case", q: www, change: func(m *dns.Msg) { m.Question[0].Name = swapCase(m.Question[0].Name) }, err: errCase},
		{what: "truncated", q: www, change: func(m *dns.Msg) { m.Truncated = true }, err: errTruncated},
		{what: "truncated in a record", q: www, change: func(m *dns.Msg) { m.Truncated = true }, octets: func(b []byte) []byte { return b[:len(b)-13] }, err: errTruncated},
		{what: "cut", q: www, octets: func(b []byte) []byte { return b[:len(b)-1] }, err: errBroken},
		{what: "no header", q: www, octets: func(b []byte) []byte { return b[:11] }, err: errMismatch},
		{what: "something behind", q: www, octets: func(b []byte) []byte { return append(b, "rest"...) }},
		{what: "a subnet not asked for", q: www, change: subnet("203.0.113.0", 24)},
		{what: "the right subnet", q: ecs, change: subnet("198.51.100.0", 24)},
		{what: "another subnet", q: ecs, change: subnet("203.0.113.0", 24), err: errMismatch},
		{what: "a longer subnet", q: ecs, change: subnet("198.51.100.0", 23), err: errMismatch},
		{what: "two OPT records", q: www, change: func(m *dns.Msg) { m.Extra = append(m.Extra, m.Extra[0]) }, err: errBroken},
		{what: "OPT as the answer", q: www, change: func(m *dns.Msg) { m.Answer, m.Extra = m.Extra, nil }, err: errBroken},
		{what: "an odd type", q: www, change: func(m *dns.Msg) {
			m.Answer = append(m.Answer, rr("www.example.com. 60 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1"))
		}},
		{what: "a broken odd type", q: www, change: func(m *dns.Msg) {
			m.Answer = append(m.Answer, &dns.RFC3597{Hdr: dns.RR_Header{Name: "www.example.com.", Rrtype: dns.TypeHTTPS, Class: 1}, Rdata: "00"})
		}, err: errUnreadable},
	}
	for _, tt := range tests {
		sent := appendQuery(nil, &tt.q, 7, manner{edns: true})
		copy(sent[headerLen:], "\x03wWw\x07ExaMple")
		m := new(dns.Msg)
		if err := m.Unpack(sent); err != nil {
			t.Fatal(err)
		}
		m = reply(m, 0, m.Question[0].Name+" 60 IN A 192.0.2.1")
		m.IsEdns0().Option = nil
		m.Compress = len(tt.what)%2 == 0
		if tt.change != nil {
			tt.change(m)
		}
		b := packed(t, m)
		if tt.octets != nil {
			b = tt.octets(b)
		}
		got, err := check(b, sent, &tt.q, true)
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v", tt.what, err, tt.err)
		}
		if err != nil {
			continue
		}
		if err := m.Unpack(got); err != nil || m.Question[0].Name != "www.example.com." || len(m.Answer) > 0 && m.Answer[0].Header().Name != "www.example.com." || bytes.HasSuffix(got, []byte("rest")) {
			t.Errorf("%s: %v, %v", tt.what, m, err)
		}
	}
}

func rr(s string) dns.RR {
	r, err := dns.NewRR(s)
	if err != nil {
		panic(err)
	}
	return r
}

func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r|0x20 && r|0x20 <= 'z' {
			return r ^ 0x20
		}
		return r
	}, s)
}

// What check lets through can be unpacked, and has the question and the records
// that its header counts.
func FuzzCheck(f *testing.F) {
	sent := appendQuery(nil, &www, 7, manner{edns: true})
	q := new(dns.Msg)
	if err := q.Unpack(sent); err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{
		"A 192.0.2.1", "AAAA 2001:db8::1", "CNAME a.example.com.", "NS ns.example.net.", "MX 10 mx.example.com.", "TXT \"a\" \"b\"",
		"SRV 1 2 3 a.", "SOA ns.example.com. root.example.com. 1 2 3 4 5", "PTR p.example.com.", "DS 1 8 2 00112233", "CAA 0 issue \"ca\"",
		"RRSIG A 8 3 60 20300101000000 20200101000000 1 example.com. AAAA", "NSEC b.example.com. A RRSIG", "HTTPS 1 . alpn=h2",
	} {
		m := reply(q, 0, "www.example.com. 60 IN "+s)
		m.Compress = true
		f.Add(packed(f, m))
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 3)}, &dns.EDNS0_EDE{InfoCode: 6}}
		f.Add(packed(f, m))
	}
	f.Add(packed(f, new(dns.Msg).SetRcode(&dns.Msg{MsgHdr: dns.MsgHdr{Id: 7}}, dns.RcodeFormatError)))
	f.Fuzz(func(t *testing.T, msg []byte) {
		got, err := check(bytes.Clone(msg), sent, &www, false)
		if err != nil {
			return
		}
		m := new(dns.Msg)
		if err := m.Unpack(got); err != nil {
			t.Fatalf("let through: %v", err)
		}
		if m.Id != 7 || !m.Response || m.Truncated || m.Opcode != 0 || len(m.Question) != 1 || m.Question[0] != q.Question[0] {
			t.Fatalf("let through: %v", m)
		}
		if len(m.Answer)+len(m.Ns)+len(m.Extra) != int(got[7])+int(got[9])+int(got[11])+256*(int(got[6])+int(got[8])+int(got[10])) {
			t.Fatalf("other counts than the header's: %v", m)
		}
	})
}
