package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/starferry/starferry/policy/list"
	"github.com/starferry/starferry/policy/match"
)

// A row is what was measured of a structure.
type row struct {
	name      string
	bytes     float64 // a name
	peak      float64 // while it is built, in sizes of what is built
	build     time.Duration
	hit, miss float64 // nanoseconds
}

// A structure holds names and says whether one of them is a suffix of another
// name, at a dot.
type structure interface{ covers(name string) bool }

// Ours is the first one.
var structures = []struct {
	name  string
	build func(text []byte) (structure, error)
}{
	{"this list: lines of eight, asked for beside small filters", buildOurs},
	{"Go map of strings, a question for each suffix", buildMap},
	{"the same behind a Bloom filter", buildBloom},
	{"open addressing by 64-bit hashes", buildHashed},
	{"sorted names, binary search for each suffix", buildSorted},
	{"sorted names by their length, without headers", buildGrouped},
	{"trie of labels, a Go map at each node", buildTrie},
}

// lists returns what is measured of all structures, and their rows, which are
// whole once that is told. The figures are those of the list.
func lists(names int) (rows []row, m measured, err error) {
	text, hits, misses := randomNames(names)
	var works []func(i int)
	for _, s := range structures {
		began := spent()
		built, resident, peak, err := size(func() (structure, error) { return s.build(text) })
		if err != nil {
			return nil, m, err
		}
		rows = append(rows, row{name: s.name, bytes: resident / float64(names), peak: peak, build: spent() - began})
		for want, asked := range map[bool][]string{true: hits, false: misses} {
			for _, name := range asked {
				if built.covers(name) != want {
					return nil, m, fmt.Errorf("%s: %s is covered: %v", s.name, name, !want)
				}
			}
		}
		works = append(works, ask(built, hits), ask(built, misses))
	}
	return rows, measured{works, func(t []float64) {
		for i := range rows {
			rows[i].hit, rows[i].miss = t[2*i], t[2*i+1]
		}
		figure("list_bytes_per_name", rows[0].bytes, "bytes")
		figure("list_lookup_hit", rows[0].hit, "ns")
		figure("list_lookup_miss", rows[0].miss, "ns")
		figure("list_build_peak", rows[0].peak, "x")
	}}, nil
}

func ask(s structure, names []string) func(i int) {
	return func(i int) { s.covers(names[i%len(names)]) }
}

// randomNames returns a list in format plain, and names of four labels that it
// covers and that it does not.
func randomNames(n int) (text []byte, hits, misses []string) {
	var b bytes.Buffer
	r := rand.New(rand.NewPCG(1, 2))
	const asked = 1 << 16
	for i := range n {
		name := fmt.Sprintf("host-%d.%s", i, []string{"com", "net", "example", "co.uk"}[r.IntN(4)])
		if r.IntN(2) == 0 {
			name = fmt.Sprintf("%x.%s", r.IntN(1<<16), name)
		}
		b.WriteString(name + "\n")
		if r.IntN(n) < asked {
			hits = append(hits, four(name))
			misses = append(misses, four("q"+name[1:]+"x"))
		}
	}
	shuffle := func(s []string) { r.Shuffle(len(s), func(i, k int) { s[i], s[k] = s[k], s[i] }) }
	shuffle(hits)
	shuffle(misses)
	return b.Bytes(), atHand(hits), atHand(misses)
}

// atHand puts names side by side, in the order in which they are asked for. A name
// that is looked up has just been read from a message: it is the list that is in
// no cache of the processor.
func atHand(names []string) []string {
	rest := strings.Join(names, "")
	for i, name := range names {
		names[i], rest = rest[:len(name)], rest[len(name):]
	}
	return names
}

// four puts labels before a name to make it one of four.
func four(name string) string {
	for strings.Count(name, ".") < 3 {
		name = "w." + name
	}
	return name
}

// An ours is the list itself.
type ours struct{ *match.Names }

func (o ours) covers(name string) bool {
	_, ok := o.Lookup(name)
	return ok
}

func buildOurs(text []byte) (structure, error) {
	names, _, err := list.Names("plain", bytes.NewReader(text), "bench")
	if err != nil {
		return nil, err
	}
	return ours{names.Names}, nil
}

// markdown returns the table.
func markdown(rows []row, names int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %d names in | bytes a name | peak of building | built in | hit | miss |\n|---|--:|--:|--:|--:|--:|\n", names)
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %.1f | %.1f × | %.2f s | %.0f ns | %.0f ns |\n", r.name, r.bytes, r.peak, r.build.Seconds(), r.hit, r.miss)
	}
	return b.String()
}
