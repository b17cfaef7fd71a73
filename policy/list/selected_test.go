package list

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/starferry/starferry/steer/geo/geomake"
)

const zoneNetworks = `$ORIGIN rpz.test.
@ SOA a. b. 1 2 3 4 5
24.0.2.0.192.rpz-ip           CNAME .
32.7.2.0.192.rpz-ip           CNAME rpz-passthru.
16.0.0.51.198.rpz-ip          CNAME rpz-drop.
24.0.1.51.198.rpz-ip          A 203.0.113.1
48.zz.1.db8.2001.rpz-ip       CNAME *.
128.1.zz.2.db8.2001.rpz-ip    CNAME .
32.1.0.0.10.rpz-client-ip     CNAME rpz-drop.
8.0.0.0.10.rpz-client-ip      CNAME rpz-tcp-only.
33.1.0.0.10.rpz-ip            CNAME .
ns.example.rpz-nsdname        CNAME .
24.0.2.0.192.rpz-nsip         CNAME .
0.0.0.0.0.rpz-ip              CNAME .
names.example                 CNAME .
`

// covers returns which of the names or addresses the list covers.
func covers(t *testing.T, s Source, text string, ask ...string) (in []string, stats Stats) {
	t.Helper()
	if _, err := netip.ParseAddr(ask[0]); err == nil {
		set, stats, err := s.Networks(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(ask, func(a string) bool { return !set.Contains(netip.MustParseAddr(a)) }), stats
	}
	set, stats, err := s.Names(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(ask, func(n string) bool { _, ok := set.Lookup(n); return !ok }), stats
}

func TestZoneNetworks(t *testing.T) {
	in, stats := covers(t, Source{Format: "rpz"}, zoneNetworks,
		"192.0.2.1", "192.0.2.7", "198.51.0.1", "198.51.1.1", "2001:db8:1::5", "2001:db8:2::1", "2001:db8:2::2", "10.0.0.1")
	if want := "192.0.2.1 198.51.0.1 2001:db8:1::5 2001:db8:2::1"; strings.Join(in, " ") != want || stats.Entries != 5 || stats.Unsaid != 3 || stats.Bad != 5 {
		t.Errorf("covered: %s, want %s; %+v", in, want, stats)
	}
	for selects, want := range map[string]string{"client-ip": "10.0.0.1", "client-ip tcp-only": "10.0.0.2", "client-ip tcp-only drop": "10.0.0.1 10.0.0.2"} {
		in, _ := covers(t, Source{Format: "rpz", Select: strings.Fields(selects)}, zoneNetworks, "10.0.0.1", "10.0.0.2", "192.0.2.1")
		if strings.Join(in, " ") != want {
			t.Errorf("%s: covered: %s, want %s", selects, in, want)
		}
	}
}

func TestZoneNamesByAction(t *testing.T) {
	const text = `$ORIGIN rpz.test.
@ SOA a. b. 1 2 3 4 5
*.a.test     CNAME .
x.a.test     CNAME rpz-passthru.
t.a.test     CNAME rpz-tcp-only.
l.a.test     A 192.0.2.1
l.a.test     AAAA 2001:db8::1
g.a.test     CNAME garden.test.
w.a.test     CNAME *.garden.test.
*.p.a.test   CNAME rpz-passthru.
n.p.a.test   CNAME *.
d.test       CNAME rpz-drop.
32.1.2.0.192.rpz-ip CNAME .
`
	for selects, want := range map[string]string{
		"":                     "q.a.test n.p.a.test d.test",
		"nodata":               "n.p.a.test",
		"tcp-only":             "t.a.test",
		"local":                "l.a.test",
		"cname":                "g.a.test w.a.test",
		"cname:garden.test":    "g.a.test",
		"cname:*.Garden.test.": "w.a.test",
		"passthru":             "x.a.test m.p.a.test",
		"drop local":           "l.a.test d.test",
	} {
		in, _ := covers(t, Source{Format: "rpz", Select: strings.Fields(selects)}, text,
			"q.a.test", "x.a.test", "t.a.test", "l.a.test", "g.a.test", "w.a.test", "m.p.a.test", "n.p.a.test", "d.test", "y.d.test")
		if strings.Join(in, " ") != want {
			t.Errorf("%q: covered: %s, want %s", selects, in, want)
		}
	}
	_, stats := covers(t, Source{Name: "l", Format: "rpz"}, text, "q.a.test")
	const want = `list l: entries that are not supported, left out: 6 (the action tcp-only where it is not selected: 1, first in line 5, ` +
		`the action local where it is not selected: 2, first in line 6, the action cname where it is not selected: 2, first in line 8, the trigger rpz-ip in a list of names: 1, first in line 13)`
	if got := stats.Warnings(); len(got) != 1 || got[0] != want {
		t.Errorf("%q", got)
	}
	in, stats := covers(t, Source{Name: "l", Format: "rpz", Select: []string{"drop"}}, "a.test CNAME .\n", "a.test")
	if len(in) != 0 || !strings.Contains(stats.Warnings()[0], "nothing of it is selected, of 1 entries") {
		t.Errorf("a zone without such an action: %s, %q", in, stats.Warnings())
	}
	for _, word := range []string{"nx", "client-ip", "cname:a b"} {
		if _, _, err := (Source{Format: "rpz", Select: []string{word}}).Names(strings.NewReader(text)); err == nil {
			t.Errorf("%q can be selected", word)
		}
	}
	if _, _, err := (Source{Format: "plain", Select: []string{"drop"}}).Names(strings.NewReader("a.test")); err == nil {
		t.Error("something can be selected of a plain list")
	}
	if _, _, err := (Source{Format: "cidr", Select: []string{"CN"}}).Networks(strings.NewReader("192.0.2.0/24")); err == nil {
		t.Error("something can be selected of networks alone")
	}
}

var sites = files{
	"geo/apple":    "# x\napple.com\nfull:www.apple.cn @cn # y\nregexp:^a[0-9]+\\.cdn @cn\nkeyword:ipod @ads\ninclude:beats @cn\ninclude:none\nother:x\nbad name @cn\n",
	"geo/beats":    "beats.com\nbeats.cn @cn &music\nbeatsads.cn @cn @ads\ninclude:apple\n",
	"geo/tv.txt":   "include:cast @-ads\ninclude:../secret\n",
	"geo/cast.txt": "domain:cast.com:@cn,@ads\ndomain:cast.cn:@cn\nfull:abroad.cn @!cn",
	"geo/secret":   "secret.com\n",
}

func TestGeosite(t *testing.T) {
	ask := []string{"x.apple.com", "www.apple.cn", "a7.cdn.test", "myipod.test", "beats.com", "beats.cn", "beatsads.cn", "cast.com", "cast.cn", "abroad.cn", "secret.com"}
	for _, tt := range []struct{ path, selects, want string }{
		{"geo/apple", "", "x.apple.com www.apple.cn a7.cdn.test myipod.test beats.cn beatsads.cn"},
		{"geo", "geosite:apple@cn", "www.apple.cn a7.cdn.test beats.cn beatsads.cn"},
		{"geo", "apple@cn@-ads", "www.apple.cn a7.cdn.test beats.cn"},
		{"geo/apple", "@ads", "myipod.test beatsads.cn"},
		{"geo/apple", "@-cn @ads", "x.apple.com myipod.test beatsads.cn"},
		{"geo", "tv", "cast.cn abroad.cn"},
		{"geo/cast.txt", "@!cn", "abroad.cn"},
		{"geo/cast.txt", "@-!cn", "cast.com cast.cn"},
	} {
		set, stats, _, err := (*Cache)(nil).Names(Source{Name: "l", Format: "v2fly", Select: strings.Fields(tt.selects)}, tt.path, sites.open)
		if err != nil {
			t.Fatal(tt, err)
		}
		var in []string
		for _, n := range ask {
			if _, ok := set.Lookup(n); ok {
				in = append(in, n)
			}
		}
		if strings.Join(in, " ") != tt.want {
			t.Errorf("%s %s: covered: %s, want %s; %q", tt.path, tt.selects, in, tt.want, stats.Warnings())
		}
	}
	_, stats, _, _ := (*Cache)(nil).Names(Source{Name: "l", Format: "v2fly"}, "geo/apple", sites.open)
	warned := strings.Join(stats.Warnings(), "\n")
	for _, want := range []string{"left out: 4 (", "line 7: the list none that it includes is not there", "beats, line 4: the list apple includes itself", `line 8: "other" is no kind of entry`, `line 9: "name" is no attribute`} {
		if !strings.Contains(warned, want) {
			t.Errorf("%q is not in %q", want, warned)
		}
	}
	for _, path := range []string{"geo/none", "https://lists.example/cn.txt"} {
		if _, _, _, err := (*Cache)(nil).Names(Source{Format: "v2fly"}, path, sites.open); err == nil {
			t.Errorf("%s is read", path)
		}
	}
}

// A list is made anew when one that it includes changes, comes or goes.
func TestCacheOfIncludes(t *testing.T) {
	disk := files{"a": "a.test\ninclude:b\ninclude:c\n", "b": "b.test\n"}
	var c Cache
	var last *Set
	var sums []Sum
	for _, change := range []func(){
		func() {},
		func() { disk["b"] = "d.test\n" },
		func() { disk["c"] = "c.test\n" },
		func() { delete(disk, "b") },
	} {
		change()
		for i := range 2 {
			set, _, sum, err := c.Names(Source{Format: "v2fly"}, "a", disk.open)
			if err != nil || (set == last) != (i == 1) || slices.Contains(sums, sum) != (i == 1) {
				t.Fatalf("reading %d: the same set: %v, %v", i, set == last, err)
			}
			last, sums = set, append(sums, sum)
		}
	}
	runtime.KeepAlive(last)
}

func TestDatabase(t *testing.T) {
	b, err := geomake.Make(map[netip.Prefix]string{netip.MustParsePrefix("192.0.2.0/24"): "CN", netip.MustParsePrefix("198.51.100.0/24"): "HK", netip.MustParsePrefix("2001:db8::/32"): "CN"})
	if err != nil {
		t.Fatal(err)
	}
	for selects, want := range map[string]string{"cn": "192.0.2.1 2001:db8::1", "": "192.0.2.1 198.51.100.1 2001:db8::1", "HK": "198.51.100.1", "AS4134 HK": "198.51.100.1"} {
		in, _ := covers(t, Source{Format: "mmdb", Select: strings.Fields(selects)}, string(b), "192.0.2.1", "198.51.100.1", "2001:db8::1", "203.0.113.1")
		if strings.Join(in, " ") != want {
			t.Errorf("%q: covered: %s, want %s", selects, in, want)
		}
	}
	for _, selects := range []string{"JP", "AS4134", "China"} {
		if _, _, err := (Source{Format: "mmdb", Select: []string{selects}}).Networks(bytes.NewReader(b)); err == nil {
			t.Errorf("%q is found", selects)
		}
	}
	broken := errors.New("broken")
	if _, _, err := (Source{Format: "mmdb"}).Networks(io.MultiReader(bytes.NewReader(b), errReader{broken})); !errors.Is(err, broken) {
		t.Errorf("a database that breaks off gives %v", err)
	}
}

type errReader struct{ error }

func (e errReader) Read([]byte) (int, error) { return 0, e.error }
