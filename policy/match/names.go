package match

import (
	"errors"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
)

// A Kind says which names an entry covers.
type Kind uint8

// The kinds, as a set of what they cover: Tree is Exact and Under together.
const (
	Exact Kind = 1 << iota // the name itself
	One                    // names with exactly one label more
	Under                  // names with one or more labels more

	Tree = Exact | Under // the name and all under it
)

const kindBits = 3

// A Match is the entry that covers a name: the part of that name that the
// entry holds, and how the entry covers it.
type Match struct {
	Name string
	Kind Kind
}

// String returns the entry as [NamesBuilder.Add] reads it.
func (m Match) String() string {
	switch {
	case m.Kind&Tree == Tree:
		return m.Name
	case m.Kind&Under != 0:
		return "**." + m.Name
	case m.Kind&One != 0:
		return "*." + m.Name
	default:
		return "=" + m.Name
	}
}

// Names is an immutable set of names and wildcards, safe for concurrent use.
// The zero value and nil are the empty set.
//
// An entry is kept as eight bytes: a 61-bit hash of its name and its kind, in
// an open-addressing table that is at most half full. The hash is a polynomial
// over the bytes, last byte first, at a secret random point of the field of
// 2⁶¹-1 elements: one pass over a name gives the hashes of all its suffixes,
// and whoever does not know the point finds no name that is taken for a listed
// one but by chance: once in 2³¹ questions to a set of a million names at worst.
// The point and with it the table differ in each run.
type Names struct {
	slots []uint64 // hash<<kindBits | kind; 0 is free
	point uint64
	count int
	deep  int // labels of the longest entry
}

// Len returns how many different names the set has entries of.
func (n *Names) Len() int {
	if n == nil {
		return 0
	}
	return n.count
}

// Lookup returns the most specific entry that covers the name, which is in
// lower case and has no final dot. It allocates nothing.
func (n *Names) Lookup(name string) (m Match, ok bool) {
	if n.Len() == 0 || name == "" {
		return Match{}, false
	}
	hash, depth := uint64(0), 0
	for i := len(name) - 1; i >= -1; i-- {
		if i >= 0 && name[i] != '.' {
			hash = step(hash, n.point, name[i])
			continue
		}
		covers := Under
		switch {
		case i < 0:
			covers = Exact
		case strings.IndexByte(name[:i], '.') < 0:
			covers = Under | One
		}
		if kind := n.find(hash); kind&covers != 0 {
			m, ok = Match{Name: name[i+1:], Kind: kind}, true
		}
		if depth++; i < 0 || depth >= n.deep {
			break
		}
		hash = step(hash, n.point, '.')
	}
	return m, ok
}

// find returns the kind of the entry with this hash, 0 if there is none.
func (n *Names) find(hash uint64) Kind {
	for i := slot(hash, len(n.slots)); ; {
		s := n.slots[i]
		if s == 0 {
			return 0
		}
		if s>>kindBits == hash {
			return Kind(s & (1<<kindBits - 1))
		}
		if i++; i == len(n.slots) {
			i = 0
		}
	}
}

// A NamesBuilder collects the entries of a set. The zero value is ready.
type NamesBuilder struct {
	entries []uint64
	point   uint64
	deep    int
}

// Add adds an entry:
//
//	example.com      the name and all under it
//	=example.com     the name alone
//	*.example.com    names with exactly one label more
//	**.example.com   names with one label more or several
//
// Upper case, a final dot and labels in other scripts are turned into the form
// that [Clean] returns.
func (b *NamesBuilder) Add(pattern string) error {
	kind, name := Split(pattern)
	return b.AddKind(kind, name)
}

// Split tells the kind of a pattern from its name.
func Split(pattern string) (Kind, string) {
	if rest, ok := strings.CutPrefix(pattern, "="); ok {
		return Exact, rest
	}
	if rest, ok := strings.CutPrefix(pattern, "**."); ok {
		return Under, rest
	}
	if rest, ok := strings.CutPrefix(pattern, "*."); ok {
		return One, rest
	}
	return Tree, pattern
}

// AddKind adds an entry of the given kind.
func (b *NamesBuilder) AddKind(kind Kind, name string) error {
	if kind == 0 || kind > Exact|One|Under {
		return errors.New("an entry of no kind")
	}
	name, err := Clean(name)
	if err != nil {
		return err
	}
	if b.point == 0 {
		b.point = 1<<32 + rand.Uint64N(prime-1<<33)
	}
	hash := uint64(0)
	for i := len(name) - 1; i >= 0; i-- {
		hash = step(hash, b.point, name[i])
	}
	b.entries = append(b.entries, hash<<kindBits|uint64(kind))
	b.deep = max(b.deep, Labels(name))
	return nil
}

// Build returns the set of all that was added; the builder is empty after it.
func (b *NamesBuilder) Build() *Names {
	entries, n := b.merged(), &Names{point: b.point, deep: b.deep}
	*b = NamesBuilder{}
	if len(entries) == 0 {
		return n
	}
	n.count = len(entries)
	n.slots = make([]uint64, 2*len(entries)+1)
	for _, e := range entries {
		i := slot(e>>kindBits, len(n.slots))
		for n.slots[i] != 0 {
			if i++; i == len(n.slots) {
				i = 0
			}
		}
		n.slots[i] = e
	}
	return n
}

// merged returns the entries with each name once, its kinds united.
func (b *NamesBuilder) merged() []uint64 {
	slices.Sort(b.entries)
	out := b.entries[:0]
	for _, e := range b.entries {
		if k := len(out); k > 0 && out[k-1]>>kindBits == e>>kindBits {
			out[k-1] |= e
			continue
		}
		out = append(out, e)
	}
	return out
}

const prime = 1<<61 - 1 // a Mersenne prime: reducing is a shift and an addition

// step multiplies by the point and adds the byte, modulo the prime.
func step(hash, point uint64, c byte) uint64 {
	hi, lo := bits.Mul64(hash, point)
	h := (lo & prime) + (hi<<3 | lo>>61) + uint64(c) + 1
	h = (h & prime) + h>>61
	if h >= prime {
		h -= prime
	}
	return h
}

// slot spreads a hash over n slots. (Multiplying by 2⁶⁴/φ makes the high bits
// depend on all; the high word of the second product is then even over n.)
func slot(hash uint64, n int) int {
	hi, _ := bits.Mul64(hash*0x9e3779b97f4a7c15, uint64(n))
	return int(hi)
}
