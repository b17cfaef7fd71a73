package match

import "math/bits"

// A table finds entries by their hashes. It is made for names that are not in
// the processor's caches, where what counts is how often one look waits for
// another one's answer from memory.
//
// Entries lie in lines. The high bits of a hash give its line; should that be full,
// the entry lies in the next one with room. For each line there is a word beside: a
// small Bloom filter of the entries that belong there. All lines that suffixes of a
// name belong to are asked for while their filters are looked at, so that the line
// of one that passes is on its way as soon as that is known.
//
// For an entry that is 1.3 bytes of a filter and 10.7 of a line, of which a quarter
// stays free. While the set is built, its entries give way to lines block by block.
// So few entries that they have room to spare in one line have no filter.
type table struct {
	len     int
	blocks  [][]line // all full but the last
	filters []uint64 // one for each line
}

// inLine is how many entries belong to a line, on average.
const inLine = 6

// newTable returns a table of the entries, which it uses up.
func newTable(e *entries) table {
	if e.len == 0 {
		return table{}
	}
	e.sort()
	t := table{len: e.len}
	if e.len < perLine {
		t.blocks = e.blocks
		return t
	}
	t.filters = make([]uint64, e.len/inLine+1)
	for i := range e.len {
		entry := *e.at(i)
		n := lineOf(entry>>kindBits, len(t.filters))
		t.filters[n] |= filterBits(entry >> kindBits)
		for t.grow(n, e, i); !t.line(n).put(entry); t.grow(n, e, i) {
			n = t.after(n)
		}
	}
	t.grow(len(t.filters)-1, e, e.len)
	return t
}

// grow adds blocks until there is line n: those that only entries before done
// lay in, and new ones.
func (t *table) grow(n int, e *entries, done int) {
	for n>>blockShift >= len(t.blocks) {
		left := len(t.filters) - len(t.blocks)<<blockShift
		t.blocks = append(t.blocks, e.reuse(min(left, perBlock), done))
	}
}

// put puts an entry into a line, unless that is full.
func (l *line) put(entry uint64) bool {
	for i := range l {
		if l[i] == 0 {
			l[i] = entry
			return true
		}
	}
	return false
}

// lineOf spreads hashes over n lines, in their order.
func lineOf(hash uint64, n int) int {
	hi, _ := bits.Mul64(hash<<kindBits, uint64(n))
	return int(hi)
}

func (t *table) line(n int) *line { return &t.blocks[n>>blockShift][n&(perBlock-1)] }

// after returns which line takes what a full one has no room for.
func (t *table) after(n int) int {
	if n++; n < len(t.filters) {
		return n
	}
	return 0
}

// filterBits returns the bits of a line's filter that an entry sets: one of 32 and
// two of 16. About one hash in fifty passes that is not there.
func filterBits(hash uint64) uint64 {
	return 1<<(hash&31) | 1<<32<<(hash>>5&15) | 1<<48<<(hash>>9&15)
}

// sift returns which of the wanted suffixes, given by their labels less one, can
// be in the table. It has no branches that depend on what is there, so that the
// processor asks memory for all of them at once.
func (t *table) sift(h *Hashes, wanted uint64) (passed uint64) {
	blocks, filters := t.blocks, t.filters // what a loop with a call reads again each time, it waits for
	if filters == nil {
		return wanted
	}
	for ; wanted != 0; wanted &= wanted - 1 {
		i := bits.TrailingZeros64(wanted)
		hash := h.hash[i&(keptLabels-1)]
		n := lineOf(hash, len(filters))
		block := blocks[n>>blockShift]
		prefetch(&block[n&(perBlock-1)])
		passed |= isZero(^filters[n]&filterBits(hash)) << (i & 63)
	}
	return passed
}

// isZero returns 1 for 0, and 0 for all else.
func isZero(x uint64) uint64 { return (x|-x)>>63 ^ 1 }

// find returns the kind of the entry with this hash, 0 if there is none.
func (t *table) find(hash uint64) Kind {
	if t.len == 0 {
		return 0
	}
	for n := lineOf(hash, len(t.filters)); ; n = t.after(n) {
		l := t.line(n)
		if kind := l.find(hash << kindBits); kind != 0 || l[perLine-1] == 0 {
			return kind
		}
	}
}

// find returns the kind of the entry that is the key but for that. It looks at all
// entries, since the processor would guess wrongly at which one to stop, and in so
// many words, since the compiler unrolls no loops.
func (l *line) find(key uint64) Kind {
	return kindIf(l[0]^key) | kindIf(l[1]^key) | kindIf(l[2]^key) | kindIf(l[3]^key) |
		kindIf(l[4]^key) | kindIf(l[5]^key) | kindIf(l[6]^key) | kindIf(l[7]^key)
}

// kindIf returns what is left of an entry without its key, 0 if it has another one.
func kindIf(left uint64) Kind {
	if left >= 1<<kindBits {
		left = 0
	}
	return Kind(left)
}
