package match

import "math/bits"

// perBlock is how many entries lie in a block: of 64 KiB.
const perBlock = 1 << blockShift

const blockShift = 13

// entries is a long row of entries. It lies in blocks, so that it grows without
// being copied and without having room for twice as many.
type entries struct {
	blocks [][]uint64 // all full but the last
	len    int
	freed  int // so many blocks are given up
}

func (e *entries) at(i int) *uint64 {
	return &e.blocks[i>>blockShift][i&(perBlock-1)]
}

// last returns the entry that was added last, nil if there is none.
func (e *entries) last() *uint64 {
	if e.len == 0 {
		return nil
	}
	return e.at(e.len - 1)
}

func (e *entries) add(entry uint64) {
	if e.len&(perBlock-1) == 0 {
		var block []uint64 // the first one grows: most sets are small
		if e.len > 0 {
			block = make([]uint64, 0, perBlock)
		}
		e.blocks = append(e.blocks, block)
	}
	last := &e.blocks[len(e.blocks)-1]
	*last = append(*last, entry)
	e.len++
}

// group moves the entries into the order of n buckets, and returns where each
// bucket begins. It works in place, first by some hundred neighbouring buckets
// and then within these, to stay in the processor's caches.
func (e *entries) group(n int) []uint32 {
	starts := e.count(n)
	shift := bits.Len(uint(n)) / 2
	next := make([]uint32, max(1<<shift, n>>shift+1))
	e.order(starts, next, 0, n, shift)
	for b := 0; b < n; b += 1 << shift {
		e.order(starts, next, b, min(b+1<<shift, n), 0)
	}
	return starts
}

// count returns where each of n buckets will begin, and the end of the last one.
func (e *entries) count(n int) []uint32 {
	starts := make([]uint32, n+1)
	for _, block := range e.blocks {
		for _, entry := range block {
			starts[bucket(entry>>kindBits, n)+1]++
		}
	}
	for b := range n {
		starts[b+1] += starts[b]
	}
	return starts
}

// order moves the entries of the buckets from first to end into the order of
// groups of 1<<shift buckets each (McIlroy, Bostic and McIlroy, "Engineering
// Radix Sort", 1993, section 3). next has room for the places of the groups.
func (e *entries) order(starts, next []uint32, first, end, shift int) {
	groups := (end-first-1)>>shift + 1
	for g := range groups {
		next[g] = starts[first+g<<shift]
	}
	for g := range groups {
		for full := starts[min(first+(g+1)<<shift, end)]; next[g] < full; {
			from := e.at(int(next[g]))
			to := (bucket(*from>>kindBits, len(starts)-1) - first) >> shift
			if to != g {
				other := e.at(int(next[to]))
				*from, *other = *other, *from
			}
			next[to]++
		}
	}
}

// unite orders each bucket and leaves one entry of each name, with all its
// kinds. What is left moves up.
func (e *entries) unite(starts []uint32) {
	lo, out := 0, 0
	for b := range len(starts) - 1 {
		hi := int(starts[b+1])
		first := out
		starts[b] = uint32(first)
		for ; lo < hi; lo++ {
			out = e.insert(first, out, *e.at(lo))
		}
	}
	starts[len(starts)-1] = uint32(out)
	e.cut(out)
}

// insert puts an entry to its place among those from first to end, and returns the new end.
func (e *entries) insert(first, end int, entry uint64) int {
	i := end
	for i > first && *e.at(i - 1)>>kindBits > entry>>kindBits {
		i--
	}
	if i > first && *e.at(i - 1)>>kindBits == entry>>kindBits {
		*e.at(i - 1) |= entry
		return end
	}
	for k := end; k > i; k-- {
		*e.at(k) = *e.at(k - 1)
	}
	*e.at(i) = entry
	return end + 1
}

// appendTo appends the entries from first to end to a row.
func (e *entries) appendTo(row []uint64, first, end int) []uint64 {
	for first < end {
		block := e.blocks[first>>blockShift][first&(perBlock-1):]
		block = block[:min(len(block), end-first)]
		row = append(row, block...)
		first += len(block)
	}
	return row
}

// free returns the full blocks that lie before an entry, which nobody looks at
// any more. It returns each of them once.
func (e *entries) free(before int) [][]uint64 {
	n := before>>blockShift - e.freed
	free := e.blocks[e.freed : e.freed+n]
	e.freed += n
	return free
}

// cut leaves the first n entries, and no room after them.
func (e *entries) cut(n int) {
	e.len = n
	e.blocks = e.blocks[:(n+perBlock-1)>>blockShift]
	last := &e.blocks[len(e.blocks)-1]
	if used := n - (len(e.blocks)-1)<<blockShift; used < cap(*last) {
		*last = append(make([]uint64, 0, used), (*last)[:used]...)
	}
	e.blocks = append(make([][]uint64, 0, len(e.blocks)), e.blocks...)
}

// depths tells of how many labels the names are that there are entries for.
// Looking for suffixes of other lengths is of no use.
type depths struct {
	exact, one, under labelSet
}

// A labelSet is a set of numbers of labels, from 1.
type labelSet [2]uint64

func (s *labelSet) add(labels int)      { s[(labels-1)/64] |= 1 << ((labels - 1) % 64) }
func (s *labelSet) has(labels int) bool { return s[(labels-1)/64]>>((labels-1)%64)&1 != 0 }

func (d *depths) add(kind Kind, labels int) {
	if kind&Exact != 0 {
		d.exact.add(labels)
	}
	if kind&One != 0 {
		d.one.add(labels)
	}
	if kind&Under != 0 {
		d.under.add(labels)
	}
}

// of returns of how many labels the suffixes are that can cover a name.
func (d *depths) of(labels int) labelSet {
	if labels > 0 && labels <= 64 { // as all but all names
		own := uint64(1) << (labels - 1)
		return labelSet{d.under[0]&(own-1) | d.exact[0]&own | d.one[0]&(own>>1)}
	}
	s := d.under.below(labels)
	if labels > 0 && labels <= maxLabels && d.exact.has(labels) {
		s.add(labels)
	}
	if labels > 1 && labels <= maxLabels+1 && d.one.has(labels-1) {
		s.add(labels - 1)
	}
	return s
}

// below returns those members that are less than labels, which are none or more than 64.
func (s *labelSet) below(labels int) labelSet {
	switch n := labels - 1; {
	case n <= 0:
		return labelSet{}
	case n < 128:
		return labelSet{s[0], s[1] & (1<<(n-64) - 1)}
	}
	return *s
}
