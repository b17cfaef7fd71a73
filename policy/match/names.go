package match

import (
	"errors"
	"math/bits"
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

	pattern *pattern // the keyword or regular expression that covers it, where no name does
}

// String returns the entry as [NamesBuilder.Add] reads it.
func (m Match) String() string {
	switch {
	case m.pattern != nil:
		return m.pattern.String()
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
// An entry is eight bytes, the hash of its name and its kind. See [table] for
// where it lies.
type Names struct {
	entries  table
	depths   depths
	patterns []pattern
	of       *compound // what else it is made of; then it has no entries itself
}

// Len returns how many different names and patterns the set has entries of. In
// a set that is made of others each counts for itself, and what is taken out
// does not.
func (n *Names) Len() int {
	switch {
	case n == nil:
		return 0
	case n.of == nil:
		return n.entries.len + len(n.patterns)
	}
	all := 0
	for _, p := range n.of.parts {
		all += p.Len()
	}
	return all
}

// Lookup returns the most specific entry that covers the name, which is in
// lower case and has no final dot. It allocates nothing.
func (n *Names) Lookup(name string) (Match, bool) {
	if n == nil {
		return Match{}, false
	}
	last := lastBytes(name)
	var h Hashes
	if n.of == nil {
		h.reset(name, last, &n.depths)
	} else {
		h.reset(name, last, nil)
	}
	return n.LookupHashes(&h)
}

// LookupHashes does what [Names.Lookup] does for the name of the hashes.
func (n *Names) LookupHashes(h *Hashes) (Match, bool) {
	if n == nil {
		return Match{}, false
	}
	if n.of != nil {
		return n.of.lookup(h)
	}
	if n.depths.deep {
		if m, ok := n.lookupDeep(h); ok {
			return m, true
		}
	}
	for left := n.entries.sift(h, n.depths.near(h.labels)&^h.gone); left != 0; {
		i := bits.Len64(left) - 1
		left &^= 1 << i
		if kind := n.entries.find(h.hash[i&(keptLabels-1)]); kind&covering[min(h.labels-i-1, 2)] != 0 {
			return Match{Name: h.suffix(i + 1), Kind: kind}, true
		}
	}
	for i := range n.patterns {
		if n.patterns[i].covers(h.name) {
			return Match{pattern: &n.patterns[i]}, true
		}
	}
	return Match{}, false
}

// lookupDeep looks for suffixes of so many labels that their hashes are not kept.
func (n *Names) lookupDeep(h *Hashes) (Match, bool) {
	wanted := n.depths.of(h.labels)
	for labels := min(h.labels, maxLabels); labels > keptLabels; labels-- {
		if !wanted.has(labels) {
			continue
		}
		if kind := n.entries.find(h.of(labels)); kind&covering[min(h.labels-labels, 2)] != 0 {
			return Match{Name: h.suffix(labels), Kind: kind}, true
		}
	}
	return Match{}, false
}

// covering holds the kinds that cover names of so many labels more than the
// entry has, the last ones for all that are more. It is no function with
// branches: of names that come in any order the processor guesses them wrongly.
var covering = [...]Kind{Exact, One | Under, Under}

// A NamesBuilder collects the entries of a set. The zero value is ready.
type NamesBuilder struct {
	// Apart keeps entries apart until the set is built, so that one can be
	// dropped which another one of the same name followed.
	Apart bool

	entries  entries
	depths   depths
	patterns []pattern
	dropped  map[uint64]bool
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
func Split[T string | []byte](pattern T) (Kind, T) {
	switch {
	case len(pattern) > 0 && pattern[0] == '=':
		return Exact, pattern[1:]
	case len(pattern) > 2 && pattern[0] == '*' && pattern[1] == '*' && pattern[2] == '.':
		return Under, pattern[3:]
	case len(pattern) > 1 && pattern[0] == '*' && pattern[1] == '.':
		return One, pattern[2:]
	}
	return Tree, pattern
}

// AddKind adds an entry of the given kind.
func (b *NamesBuilder) AddKind(kind Kind, name string) error {
	k, err := KeyOf(name)
	if err != nil {
		return err
	}
	return b.AddKey(kind, k)
}

// AddKey adds an entry of the given kind for the name of the key.
func (b *NamesBuilder) AddKey(kind Kind, k Key) error {
	switch {
	case kind == 0 || kind > Exact|One|Under:
		return errors.New("an entry of no kind")
	case k.labels == 0:
		return errors.New("an entry of no name")
	}
	b.depths.add(kind, int(k.labels))
	e := k.hash<<kindBits | uint64(kind)
	if last := b.entries.last(); last != nil && *last>>kindBits == k.hash && !b.Apart {
		*last |= e // a zone lists each name and its wildcard in turn
		return nil
	}
	b.entries.add(e)
	return nil
}

// Drop takes out the entries of exactly this kind and name, those that are
// added later included.
func (b *NamesBuilder) Drop(kind Kind, k Key) {
	if b.dropped == nil {
		b.dropped = map[uint64]bool{}
	}
	b.dropped[k.hash<<kindBits|uint64(kind)] = true
}

// Build returns the set of all that was added; the builder is empty after it.
func (b *NamesBuilder) Build() *Names {
	if len(b.dropped) > 0 && b.entries.len > 0 {
		b.drop()
	}
	n := &Names{entries: newTable(&b.entries), depths: b.depths, patterns: b.patterns}
	*b = NamesBuilder{}
	return n
}
