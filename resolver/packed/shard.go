package packed

import (
	"sync"
	"sync/atomic"
)

// A shard is what is kept of the hashes that begin alike. Of writers one at a time
// may do so in a shard, and when its table grows, only these wait.
type shard[N any] struct {
	cache *Cache[N]
	table *atomic.Pointer[table[N]]
	most  int // sets that the table may grow to
	limit int64

	entries atomic.Int64
	bytes   atomic.Int64

	mu   sync.Mutex // held by those who write
	hand int        // where to look for something to give up next
}

func (h *shard[N]) put(hash uint64, e *Entry[N]) {
	if e.size() > h.limit/ways {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.roomy(hash, e)
	s, tag := t.at(hash)
	h.displace(s, h.place(s, e), tag, e, e)
	for tries := 0; h.bytes.Load() > h.limit && tries < 2*t.places(); tries++ { // at the first look they may all be in use
		h.hand = (h.hand + 1) % t.places()
		s, i := &t.sets[h.hand/ways], h.hand%ways
		if old := s.places[i].Load(); old != nil && old != e && !old.used.Swap(false) {
			h.displace(s, i, 0, nil, e)
		}
	}
}

// roomy returns a table for one more entry, e, with this hash. One that is half
// full is doubled, and one that is an eighth full if a good entry would have to
// give way: what is looked up shall lie close together, and what is good stay.
func (h *shard[N]) roomy(hash uint64, e *Entry[N]) *table[N] {
	t := h.table.Load()
	for len(t.sets) < h.most {
		n := int(h.entries.Load())
		if s, _ := t.at(hash); n < t.places()/8 || n < t.places()/2 && s.free(e) >= 0 {
			break
		}
		t = h.doubled(t)
		h.table.Store(t)
	}
	return t
}

func (h *shard[N]) doubled(old *table[N]) *table[N] {
	t := &table[N]{make([]set[N], 2*len(old.sets))}
	var buf [256]byte
	for i := range old.sets {
		for k := range old.sets[i].places {
			if e := old.sets[i].places[k].Load(); e != nil {
				s, tag := t.at(h.cache.hash(e.key, e.appendName(buf[:0])))
				s.put(k, tag, e) // of two sets that were one, which had one entry there
			}
		}
	}
	return t
}

// displace replaces what is in a place to make room for e.
func (h *shard[N]) displace(s *set[N], i int, tag uint8, with, e *Entry[N]) {
	if old := s.places[i].Load(); !e.mayReplace(old) {
		h.cache.Displaced.Add(1)
	}
	h.replace(s, i, tag, with)
}

// place returns where in its set an entry goes: where that loses nothing good,
// or where something was not used lately.
func (h *shard[N]) place(s *set[N], e *Entry[N]) int {
	if i := s.free(e); i >= 0 {
		return i
	}
	for i := range s.places {
		if !s.places[i].Load().used.Swap(false) {
			return i
		}
	}
	h.hand++
	return h.hand % ways
}

func (h *shard[N]) replace(s *set[N], i int, tag uint8, e *Entry[N]) {
	if old := s.put(i, tag, e); old != nil {
		h.entries.Add(-1)
		h.bytes.Add(-old.size())
	}
	if e != nil {
		h.entries.Add(1)
		h.bytes.Add(e.size())
	}
}

func (h *shard[N]) flush(forget func(name string) bool) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var buf [256]byte
	t := h.table.Load()
	for k := range t.sets {
		s := &t.sets[k]
		for i := range s.places {
			if e := s.places[i].Load(); e != nil && forget(string(e.appendName(buf[:0]))) {
				h.replace(s, i, 0, nil)
				n++
			}
		}
	}
	return n
}

func (h *shard[N]) clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.table.Store(&table[N]{make([]set[N], len(h.table.Load().sets))})
	h.entries.Store(0)
	h.bytes.Store(0)
}
