package local

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/miekg/dns"
)

const oddHosts = "\ufeff# all that hosts files hold\r\n" +
	"127.0.0.1\tlocalhost localhost.localdomain\r\n" +
	"192.168.1.9 NAS.Lan. nas # the disk\n" +
	"192.168.1.10   nas.lan\n" +
	"192.168.1.9 nas.lan\n" +
	"   fd00::9 nas.lan\n" +
	"::ffff:192.0.2.7 mapped.lan\n" +
	"192.0.2.8 bücher.lan\n" +
	"0.0.0.0 ads.lan\n" +
	"192.168.1.11 good.lan bad..lan -x_y.lan *.lan\n" +
	"192.168.1.12\n" +
	"300.1.1.1 x.lan\n" +
	"fe80::1%lo0 linklocal.lan\n" +
	"#192.168.1.13 commented.lan\n" +
	"\n" +
	"192.168.1.14 last.home.arpa"

func TestHosts(t *testing.T) {
	h := hosts(t, oddHosts)
	tab := table(t, Sources{Hosts: h})
	ask(t, tab, []question{
		{"nas.lan", dns.TypeA, "nas.lan. A 192.168.1.9, nas.lan. A 192.168.1.10"},
		{"nas.lan", dns.TypeAAAA, "nas.lan. AAAA fd00::9"},
		{"nas.lan", dns.TypeMX, "[nas.lan. SOA 60]"},
		{"nas.lan", dns.TypeANY, "nas.lan. A 192.168.1.9, nas.lan. A 192.168.1.10"},
		{"nas", dns.TypeA, "nas. A 192.168.1.9"},
		{"x.nas.lan", dns.TypeA, "not here"},
		{"9.1.168.192.in-addr.arpa", dns.TypePTR, "9.1.168.192.in-addr.arpa. PTR nas.lan."},
		{"9.1.168.192.in-addr.arpa", dns.TypeA, "[9.1.168.192.in-addr.arpa. SOA 60]"},
		{"8.1.168.192.in-addr.arpa", dns.TypePTR, "[168.192.in-addr.arpa. SOA 10800], NXDOMAIN"},
		{"1.168.192.in-addr.arpa", dns.TypePTR, "[168.192.in-addr.arpa. SOA 10800]"},
		{"9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", dns.TypePTR,
			"9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. PTR nas.lan."},
		{"mapped.lan", dns.TypeA, "mapped.lan. A 192.0.2.7"},
		{"xn--bcher-kva.lan", dns.TypeA, "xn--bcher-kva.lan. A 192.0.2.8"},
		{"ads.lan", dns.TypeA, "ads.lan. A 0.0.0.0"},
		{"0.0.0.0.in-addr.arpa", dns.TypePTR, "[0.in-addr.arpa. SOA 10800], NXDOMAIN"},
		{"good.lan", dns.TypeA, "good.lan. A 192.168.1.11"},
		{"-x_y.lan", dns.TypeA, "-x_y.lan. A 192.168.1.11"},
		{"linklocal.lan", dns.TypeAAAA, "not here"},
		{"localhost", dns.TypeA, "localhost. A 127.0.0.1"},
		{"last.home.arpa", dns.TypeA, "last.home.arpa. A 192.168.1.14"},
		{"first.home.arpa", dns.TypeA, "[home.arpa. SOA 600], NXDOMAIN"},
	})
	w := h.Warnings()
	if len(w) != 1 {
		t.Fatalf("warnings %q", w)
	}
	for _, want := range []string{"left out: 5", `hosts:10: "bad..lan" is no name`, `hosts:11: "192.168.1.12" has no name`, `hosts:12: "300.1.1.1" is no address`, "hosts:13: "} {
		if !strings.Contains(w[0], want) {
			t.Errorf("warning %q has no %q", w[0], want)
		}
	}
	if a, _ := tab.Lookup("nas.lan", dns.TypeA); a.Source != "hosts:3" {
		t.Errorf("source %q", a.Source)
	}
}

func TestHostsInsideAZone(t *testing.T) {
	tab := table(t, Sources{Zones: []*Zone{zone(t, "lan", "a A 192.0.2.1\n")}, Hosts: hosts(t, "192.0.2.9 a.lan b.lan\n192.0.2.9 c.other\n")})
	ask(t, tab, []question{
		{"a.lan", dns.TypeA, "a.lan. A 192.0.2.1"},
		{"b.lan", dns.TypeA, "[lan. SOA 300], NXDOMAIN"},
		{"c.other", dns.TypeA, "c.other. A 192.0.2.9"},
	})
	if w := tab.Warnings(); len(w) != 1 || !strings.Contains(w[0], "left out: 2 (a.lan, b.lan)") {
		t.Errorf("warnings %q", w)
	}
}

func TestLongLinesAndBrokenFiles(t *testing.T) {
	h := hosts(t, "192.0.2.1 a.lan\n192.0.2.2 "+strings.Repeat("x.lan ", 4000)+"\n192.0.2.3 b.lan\n")
	if !slices.Equal(names(h), []string{"a.lan", "b.lan"}) || h.bad != 1 {
		t.Errorf("names %q, %d bad", names(h), h.bad)
	}
	broken := errors.New("broken")
	if err := h.Read("f", iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if _, err := NewHosts(-time.Second); err == nil {
		t.Error("a bad TTL was taken")
	}
}

// names returns the names but the reverse ones.
func names(h *Hosts) (out []string) {
	for name := range h.names {
		if !strings.HasSuffix(name, ".arpa") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func FuzzHosts(f *testing.F) {
	f.Add([]byte(oddHosts), "nas.lan")
	f.Fuzz(func(t *testing.T, file []byte, name string) {
		h, err := NewHosts(time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Read("f", strings.NewReader(string(file))); err != nil {
			t.Fatal(err)
		}
		tab := table(t, Sources{Hosts: h})
		for n, e := range h.names {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypePTR} {
				check(t, tab, n, qtype)
				if a, ok := tab.Lookup(n, qtype); !ok || len(a.Answer) != len(e.set(qtype)) {
					t.Errorf("%s: %s", n, say(a, ok))
				}
			}
		}
		check(t, tab, name, dns.TypeA)
	})
}
