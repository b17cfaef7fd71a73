package steer

import (
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry/policy"
)

// A Next is the label by which a neighbour knows a name.
type Next struct {
	Addr    netip.Addr
	Journal uint64    // the id of the journal that the neighbour has it in
	Asked   time.Time // when the neighbour last said so
}

// A Lease is a name with its label. Its methods are safe for concurrent use.
type Lease struct {
	key
	addr   netip.Addr
	index  uint32 // of the address in its pool
	serial uint64 // of the allocation in its journal

	use     atomic.Int64 // the last answer or packet, in Unix nanoseconds
	carried atomic.Bool  // it carried a packet
	holds   atomic.Int32 // flows; gone once the address is free for others
	rested  atomic.Int64 // when it was laid to rest; 0: it was not
	known   atomic.Pointer[lore]
	dirty   atomic.Bool // known differs from what is written

	due   int64     // when to look at it again; guarded by the table, as the next is
	place int       // in the heap of those to look at
	saved savedTime // guarded by the table's writing lock
}

// A key is what there is one lease of.
type key struct {
	name string
	v6   bool
}

// lore is what is known of a name besides its label. It is replaced, never changed.
type lore struct {
	nexts []nodeNext
	facts []policy.Hop
}

type nodeNext struct {
	node string
	Next
}

type savedTime struct {
	use     int64
	carried bool
}

// gone is the count of holds of a lease whose address serves others.
const gone = math.MinInt32 / 2

// Name returns the name, in lower case and without the final dot.
func (l *Lease) Name() string { return l.name }

// Addr returns the label.
func (l *Lease) Addr() netip.Addr { return l.addr }

// V6 reports whether the label is an IPv6 address.
func (l *Lease) V6() bool { return l.v6 }

// Next returns the label by which the node knows the name, without allocating.
func (l *Lease) Next(node string) (Next, bool) {
	if k := l.known.Load(); k != nil {
		for i := range k.nexts {
			if k.nexts[i].node == node {
				return k.nexts[i].Next, true
			}
		}
	}
	return Next{}, false
}

// Nexts returns the labels by which nodes know the name.
func (l *Lease) Nexts() map[string]Next {
	out := map[string]Next{}
	for _, n := range l.lore().nexts {
		out[n.node] = n.Next
	}
	return out
}

// Facts returns the addresses by which the name was judged. They must not be modified.
func (l *Lease) Facts() []policy.Hop { return l.lore().facts }

func (l *Lease) lore() lore {
	if k := l.known.Load(); k != nil {
		return *k
	}
	return lore{}
}

// LastUse returns when the name was last answered or a packet last used it.
func (l *Lease) LastUse() time.Time { return time.Unix(0, l.use.Load()) }

// Touch says that a packet used the lease.
func (l *Lease) Touch(now time.Time) {
	l.used(now)
	if !l.carried.Load() {
		l.carried.Store(true)
	}
}

// used moves the time of last use forward.
func (l *Lease) used(now time.Time) {
	n := now.UnixNano()
	for {
		old := l.use.Load()
		if old >= n || l.use.CompareAndSwap(old, n) {
			return
		}
	}
}

// Hold says that a flow has begun to use the lease, which keeps it alive until
// Release. A lease that was found just before it came to rest is kept, too.
func (l *Lease) Hold() { l.holds.Add(1) }

// Release says that a flow which held the lease has ended. A Release that no
// Hold went before does nothing.
func (l *Lease) Release() {
	for {
		n := l.holds.Load()
		if n <= 0 || l.holds.CompareAndSwap(n, n-1) {
			return
		}
	}
}

// found reports whether the lease answers for its address: it is not at rest,
// or a flow that found it just before has taken hold of it or used it since.
func (l *Lease) found() bool {
	r := l.rested.Load()
	return r == 0 || l.holds.Load() > 0 || l.use.Load() > r
}
