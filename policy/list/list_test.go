package list

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/starferry/starferry/policy/match"
)

const zoneFile = `$TTL 300
@   IN SOA localhost. root.localhost. (
        2026112201 ; serial
        3600 600 86400 300 )
    IN NS localhost.
phish.example.com       CNAME .
*.phish.example.com     CNAME .      ; and below
nodata.example          60 IN CNAME *.
Dropped.Example         IN 60 CNAME rpz-drop.
good.phish.example.com  CNAME rpz-passthru.
local.example           A 192.0.2.1
32.1.2.0.192.rpz-ip     CNAME .
txt.example             60 (
  CNAME . )
`

func TestNames(t *testing.T) {
	tests := []struct {
		format, text string
		in, out      string // names that are covered, and that are not
		entries, bad int
	}{
		{"plain", "\ufeffExample.COM.\r\n# no\n! no\n; no\n\n=one.test # trailing\n*.two.test\n**.three.test\n.four.test\n+.five.test\na b\nhttp://x/\n\u4e2d\u6587.test\n",
			"example.com www.example.com one.test a.two.test a.b.three.test x.four.test five.test a.five.test xn--fiq228c.test",
			"www.one.test two.test a.b.two.test three.test four.test b x", 7, 2},
		{"hosts", "# no\n127.0.0.1 localhost\n0.0.0.0 0.0.0.0\n0.0.0.0 a.test b.test # c.test\n::1\tip6-localhost\n::\td.test\ninf\n0.0.0.0\n0.0.0.0 http://x/ e.test",
			"a.test b.test d.test e.test", "c.test www.a.test localhost inf", 4, 3},
		{"hosts", "0.0.0.0 a.test#b.test c.test\n0.0.0.0 d.test e.test#! no#\n#0.0.0.0 f.test\n0.0.0.0#g.test\n0.0.0.0 !h.test\n0.0.0.0 i!.test\n",
			"a.test d.test e.test", "b.test c.test f.test g.test h.test i.test", 3, 3},
		{"dnsmasq", "server=/a.test/114.114.114.114\n#server=/b.test/1.1.1.1 # off\nserver=/c.test/d.test/1.1.1.1#53 # on\nlocal=/e.test/\nipset=/f.test/set\nnftset=/g.test/4#inet#t#s\nserver=/*.h.test/1.1.1.1\n" +
			"server=/#/1.1.1.1\nserver=/i.test/d.c.test/#\nserver=1.1.1.1\nno-resolv\nserver=//1.1.1.1\naddress=/.j.test/::1\n",
			"a.test www.a.test c.test x.c.test d.test e.test f.test g.test x.y.h.test j.test", "b.test h.test i.test d.c.test x.d.c.test", 10, 4},
		{"adblock", "[Adblock Plus]\n! no\n||a.test^\n||b.test^|\n||c.test^$important\n@@||d.a.test^\n||e*.test^\n/^re[0-9]/\n|f.test^\n||g.test\n@@||x.c.test^\n",
			"a.test x.a.test b.test c.test x.c.test re7.test f.test", "d.a.test y.d.a.test x.f.test g.test", 7, 2},
		{"adblock", "||a.test^\n||a.test^$badfilter\n||b.test^$badfilter\n||b.test^\n||b.test^$important\n@@||b.test^\n@@||b.test^$badfilter\n||c.test^$denyallow=x.c.test|y.c.test\n||z.y.c.test^\n||*.d.test^\n" +
			"||e.test^$important\n@@||e.test^$important\n||f.test^$ctag=phone\n||f.test^$dnsrewrite=10.0.0.1\n/^g[$]$/$important\n||h.test^$\n||i.test^$denyallow=a b\n",
			"b.test c.test w.c.test z.y.c.test x.d.test", "a.test x.c.test a.y.c.test d.test e.test f.test h.test i.test", 13, 4},
		{"rpz", zoneFile, "phish.example.com a.b.phish.example.com nodata.example dropped.example txt.example",
			"www.nodata.example local.example localhost", 6, 2},
		{"rpz", "rpz.test. 300 IN SOA a. b. 1 2 3 4 5\nx.example.rpz.test. CNAME .\ny.example CNAME .\nz.example. CNAME .\n* CNAME .\n",
			"x.example y.example", "rpz.test z.example", 2, 2},
		{"rpz", "$ORIGIN .\nrpz.test SOA a. b. 1 2 3 4 5\n  NS ns.test\nx.example.rpz.test CNAME .\n$ORIGIN example.rpz.test.\ny CNAME .\n$ORIGIN .\nz.example.rpz.test CNAME .\n",
			"x.example y.example z.example", "x.example.rpz.test", 3, 0},
		{"rpz", "a.example CNAME .\nb.example TXT \"broken\n  CNAME rpz-passthru.\nc.example CNAME .\n", "a.example c.example", "b.example", 2, 2},
		{"rpz", "$ORIGIN Rpz.Test.\n@ SOA a. b. 1 2 3 4 5\n$ORIGIN com.rpz.test.\nexample CNAME .\n*.example CNAME .\n$INCLUDE other\n) CNAME .\n", "example.com www.example.com", "", 2, 2},
	}
	for _, tc := range tests {
		set, stats, err := Names(tc.format, strings.NewReader(tc.text), "test")
		if err != nil {
			t.Errorf("%s: %v", tc.format, err)
			continue
		}
		if stats.Entries != tc.entries || stats.Bad != tc.bad {
			t.Errorf("%s: %d entries, %d bad, want %d and %d: %v", tc.format, stats.Entries, stats.Bad, tc.entries, tc.bad, stats.BadLines)
		}
		for _, n := range strings.Fields(tc.in) {
			if _, ok := set.Lookup(n); !ok {
				t.Errorf("%s: %s is not covered", tc.format, n)
			}
		}
		told := 0
		if err := (Source{Format: tc.format}).Each(strings.NewReader(tc.text), func(kind match.Kind, name string) {
			told++
			if kind == match.Under {
				name = "x." + name
			} else if kind == match.One {
				name = "y." + name
			}
			if m, ok := set.Lookup(name); !ok || m.Kind&kind == 0 {
				t.Errorf("%s: %s is told and covered by %v", tc.format, name, m)
			}
		}); err != nil || told == 0 || told > tc.entries {
			t.Errorf("%s: %d names are told of %d: %v", tc.format, told, tc.entries, err)
		}
		for _, n := range strings.Fields(tc.out) {
			if m, ok := set.Lookup(n); ok {
				t.Errorf("%s: %s is covered by %s", tc.format, n, m)
			}
		}
	}
}

func TestEach(t *testing.T) {
	for format, text := range map[string]string{
		"plain":   "a.test\n=b.test\n*.c.test\n**.d.test\n/^x[0-9]/\n",
		"hosts":   "0.0.0.0 a.test b.test\n",
		"dnsmasq": "server=/a.test/b.test/1.1.1.1\nserver=/x.a.test/#\nserver=/c.test/1.1.1.1\nserver=/c.test/#\n",
		"adblock": "||a.test^\n@@||x.a.test^\n|b.test^\n||c.test^\n@@||c.test^\n||d.test^\n||d.test^$badfilter\n||e.test^$important\n@@||e.test^\n/^x[0-9]/\n",
	} {
		var got []string
		err := Source{Name: "l", Format: format}.Each(strings.NewReader(text), func(kind match.Kind, name string) {
			got = append(got, match.Match{Name: name, Kind: kind}.String())
		})
		want := map[string]string{
			"plain": "a.test =b.test *.c.test **.d.test", "hosts": "=a.test =b.test", "dnsmasq": "a.test b.test", "adblock": "a.test =b.test e.test",
		}[format]
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %q, %v, want %s", format, got, err, want)
		}
	}
	if err := (Source{Name: "l", Format: "plain"}).Each(strings.NewReader("a b\n"), nil); err == nil {
		t.Error("a page is a list")
	}
}

func TestNetworks(t *testing.T) {
	const text = "# no\n192.0.2.0/24\n198.51.100.7\n203.0.113.5-203.0.113.9 # five\n2001:db8::/32\n192.0.2.300\n0.0.0.0/0\n9-1\n" +
		"::/0\n::ffff:0.0.0.0/96\n0.0.0.0-255.255.255.255\n::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff\n::ffff:0.0.0.0-::ffff:255.255.255.255\n"
	set, stats, err := Networks("cidr", strings.NewReader(text), "test")
	if err != nil || stats.Entries != 4 || stats.Bad != 8 || set.Len() < 4 {
		t.Fatalf("%d networks, %+v, %v", set.Len(), stats, err)
	}
	set, stats, err = Networks("dnsmasq", strings.NewReader("bogus-nxdomain=192.0.2.1\nignore-address=192.0.2.2\nserver=/x/1\n"), "test")
	if err != nil || stats.Entries != 2 || stats.Bad != 1 || set.Len() != 2 {
		t.Fatalf("%d networks, %+v, %v", set.Len(), stats, err)
	}
}

func TestWideEntries(t *testing.T) {
	const text = "cn\ntop\n=uk\nexample.com\n*.org\n"
	covered := func(s Source) (string, Stats) {
		set, stats, err := s.Names(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		var in []string
		for _, n := range []string{"a.cn", "a.top", "uk", "example.com", "a.org"} {
			if _, ok := set.Lookup(n); ok {
				in = append(in, n)
			}
		}
		return strings.Join(in, " "), stats
	}
	in, stats := covered(Source{Name: "l", Format: "plain"})
	if in != "a.cn a.top uk example.com a.org" || stats.Wide != 3 ||
		!strings.Contains(stats.Warnings()[0], "as wide as a top-level domain, taken: 3 (cn, top, *.org)") {
		t.Errorf("taken: %s; %+v %q", in, stats, stats.Warnings())
	}
	in, stats = covered(Source{Name: "l", Format: "plain", MinLabels: 2, Except: []string{"CN"}})
	if in != "a.cn uk example.com" || stats.Wide != 2 || stats.Entries != 3 || !strings.Contains(stats.Warnings()[0], "left out: 2 (top, *.org)") {
		t.Errorf("taken: %s; %+v %q", in, stats, stats.Warnings())
	}
	if in, _ = covered(Source{Name: "l", Format: "plain", MinLabels: 3, Except: []string{"example.com"}}); in != "uk example.com" {
		t.Errorf("taken: %s", in)
	}
	if _, _, err := (Source{Format: "plain", Except: []string{"a b"}}).Names(strings.NewReader("x.test")); err == nil {
		t.Error("a broken exception is taken")
	}
}

// An exception of adblock's counts for more than all that is under it, so that a
// wide one is as much as half a list. Where the longer name counts it takes out nothing else.
func TestWideExceptions(t *testing.T) {
	const adblock = "||a.com^\n||b.net^\n||c.org^\n||d.info^\n||e.biz^\n||f.co.uk^\n" +
		"@@||com^\n@@||*.NET^$important\n@@||org^$client=kiosk\n@@|info^\n@@||biz^\n@@||biz^$badfilter\n@@||co.uk^\n"
	for _, tt := range []struct {
		s         Source
		text, in  string
		out, wide int
		warned    string
	}{
		{Source{}, adblock, "c.org d.info e.biz", 4, 0, "list : exceptions as wide as a top-level domain, taken, so that the list has nothing under them: 4 (@@||com^, @@||*.net^$important, @@||org^$client=kiosk, @@||biz^); set min_labels: 2 to leave them out"},
		{Source{MinLabels: 2}, adblock, "a.com b.net c.org d.info e.biz", 4, 0, "left out: 4 (@@||com^"},
		{Source{MinLabels: 2, Except: []string{"com"}}, adblock, "b.net c.org d.info e.biz", 3, 0, "left out: 3 (@@||*.net^"},
		{Source{MinLabels: 3}, "||f.co.uk^\n@@||co.uk^\n", "f.co.uk", 1, 0, "left out: 1 (@@||co.uk^)"},
		{Source{Format: "dnsmasq"}, "server=/a.com/192.0.2.1\nserver=/net/192.0.2.1\nserver=/com/net/#\n", "a.com", 0, 1, ""},
		{Source{Format: "rpz"}, "a.com CNAME .\n*.net CNAME .\n*.com CNAME rpz-passthru.\n*.net CNAME rpz-passthru.\n", "a.com", 0, 1, ""},
	} {
		if tt.s.Format == "" {
			tt.s.Format = "adblock"
		}
		in, stats := covers(t, tt.s, tt.text, "a.com", "b.net", "c.org", "d.info", "e.biz", "f.co.uk")
		if strings.Join(in, " ") != tt.in || stats.WideOut != tt.out || stats.Wide != tt.wide {
			t.Errorf("%+v: covered: %s, want %s; %+v", tt.s, in, tt.in, stats)
		}
		if warned := strings.Join(stats.Warnings(), "\n"); !strings.Contains(warned, tt.warned) || (tt.warned == "") == strings.Contains(warned, "exceptions") {
			t.Errorf("%+v: warned %q", tt.s, warned)
		}
	}
}

func TestNothingInIt(t *testing.T) {
	for _, f := range NameFormats() {
		if set, _, err := Names(f, strings.NewReader(""), "l"); err != nil || set.Len() != 0 {
			t.Errorf("%s: an empty file is no empty list: %v", f, err)
		}
		for _, text := range []string{"<html>\n<body>not found</body>\n", "# comment\n"} {
			if _, _, err := Names(f, strings.NewReader(text), "l"); err == nil || !strings.Contains(err.Error(), "is its format "+f) {
				t.Errorf("%s: %q gives %v", f, text, err)
			}
		}
	}
	if _, _, err := Names("dnsmask", strings.NewReader("x"), "l"); err == nil || !strings.Contains(err.Error(), "dnsmasq") {
		t.Errorf("an unknown format gives %v", err)
	}
	if _, _, err := Networks("plain", strings.NewReader("x"), "l"); err == nil || !strings.Contains(err.Error(), "cidr") {
		t.Errorf("an unknown format gives %v", err)
	}
}

func TestReadFails(t *testing.T) {
	broken := errors.New("broken")
	r := io.MultiReader(strings.NewReader("a.test\nb.te"), iotest.ErrReader(broken))
	if _, _, err := Names("plain", r, "l"); !errors.Is(err, broken) {
		t.Errorf("a list that breaks off gives %v", err)
	}
}

func TestLongLine(t *testing.T) {
	text := strings.Repeat("a.", maxLine) + "test\nb.test\n=" + strings.Repeat("x", maxLine*3)
	set, stats, err := Names("plain", strings.NewReader(text), "l")
	if err != nil || set.Len() != 1 || stats.Bad != 2 || stats.BadLines[1].Line != 3 {
		t.Errorf("%d names, %+v, %v", set.Len(), stats, err)
	}
}

// A record that never ends takes no more memory than its words.
func TestOpenRecord(t *testing.T) {
	z := new(zone)
	none := func(rpzRule) error { return nil }
	for _, line := range []string{"a CNAME (", "; and"} {
		if err := z.line([]byte(line), none); err != nil {
			t.Fatal(err)
		}
	}
	held := len(z.text)
	for range 1000 {
		if err := z.line([]byte("  ; so on"), none); err != nil || len(z.text) != held {
			t.Fatalf("%d bytes are held, %d before, %v", len(z.text), held, err)
		}
	}
}

func TestFormatsAreNamed(t *testing.T) {
	if !slices.Equal(NameFormats(), []string{"adblock", "dnsmasq", "hosts", "plain", "regexp", "rpz", "v2fly"}) || !slices.Equal(NetworkFormats(), []string{"cidr", "dnsmasq", "mmdb", "rpz"}) {
		t.Errorf("%q %q", NameFormats(), NetworkFormats())
	}
}

func BenchmarkNames(b *testing.B) {
	var text strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&text, "server=/host%d.example/114.114.114.114\n", i)
	}
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		if _, _, err := Names("dnsmasq", strings.NewReader(text.String()), "l"); err != nil {
			b.Fatal(err)
		}
	}
}
