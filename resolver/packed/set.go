package packed

import (
	"math/bits"
	"sync/atomic"
)

// ways is how many places a key has: as many as there is room for beside their tags
// in a line of the processor's cache.
const ways = 7

// A set is the places of the keys that fall together. One writes at a time, while
// any number read.
type set[N any] struct {
	tags   atomic.Uint64 // of what is in each place, a byte of the hash; zero: nothing
	places [ways]atomic.Pointer[Entry[N]]
}

const (
	ones = 0x0101010101010101
	tops = 0x8080808080808080
)

// tagged returns the places with a tag, as bits that [first] reads. There may be
// others among them.
func (s *set[N]) tagged(tag uint8) uint64 {
	other := s.tags.Load() ^ uint64(tag)*ones // a zero byte where they are the same
	return (other - ones) &^ other & tops
}

func first(found uint64) int { return bits.TrailingZeros64(found) / 8 }

// put replaces what is in a place, and returns that. Who reads meanwhile may miss
// both, and finds nothing that is not there.
func (s *set[N]) put(i int, tag uint8, e *Entry[N]) (old *Entry[N]) {
	old = s.places[i].Swap(e)
	s.tags.Store(s.tags.Load()&^(0xff<<(8*i)) | uint64(tag)<<(8*i))
	return old
}

// free returns a place where e goes without that something good is lost: where an
// older one of the same key is, or any; -1 if there is none.
func (s *set[N]) free(e *Entry[N]) int {
	free := -1
	for i := range s.places {
		old := s.places[i].Load()
		if !e.mayReplace(old) {
			continue
		}
		if free = i; old != nil && old.same(e) {
			break
		}
	}
	return free
}

// A table is the sets of all keys, a power of two.
type table[N any] struct{ sets []set[N] }

// at returns the places of a key, and the tag that its entry has there.
func (t *table[N]) at(hash uint64) (s *set[N], tag uint8) {
	return &t.sets[int(hash>>8)&(len(t.sets)-1)], uint8(hash) | 0x80
}

func (t *table[N]) places() int { return len(t.sets) * ways }
