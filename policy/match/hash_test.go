package match

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// hostName is what Clean says of names in ASCII, once they are in lower case.
var hostName = regexp.MustCompile(`^[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$`)

func FuzzKeyOf(f *testing.F) {
	for _, name := range []string{"example.com", "WWW.Example.COM.", "", ".", "a..b", ".a", "a.", "a b", "\u4e2d\u56fd.cn", "caf\xe9", "\u212a.test",
		"xn--fiqs8s", "_dns.x", `a\.b`, "a\x00", strings.Repeat("a", 63), strings.Repeat("b", 64) + ".c", strings.Repeat("a.", 127), strings.Repeat("a.", 126) + "a.", strings.Repeat("\u00fc", 60)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		clean, err := Clean(name)
		k, keyErr := KeyOf(name)
		b, byteErr := KeyOf([]byte(name))
		if fmt.Sprint(keyErr) != fmt.Sprint(err) || fmt.Sprint(byteErr) != fmt.Sprint(err) || k != b {
			t.Fatalf("KeyOf(%q) = %v, %v and %v, %v; Clean says %v", name, k, keyErr, b, byteErr, err)
		}
		if ascii := strings.TrimSuffix(strings.ToLower(name), "."); isASCII(name) && (hostName.MatchString(ascii) && len(ascii) <= 253) != (err == nil) {
			t.Fatalf("Clean(%q) says %v", name, err)
		}
		if err != nil {
			return
		}
		var h Hashes
		h.Reset(clean)
		if k.Labels() != Labels(clean) || h.labels != Labels(clean) || h.of(h.labels) != k.hash {
			t.Fatalf("the key of %q is %v, its last hash %d of %d", clean, k, h.of(h.labels), h.labels)
		}
	})
}

func TestKeyOfAllocatesNothing(t *testing.T) {
	name := []byte("WWW.Example.COM.")
	if n := testing.AllocsPerRun(100, func() { _, _ = KeyOf(name) }); n != 0 {
		t.Errorf("KeyOf allocates %v times", n)
	}
}

// randomName is of few different labels, so that names often cover each other.
func randomName(r *rand.Rand, most int) string {
	labels := make([]string, 1+r.IntN(most))
	for i := range labels {
		labels[i] = []string{"a", "b", "xn--fiqs8s", "_dns"}[r.IntN(4)]
	}
	return strings.Join(labels, ".")
}

func TestHashesServeManySets(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	kinds := []Kind{Exact, One, Under, Tree, Exact | One, One | Under, Tree | One}
	var h Hashes
	for range 300 {
		var b NamesBuilder
		entries := map[string]Kind{}
		most := 1 + r.IntN(7)
		if r.IntN(20) == 0 {
			most = 127
		}
		for range r.IntN(40) {
			name, kind := randomName(r, most), kinds[r.IntN(len(kinds))]
			if len(name) > 253 {
				continue
			}
			entries[name] |= kind
			if err := b.AddKind(kind, name); err != nil {
				t.Fatal(err)
			}
		}
		set := b.Build()
		for range 100 {
			name := randomName(r, 1+r.IntN(most+3))
			for e := range entries {
				if r.IntN(4) == 0 {
					name = strings.Repeat("x.", r.IntN(200)) + e
				}
				break
			}
			h.Reset(name)
			want, covered := model(entries, name)
			if m, ok := set.LookupHashes(&h); m != want || ok != covered {
				t.Fatalf("LookupHashes(%q) = %v, %v, want %v, %v in %v", name, m, ok, want, covered, entries)
			}
			if m, ok := set.Lookup(name); m != want || ok != covered {
				t.Fatalf("Lookup(%q) = %v, %v, want %v, %v in %v", name, m, ok, want, covered, entries)
			}
		}
	}
}

// With a filter before them sets say what they say without one, and most names
// are known to be in none.
func TestFilterTakesNothingAway(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		sets := []*Names{nil, {}}
		for range r.IntN(4) {
			var b NamesBuilder
			for range r.IntN(30) {
				if err := b.AddKind(Kind(1+r.IntN(7)), randomName(r, 5)); err != nil {
					t.Fatal(err)
				}
			}
			sets = append(sets, b.Build())
		}
		f := NewFilter(sets...)
		var h Hashes
		for range 100 {
			name := randomName(r, 6)
			h.Reset(name)
			f.Sift(&h)
			for _, s := range sets {
				want, covered := s.Lookup(name)
				if m, ok := s.LookupHashes(&h); m != want || ok != covered {
					t.Fatalf("through the filter %q is covered by %v, %v, without it by %v, %v", name, m, ok, want, covered)
				}
			}
		}
	}
	var h Hashes
	h.Reset("a.test")
	new(Filter).Sift(&h)
	(*Filter)(nil).Sift(&h)
	if _, ok := names(t, "test").LookupHashes(&h); !ok {
		t.Error("no filter filters")
	}
}

func TestFilterIsOfUse(t *testing.T) {
	set := many(20_000)
	f := NewFilter(set)
	passed := 0
	var h Hashes
	for i := range 20_000 {
		h.Reset(fmt.Sprintf("other%d", i))
		if f.Sift(&h); h.gone == 0 {
			passed++
		}
	}
	if passed > 600 {
		t.Errorf("%d of 20000 other names pass", passed)
	}
	if n := testing.AllocsPerRun(100, func() { f.Sift(&h) }); n != 0 {
		t.Errorf("Sift allocates %v times", n)
	}
}

// Whoever asks in a form that no name has gets an answer all the same.
func TestOddNames(t *testing.T) {
	set := names(t, "a", "*.b.a", "=x.y.z")
	var h Hashes
	for _, name := range []string{"", ".", "..", ".a", "a.", "..a", strings.Repeat(".", 1000), strings.Repeat("a.", 1000) + "a", "\xff.a", `a\.b.a`} {
		h.Reset(name)
		m, ok := set.LookupHashes(&h)
		if m2, ok2 := set.Lookup(name); m != m2 || ok != ok2 {
			t.Errorf("%q: %v and %v", name, m, m2)
		}
		if ok != strings.HasSuffix(name, "a") {
			t.Errorf("Lookup(%q) = %v, %v", name, m, ok)
		}
	}
}

// tenLists are lists of 1,000,000 names in all.
func tenLists() []*Names {
	var sets []*Names
	for k := range 10 {
		var b NamesBuilder
		for i := range 100_000 {
			_ = b.AddKind(Tree, fmt.Sprintf("host%d.zone%d.example", i, (i+k)%977))
		}
		sets = append(sets, b.Build())
	}
	return sets
}

func BenchmarkTenLists(b *testing.B) {
	sets := tenLists()
	names := make([]string, 1<<16)
	for i := range names {
		names[i] = fmt.Sprintf("www.host%d.zone%d.example", 1_000_000+i*7, i%977)
	}
	look := func(b *testing.B, all func(name string) bool) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if all(names[i&(1<<16-1)]) {
				b.Fatal("an unlisted name is found")
			}
		}
	}
	b.Run("one by one", func(b *testing.B) {
		look(b, func(name string) (found bool) {
			for _, s := range sets {
				_, ok := s.Lookup(name)
				found = found || ok
			}
			return found
		})
	})
	b.Run("hashed once", func(b *testing.B) {
		var h Hashes
		look(b, func(name string) (found bool) {
			h.Reset(name)
			for _, s := range sets {
				_, ok := s.LookupHashes(&h)
				found = found || ok
			}
			return found
		})
	})
	b.Run("sifted", func(b *testing.B) {
		f := NewFilter(sets...)
		var h Hashes
		look(b, func(name string) (found bool) {
			h.Reset(name)
			f.Sift(&h)
			for _, s := range sets {
				_, ok := s.LookupHashes(&h)
				found = found || ok
			}
			return found
		})
	})
}

// Entries and names of more labels than hashes are kept of are found like others.
func TestDeepNames(t *testing.T) {
	var b NamesBuilder
	deep := func(n int) string { return strings.Repeat("a.", n-2) + "deep.test" }
	for _, labels := range []int{keptLabels - 1, keptLabels, keptLabels + 1, 30, 127} {
		for _, form := range []string{"=%s", "**.x%s"} {
			if err := b.Add(fmt.Sprintf(form, deep(labels))); labels < 127 && err != nil {
				t.Fatal(err)
			}
		}
	}
	set := b.Build()
	filter := NewFilter(set)
	for labels := 2; labels <= 60; labels++ {
		name := deep(labels)
		var h Hashes
		h.Reset(name)
		filter.Sift(&h)
		_, got := set.LookupHashes(&h)
		_, plain := set.Lookup(name)
		want := slices.Contains([]int{keptLabels - 1, keptLabels, keptLabels + 1, 30}, labels)
		if got != want || plain != want {
			t.Errorf("%d labels: %v and %v, want %v", labels, got, plain, want)
		}
		h.Reset("b.x" + name)
		filter.Sift(&h)
		if _, got := set.LookupHashes(&h); got != want {
			t.Errorf("below %d labels: %v, want %v", labels, got, want)
		}
	}
}

// However long a name is and wherever its labels end, the hash of a suffix is
// that of the suffix as a name of its own.
func TestHashesAreOfSuffixes(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	var few depths
	few.add(Tree, 2)
	few.add(One, 4)
	for length := 1; length <= maxName; length++ {
		for range 20 {
			name := []byte(strings.Repeat("a", length))
			for i := range name {
				name[i] = "abcxyz019-_"[r.IntN(11)]
				if i%maxLabel == maxLabel-1 || i > 0 && i < length-1 && name[i-1] != '.' && r.IntN(1+length%29) == 0 {
					name[i] = '.'
				}
			}
			if checkName(string(name)) != nil {
				continue
			}
			for _, in := range []*depths{nil, &few} {
				sameAsNames(t, string(name), in)
			}
		}
	}
}

// sameAsNames looks whether the hashes are those of the suffixes that can be in
// a set of such depths.
func sameAsNames(t *testing.T, name string, in *depths) {
	t.Helper()
	var h Hashes
	h.reset(name, lastBytes(name), in)
	labels := strings.Split(name, ".")
	if h.labels != len(labels) {
		t.Fatalf("%q has %d labels, want %d", name, h.labels, len(labels))
	}
	wanted := labelSet{1<<keptLabels - 1}
	if in != nil {
		wanted = in.of(len(labels))
	}
	for n := 1; n <= min(len(labels), keptLabels); n++ {
		if suffix := strings.Join(labels[len(labels)-n:], "."); wanted.has(n) && (h.suffix(n) != suffix || h.of(n) != mustKey(t, suffix).hash) {
			t.Fatalf("the last %d labels of %q are %q, or have another hash as a name of their own", n, name, h.suffix(n))
		}
	}
}
