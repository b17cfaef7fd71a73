package local

import (
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestSpecialUse(t *testing.T) {
	ask(t, table(t, Sources{}), []question{
		{"localhost", dns.TypeA, "localhost. A 127.0.0.1"},
		{"localhost", dns.TypeAAAA, "localhost. AAAA ::1"},
		{"localhost", dns.TypeMX, "[localhost. SOA 10800]"},
		{"a.b.localhost", dns.TypeA, "a.b.localhost. A 127.0.0.1"},
		{"localhost", dns.TypeSOA, "localhost. SOA localhost. nobody.invalid. 1 3600 1200 604800 10800"},
		{"x.invalid", dns.TypeA, "[invalid. SOA 10800], NXDOMAIN"},
		{"invalid", dns.TypeA, "[invalid. SOA 10800], NXDOMAIN"},
		{"www.test", dns.TypeA, "[test. SOA 600], NXDOMAIN"},
		{"printer.local", dns.TypePTR, "[local. SOA 600], NXDOMAIN"},
		{"abcdefgh.onion", dns.TypeA, "[onion. SOA 600], NXDOMAIN"},
		{"onion", dns.TypeDS, "[onion. SOA 600], NXDOMAIN"},
		{"home.arpa", dns.TypeA, "[home.arpa. SOA 600]"},
		{"home.arpa", dns.TypeNS, "home.arpa. NS home.arpa."},
		{"nas.home.arpa", dns.TypeA, "[home.arpa. SOA 600], NXDOMAIN"},
		{"home.arpa", dns.TypeDS, "not here"},
		{"nas.home.arpa", dns.TypeDS, "[home.arpa. SOA 600], NXDOMAIN"},
		{"_dns.resolver.arpa", dns.TypeSVCB, "[resolver.arpa. SOA 600]"},
		{"resolver.arpa", dns.TypeSVCB, "[resolver.arpa. SOA 600]"},
		{"1.0.0.127.in-addr.arpa", dns.TypePTR, "1.0.0.127.in-addr.arpa. PTR localhost."},
		{"0.0.127.in-addr.arpa", dns.TypePTR, "[127.in-addr.arpa. SOA 10800]"},
		{"2.0.0.127.in-addr.arpa", dns.TypePTR, "[127.in-addr.arpa. SOA 10800], NXDOMAIN"},
		{"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa", dns.TypePTR,
			"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa. PTR localhost."},
		{"9.1.168.192.in-addr.arpa", dns.TypePTR, "[168.192.in-addr.arpa. SOA 10800], NXDOMAIN"},
		{"1.0.31.172.in-addr.arpa", dns.TypePTR, "[31.172.in-addr.arpa. SOA 10800], NXDOMAIN"},
		{"10.in-addr.arpa", dns.TypePTR, "[10.in-addr.arpa. SOA 10800]"},
		{"10.in-addr.arpa", dns.TypeDS, "not here"},
		{"5.4.127.100.in-addr.arpa", dns.TypePTR, "[127.100.in-addr.arpa. SOA 10800], NXDOMAIN"},
		{"x.d.f.ip6.arpa", dns.TypePTR, "[d.f.ip6.arpa. SOA 10800], NXDOMAIN"},

		// These are nobody's business here.
		{"32.172.in-addr.arpa", dns.TypePTR, "not here"},
		{"63.100.in-addr.arpa", dns.TypePTR, "not here"},
		{"c.f.ip6.arpa", dns.TypePTR, "not here"},
		{"www.example", dns.TypeA, "not here"},
		{"example.com", dns.TypeA, "not here"},
		{"ipv4only.arpa", dns.TypeA, "not here"},
		{"use-application-dns.net", dns.TypeA, "not here"},
		{"mask.icloud.com", dns.TypeA, "not here"},
		{"latest", dns.TypeA, "not here"},
		{"", dns.TypeNS, "not here"},
	})
	if _, ok := (*Table)(nil).Lookup("localhost", dns.TypeA); ok {
		t.Error("no table answers")
	}
}

func TestEachSpecialHasASource(t *testing.T) {
	tab := table(t, Sources{})
	all := SpecialUse()
	if len(all) < 100 {
		t.Errorf("%d special names", len(all))
	}
	for name, source := range all {
		if a, ok := tab.Lookup(name, dns.TypeTXT); !ok || a.Source != source || !strings.HasPrefix(source, "RFC ") {
			t.Errorf("%s: %v %q, want %q", name, ok, a.Source, source)
		}
	}
}

func TestClaims(t *testing.T) {
	hosts := hosts(t, "192.0.2.1 www.corp.local\n192.0.2.2 x.test\n")
	ask(t, table(t, Sources{
		Zones:  []*Zone{zone(t, "home.arpa", "nas A 192.168.1.9\n"), zone(t, "1.168.192.in-addr.arpa", "9 PTR nas.home.arpa.\n")},
		Hosts:  hosts,
		Claims: []string{"Test.", "=exact.local", "*.one.local", "**.under.local", "corp.local", "64.100.in-addr.arpa"},
	}), []question{
		{"nas.home.arpa", dns.TypeA, "nas.home.arpa. A 192.168.1.9"},
		{"9.1.168.192.in-addr.arpa", dns.TypePTR, "9.1.168.192.in-addr.arpa. PTR nas.home.arpa."},
		{"9.2.168.192.in-addr.arpa", dns.TypePTR, "[168.192.in-addr.arpa. SOA 10800], NXDOMAIN"},
		{"test", dns.TypeA, "not here"},
		{"www.test", dns.TypeA, "not here"},
		{"x.test", dns.TypeA, "x.test. A 192.0.2.2"},
		{"y.x.test", dns.TypeA, "not here"},
		{"exact.local", dns.TypeA, "not here"},
		{"x.exact.local", dns.TypeA, "[local. SOA 600], NXDOMAIN"},
		{"x.one.local", dns.TypeA, "not here"},
		{"one.local", dns.TypeA, "[local. SOA 600], NXDOMAIN"},
		{"x.y.one.local", dns.TypeA, "[local. SOA 600], NXDOMAIN"},
		{"x.y.under.local", dns.TypeA, "not here"},
		{"under.local", dns.TypeA, "[local. SOA 600], NXDOMAIN"},
		{"www.corp.local", dns.TypeA, "www.corp.local. A 192.0.2.1"},
		{"corp.local", dns.TypeA, "not here"},
		{"1.64.100.in-addr.arpa", dns.TypePTR, "not here"},
		{"1.65.100.in-addr.arpa", dns.TypePTR, "[65.100.in-addr.arpa. SOA 10800], NXDOMAIN"},
	})
	if _, err := New(Sources{Claims: []string{"bad..name"}}); err == nil {
		t.Error("a bad claim was taken")
	}
}

// misses are what nearly all questions are: names that are none of these.
var misses = []string{"www.google.com", "edge-mqtt.facebook.com", "a1953.dscb.akamai.net", "outlook.office365.com"}

func missTable(t testing.TB) *Table {
	return table(t, Sources{
		Zones: []*Zone{zone(t, "corp.example", corp)}, Hosts: hosts(t, "192.0.2.1 www.lan\nfd00::1 www.lan\n"), Claims: []string{"demo.test"},
	})
}

func TestMissDoesNotAllocate(t *testing.T) {
	tab := missTable(t)
	for _, name := range misses {
		if n := testing.AllocsPerRun(100, func() {
			if _, ok := tab.Lookup(name, dns.TypeA); ok {
				t.Fatal("found")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkMiss(b *testing.B) {
	tab := missTable(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		tab.Lookup(misses[i&3], dns.TypeA)
	}
}

func BenchmarkHit(b *testing.B) {
	tab := missTable(b)
	b.ReportAllocs()
	for b.Loop() {
		tab.Lookup("www.corp.example", dns.TypeA)
	}
}

func hosts(t testing.TB, text string) *Hosts {
	t.Helper()
	h, err := NewHosts(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Read("hosts", strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	return h
}
