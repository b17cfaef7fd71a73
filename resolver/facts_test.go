package resolver

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy"
)

func records(t testing.TB, lines ...string) []dns.RR {
	t.Helper()
	var rrs []dns.RR
	for _, l := range lines {
		rr, err := dns.NewRR(l)
		if err != nil {
			t.Fatal(err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

func TestChain(t *testing.T) {
	var long []string
	for i := range 40 {
		long = append(long, fmt.Sprintf("h%d. 60 IN CNAME h%d.", i, i+1))
	}
	tests := []struct {
		what, name string
		rrs        []string
		want       string
	}{
		{"nothing", "a", nil, "[{a []}]"},
		{"two addresses", "a", []string{"a. 60 IN A 192.0.2.1", "a. 60 IN A 192.0.2.2"}, "[{a [192.0.2.1 192.0.2.2]}]"},
		{"a chain", "a", []string{"a. 60 IN CNAME b.", "b. 60 IN CNAME c.", "c. 60 IN A 192.0.2.1"}, "[{a []} {b []} {c [192.0.2.1]}]"},
		{"a chain backwards", "a", []string{"c. 60 IN A 192.0.2.1", "b. 60 IN CNAME c.", "a. 60 IN CNAME b."}, "[{a []} {b []} {c [192.0.2.1]}]"},
		{"other letters", "a.test", []string{"A.Test. 60 IN CNAME B.Test.", "b.TEST. 60 IN A 192.0.2.1"}, "[{a.test []} {b.test [192.0.2.1]}]"},
		{"a record beside the chain", "a", []string{"a. 60 IN A 192.0.2.1", "x. 60 IN A 192.0.2.66"}, "[{a [192.0.2.1]}]"},
		{"a loop", "a", []string{"a. 60 IN CNAME b.", "b. 60 IN CNAME a."}, "[{a []} {b []}]"},
		{"a loop of one", "a", []string{"a. 60 IN CNAME a."}, "[{a []}]"},
		{"IPv4 dressed as IPv6", "a", []string{"a. 60 IN AAAA ::ffff:192.0.2.1"}, "[{a [192.0.2.1]}]"},
		{"the root", "", []string{". 60 IN A 192.0.2.1"}, "[{ [192.0.2.1]}]"},
	}
	for _, tt := range tests {
		if got := fmt.Sprint(chain(tt.name, records(t, tt.rrs...))); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.what, got, tt.want)
		}
	}
	if n := len(chain("h0", records(t, long...))); n != maxHops {
		t.Errorf("a long chain has %d hops, want %d", n, maxHops)
	}
}

// The hints of a service binding are addresses of the name that has it.
func TestHintsAreFacts(t *testing.T) {
	for rr, want := range map[string]string{
		"a.test. 60 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1,192.0.2.2 port=8443 ipv6hint=2001:db8::1": "[{a.test [192.0.2.1 192.0.2.2 2001:db8::1]}]",
		"a.test. 60 IN SVCB 1 b.test. ipv4hint=192.0.2.1":                                             "[{a.test [192.0.2.1]}]",
		"a.test. 60 IN HTTPS 1 . alpn=h2":                                                             "[{a.test []}]",
		"x.test. 60 IN HTTPS 1 . ipv4hint=192.0.2.1":                                                  "[{a.test []}]",
	} {
		m := new(dns.Msg).SetQuestion("a.test.", dns.TypeHTTPS)
		m.Answer = records(t, rr)
		r, err := replyOf(m)
		if err != nil {
			t.Fatal(err)
		}
		hops, _ := follow("a.test", r.Answer)
		got := "["
		for _, h := range hops {
			got += fmt.Sprintf("{%s %v}", h.Name, h.Addrs)
		}
		if got += "]"; got != want {
			t.Errorf("%s: %s, want %s", rr, got, want)
		}
	}
}

// A policy on the answer sees an address that an HTTPS record alone holds.
func TestHintsAreJudged(t *testing.T) {
	f := newFleet(t)
	f.up.records = newZone(t, "hints.test. 60 IN HTTPS 1 . ipv4hint=203.0.113.20\nhints.test. 60 IN A 192.0.2.10").records
	if got := f.dig(t, "the office", "hints.test A"); got != "NOERROR 60 A 192.0.2.10" {
		t.Errorf("A: %s", got)
	}
	if got := f.dig(t, "the office", "hints.test HTTPS"); !strings.HasPrefix(got, "REFUSED; EDE 18 policy china-origins: ") {
		t.Errorf("HTTPS: %s", got)
	}
}

// FuzzHints holds the hints to those that the library reads.
func FuzzHints(f *testing.F) {
	for _, rr := range records(f, "a. 60 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1 ipv6hint=2001:db8::1", "a. 60 IN HTTPS 0 b.c.") {
		b := make([]byte, 512)
		n, err := dns.PackRR(rr, b, 0, nil, false)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[3+10 : n])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := appendHints(nil, data, maxAddrs)
		h := dns.RR_Header{Name: "a.", Rrtype: dns.TypeHTTPS, Class: dns.ClassINET, Rdlength: uint16(len(data))}
		for at := 2; at < len(data) && data[at] != 0; at += 1 + int(data[at]) {
			if data[at] >= 0xc0 {
				return // what is compressed leads outside of what there is
			}
		}
		rr, end, err := dns.UnpackRRWithHeader(h, data, 0)
		if err != nil || end != len(data) {
			return
		}
		want := hints(rr)
		if want = want[:min(len(want), maxAddrs)]; !slices.Equal(got, want) {
			t.Errorf("%x: %v, want %v", data, got, want)
		}
	})
}

func TestFactsTravel(t *testing.T) {
	addr := netip.MustParseAddr
	tests := []Facts{
		nil,
		{{Name: "a.test"}},
		{{Name: "a.test", Addrs: []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")}}, {Name: "b.test", Addrs: []netip.Addr{addr("192.0.2.2")}}},
		{{Name: ""}},
		{{Name: `odd\.label\000.test`}},
	}
	for _, want := range tests {
		got, err := parseFacts(appendFacts(nil, want))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v became %v, %v", want, got, err)
		}
	}
}

func TestFactsAreBounded(t *testing.T) {
	var facts Facts
	for i := range 40 {
		h := policy.Hop{Name: fmt.Sprintf("h%d.test", i)}
		for j := range 30 {
			h.Addrs = append(h.Addrs, netip.AddrFrom4([4]byte{192, 0, byte(i), byte(j)}))
		}
		facts = append(facts, h)
	}
	facts[1].Name = strings.Repeat("x", 254)
	got, err := parseFacts(appendFacts(nil, facts))
	n := 0
	for _, h := range got {
		n += len(h.Addrs)
	}
	if err != nil || len(got) != maxHops-1 || n != maxAddrs {
		t.Errorf("%d hops, %d addresses, %v", len(got), n, err)
	}
}

func TestBadFacts(t *testing.T) {
	over := bytes.Repeat([]byte{1, 'a', 0}, maxHops+1)
	many := append([]byte{1, 'a', maxAddrs + 1}, bytes.Repeat([]byte{4, 1, 2, 3, 4}, maxAddrs+1)...)
	for what, b := range map[string][]byte{
		"a name cut short":           {5, 'a'},
		"no count":                   {1, 'a'},
		"an address cut short":       {1, 'a', 1, 4, 1, 2},
		"an address of three bytes":  {1, 'a', 1, 3, 1, 2, 3},
		"an address missing":         {1, 'a', 1},
		"a name in capitals":         {1, 'A', 0},
		"IPv4 dressed as IPv6":       append([]byte{1, 'a', 1, 16}, netip.MustParseAddr("::ffff:192.0.2.1").AsSlice()...),
		"too many hops":              over,
		"too many addresses":         many,
		"a name longer than any one": append(append([]byte{254}, bytes.Repeat([]byte{'a'}, 254)...), 0),
	} {
		if f, err := parseFacts(b); err == nil {
			t.Errorf("%s: taken as %v", what, f)
		}
	}
}

func FuzzParseFacts(f *testing.F) {
	f.Add([]byte{1, 'a', 1, 4, 192, 0, 2, 1})
	f.Add(appendFacts(nil, Facts{{Name: "a.test"}, {Name: "b.test", Addrs: []netip.Addr{netip.IPv6LinkLocalAllNodes()}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		facts, err := parseFacts(b)
		if err != nil {
			return
		}
		n := 0
		for _, h := range facts {
			n += len(h.Addrs)
		}
		if len(facts) > maxHops || n > maxAddrs {
			t.Fatalf("%d hops, %d addresses", len(facts), n)
		}
		if again := appendFacts(nil, facts); !bytes.Equal(again, b) {
			t.Fatalf("%x became %v and then %x", b, facts, again)
		}
	})
}

func FuzzReadPrivate(f *testing.F) {
	f.Add(uint16(optionFacts), []byte{1, 'a', 0})
	f.Add(uint16(optionJournal), make([]byte, 8))
	f.Add(uint16(optionRoute), []byte("hong-kong"))
	f.Add(uint16(3), []byte("hk-1"))
	f.Fuzz(func(t *testing.T, code uint16, data []byte) {
		m := new(dns.Msg).SetQuestion("a.", dns.TypeA)
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: code, Data: data}}
		b, err := m.Pack()
		if err != nil {
			return
		}
		var r dns.Msg
		if r.Unpack(b) != nil {
			return
		}
		p, err := readPrivate(r.IsEdns0())
		if err != nil {
			return
		}
		opt := &dns.OPT{Option: p.options()}
		if again, err := readPrivate(opt); err != nil || !reflect.DeepEqual(again, p) {
			t.Fatalf("%+v became %+v, %v", p, again, err)
		}
	})
}

func TestReverse(t *testing.T) {
	for _, s := range []string{"198.19.0.1", "2001:2:0:1000::1", "::", "255.255.255.255"} {
		a := netip.MustParseAddr(s)
		name, _ := dns.ReverseAddr(s)
		if got, ok := reverse(strings.TrimSuffix(name, ".")); !ok || got != a {
			t.Errorf("%s: %v, %t", name, got, ok)
		}
	}
	for _, name := range []string{"19.198.in-addr.arpa", "in-addr.arpa", "x.0.19.198.in-addr.arpa", "1.0.0.19.198.in-addr.arpa", "01.0.19.198.in-addr.arpa", "1.ip6.arpa", "www.example.com", strings.Repeat("0x", 31) + "0.ip6.arpa"} {
		if a, ok := reverse(name); ok {
			t.Errorf("%s is taken for %v", name, a)
		}
	}
}

func TestShorten(t *testing.T) {
	for in, want := range map[string]string{"short": "short", "0123456789abc": "0123456…", "012345é789": "012345…", "bad\xff": "bad?"} {
		if got := shorten(in, 10); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
