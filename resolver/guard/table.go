package guard

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// A table holds buckets that leak: each has a level that rises by the cost of
// what is taken and falls with time. A bucket is one word, so that it is read
// and changed in one step and needs no lock:
//
//	18 bits  tag      of the key, to tell the buckets of a set apart
//	 4 bits  skipped  that the user of the table counts with
//	42 bits  empty    the tick at which the bucket is empty again, modulo 2⁴²
//
// That is the "theoretical arrival time" of the generic cell rate algorithm
// (ITU-T I.371 annex A), which equals a token bucket. A bucket whose tick has
// passed is as one that was never used, so nothing has to be cleaned up.
//
// Eight words are a set, one cache line. When a set has no bucket of a key, the
// one that is emptiest makes room: if it has leaked out, nothing is lost, and
// otherwise the least that can be. So sources that are invented by the million
// and ask once displace each other and not those who are near their limit, and
// whoever is displaced starts with an empty bucket, which is to its favour.
//
// Which set and tag a key has depends on a secret seed: nobody can choose
// addresses that meet in one set. A forged source meets the bucket of a given
// client once in 2³¹ questions, with the smallest default table.
type table struct {
	sets []set
	seed [4]uint64

	displaced counter // buckets that made room before they had leaked out
}

type set [8]atomic.Uint64

const (
	tagBits, skipBits, timeBits = 18, 4, 42

	timeMask = 1<<timeBits - 1
	skipMask = 1<<skipBits - 1

	// tickShift makes ticks of nanoseconds: one is 1,024 of them. Rates up to
	// 10,000 a second are kept within half a per cent, up to 100,000 within
	// three. The time comes round after 52 days; a bucket that was left alone
	// for just that long could seem full for as long as it takes to leak out.
	tickShift = 10

	// slack is how much older than that of others the time of a caller may be.
	slack = uint64(2 * time.Second >> tickShift)

	// maxLevel bounds levels well below half of the time's range.
	maxLevel = uint64(time.Hour >> tickShift)
)

// newTable makes a table of at least the given number of buckets.
func newTable(entries int) (*table, error) {
	const least, most = 1 << 10, 1 << 26
	if entries < least || entries > most {
		return nil, fmt.Errorf("a table of %d entries: want %d to %d", entries, least, most)
	}
	sets := 1 << bits.Len(uint(entries-1)/8)
	t := &table{sets: make([]set, sets)}
	for i := range t.seed {
		t.seed[i] = rand.Uint64()
	}
	return t, nil
}

func tick(now int64) uint64 { return uint64(now) >> tickShift & timeMask }

// hash mixes a key with what else tells buckets apart: products of secret and
// asked, folded, as wyhash does. (The hash of the runtime costs twice as much.)
func (t *table) hash(k key, more uint64) uint64 {
	return fold(fold(k.hi^t.seed[0], k.lo^t.seed[1])^t.seed[2], more^t.seed[3])
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// A bucket is a place in a table with what was read there.
type bucket struct {
	at    *atomic.Uint64
	word  uint64
	tag   uint64
	level uint64 // ticks until it is empty
	skip  uint64
	took  bool // the place was taken from another that had not leaked out
}

// find returns the bucket of a hash, or the place where to make it. limit is
// the highest level of this table's buckets: what seems to be above is older
// than half of the time's range.
func (t *table) find(hash, now, limit uint64) bucket {
	s := &t.sets[hash&uint64(len(t.sets)-1)]
	tag := hash >> (64 - tagBits)
	for i := range s {
		if w := s[i].Load(); w>>(64-tagBits) == tag {
			return bucket{at: &s[i], word: w, tag: tag, level: level(w, now, limit), skip: w >> timeBits & skipMask}
		}
	}
	return s.emptiest(tag, now, limit)
}

// emptiest returns the place of the bucket that is the emptiest of its set.
func (s *set) emptiest(tag, now, limit uint64) bucket {
	b, least := bucket{tag: tag}, ^uint64(0)
	for i := range s {
		w := s[i].Load()
		if l := level(w, now, limit); l < least {
			b.at, b.word, least = &s[i], w, l
		}
	}
	b.took = least > 0
	return b
}

func level(word, now, limit uint64) uint64 {
	if l := (word - now) & timeMask; l <= limit+slack {
		return l
	}
	return 0
}

// put writes a new level, unless somebody else was faster.
func (t *table) put(b *bucket, now, level uint64) bool {
	w := b.tag<<(64-tagBits) | b.skip&skipMask<<timeBits | (now+level)&timeMask
	if !b.at.CompareAndSwap(b.word, w) {
		return false
	}
	if b.took {
		t.displaced.Add(1)
	}
	return true
}

// A Limit is a rate a second and how much may come at once. A field that is
// zero has a default; a negative rate is no limit.
type Limit struct{ Rate, Burst int }

// A pace is a limit in ticks: what one costs, and the level of a full bucket.
// The zero pace is no limit.
type pace struct{ cost, full uint64 }

func (l Limit) pace(otherwise Limit) (pace, error) {
	if l.Rate < 0 {
		return pace{}, nil
	}
	if l.Rate == 0 && l.Burst == 0 {
		l = otherwise
	}
	if l.Rate == 0 {
		l.Rate = otherwise.Rate
	}
	l.Burst = or(l.Burst, 2*l.Rate)
	const most = 100_000
	if l.Rate > most || l.Burst < 1 {
		return pace{}, fmt.Errorf("a rate of %d a second and %d at once: want at most %d and at least 1", l.Rate, l.Burst, most)
	}
	second := uint64(time.Second) >> tickShift
	cost := (second + uint64(l.Rate)/2) / uint64(l.Rate)
	if uint64(l.Burst) > maxLevel/cost {
		return pace{}, fmt.Errorf("a rate of %d a second and %d at once: that is more than an hour's share", l.Rate, l.Burst)
	}
	return pace{cost, cost * uint64(l.Burst)}, nil
}
