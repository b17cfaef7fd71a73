package match

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func names(t testing.TB, patterns ...string) *Names {
	t.Helper()
	var b NamesBuilder
	for _, p := range patterns {
		if err := b.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	return b.Build()
}

func TestNamesCover(t *testing.T) {
	set := names(t, "example.com", "=exact.test", "*.one.test", "**.many.test", "deep.example.com",
		"*.both.test", "=both.test", "Caf\u00e9.Example.", "cn", "_dns.svc.test")
	tests := map[string]string{
		"example.com":             "example.com",
		"www.example.com":         "example.com",
		"a.b.example.com":         "example.com",
		"badexample.com":          "",
		"com":                     "",
		"x.deep.example.com":      "deep.example.com",
		"exact.test":              "=exact.test",
		"www.exact.test":          "",
		"one.test":                "",
		"a.one.test":              "*.one.test",
		"a.b.one.test":            "",
		"many.test":               "",
		"a.many.test":             "**.many.test",
		"a.b.c.many.test":         "**.many.test",
		"both.test":               "*.both.test",
		"www.both.test":           "*.both.test",
		"a.www.both.test":         "",
		"www.xn--caf-dma.example": "xn--caf-dma.example",
		"www.taobao.cn":           "cn",
		"_dns.svc.test":           "_dns.svc.test",
		"":                        "",
		"..":                      "",
	}
	for name, want := range tests {
		m, ok := set.Lookup(name)
		if ok != (want != "") || ok && m.String() != want {
			t.Errorf("Lookup(%q) = %v, %v, want %q", name, m, ok, want)
		}
	}
	if set.Len() != 9 {
		t.Errorf("Len() = %d, want 9", set.Len())
	}
}

func TestNoNames(t *testing.T) {
	var none *Names
	for _, n := range []*Names{none, {}, new(NamesBuilder).Build()} {
		if m, ok := n.Lookup("example.com"); ok || n.Len() != 0 {
			t.Errorf("the empty set of %d holds %v", n.Len(), m)
		}
	}
}

func TestClean(t *testing.T) {
	long := strings.Repeat("a", 63)
	for in, want := range map[string]string{
		"Example.COM.":         "example.com",
		"\u4e2d\u56fd":         "xn--fiqs8s",
		"\uff37\uff37\uff37.x": "www.x",
		long + ".x":            long + ".x",
	} {
		if got, err := Clean(in); err != nil || got != want {
			t.Errorf("Clean(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", ".", "a..b", ".a", "a b", "http://x", "a/b", "*", "*.x", long + "a.x",
		strings.Repeat("a.", 127) + "a", "x\u202e.test", "1.2.3.4:53", "caf\xe9.test"} {
		if got, err := Clean(in); err == nil {
			t.Errorf("Clean(%q) = %q, want an error", in, got)
		}
	}
}

// model answers as Lookup does, from a map.
func model(entries map[string]Kind, name string) (best Match, found bool) {
	for rest, extra := name, 0; ; extra++ {
		covers := Exact
		switch {
		case extra == 1:
			covers = Under | One
		case extra > 1:
			covers = Under
		}
		if k := entries[rest]; k&covers != 0 {
			return Match{Name: rest, Kind: k}, true
		}
		_, after, ok := strings.Cut(rest, ".")
		if !ok {
			return Match{}, false
		}
		rest = after
	}
}

func FuzzNames(f *testing.F) {
	f.Add("example.com *.a.b =c **.d.c", "x.a.b")
	f.Add("cn top", "www.example.cn")
	f.Fuzz(func(t *testing.T, patterns, ask string) {
		var b NamesBuilder
		entries := map[string]Kind{}
		for p := range strings.FieldsSeq(patterns) {
			kind, name := Split(p)
			clean, err := Clean(name)
			if (err == nil) != (b.Add(p) == nil) {
				t.Fatalf("Add(%q) and Clean disagree", p)
			}
			if err == nil {
				entries[clean] |= kind
			}
		}
		set := b.Build()
		if set.Len() != len(entries) {
			t.Fatalf("%d entries, want %d", set.Len(), len(entries))
		}
		var hashes Hashes
		asks := []string{ask}
		for e := range entries {
			asks = append(asks, e, "a."+e, "a.b."+e)
		}
		for _, a := range asks {
			a, err := Clean(a)
			if err != nil {
				set.Lookup(ask) // whatever it says, it must not panic
				continue
			}
			want, ok := model(entries, a)
			if got, found := set.Lookup(a); got != want || found != ok {
				t.Fatalf("Lookup(%q) = %v %v, want %v %v", a, got, found, want, ok)
			}
			hashes.Reset(a)
			if got, found := set.LookupHashes(&hashes); got != want || found != ok {
				t.Fatalf("LookupHashes(%q) = %v %v, want %v %v", a, got, found, want, ok)
			}
		}
	})
}

// many is a list of names as long as asked for.
func many(n int) *Names {
	var b NamesBuilder
	for i := range n {
		_ = b.AddKind(Tree, fmt.Sprintf("host%d.zone%d.example", i, i%977))
	}
	return b.Build()
}

func TestLookupAllocatesNothing(t *testing.T) {
	set := many(1000)
	if n := testing.AllocsPerRun(1000, func() { set.Lookup("www.host5.zone5.example") }); n != 0 {
		t.Errorf("Lookup allocates %v times", n)
	}
	var h Hashes
	if n := testing.AllocsPerRun(1000, func() { h.Reset("www.host5.zone5.example"); set.LookupHashes(&h) }); n != 0 {
		t.Errorf("LookupHashes allocates %v times", n)
	}
	if b := (set.entries.room() + cap(set.entries.filters)) * 8 / 1000; b > 12 {
		t.Errorf("%d bytes an entry, want 12", b)
	}
}

// Sets of all sizes, with names that come several times and in several kinds.
func TestSizes(t *testing.T) {
	const inBlock = perBlock * perLine
	for _, n := range []int{1, 2, 7, 8, 9, 100, 1000, inBlock - 1, inBlock, inBlock + 1, 3*inBlock + 5} {
		var b NamesBuilder
		entries := map[string]Kind{}
		for i := range 2 * n {
			name := fmt.Sprintf("host%d.test", i*7919%n)
			kind := Kind(1 + i%7)
			entries[name] |= kind
			if err := b.AddKind(kind, name); err != nil {
				t.Fatal(err)
			}
		}
		set := b.Build()
		if set.Len() != len(entries) || b.Build().Len() != 0 {
			t.Fatalf("%d entries of %d", set.Len(), len(entries))
		}
		if got := set.entries.room(); n < perLine && got != perLine {
			t.Errorf("room for %d entries of %d names", got, n)
		}
		for e, kind := range entries {
			if got := set.entries.find(mustKey(t, e).hash); got != kind {
				t.Fatalf("%s is %d of %d names, want %d", e, got, n, kind)
			}
			if m, ok := set.Lookup("no" + e); ok {
				t.Fatalf("no%s is taken for %v", e, m)
			}
		}
	}
}

func mustKey(t *testing.T, name string) Key {
	t.Helper()
	k, err := KeyOf(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestBadEntries(t *testing.T) {
	var b NamesBuilder
	if b.AddKind(0, "a.test") == nil || b.AddKind(8, "a.test") == nil || b.AddKind(Tree, "a b") == nil || b.AddKey(Tree, Key{}) == nil {
		t.Error("an entry of no kind or no name is taken")
	}
	if b.Build().Len() != 0 {
		t.Error("a refused entry is in the set")
	}
}

// Lines are by the high bits of hashes. Should many entries have nearly the same
// hash, they are found all the same, be it on the first lines or round the end.
func TestCrowdedLine(t *testing.T) {
	for _, first := range []uint64{1, prime - 2001} {
		var b NamesBuilder
		for i := range 1000 {
			if err := b.AddKey(Kind(1+i%7), Key{hash: first + uint64(i*2), labels: 1}); err != nil {
				t.Fatal(err)
			}
		}
		set := b.Build()
		for i := range 1000 {
			hash := first + uint64(i*2)
			if got, not := set.entries.find(hash), set.entries.find(hash-1); got != Kind(1+i%7) || not != 0 {
				t.Fatalf("entry %d from %d is %d, the one before it %d", i, first, got, not)
			}
		}
	}
}

func TestRealChinaList(t *testing.T) {
	dir := os.Getenv("DATA")
	if dir == "" {
		t.Skip("DATA names no folder of lists")
	}
	src, err := os.ReadFile(filepath.Join(dir, "china/accelerated-domains.china.conf"))
	if err != nil {
		t.Fatal(err)
	}
	var b NamesBuilder
	entries := map[string]Kind{}
	for line := range strings.Lines(string(src)) {
		if p := strings.Split(line, "/"); len(p) == 3 && p[0] == "server=" {
			entries[p[1]] |= Tree
			if err := b.Add(p[1]); err != nil {
				t.Error(err)
			}
		}
	}
	set := b.Build()
	if set.Len() != len(entries) || set.Len() < 110_000 {
		t.Fatalf("%d entries, want %d", set.Len(), len(entries))
	}
	for e := range entries {
		if want, _ := model(entries, "x.y."+e); want.Name == "" {
			t.Fatal("the model is wrong")
		} else if got, ok := set.Lookup("x.y." + e); !ok || got != want {
			t.Fatalf("Lookup(x.y.%s) = %v, want %v", e, got, want)
		}
		if m, ok := set.Lookup(e + ".notlisted"); ok {
			t.Fatalf("%s.notlisted is taken for %v", e, m)
		}
	}
}

func BenchmarkNames(b *testing.B) {
	set := many(1_000_000)
	ask := make([]string, 1<<16)
	for i := range ask {
		n := i * 15
		ask[i] = fmt.Sprintf("host%d.zone%d.example", n, n%977)
	}
	for _, kind := range []string{"hit", "miss"} {
		b.Run(kind, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				name := ask[i&(1<<16-1)]
				if kind == "miss" {
					name = name[1:]
				}
				if _, ok := set.Lookup(name); ok != (kind == "hit") {
					b.Fatal(name)
				}
				i++
			}
		})
	}
}

// room returns how many entries a table has room for.
func (t *table) room() (n int) {
	for _, block := range t.blocks {
		n += cap(block) * perLine
	}
	return n
}
