package match

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

// A naive set is a list of patterns, or what it is made of.
type naive struct {
	entries []string
	parts   []*naive
	less    *naive
	closest bool
}

// find returns how close the closest entry is that covers the name, by its
// length, -1 if none does.
func (n *naive) find(name string) int {
	best := -1
	for _, e := range n.entries {
		kind, entry := Split(e)
		rest, under := strings.CutSuffix(name, "."+entry)
		covered := name == entry && kind&Exact != 0 || under && (kind&Under != 0 || kind&One != 0 && !strings.Contains(rest, "."))
		if covered {
			best = max(best, len(entry))
		}
	}
	for _, p := range n.parts {
		best = max(best, p.find(name))
	}
	if n.less != nil && best >= 0 {
		if out := n.less.find(name); out >= 0 && (!n.closest || out >= best) {
			return -1
		}
	}
	return best
}

type maker struct{ *rand.Rand }

func (m maker) name() string {
	labels := make([]string, 1+m.IntN(4))
	for i := range labels {
		labels[i] = string(rune('a' + m.IntN(3)))
	}
	return strings.Join(labels, ".")
}

func (m maker) set(t *testing.T, depth int) (*Names, *naive) {
	t.Helper()
	if depth == 0 || m.IntN(4) == 0 {
		var b NamesBuilder
		n := &naive{}
		for range m.IntN(5) {
			e := []string{"", "=", "*.", "**."}[m.IntN(4)] + m.name()
			n.entries = append(n.entries, e)
			if err := b.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		return b.Build(), n
	}
	a, na := m.set(t, depth-1)
	b, nb := m.set(t, depth-1)
	switch m.IntN(3) {
	case 0:
		return Union(a, b), &naive{parts: []*naive{na, nb}}
	case 1:
		return a.Without(b), &naive{parts: []*naive{na}, less: nb}
	default:
		return a.WithoutCloser(b), &naive{parts: []*naive{na}, less: nb, closest: true}
	}
}

func TestCompoundsMeanWhatTheyAreMadeOf(t *testing.T) {
	for seed := range uint64(2000) {
		m := maker{rand.New(rand.NewPCG(seed, 3))}
		set, n := m.set(t, 3)
		f := NewFilter(set)
		for range 30 {
			name := m.name()
			want := n.find(name) >= 0
			if match, ok := set.Lookup(name); ok != want {
				t.Fatalf("seed %d: %s is covered by %v, %v, want %v", seed, name, match, ok, want)
			}
			var h Hashes
			h.Reset(name)
			f.Sift(&h)
			if match, ok := set.LookupHashes(&h); ok != want {
				t.Fatalf("seed %d: %s is, sifted, covered by %v, %v, want %v", seed, name, match, ok, want)
			}
		}
	}
}

func TestPatterns(t *testing.T) {
	var b NamesBuilder
	for _, err := range []error{b.Add("listed.test"), b.AddKeyword("AdServ"), b.AddRegexp(`^track[0-9]+\.`), b.AddRegexp(`(^|\.)X\.test$`)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	set := b.Build()
	if set.Len() != 4 {
		t.Errorf("%d entries", set.Len())
	}
	for name, want := range map[string]string{
		"www.listed.test": "listed.test", "my.adserver.example": "keyword:adserv", "track12.example": `/^track[0-9]+\./`,
		"a.x.test": `/(^|\.)X\.test$/`, "ax.test": "", "": "",
	} {
		m, ok := set.Lookup(name)
		if ok != (want != "") || ok && m.String() != want {
			t.Errorf("%s is covered by %v, %v, want %s", name, m, ok, want)
		}
	}
	for _, expr := range []string{"", ".", ".*", "(", "a*", "a{2000}", strings.Repeat("a", 1001)} {
		if b.AddRegexp(expr) == nil {
			t.Errorf("the expression %q is taken", expr)
		}
	}
	for _, word := range []string{"", ".", "a b", "caf\xe9"} {
		if b.AddKeyword(word) == nil {
			t.Errorf("the keyword %q is taken", word)
		}
	}
	if n := testing.AllocsPerRun(100, func() { set.Lookup("track12.example") }); n != 0 {
		t.Errorf("a lookup allocates %v times", n)
	}
	for i := range MaxPatterns {
		if err := b.AddKeyword(fmt.Sprint("k", i)); err != nil {
			t.Fatal(err)
		}
	}
	if b.AddKeyword("more") == nil {
		t.Error("there is no end of patterns")
	}
}

func TestDrop(t *testing.T) {
	b := NamesBuilder{Apart: true}
	key := func(name string) Key {
		k, err := KeyOf(name)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	for _, e := range []string{"a.test", "=b.test", "b.test", "c.test", "=c.test"} {
		if err := b.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	b.Drop(Tree, key("a.test"))
	b.Drop(Exact, key("b.test"))
	b.Drop(Tree, key("c.test"))
	set := b.Build()
	for name, want := range map[string]bool{"a.test": false, "b.test": true, "x.b.test": true, "c.test": true, "x.c.test": false} {
		if _, ok := set.Lookup(name); ok != want {
			t.Errorf("%s is covered: %v, want %v", name, ok, want)
		}
	}
	b = NamesBuilder{}
	b.Drop(Tree, key("a.test"))
	if err := b.Add("a.test"); err != nil {
		t.Fatal(err)
	}
	set = b.Build()
	if _, ok := set.Lookup("a.test"); ok || set.Len() != 0 {
		t.Errorf("%d names are left", set.Len())
	}
}

func TestNetworksWithoutCloser(t *testing.T) {
	var in, out NetworksBuilder
	for b, all := range map[*NetworksBuilder][]string{&in: {"10.0.0.0/8", "10.1.2.0/24", "192.0.2.1/32"}, &out: {"10.1.0.0/16", "192.0.2.1/32"}} {
		for _, p := range all {
			if err := b.Add(netip.MustParsePrefix(p)); err != nil {
				t.Fatal(err)
			}
		}
	}
	set := in.Build().WithoutCloser(out.Build())
	for a, want := range map[string]bool{"10.9.9.9": true, "10.1.9.9": false, "10.1.2.9": true, "192.0.2.1": false, "192.0.2.2": false} {
		if ok := set.Contains(netip.MustParseAddr(a)); ok != want {
			t.Errorf("%s is covered: %v, want %v", a, ok, want)
		}
	}
}
