package steer

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"sync/atomic"
)

const (
	chunkSize = 4096
	maxIndex6 = 1 << 20 // addresses used of an IPv6 pool, at its beginning
	minBits4  = 8
)

// A pool is the addresses of one family. The address with index i is the
// pool's prefix with i in its low bits.
//
// What stands behind an address is read without a lock: slots are atomic.
// Everything else is guarded by the table.
type pool struct {
	prefix netip.Prefix
	hi, lo uint64 // the prefix's address; of IPv4 in lo
	size   uint64 // indexes
	chunks []atomic.Pointer[chunk]

	capacity int
	count    int      // leases, at rest or not, and those being written
	fresh    uint64   // the lowest index that was not used yet
	free     []uint32 // given back, the oldest first
	atRest   int      // leases at rest
	resting  []rest   // in the order in which they began; some have been ended since
	live     byDue
	pressed  int64 // when leases without a packet were last looked for
}

// A rest is a lease's quarantine, begun at a time.
type rest struct {
	lease *Lease
	since int64
}

type chunk [chunkSize]atomic.Pointer[Lease]

func newPool(p netip.Prefix) (*pool, error) {
	if !p.IsValid() {
		return nil, nil
	}
	p = p.Masked()
	o := &pool{prefix: p}
	o.hi, o.lo = words(p.Addr())
	if p.Addr().Is4() {
		if p.Bits() < minBits4 {
			return nil, fmt.Errorf("pool %s is wider than /%d", p, minBits4)
		}
		o.size = 1 << (32 - p.Bits())
	} else {
		o.size = 1 << min(bits.Len64(maxIndex6)-1, 128-p.Bits())
	}
	o.chunks = make([]atomic.Pointer[chunk], (o.size+chunkSize-1)/chunkSize)
	for i := range min(o.size, 256) { // all blocks of 256 are alike
		if o.usable(i) {
			o.capacity++
		}
	}
	if blocks := o.size / 256; blocks > 1 && p.Addr().Is4() {
		o.capacity *= int(blocks)
	} else if blocks > 1 {
		o.capacity = int(o.size) - 1
	}
	if o.capacity == 0 {
		return nil, fmt.Errorf("pool %s has no address to give out", p)
	}
	return o, nil
}

func words(a netip.Addr) (hi, lo uint64) {
	if a.Is4() {
		b := a.As4()
		return 0, uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

// usable reports whether the address with the index may be given out. The
// pool's first address may not: it names the network (IPv4) or any router
// (IPv6, RFC 4291, section 2.6.1). Of each /24 neither may .0 and .255, which old
// equipment takes for broadcasts and drops.
func (p *pool) usable(i uint64) bool {
	if last := (p.lo + i) & 255; p.prefix.Addr().Is4() && (last == 0 || last == 255) {
		return false
	}
	return i != 0
}

// index returns the index of an address. It allocates nothing.
func (p *pool) index(a netip.Addr) (uint32, bool) {
	if p == nil || a.BitLen() != p.prefix.Addr().BitLen() {
		return 0, false
	}
	hi, lo := words(a)
	if i := lo - p.lo; hi == p.hi && lo >= p.lo && i < p.size {
		return uint32(i), true
	}
	return 0, false
}

func (p *pool) addr(i uint32) netip.Addr {
	lo := p.lo + uint64(i)
	if p.prefix.Addr().Is4() {
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(lo))))
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], p.hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return netip.AddrFrom16(b)
}

// at returns the lease that has the index, or nil.
func (p *pool) at(i uint32) *Lease {
	c := p.chunks[i/chunkSize].Load()
	if c == nil {
		return nil
	}
	return c[i%chunkSize].Load()
}

func (p *pool) set(i uint32, l *Lease) {
	c := p.chunks[i/chunkSize].Load()
	if c == nil {
		c = new(chunk)
		p.chunks[i/chunkSize].Store(c)
	}
	c[i%chunkSize].Store(l)
}

// all calls f with each lease.
func (p *pool) all(f func(*Lease)) {
	if p == nil {
		return
	}
	for i := range p.chunks {
		c := p.chunks[i].Load()
		if c == nil {
			continue
		}
		for k := range c {
			if l := c[k].Load(); l != nil {
				f(l)
			}
		}
	}
}

// take returns an index that nothing uses.
func (p *pool) take() (uint32, bool) {
	for ; p.fresh < p.size; p.fresh++ {
		if p.usable(p.fresh) {
			p.fresh++
			p.count++
			return uint32(p.fresh - 1), true
		}
	}
	if len(p.free) == 0 {
		return 0, false
	}
	i := p.free[0]
	p.free = p.free[1:]
	p.count++
	return i, true
}

// give returns an index that take gave.
func (p *pool) give(i uint32) {
	p.free = append(p.free, i)
	p.count--
}

// restore derives what is free from the leases that there are.
func (p *pool) restore() {
	if p == nil {
		return
	}
	p.all(func(l *Lease) {
		p.count++
		p.fresh = max(p.fresh, uint64(l.index)+1)
		heap.Push(&p.live, l)
	})
	for i := range uint32(p.fresh) {
		if p.usable(uint64(i)) && p.at(i) == nil {
			p.free = append(p.free, i)
		}
	}
}

// strained reports whether nine tenths of the pool are in use.
func (p *pool) strained() bool { return p.count*10 >= p.capacity*9 }

// byDue is a heap of leases, the one to look at first on top.
type byDue []*Lease

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, k int) bool { return h[i].due < h[k].due }
func (h byDue) Swap(i, k int) {
	h[i], h[k] = h[k], h[i]
	h[i].place, h[k].place = i, k
}

// Push is part of [heap.Interface].
func (h *byDue) Push(x any) {
	l := x.(*Lease)
	l.place = len(*h)
	*h = append(*h, l)
}

// Pop is part of [heap.Interface].
func (h *byDue) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return l
}
