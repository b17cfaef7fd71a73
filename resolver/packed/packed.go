// Package packed keeps answers as they were given, so that they can be given
// again without being read.
//
// It stands above policy: an answer is kept for a scope, which stands for all
// askers whom the policy of the moment tells apart from others and not from one
// another. Ids of scopes are never used twice, so an answer that was decided by
// an older policy, or for a device in another condition, is not found any more
// from the moment on that things changed; nobody has to look for it.
//
// Looking up takes no lock. The table is set-associative: a key has eight
// places; if they are taken, one that was not used lately is given up. The bytes
// of all entries are bounded.
package packed

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry/resolver/wire"
)

// ways is how many places a key has: the pointers of a cache line.
const ways = 8

// An Entry is an answer for a scope. But for what is atomic it is constant. What
// looking up reads comes first, and fits into a line of the processor's cache.
type Entry[N any] struct {
	hash   uint64
	key    key
	name   string
	Expiry time.Time
	used   atomic.Bool // since the table looked for something to give up

	Renewed atomic.Bool // taken care of: a newer one is on its way
	Uses    atomic.Uint32

	Answer wire.Answer
	Why    wire.Explanation // for askers with EDNS
	Rcode  int
	Note   N // what the owner wants to know of it
	Epoch  uint64
	Stored time.Time
}

// key is what an entry is found by, besides its name.
type key struct {
	scope  uint32
	typ    uint16
	do, cd bool
}

func keyOf(scope uint32, q *wire.Question) key { return key{scope, q.Type, q.DO, q.CD} }

// A Cache is a table of entries, safe for concurrent use. Make one with [New].
type Cache[N any] struct {
	seed  maphash.Seed
	slots []atomic.Pointer[Entry[N]]
	limit int64
	bytes atomic.Int64

	mu   sync.Mutex // held by those who write
	hand uint64     // where to look for something to give up next

	// Displaced counts answers that were good and were given up for want of room.
	Displaced atomic.Uint64
}

// overhead is what an entry costs besides its bytes.
const overhead = 400

// typical is the size of an entry for which the table has a place.
const typical = overhead + 256

// New returns a cache that takes no more than about so many bytes of memory.
func New[N any](bytes int) *Cache[N] {
	n := ways
	for n*typical < bytes {
		n *= 2
	}
	return &Cache[N]{seed: maphash.MakeSeed(), slots: make([]atomic.Pointer[Entry[N]], n), limit: int64(bytes)}
}

func (c *Cache[N]) hash(k key, lower []byte) uint64 {
	h := maphash.Bytes(c.seed, lower) ^ (uint64(k.scope)<<32|uint64(k.typ)<<2)*0x9e3779b97f4a7c15
	if k.do {
		h ^= 0x8000000000000001
	}
	if k.cd {
		h ^= 0x4000000000000100
	}
	return h
}

func (c *Cache[N]) set(hash uint64) []atomic.Pointer[Entry[N]] {
	at := int(hash>>8) & (len(c.slots) - 1) &^ (ways - 1)
	return c.slots[at : at+ways]
}

// Lookup returns the answer to a question for a scope, nil if there is none that
// is good at this time. It allocates nothing.
func (c *Cache[N]) Lookup(scope uint32, q *wire.Question, now time.Time) *Entry[N] {
	var buf [256]byte
	lower := wire.AppendLower(buf[:0], q.Name)
	k := keyOf(scope, q)
	hash := c.hash(k, lower)
	set := c.set(hash)
	for i := range set {
		e := set[i].Load()
		if e == nil || e.hash != hash || e.key != k || e.name != string(lower) || !now.Before(e.Expiry) {
			continue
		}
		if !e.used.Load() {
			e.used.Store(true)
		}
		return e
	}
	return nil
}

func (e *Entry[N]) size() int64 {
	return overhead + int64(cap(e.Answer.Msg)+len(e.Answer.TTLs)+len(e.name)+len(e.Why.Text))
}

// Put keeps an answer to a question for a scope. The entry is the cache's from
// then on.
func (c *Cache[N]) Put(scope uint32, q *wire.Question, e *Entry[N]) {
	lower := wire.AppendLower(nil, q.Name)
	e.key, e.name = keyOf(scope, q), string(lower)
	e.hash = c.hash(e.key, lower)
	if e.size() > c.limit/ways {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	set := c.set(e.hash)
	c.displace(&set[c.place(set, e)], e, e)
	for tries := 0; c.bytes.Load() > c.limit && tries < len(c.slots); tries++ {
		c.hand++
		slot := &c.slots[c.hand&uint64(len(c.slots)-1)]
		if old := slot.Load(); old != nil && old != e && !old.used.Swap(false) {
			c.displace(slot, nil, e)
		}
	}
}

// displace replaces what is in a slot to make room for e.
func (c *Cache[N]) displace(slot *atomic.Pointer[Entry[N]], with, e *Entry[N]) {
	if old := slot.Load(); old != nil && e.Stored.Before(old.Expiry) && (old.key != e.key || old.name != e.name) {
		c.Displaced.Add(1)
	}
	c.replace(slot, with)
}

// place returns where in its set an entry goes: where an older one of the same
// key is, where nothing is or nothing good, where something was not used lately.
func (c *Cache[N]) place(set []atomic.Pointer[Entry[N]], e *Entry[N]) int {
	free := -1
	for i := range set {
		old := set[i].Load()
		switch {
		case old == nil || !e.Stored.Before(old.Expiry):
			free = i
		case old.hash == e.hash && old.key == e.key && old.name == e.name:
			return i
		}
	}
	if free >= 0 {
		return free
	}
	for i := range set {
		if !set[i].Load().used.Swap(false) {
			return i
		}
	}
	c.hand++
	return int(c.hand % ways)
}

func (c *Cache[N]) replace(slot *atomic.Pointer[Entry[N]], e *Entry[N]) {
	if old := slot.Swap(e); old != nil {
		c.bytes.Add(-old.size())
	}
	if e != nil {
		c.bytes.Add(e.size())
	}
}

// Flush forgets the answers for whose name, in wire form and lower case, forget
// is true, and returns how many these were.
func (c *Cache[N]) Flush(forget func(name string) bool) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.slots {
		if e := c.slots[i].Load(); e != nil && forget(e.name) {
			c.replace(&c.slots[i], nil)
			n++
		}
	}
	return n
}

// Size returns how many answers are kept, those included whose time is over,
// and the bytes that they take.
func (c *Cache[N]) Size() (entries, bytes int) {
	for i := range c.slots {
		if c.slots[i].Load() != nil {
			entries++
		}
	}
	return entries, int(c.bytes.Load())
}
