package local

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// zone reads a zone from text that is meant to be good.
func zone(t testing.TB, name, text string) *Zone {
	t.Helper()
	b, err := NewZone(name, 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	b.Read(name+".zone", strings.NewReader(text))
	z, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func table(t testing.TB, s Sources) *Table {
	t.Helper()
	tab, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

// say writes an answer as one reads it: code, records, what is left to do.
func say(a Answer, ok bool) string {
	if !ok {
		return "not here"
	}
	var parts []string
	for _, rr := range a.Answer {
		h := rr.Header()
		parts = append(parts, fmt.Sprintf("%s %s %s", h.Name, dns.TypeToString[h.Rrtype], strings.TrimPrefix(rr.String(), h.String())))
	}
	for _, rr := range a.Ns {
		parts = append(parts, fmt.Sprintf("[%s SOA %d]", rr.Header().Name, rr.Header().Ttl))
	}
	if a.Rcode != dns.RcodeSuccess {
		parts = append(parts, dns.RcodeToString[a.Rcode])
	}
	if a.Target != "" {
		parts = append(parts, "-> "+a.Target)
	}
	return strings.Join(parts, ", ")
}

type question struct {
	name  string
	qtype uint16
	want  string
}

func ask(t *testing.T, tab *Table, questions []question) {
	t.Helper()
	for _, q := range questions {
		if got := say(tab.Lookup(q.name, q.qtype)); got != q.want {
			t.Errorf("%s %s:\n got %s\nwant %s", q.name, dns.TypeToString[q.qtype], got, q.want)
		}
	}
}

// The example of RFC 4592 section 2.2.1, without its delegation.
func TestWildcardsOfRFC4592(t *testing.T) {
	tab := table(t, Sources{Zones: []*Zone{zone(t, "example", `
$ORIGIN example.
example.                 3600 IN  SOA   ns.example.com. host.example.com. 1 7200 900 1209600 600
example.                 3600     NS    ns.example.com.
example.                 3600     NS    ns.example.net.
*.example.               3600     TXT   "this is a wildcard"
*.example.               3600     MX    10 host1.example.
sub.*.example.           3600     TXT   "this is not a wildcard"
host1.example.           3600     A     192.0.2.1
_ssh._tcp.host1.example. 3600     SRV   0 0 22 host1.example.
_ssh._tcp.host2.example. 3600     SRV   0 0 22 host2.example.
`)}})
	const negative = "[example. SOA 600]"
	ask(t, tab, []question{
		// The following responses would be synthesized from one of the wildcards:
		{"host3.example", dns.TypeMX, "host3.example. MX 10 host1.example."},
		{"host3.example", dns.TypeA, negative},
		{"foo.bar.example", dns.TypeTXT, `foo.bar.example. TXT "this is a wildcard"`},
		// And these would not:
		{"host1.example", dns.TypeMX, negative},
		{"sub.*.example", dns.TypeMX, negative},
		{"_telnet._tcp.host1.example", dns.TypeSRV, negative + ", NXDOMAIN"},
		{"ghost.*.example", dns.TypeMX, negative + ", NXDOMAIN"},
		// What exists, or is there for names under it alone:
		{"*.example", dns.TypeTXT, `*.example. TXT "this is a wildcard"`},
		{"sub.*.example", dns.TypeTXT, `sub.*.example. TXT "this is not a wildcard"`},
		{"host1.example", dns.TypeA, "host1.example. A 192.0.2.1"},
		{"_tcp.host1.example", dns.TypeA, negative},
		{"host2.example", dns.TypeMX, negative},
		{"example", dns.TypeTXT, negative},
		{"example", dns.TypeNS, "example. NS ns.example.com., example. NS ns.example.net."},
		{"examples", dns.TypeNS, "not here"},
	})
}

const corp = `
www      A      192.0.2.1
WWW 60   A      192.0.2.2
www      A      192.0.2.1   ; again
Alias    CNAME  WWW
chain    CNAME  alias
away     CNAME  www.elsewhere.net.
gone     CNAME  nobody
nodata   CNAME  txt
txt      TXT    "Case Is Kept"
loop     CNAME  loop2
loop2    CNAME  loop
tolocal  CNAME  localhost.
tonas    CNAME  nas.lan.
a.b.c    AAAA   2001:db8::1
*.dev    CNAME  www
dev      MX     10 www
_sip._tcp SRV   0 0 5060 WWW
svc      HTTPS  1 . alpn=h2 ipv4hint=192.0.2.1
a\.b     A      192.0.2.3
old      TYPE65400 \# 2 abcd
`

func TestZone(t *testing.T) {
	hosts, err := NewHosts(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := hosts.Read("hosts", strings.NewReader("192.168.1.9 nas.lan\n")); err != nil {
		t.Fatal(err)
	}
	tab := table(t, Sources{Zones: []*Zone{zone(t, "Corp.Example.", corp)}, Hosts: hosts})
	const negative = "[corp.example. SOA 300]"
	const www = "www.corp.example. A 192.0.2.1, www.corp.example. A 192.0.2.2"
	ask(t, tab, []question{
		{"www.corp.example", dns.TypeA, www},
		{"www.corp.example", dns.TypeAAAA, negative},
		{"nobody.corp.example", dns.TypeA, negative + ", NXDOMAIN"},
		{"alias.corp.example", dns.TypeA, "alias.corp.example. CNAME www.corp.example., " + www},
		{"alias.corp.example", dns.TypeCNAME, "alias.corp.example. CNAME www.corp.example."},
		{"alias.corp.example", dns.TypeANY, "alias.corp.example. CNAME www.corp.example."},
		{"chain.corp.example", dns.TypeA, "chain.corp.example. CNAME alias.corp.example., alias.corp.example. CNAME www.corp.example., " + www},
		{"away.corp.example", dns.TypeA, "away.corp.example. CNAME www.elsewhere.net., -> www.elsewhere.net"},
		{"gone.corp.example", dns.TypeA, "gone.corp.example. CNAME nobody.corp.example., " + negative + ", NXDOMAIN"},
		{"nodata.corp.example", dns.TypeA, "nodata.corp.example. CNAME txt.corp.example., " + negative},
		{"txt.corp.example", dns.TypeTXT, `txt.corp.example. TXT "Case Is Kept"`},
		{"loop.corp.example", dns.TypeA, "SERVFAIL"},
		{"tolocal.corp.example", dns.TypeA, "tolocal.corp.example. CNAME localhost., localhost. A 127.0.0.1"},
		{"tonas.corp.example", dns.TypeA, "tonas.corp.example. CNAME nas.lan., nas.lan. A 192.168.1.9"},
		{"tonas.corp.example", dns.TypeAAAA, "tonas.corp.example. CNAME nas.lan., [nas.lan. SOA 60]"},
		{"b.c.corp.example", dns.TypeA, negative},
		{"c.corp.example", dns.TypeA, negative},
		{"x.c.corp.example", dns.TypeA, negative + ", NXDOMAIN"},
		{"any.thing.dev.corp.example", dns.TypeA, "any.thing.dev.corp.example. CNAME www.corp.example., " + www},
		{"dev.corp.example", dns.TypeA, negative},
		{"_sip._tcp.corp.example", dns.TypeSRV, "_sip._tcp.corp.example. SRV 0 0 5060 www.corp.example."},
		{"svc.corp.example", dns.TypeHTTPS, `svc.corp.example. HTTPS 1 . alpn="h2" ipv4hint="192.0.2.1"`},
		{"a\\.b.corp.example", dns.TypeA, "a\\.b.corp.example. A 192.0.2.3"},
		{"x\\.corp.example", dns.TypeA, "not here"},
		{"x\\.y.corp.example", dns.TypeA, negative + ", NXDOMAIN"},
		{"corp.example", dns.TypeNS, "corp.example. NS corp.example."},
		{"corp.example", dns.TypeSOA, "corp.example. SOA corp.example. nobody.invalid. 1 3600 1200 604800 300"},
		{"corp.example", dns.TypeDS, negative},
		{"example", dns.TypeA, "not here"},
		{"notcorp.example", dns.TypeA, "not here"},
	})
	a, _ := tab.Lookup("www.corp.example", dns.TypeA)
	for _, rr := range a.Answer {
		if rr.Header().Ttl != 60 {
			t.Errorf("%v: want the least TTL of the set", rr)
		}
	}
	if a.Source != "zone corp.example" {
		t.Errorf("source %q", a.Source)
	}
	a.Answer[0].Header().Name = "changed."
	if b, _ := tab.Lookup("www.corp.example", dns.TypeA); b.Answer[0].Header().Name != "www.corp.example." {
		t.Error("the caller's records are the zone's own")
	}
}

func TestLongChain(t *testing.T) {
	b, err := NewZone("corp.example", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxChain + 1 {
		b.Add("yaml", fmt.Sprintf("n%d CNAME n%d", i+1, i))
	}
	b.Add("yaml", "n0 A 192.0.2.1")
	z, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	tab := table(t, Sources{Zones: []*Zone{z}})
	if a, _ := tab.Lookup(fmt.Sprintf("n%d.corp.example", maxChain), dns.TypeA); a.Rcode != 0 || len(a.Answer) != maxChain+1 {
		t.Errorf("a chain of %d: %v", maxChain, say(a, true))
	}
	if a, _ := tab.Lookup(fmt.Sprintf("n%d.corp.example", maxChain+1), dns.TypeA); a.Rcode != dns.RcodeServerFailure || len(a.Answer) != 0 {
		t.Errorf("a longer one: %v", say(a, true))
	}
}

func TestMostSpecificZone(t *testing.T) {
	tab := table(t, Sources{
		Zones:  []*Zone{zone(t, "corp.example", "lab TXT x\nx.lab A 192.0.2.1\n"), zone(t, "lab.corp.example", "y A 192.0.2.2\n")},
		Claims: []string{"up.corp.example", "lab.corp.example"},
	})
	ask(t, tab, []question{
		{"x.lab.corp.example", dns.TypeA, "[lab.corp.example. SOA 300], NXDOMAIN"},
		{"y.lab.corp.example", dns.TypeA, "y.lab.corp.example. A 192.0.2.2"},
		{"up.corp.example", dns.TypeA, "not here"},
		{"x.up.corp.example", dns.TypeA, "not here"},
		{"down.corp.example", dns.TypeA, "[corp.example. SOA 300], NXDOMAIN"},
	})
	z := zone(t, "a.example", "")
	if _, err := New(Sources{Zones: []*Zone{z, zone(t, "A.example", "")}}); err == nil {
		t.Error("the same zone twice was taken")
	}
}

func TestBadZones(t *testing.T) {
	for text, want := range map[string]string{
		"www A 192.0.2.1\nbad A 192.0.2\n":                 `f:2: bad A A: "192.0.2"`,
		"\n\nwww NONSENSE x":                               `f:3: not a TTL: "NONSENSE"`,
		"x.other. A 192.0.2.1\n":                           `f:1: "x.other" is not in zone "corp.example"`,
		"x\\.corp.example. A 192.0.2.1\n":                  `f:1: "x\\.corp.example" is not in zone`,
		"a CH TXT x\n":                                     "f:1: \"a.corp.example\" is of another class",
		"a CNAME b\n\na A 192.0.2.1\n":                     `f:1: "a.corp.example" has a CNAME and other records`,
		"a CNAME b\na CNAME c\n":                           `f:2: "a.corp.example" has more than one CNAME`,
		"@ CNAME b\n":                                      `f:1: "corp.example" has a CNAME and other`,
		"sub NS ns.sub\n":                                  `f:1: "sub.corp.example" is delegated`,
		"a SOA a b 1 2 3 4 5\n":                            `f:1: "a.corp.example" has a SOA`,
		"@ SOA a b 1 2 3 4 5\n@ SOA (a\n b 2 2 3 4\n 5)\n": `f:4: "corp.example" has more than one SOA`,
		"a DNAME b\n":                                      "f:1: \"a.corp.example\" is a DNAME",
		"@ DNSKEY 256 3 13 aaaa\n":                         "f:1: \"corp.example\" is part of a signed zone",
		"$INCLUDE /etc/passwd\n":                           "f:1: ",
		"a 4000000000 A 192.0.2.1\n":                       "f:1: \"a.corp.example\" has a TTL",
		strings.Repeat("a", 64) + " A 192.0.2.1":           "f:1: ",
		"x.other. A 192.0.2.1\ny.other. A 192.0.2.1\nbad":  "f:2: \"y.other\"",
		strings.Repeat("x. A 192.0.2.1\n", 50):             "and 30 errors more",
	} {
		b, err := NewZone("corp.example", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		b.Read("f", strings.NewReader(text))
		if _, err := b.Build(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if _, err := NewZone("bad..name", 0); err == nil {
		t.Error("a bad name was taken")
	}
	if _, err := NewZone("a.example", -1); err == nil {
		t.Error("a bad TTL was taken")
	}
}

func TestRecords(t *testing.T) {
	b, err := NewZone("corp.example", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	b.Add("c.yaml:7", "@ 3600 MX 10 mail")
	b.Add("c.yaml:8", "mail IN A 192.0.2.7")
	b.Add("c.yaml:9", "*.x.corp.example. AAAA 2001:db8::7")
	z, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	ask(t, table(t, Sources{Zones: []*Zone{z}}), []question{
		{"corp.example", dns.TypeMX, "corp.example. MX 10 mail.corp.example."},
		{"mail.corp.example", dns.TypeA, "mail.corp.example. A 192.0.2.7"},
		{"1.x.corp.example", dns.TypeAAAA, "1.x.corp.example. AAAA 2001:db8::7"},
	})
	for text, want := range map[string]string{
		"":                             "is 0 records",
		"; nothing":                    "is 0 records",
		"$TTL 5":                       "is no record",
		"a A 192.0.2.1\nb A 192.0.2.2": "is 2 records",
		"a A nonsense":                 `c.yaml:10: bad A A: "nonsense"`,
	} {
		b, err := NewZone("corp.example", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		b.Add("c.yaml:10", text)
		if _, err := b.Build(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func FuzzZone(f *testing.F) {
	f.Add(corp, "alias.corp.example")
	f.Add("$ORIGIN x.corp.example.\n$TTL 5\n$GENERATE 1-3 h$ A 192.0.2.$\n@ SOA a b 1 2 3 4 5\n", "h1.x.corp.example")
	f.Fuzz(func(t *testing.T, text, name string) {
		if len(text) > 4096 {
			t.Skip()
		}
		b, err := NewZone("corp.example", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		b.Read("f", strings.NewReader(text))
		z, err := b.Build()
		if err != nil {
			return
		}
		tab := table(t, Sources{Zones: []*Zone{z}})
		for _, r := range b.records {
			owner := strings.TrimSuffix(r.Header().Name, ".")
			check(t, tab, owner, r.Header().Rrtype)
			if a, ok := tab.Lookup(owner, r.Header().Rrtype); !ok || len(a.Answer) == 0 {
				t.Errorf("%v is not found", r)
			}
		}
		check(t, tab, name, dns.TypeA)
	})
}

// check asks, and holds what must hold of all answers.
func check(t *testing.T, tab *Table, name string, qtype uint16) {
	t.Helper()
	a, ok := tab.Lookup(name, qtype)
	if !ok {
		return
	}
	if negative := len(a.Ns) == 1; negative == (a.Target != "") && a.Rcode != dns.RcodeServerFailure && len(a.Answer) == 0 {
		t.Errorf("%s: %s", name, say(a, true))
	}
	m := &dns.Msg{Answer: a.Answer, Ns: a.Ns}
	if _, err := m.Pack(); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}
