package list

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy/match"
)

// published returns a file as it is published, and its active lines.
func published(t *testing.T, file string) (text string, active []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(data(t), file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			active = append(active, line)
		}
	}
	return string(b), active
}

// names returns all names that a list has entries of, in the order of the file.
func names(t *testing.T, s Source, text string) (out []string) {
	t.Helper()
	if err := s.Each(strings.NewReader(text), func(_ match.Kind, name string) { out = append(out, name) }); err != nil {
		t.Fatal(err)
	}
	return out
}

func different(names []string) int { return len(slices.Compact(slices.Sorted(slices.Values(names)))) }

// What is known of the largest list: every name of it is there.
func TestRealChinaSites(t *testing.T) {
	text, active := published(t, "china/accelerated-domains.china.conf")
	all := names(t, Source{Format: "dnsmasq"}, text)
	has := map[string]bool{}
	for _, n := range all {
		has[n] = true
	}
	if len(active) != 110769 || len(all) != 110769 || len(has) != 110769 {
		t.Errorf("%d lines, %d names, %d different", len(active), len(all), len(has))
	}
	var top []string
	punycode, below, longest := 0, 0, 0
	for _, n := range all {
		longest = max(longest, len(n))
		if strings.Contains(n, "xn--") {
			punycode++
		}
		if !strings.Contains(n, ".") {
			top = append(top, n)
		}
		for rest, more := n, true; more; {
			if _, rest, more = strings.Cut(rest, "."); has[rest] {
				below++
				break
			}
		}
	}
	if punycode != 315 || below != 21 || longest != 67 || len(top) != 6 {
		t.Errorf("%d in other scripts, %d below others, %d bytes, whole domains %s", punycode, below, longest, top)
	}
	set, stats, err := Source{Name: "l", Format: "dnsmasq", MinLabels: 2}.Names(strings.NewReader(text))
	if err != nil || stats.Wide != 6 || stats.Entries != 110763 {
		t.Fatalf("%+v, %v", stats, err)
	}
	for _, n := range top {
		if _, ok := set.Lookup("www." + n); ok {
			t.Errorf("%s is in it", n)
		}
		if warned := stats.Warnings()[0]; !slices.Contains(stats.WideOnes, n) || !strings.Contains(warned, n) {
			t.Errorf("%s: %s", n, warned)
		}
	}
}

// Lines that are there twice are one name; names in other scripts are A-labels;
// what is no name is left out and shown.
func TestRealOddities(t *testing.T) {
	for _, l := range []struct {
		file, format       string
		lines, names, puny int
	}{
		{"china/ns-whitelist.txt", "plain", 119, 118, 0},
		{"phish/durablenapkin_raw.txt", "hosts", 14952, 14948, -1},
	} {
		text, active := published(t, l.file)
		all := names(t, Source{Format: l.format}, text)
		other := 0
		for _, n := range all {
			if strings.Contains(n, "xn--") && !strings.Contains(text, n) {
				other++
			}
		}
		if len(active) != l.lines || different(all) != l.names || l.puny == 0 && other > 0 || l.puny < 0 && other == 0 {
			t.Errorf("%s: %d lines, %d names, %d of other scripts", l.file, len(active), different(all), other)
		}
	}
	text, _ := published(t, "phish/durablenapkin_raw.txt")
	_, stats, err := Names("hosts", strings.NewReader(text), "l")
	if err != nil || len(stats.BadLines) != 3 {
		t.Fatalf("%+v, %v", stats, err)
	}
	for _, p := range stats.BadLines {
		if !strings.Contains(p.Text, "http://") {
			t.Errorf("line %d is left out: %s: %s", p.Line, p.Text, p.Why)
		}
	}
}

// The networks of China: all their addresses, in both of the forms in which they
// are published, and no other.
func TestRealChinaNetworks(t *testing.T) {
	text, active := published(t, "china/chnroutes.txt")
	database, _ := published(t, "china/chnroutes.mmdb")
	lines, _, err := Networks("cidr", strings.NewReader(text), "l")
	if err != nil {
		t.Fatal(err)
	}
	mmdb, _, err := Source{Name: "l", Format: "mmdb", Select: []string{"CN"}}.Networks(strings.NewReader(database))
	if err != nil || lines.Len() != 3912 || mmdb.Len() != 3912 {
		t.Fatalf("%d networks, %d in the database, %v", lines.Len(), mmdb.Len(), err)
	}
	addresses := 0
	for _, line := range active {
		p := netip.MustParsePrefix(line)
		addresses += 1 << (32 - p.Bits())
		for name, set := range map[string]*match.Networks{"list": lines, "database": mmdb} {
			if in, ok := set.Lookup(p.Addr()); !ok || in != p {
				t.Errorf("%v is %v, %v in the %s", p, in, ok, name)
			}
		}
		if before := p.Addr().Prev(); lines.Contains(before) != mmdb.Contains(before) {
			t.Errorf("%v is in one of them", before)
		}
	}
	if addresses != 282502144 {
		t.Errorf("%d addresses", addresses)
	}
	if _, _, err := (Source{Name: "l", Format: "mmdb", Select: []string{"HK"}}).Networks(strings.NewReader(database)); err == nil {
		t.Error("there is something of elsewhere in it")
	}
}
