package match

import (
	"math/bits"
	"slices"
)

// A table finds entries by their hashes. It is made for names that are not in
// the processor's caches, where what counts is how often it waits for memory:
// once for the filters of all suffixes of a name, which is all that most names
// that are not listed cost, and once for the one entry that can be it.
//
// The high bits of a hash give its bucket, of about five entries. For a bucket
// there is a word: a small Bloom filter of the entries in it, and a pilot, the
// number by which, mixed with the hash, each of them has a slot to itself
// (Belazzougui, Botelho and Dietzfelbinger, "Hash, displace, and compress",
// 2009). Pilots are tried until one is good, first for the buckets that are
// full, as long as there is room. So that this does not wait for memory either,
// each 256 buckets have a part of the slots.
//
// For an entry that is 1.6 bytes of a bucket and 10 of the slots, of which a fifth
// stays free. While the set is built, its entries give way to slots block by
// block. A few entries have neither and are just looked through.
type table struct {
	len     int
	parts   [][]uint64 // of equal size; each belongs to perPart buckets
	buckets []uint64
	rest    []uint64 // in order, the entries of buckets that no pilot was good for
}

const (
	few       = 8 // so many entries have no buckets
	perBucket = 5
	perPart   = 1 << partShift
	partShift = 8

	pilotBits = 8
	noPilot   = 1<<pilotBits - 1 // the bucket's entries are in the rest
	crowded   = 30               // a bucket of more is not tried to find a pilot for
)

// newTable returns a table of the entries, which it uses up.
func newTable(e *entries) table {
	if e.len == 0 {
		return table{}
	}
	n := e.len/perBucket + 1
	if n > perPart {
		n = (n + perPart - 1) &^ (perPart - 1)
	}
	starts := e.group(n)
	e.unite(starts)
	if e.len <= few {
		return table{len: e.len, parts: e.blocks}
	}
	t := table{len: e.len, parts: make([][]uint64, (n+perPart-1)/perPart), buckets: make([]uint64, n)}
	size := e.len*5/(4*len(t.parts)) + 1
	room := space{left: size * len(t.parts)}
	var near []uint64
	for p := range t.parts {
		bounds := starts[p*perPart : min((p+1)*perPart, n)+1]
		end := int(bounds[len(bounds)-1])
		near = e.appendTo(near[:0], int(bounds[0]), end)
		room.give(e.free(end))
		t.parts[p] = room.take(size)
		t.fill(t.parts[p], t.buckets[p*perPart:], bounds, near)
	}
	slices.Sort(t.rest)
	return t
}

// A space is where the slots of a table come from: blocks of entries that are
// used up, and new ones when there are none.
type space struct {
	blocks [][]uint64
	begun  []uint64 // what is left of one
	left   int      // so many slots are still to be taken
}

func (s *space) give(blocks [][]uint64) { s.blocks = append(s.blocks, blocks...) }

// take returns so many free slots.
func (s *space) take(n int) []uint64 {
	if len(s.begun) < n {
		s.begun = s.block(n)
	}
	slots := s.begun[:n:n]
	s.begun = s.begun[n:]
	s.left -= n
	clear(slots)
	return slots
}

// block returns a block that n slots at least fit into.
func (s *space) block(n int) []uint64 {
	last := len(s.blocks) - 1
	if last < 0 || len(s.blocks[last]) < n {
		return make([]uint64, min(s.left, max(n, perBlock/n*n)))
	}
	b := s.blocks[last]
	s.blocks = s.blocks[:last]
	return b
}

// fill puts the entries of a part's buckets, which begin at the bounds, into
// its slots.
func (t *table) fill(slots, buckets []uint64, bounds []uint32, entries []uint64) {
	var order [perPart]uint16
	for _, b := range fullFirst(bounds, order[:]) {
		of := entries[bounds[b]-bounds[0] : bounds[b+1]-bounds[0]]
		word := findPilot(slots, of)
		if word == noPilot {
			t.rest = append(t.rest, of...)
		}
		for _, e := range of {
			word |= filterBits(e >> kindBits)
		}
		buckets[b] = word
	}
}

// fullFirst returns the numbers of the buckets in order, which has room for
// them: those with the most entries first.
func fullFirst(bounds []uint32, order []uint16) []uint16 {
	size := func(b int) uint32 { return crowded - min(bounds[b+1]-bounds[b], crowded) }
	var next [crowded + 2]uint16
	n := len(bounds) - 1
	for b := range n {
		next[size(b)+1]++
	}
	for s := range crowded {
		next[s+1] += next[s]
	}
	for b := range n {
		order[next[size(b)]] = uint16(b)
		next[size(b)]++
	}
	return order[:n]
}

// findPilot returns the pilot by which the entries have slots to themselves,
// and puts them there.
func findPilot(slots, entries []uint64) uint64 {
	if len(entries) >= crowded {
		return noPilot
	}
	for pilot := range uint64(noPilot) {
		if put(slots, entries, pilot) {
			return pilot
		}
	}
	return noPilot
}

// put puts the entries into their slots, unless one is taken.
func put(slots, entries []uint64, pilot uint64) bool {
	for i, e := range entries {
		s := &slots[slot(e>>kindBits, pilot, len(slots))]
		if *s != 0 {
			for _, e := range entries[:i] {
				slots[slot(e>>kindBits, pilot, len(slots))] = 0
			}
			return false
		}
		*s = e
	}
	return true
}

// bucket spreads hashes over n buckets, in their order.
func bucket(hash uint64, n int) int {
	hi, _ := bits.Mul64(hash<<kindBits, uint64(n))
	return int(hi)
}

// slot returns which of n slots a hash has by a pilot.
func slot(hash, pilot uint64, n int) int {
	hi, _ := bits.Mul64((hash^pilot*0x9e3779b97f4a7c15)*0xd6e8feb86659fd93, uint64(n))
	return int(hi)
}

// filterBits returns the bits of a bucket's filter that an entry sets: one of
// 32, one of 16 and one of 8. About one hash in fifty passes that is not there.
func filterBits(hash uint64) uint64 {
	return 1<<pilotBits<<(hash&31) | 1<<40<<(hash>>5&15) | 1<<56<<(hash>>9&7)
}

// sift returns which of the wanted suffixes, given by their labels less one, can
// be in the table. It has no branches that depend on what is there, so that the
// processor asks memory for all of them at once.
func (t *table) sift(h *Hashes, wanted uint64) (passed uint64) {
	if t.buckets == nil {
		return wanted
	}
	for ; wanted != 0; wanted &= wanted - 1 {
		i := bits.TrailingZeros64(wanted)
		hash := h.hash[i&(keptLabels-1)]
		mask := filterBits(hash)
		passed |= isZero(^t.buckets[bucket(hash, len(t.buckets))]&mask) << (i & 63)
	}
	return passed
}

// isZero returns 1 for 0, and 0 for all else.
func isZero(x uint64) uint64 { return (x|-x)>>63 ^ 1 }

// find returns the kind of the entry with this hash, 0 if there is none.
func (t *table) find(hash uint64) Kind {
	if t.buckets == nil {
		return t.amongFew(hash)
	}
	b := bucket(hash, len(t.buckets))
	pilot := t.buckets[b] & noPilot
	if pilot == noPilot {
		first, _ := slices.BinarySearch(t.rest, hash<<kindBits)
		return among(t.rest[first:min(first+1, len(t.rest))], hash)
	}
	slots := t.parts[b>>partShift]
	if kind := slots[slot(hash, pilot, len(slots))] ^ hash<<kindBits; kind < 1<<kindBits {
		return Kind(kind)
	}
	return 0
}

// amongFew returns the kind of the entry with this hash in a table without buckets.
func (t *table) amongFew(hash uint64) Kind {
	if len(t.parts) == 0 {
		return 0
	}
	return among(t.parts[0], hash)
}

// among returns the kind of that of a few entries that has this hash.
func among(entries []uint64, hash uint64) Kind {
	for _, e := range entries {
		if kind := e ^ hash<<kindBits; kind < 1<<kindBits {
			return Kind(kind)
		}
	}
	return 0
}
