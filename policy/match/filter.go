package match

import "math/bits"

// A Filter knows the names of many sets well enough to say of most names that
// none of the sets covers them. It is immutable and safe for concurrent use.
// The zero value and nil let everything through.
//
// It is a Bloom filter in words of 64 bits: an entry sets three bits of one
// word, so that a question takes one look into memory for each suffix. With
// twelve bits for an entry about one suffix in a hundred passes that is in no set.
type Filter struct {
	words []uint64
}

const bitsPerName = 12

// NewFilter returns a filter of all names of the sets.
func NewFilter(sets ...*Names) *Filter {
	var leaves []*Names
	names := 0
	for _, s := range sets {
		s.leaves(func(n *Names) { leaves, names = append(leaves, n), names+n.entries.len })
	}
	f := &Filter{words: make([]uint64, names*bitsPerName/64+1)}
	for _, s := range leaves {
		for _, block := range s.entries.blocks {
			for i := range block {
				f.add(&block[i])
			}
		}
	}
	return f
}

func (f *Filter) add(l *line) {
	for _, e := range l {
		if e != 0 {
			word, mask := f.place(e >> kindBits)
			f.words[word] |= mask
		}
	}
}

// place returns a hash's word and its bits in it. Which word it is depends on
// the high bits, the bits in it on the low ones.
func (f *Filter) place(hash uint64) (word int, mask uint64) {
	hi, _ := bits.Mul64(hash<<kindBits, uint64(len(f.words)))
	return int(hi), 1<<(hash&63) | 1<<(hash>>6&63) | 1<<(hash>>12&63)
}

// Sift takes those suffixes out of h that are in none of the filter's sets.
// From then on h is good for these sets only.
func (f *Filter) Sift(h *Hashes) {
	if f == nil || len(f.words) == 0 {
		return
	}
	gone := uint64(0)
	for i, hash := range h.hash[:min(h.labels, keptLabels)] {
		word, mask := f.place(hash)
		gone |= (isZero(^f.words[word]&mask) ^ 1) << (i & 63)
	}
	h.gone |= gone
}
