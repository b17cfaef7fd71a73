package tunnel

import (
	"encoding/binary"
	"sync"
	"time"
)

// An entry is one direction of a flow.
type entry struct {
	f   *flow
	dir uint8
}

const shards = 64

// A table finds flows by either direction. Looking up takes a read lock of
// one shard; who changes it holds Switch.mu besides, so that the rows of one
// flow come and go together.
type table struct {
	shard [shards]struct {
		sync.RWMutex
		rows map[key]entry
		_    [32]byte // keeps the locks on cache lines of their own
	}
}

func (t *table) prepare() {
	for i := range t.shard {
		t.shard[i].rows = map[key]entry{}
	}
}

// at spreads by what varies: the low halves of the addresses, and the ports.
func (k *key) at() uint32 {
	h := binary.NativeEndian.Uint32(k.src[12:])*0x9E3779B1 ^ binary.NativeEndian.Uint32(k.dst[12:])*0x85EBCA6B
	h ^= (uint32(k.sport)<<16 | uint32(k.dport)) * 0xC2B2AE35
	return (h ^ h>>15) % shards
}

func (t *table) find(k *key) entry {
	s := &t.shard[k.at()]
	s.RLock()
	e := s.rows[*k]
	s.RUnlock()
	return e
}

func (t *table) put(k *key, e entry) {
	s := &t.shard[k.at()]
	s.Lock()
	s.rows[*k] = e
	s.Unlock()
}

// remove takes the row away if it is still of f.
func (t *table) remove(k *key, f *flow) {
	s := &t.shard[k.at()]
	s.Lock()
	if s.rows[*k].f == f {
		delete(s.rows, *k)
	}
	s.Unlock()
}

// flows returns all flows that match at a moment near now.
func (t *table) flows(match func(*flow) bool) []*flow {
	var all []*flow
	for i := range t.shard {
		s := &t.shard[i]
		s.RLock()
		for _, e := range s.rows {
			if e.dir == fwd && match(e.f) {
				all = append(all, e.f)
			}
		}
		s.RUnlock()
	}
	return all
}

// A wheel brings flows up when they may have expired, with a slot a second. A
// flow that has more time than the wheel has slots comes up once a turn, and
// is put back; so nothing is done for a packet.
type wheel struct {
	slot [128][]*flow
	at   int64 // the second up to which it has turned
}

func (w *wheel) add(f *flow, deadline int64) {
	in := deadline/int64(time.Second) + 1 - w.at // rounded up
	i := w.at + min(max(in, 1), int64(len(w.slot))-1)
	w.slot[i%int64(len(w.slot))] = append(w.slot[i%int64(len(w.slot))], f)
}

// turn calls visit for the flows of all seconds until now.
func (w *wheel) turn(now int64, visit func(*flow)) {
	sec := now / int64(time.Second)
	if sec-w.at > int64(len(w.slot)) { // the process was stopped for a while
		w.at = sec - int64(len(w.slot))
	}
	for w.at < sec {
		w.at++
		i := w.at % int64(len(w.slot))
		due := w.slot[i]
		w.slot[i] = nil
		for _, f := range due {
			visit(f)
		}
	}
}
