package main

import (
	"bytes"
	"hash/maphash"
	"slices"
	"sort"
	"strings"
)

// words returns the names of a text, each in memory of its own, as those who
// read files by lines have them.
func words(text []byte) []string {
	out := make([]string, 0, bytes.Count(text, []byte("\n")))
	for line := range bytes.Lines(text) {
		out = append(out, string(bytes.TrimSpace(line)))
	}
	return out
}

// anySuffix reports whether has is true for a name or one of its suffixes.
func anySuffix(name string, has func(string) bool) bool {
	for {
		if has(name) {
			return true
		}
		_, rest, more := strings.Cut(name, ".")
		if !more {
			return false
		}
		name = rest
	}
}

type mapped map[string]struct{}

func buildMap(text []byte) (structure, error) {
	m := mapped{}
	for line := range bytes.Lines(text) {
		m[string(bytes.TrimSpace(line))] = struct{}{}
	}
	return m, nil
}

func (m mapped) covers(name string) bool {
	return anySuffix(name, func(s string) bool { _, ok := m[s]; return ok })
}

// A bloomed has ten bits for a name, of which each sets seven.
type bloomed struct {
	mapped
	bits []uint64
	seed maphash.Seed
}

func buildBloom(text []byte) (structure, error) {
	inner, err := buildMap(text)
	m := inner.(mapped)
	b := &bloomed{m, make([]uint64, len(m)*10/64+1), maphash.MakeSeed()}
	for name := range m {
		b.each(name, func(word, bit uint64) bool { b.bits[word] |= bit; return true })
	}
	return b, err
}

// each passes the bits of a name to do while that returns true.
func (b *bloomed) each(name string, do func(word, bit uint64) bool) bool {
	h := maphash.String(b.seed, name)
	step := h>>32 | 1
	for range 7 {
		at := h % uint64(len(b.bits)*64)
		if !do(at/64, 1<<(at%64)) {
			return false
		}
		h += step * 0x9e3779b97f4a7c15
	}
	return true
}

func (b *bloomed) covers(name string) bool {
	return anySuffix(name, func(s string) bool {
		if !b.each(s, func(word, bit uint64) bool { return b.bits[word]&bit != 0 }) {
			return false
		}
		_, ok := b.mapped[s]
		return ok
	})
}

// A hashed is at most half full.
type hashed struct {
	slots []uint64
	seed  maphash.Seed
}

func buildHashed(text []byte) (structure, error) {
	n := 1
	for n < 2*bytes.Count(text, []byte("\n")) {
		n *= 2
	}
	t := &hashed{make([]uint64, n), maphash.MakeSeed()}
	for line := range bytes.Lines(text) {
		h := maphash.Bytes(t.seed, bytes.TrimSpace(line)) | 1
		t.slots[t.find(h)] = h
	}
	return t, nil
}

// find returns the slot that a hash is in, or that is free for it.
func (t *hashed) find(h uint64) int {
	i := int(h>>1) & (len(t.slots) - 1)
	for t.slots[i] != 0 && t.slots[i] != h {
		i = (i + 1) & (len(t.slots) - 1)
	}
	return i
}

func (t *hashed) covers(name string) bool {
	return anySuffix(name, func(s string) bool { return t.slots[t.find(maphash.String(t.seed, s)|1)] != 0 })
}

type sorted []string

func buildSorted(text []byte) (structure, error) {
	s := sorted(words(text))
	slices.Sort(s)
	return s, nil
}

func (s sorted) covers(name string) bool {
	return anySuffix(name, func(name string) bool { _, ok := slices.BinarySearch(s, name); return ok })
}

// A grouped has the names of each length in one string.
type grouped map[int]string

func buildGrouped(text []byte) (structure, error) {
	byLength := map[int][]string{}
	for _, name := range words(text) {
		byLength[len(name)] = append(byLength[len(name)], name)
	}
	g := grouped{}
	for n, names := range byLength {
		slices.Sort(names)
		g[n] = strings.Join(names, "")
	}
	return g, nil
}

func (g grouped) covers(name string) bool {
	return anySuffix(name, func(s string) bool {
		all, n := g[len(s)], len(s)
		i := sort.Search(len(all)/max(n, 1), func(i int) bool { return all[i*n:(i+1)*n] >= s })
		return i*n < len(all) && all[i*n:(i+1)*n] == s
	})
}

// A trie is a node of labels, from the last one on.
type trie struct {
	kids map[string]*trie
	ends bool
}

func buildTrie(text []byte) (structure, error) {
	root := &trie{}
	for _, name := range words(text) {
		at := root
		for more := true; more; {
			var label string
			label, name, more = lastLabel(name)
			next := at.kids[label]
			if next == nil {
				if next = new(trie); at.kids == nil {
					at.kids = map[string]*trie{}
				}
				at.kids[label] = next
			}
			at = next
		}
		at.ends = true
	}
	return root, nil
}

func lastLabel(name string) (label, rest string, more bool) {
	i := strings.LastIndexByte(name, '.')
	return name[i+1:], name[:max(i, 0)], i >= 0
}

func (t *trie) covers(name string) bool {
	for more := true; more && t != nil && !t.ends; {
		var label string
		label, name, more = lastLabel(name)
		t = t.kids[label]
	}
	return t != nil && t.ends
}
