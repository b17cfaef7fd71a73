package match

import "math/bits"

// A line holds entries, and zeros after them. It is as long as the lines of the
// processor's caches.
type line [perLine]uint64

const (
	perLine  = 1 << lineShift
	perBlock = 1 << blockShift // lines in a block, which is of 64 KiB

	lineShift  = 3
	blockShift = 10
)

// entries is a long row of entries. It lies in blocks of lines, so that it grows
// without being copied and without having room for twice as many.
type entries struct {
	blocks [][]line // all full but the last
	len    int
	reused int // so many blocks serve for something else
}

func (e *entries) at(i int) *uint64 {
	n := i >> lineShift
	return &e.blocks[n>>blockShift][n&(perBlock-1)][i&(perLine-1)]
}

// last returns the entry that was added last, nil if there is none.
func (e *entries) last() *uint64 {
	if e.len == 0 {
		return nil
	}
	return e.at(e.len - 1)
}

func (e *entries) add(entry uint64) {
	if e.len&(perLine-1) == 0 {
		e.addLine()
	}
	e.len++
	*e.last() = entry
}

func (e *entries) addLine() {
	n := len(e.blocks)
	if n == 0 || len(e.blocks[n-1]) == perBlock {
		var block []line // the first one grows: most sets are small
		if n > 0 {
			block = make([]line, 0, perBlock)
		}
		e.blocks = append(e.blocks, block)
		n++
	}
	e.blocks[n-1] = append(e.blocks[n-1], line{})
}

// sort orders the entries by their hashes and leaves one of each name, with all
// its kinds.
func (e *entries) sort() {
	const perBucket = 6
	e.unite(e.group(e.len/perBucket + 1))
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
	for i := range e.len {
		starts[lineOf(*e.at(i)>>kindBits, n)+1]++
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
			to := (lineOf(*from>>kindBits, len(starts)-1) - first) >> shift
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

// reuse returns n empty lines, which lie in a full block if one is left all of
// whose entries are before done: nobody looks at those any more.
func (e *entries) reuse(n, done int) []line {
	if n < perBlock || e.reused >= done>>lineShift>>blockShift {
		return make([]line, n)
	}
	block := e.blocks[e.reused][:perBlock:perBlock]
	e.reused++
	clear(block)
	return block
}

// cut leaves the first n entries, of which there are some, and no room for a line after them.
func (e *entries) cut(n int) {
	lines := (n-1)>>lineShift + 1
	clear(e.blocks[(lines-1)>>blockShift][(lines-1)&(perBlock-1)][(n-1)&(perLine-1)+1:])
	e.len = n
	e.blocks = e.blocks[:(lines-1)>>blockShift+1]
	last := &e.blocks[len(e.blocks)-1]
	if used := lines - (len(e.blocks)-1)<<blockShift; used < cap(*last) {
		*last = append(make([]line, 0, used), (*last)[:used]...)
	}
	e.blocks = append(make([][]line, 0, len(e.blocks)), e.blocks...)
}

// depths tells of how many labels the names are that there are entries for.
// Looking for suffixes of other lengths is of no use.
type depths struct {
	exact, one, under labelSet
	deep              bool // some have more than keptLabels
}

// A labelSet is a set of numbers of labels, from 1.
type labelSet [2]uint64

func (s *labelSet) add(labels int)      { s[(labels-1)/64] |= 1 << ((labels - 1) % 64) }
func (s *labelSet) has(labels int) bool { return s[(labels-1)/64]>>((labels-1)%64)&1 != 0 }

func (d *depths) add(kind Kind, labels int) {
	d.deep = d.deep || labels > keptLabels
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

// near returns of how many labels, up to keptLabels, the suffixes are that can cover
// a name: one has bit 0.
func (d *depths) near(labels int) uint64 {
	if labels == 0 {
		return 0
	}
	own := uint64(1) << (labels - 1) // none from 65 labels on
	return (d.under[0]&(own-1) | d.exact[0]&own | d.one[0]&(own>>1)) & (1<<keptLabels - 1)
}

// of returns of how many labels the suffixes are that can cover a name.
func (d *depths) of(labels int) labelSet {
	s := d.under.below(labels)
	if labels > 0 && labels <= maxLabels && d.exact.has(labels) {
		s.add(labels)
	}
	if labels > 1 && labels <= maxLabels+1 && d.one.has(labels-1) {
		s.add(labels - 1)
	}
	return s
}

// below returns those members that are less than labels.
func (s *labelSet) below(labels int) labelSet {
	switch n := labels - 1; {
	case n <= 0:
		return labelSet{}
	case n < 64:
		return labelSet{s[0] & (1<<n - 1)}
	case n < 128:
		return labelSet{s[0], s[1] & (1<<(n-64) - 1)}
	}
	return *s
}
