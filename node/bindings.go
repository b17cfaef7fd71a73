package node

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry/device"
)

// bindingAge is how long an address stands for the device that showed itself
// from it.
const bindingAge = 3 * time.Minute

// maxBindings bounds the table, to some 8 MiB.
const maxBindings = 1 << 16

// sweepEvery is how often a full table is looked through for bindings that have
// aged.
const sweepEvery = 10 * time.Second

// bindings are the addresses from which devices have shown who they are. Two
// devices that claim one address, as from behind the same NAT, cancel each
// other: until all but one of the claims have aged it stands for none of them.
//
// A full table takes no more addresses, so nobody can push out another's; who is
// not in it is known by weaker evidence. The zero value is ready.
type bindings struct {
	mu      sync.RWMutex
	claimed map[netip.Addr]claims
	size    atomic.Int64 // of claimed, to be read without the lock
	swept   time.Time
	changes atomic.Uint64 // of what addresses stand for, but for what ages
}

// claims are the two devices that claimed an address last, the latter one first.
// More need not be known: if the second claim has aged all before it have.
type claims struct {
	last, other claim
}

type claim struct {
	id device.ID
	at time.Time
}

func (c claim) live(now time.Time) bool { return c.id != "" && now.Sub(c.at) < bindingAge }

// holder returns the device that a claimed address stands for; empty: none.
func (c claims) holder(now time.Time) device.ID {
	if !c.last.live(now) || c.other.live(now) {
		return ""
	}
	return c.last.id
}

// empty reports whether no address is bound, without waiting for anybody.
func (b *bindings) empty() bool { return b == nil || b.size.Load() == 0 }

// refreshAfter is the age from which a binding is made anew: not with each of a
// device's questions, for which all others would have to wait.
const refreshAfter = 5 * time.Second

// Bind notes that the device has shown itself from the address, by a token or a
// report.
func (b *bindings) Bind(from netip.Addr, id device.ID, now time.Time) {
	if from == netip.IPv6Loopback() || from == netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		return // any process of this machine asks from there, unless it chooses another address
	}
	if b == nil || b.fresh(from, id, now) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c, known := b.claimed[from]
	if !known && !b.room(now) {
		return
	}
	before := c.holder(now)
	if c.last.id != id {
		c.other = c.last
	}
	c.last = claim{id, now}
	if c.holder(now) != before { // not with each question of two who share an address: all would be identified anew
		b.changes.Add(1)
	}
	b.claimed[from] = c
	b.size.Store(int64(len(b.claimed)))
}

// fresh reports whether the address was bound to the device a moment ago, and to
// no other since.
func (b *bindings) fresh(from netip.Addr, id device.ID, now time.Time) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	last := b.claimed[from].last
	return last.id == id && now.Sub(last.at) < refreshAfter
}

// room makes room for one more address, if it can.
func (b *bindings) room(now time.Time) bool {
	if b.claimed == nil {
		b.claimed = map[netip.Addr]claims{}
	}
	if len(b.claimed) < maxBindings {
		return true
	}
	if now.Sub(b.swept) < sweepEvery {
		return false
	}
	b.swept = now
	for a, c := range b.claimed {
		if !c.last.live(now) {
			delete(b.claimed, a)
		}
	}
	return len(b.claimed) < maxBindings
}

// Lookup returns the device that the address stands for.
func (b *bindings) Lookup(from netip.Addr, now time.Time) (device.ID, bool) {
	if b == nil {
		return "", false
	}
	b.mu.RLock()
	c := b.claimed[from]
	b.mu.RUnlock()
	id := c.holder(now)
	return id, id != ""
}
