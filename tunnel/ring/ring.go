// Package ring is the bounded queue that stands wherever packets change from
// one goroutine to another: before WireGuard encrypts, before a kernel TUN is
// written, behind a netstack.
//
// The contract: [Ring.Put] copies and never blocks (a full ring drops, and
// counts), [Ring.Take] blocks and takes as many as there are room and packets.
// A stalled reader therefore costs packets, never another link its pace.
package ring

import (
	"sync"
	"sync/atomic"
)

// A Ring is a bounded queue of packets, safe for concurrent use.
type Ring struct {
	longest int // bytes of the longest packet taken

	mu      sync.Mutex
	more    sync.Cond
	slots   [][]byte // buffers are made when a slot is first used, and kept
	first   int
	waiting int // packets
	readers int // goroutines in Take that sleep
	closed  bool

	dropped atomic.Uint64
}

// New makes a ring for so many packets of at most longest bytes.
func New(slots, longest int) *Ring {
	r := &Ring{longest: longest, slots: make([][]byte, slots)}
	r.more.L = &r.mu
	return r
}

// Put copies the packet into the ring. It reports false, and counts, where the
// ring is full or closed or the packet is empty or longer than the ring takes.
func (r *Ring) Put(pkt []byte) bool {
	if len(pkt) == 0 || len(pkt) > r.longest {
		r.dropped.Add(1)
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.waiting == len(r.slots) {
		r.dropped.Add(1)
		return false
	}
	slot := &r.slots[(r.first+r.waiting)%len(r.slots)]
	if *slot == nil {
		*slot = make([]byte, 0, r.longest)
	}
	*slot = append((*slot)[:0], pkt...)
	r.waiting++
	if r.readers > 0 {
		r.more.Signal()
	}
	return true
}

// Take waits for a packet, then copies all that wait, up to len(bufs), each to
// bufs[i][off:] with its length in sizes[i]. It reports false once the ring is
// closed; what still waited then is lost.
func (r *Ring) Take(bufs [][]byte, sizes []int, off int) (n int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.waiting == 0 && !r.closed {
		r.readers++
		r.more.Wait()
		r.readers--
	}
	if r.closed {
		return 0, false
	}
	for n < len(bufs) && r.waiting > 0 {
		sizes[n] = copy(bufs[n][off:], r.slots[r.first])
		r.first = (r.first + 1) % len(r.slots)
		r.waiting--
		n++
	}
	return n, true
}

// Close wakes whoever waits in Take. Closing twice is harmless.
func (r *Ring) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.more.Broadcast()
}

// Dropped returns how many packets Put refused.
func (r *Ring) Dropped() uint64 { return r.dropped.Load() }
