// Package packed keeps answers as they were given, so that they can be given
// again without being read.
//
// It stands above policy: an answer is kept for a scope, which stands for all
// askers whom the policy of the moment tells apart from others and not from one
// another. Ids of scopes are never used twice, so an answer that was decided by
// an older policy, or for a device in another condition, is not found any more
// from the moment on that things changed; nobody has to look for it.
//
// Looking up takes no lock, and waits for memory twice, for the places of a key
// and for the entry: it costs little else. The table is set-associative: a key has
// seven places; if they are taken, one that was not used lately is given up. The
// bytes of all entries are bounded.
package packed

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry/resolver/wire"
)

// An Entry is an answer for a scope. But for what is atomic it is constant.
type Entry[N any] struct {
	head // what looking up reads

	Renewed atomic.Bool // taken care of: a newer one is on its way
	Uses    atomic.Uint32
	Beside  uint32 // bytes that the note points at, and nobody else

	Answer wire.Answer
	Note   N // what the owner wants to know of it
	Epoch  uint64
	Stored time.Time
	Expiry time.Time

	rest string // of a name that does not fit into the head
}

// A head is what tells whether an entry is the one that is looked for, in one line
// of the processor's cache.
type head struct {
	key    key
	until  time.Duration // after the cache was made, the Expiry
	used   atomic.Bool   // since the table looked for something to give up
	length uint8         // of the name
	name   [43]byte      // its beginning, nearly always all of it
}

// key is what an entry is found by, besides its name.
type key uint64

func keyOf(scope uint32, q *wire.Question) key {
	k := key(scope)<<32 | key(q.Type)<<2
	if q.DO {
		k |= 1
	}
	if q.CD {
		k |= 2
	}
	return k
}

// named reports whether the entry's name is this one.
func (e *Entry[N]) named(lower []byte) bool {
	n := len(e.name)
	switch {
	case int(e.length) != len(lower):
		return false
	case len(lower) <= n:
		return string(e.name[:len(lower)]) == string(lower)
	}
	return string(e.name[:]) == string(lower[:n]) && e.rest == string(lower[n:])
}

// setName sets the name, which has 255 bytes at most (RFC 1035 section 2.3.4).
func (e *Entry[N]) setName(lower []byte) {
	e.length = uint8(len(lower))
	e.rest = string(lower[copy(e.name[:], lower):])
}

func (e *Entry[N]) appendName(dst []byte) []byte {
	return append(append(dst, e.name[:min(int(e.length), len(e.name))]...), e.rest...)
}

// A Cache is a table of entries, safe for concurrent use. Make one with [New].
type Cache[N any] struct {
	seed   maphash.Seed
	made   time.Time
	shards []shard[N] // a power of two
	shift  int        // of a hash, to the number of its shard
	tables []atomic.Pointer[table[N]]

	// Displaced counts answers that were good and were given up for want of room.
	Displaced atomic.Uint64
}

// overhead is what an entry costs besides its bytes: itself, with a note of 48
// bytes, and its part of the table.
const overhead = 400

// typical is the size of an entry for which the table has a place.
const typical = overhead + 256

// A cache has at most so many shards, and each can grow to so many sets at least; all
// together begin with a few.
const (
	maxShards = 64
	least     = 256
	few       = 64
)

// New returns a cache that takes no more than about so many bytes of memory.
func New[N any](bytes int) *Cache[N] {
	n := 1
	for n*ways*typical < bytes {
		n *= 2
	}
	parts := min(max(1, n/least), maxShards)
	c := &Cache[N]{seed: maphash.MakeSeed(), made: time.Now(), shift: 64 - bits.TrailingZeros(uint(parts))}
	c.shards, c.tables = make([]shard[N], parts), make([]atomic.Pointer[table[N]], parts)
	for i := range c.shards {
		h := &c.shards[i]
		h.cache, h.table, h.most, h.limit = c, &c.tables[i], n/parts, int64(bytes/parts)
		h.table.Store(&table[N]{make([]set[N], min(h.most, max(1, few/parts)))})
	}
	return c
}

// hash mixes all of the key into all bits: many scopes ask for the same names.
func (c *Cache[N]) hash(k key, lower []byte) uint64 {
	high, low := bits.Mul64(maphash.Bytes(c.seed, lower)^uint64(k), 0x9e3779b97f4a7c15)
	return high ^ low
}

// Lookup returns the answer to a question for a scope, nil if there is none that
// is good at this time. It allocates nothing.
func (c *Cache[N]) Lookup(scope uint32, q *wire.Question, now time.Time) *Entry[N] {
	if len(q.Name) > 64 {
		var buf [256]byte
		return c.lookup(keyOf(scope, q), wire.AppendLower(buf[:0], q.Name), now)
	}
	var buf [64]byte // to clear more takes longer than all that follows
	return c.lookup(keyOf(scope, q), wire.AppendLower(buf[:0], q.Name), now)
}

func (c *Cache[N]) lookup(k key, lower []byte, now time.Time) *Entry[N] {
	age := now.Sub(c.made)
	hash := c.hash(k, lower)
	s, tag := c.tables[hash>>c.shift].Load().at(hash)
	for found := s.tagged(tag); found != 0; found &= found - 1 {
		e := s.places[first(found)].Load()
		if e == nil || e.key != k || !e.named(lower) || age >= e.until {
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
	return overhead + int64(e.Beside) + int64(cap(e.Answer.Msg)+len(e.Answer.TTLs)+len(e.rest)+len(e.Answer.Why.Text))
}

// Put keeps an answer to a question for a scope. The entry is the cache's from
// then on.
func (c *Cache[N]) Put(scope uint32, q *wire.Question, e *Entry[N]) {
	var buf [256]byte
	lower := wire.AppendLower(buf[:0], q.Name)
	e.key, e.until = keyOf(scope, q), e.Expiry.Sub(c.made)
	e.setName(lower)
	hash := c.hash(e.key, lower)
	c.shards[hash>>c.shift].put(hash, e)
}

// same reports whether two entries answer the same.
func (e *Entry[N]) same(as *Entry[N]) bool {
	return e.key == as.key && e.length == as.length && e.name == as.name && e.rest == as.rest
}

// mayReplace reports whether nothing good is lost where an entry, which may be
// nil, gives way to e.
func (e *Entry[N]) mayReplace(old *Entry[N]) bool {
	return old == nil || !e.Stored.Before(old.Expiry) || old.same(e)
}

// Flush forgets the answers for whose name, in wire form and lower case, forget
// is true, and returns how many these were.
func (c *Cache[N]) Flush(forget func(name string) bool) (n int) {
	for i := range c.shards {
		n += c.shards[i].flush(forget)
	}
	return n
}

// Clear forgets all answers. The tables keep their sizes: after a change of policy as
// much is asked as before.
func (c *Cache[N]) Clear() {
	for i := range c.shards {
		c.shards[i].clear()
	}
}

// Size returns how many answers are kept, those included whose time is over,
// and the bytes that they take.
func (c *Cache[N]) Size() (entries, bytes int) {
	for i := range c.shards {
		entries += int(c.shards[i].entries.Load())
		bytes += int(c.shards[i].bytes.Load())
	}
	return entries, bytes
}
