// Package cache keeps what upstream resolvers answered, as they answered it.
//
// It stands below policy: nothing in it depends on who asked, and the policy
// is asked again at every hit. Two questions share an answer only if all of
// their [Key] is equal, so that the DO and CD bits, client subnets and the
// groups of resolvers never mix. Answers are kept as they came, without their OPT
// record: their size is exactly known, and nobody may change one.
//
// A [Source] answers from the cache what it can and asks for the rest. How
// long an answer lives: the least TTL of its records within bounds; a negative
// one by its SOA record (RFC 2308 section 5), and not at all without one; a
// failure five seconds, and that nobody answers a second and more (RFC 9520 section 3.2). Answers that are no longer good are kept a
// while longer: they serve if nothing better is to be had (RFC 8767).
package cache

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/upstream"
	"github.com/starferry/starferry/resolver/wire"
)

// A Question is what an upstream resolver is asked.
type Question = upstream.Question

// A Key names an answer.
type Key struct {
	Group string // the upstream group that was asked
	Question
}

const shards = 32

// A Cache is a bounded store of answers, safe for concurrent use. Make one
// with [New].
type Cache struct {
	seed   maphash.Seed
	shards [shards]shard

	// Displaced counts answers that were given up for want of room while they
	// still served, be it as stale ones.
	Displaced atomic.Uint64
}

// New returns a cache that takes no more than about so many bytes of memory.
func New(bytes int) *Cache {
	c := &Cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].init(bytes / shards)
	}
	return c
}

// A shard is a part of the cache under one lock. Its entries hang in two rings,
// each in the order of last use: what was asked for once, and what was asked for
// again. What makes room is asked for once, so that a flood of names that nobody
// asks for again, or a flood of made-up ones, pushes out none that are in use.
// (The second ring has four fifths of the bytes; what it gives up falls back into
// the first. This is known as segmented LRU.)
type shard struct {
	mu      sync.Mutex
	entries map[uint64]*entry // by the hash of the key; of two that have the same one is kept
	once    entry             // heads of the rings: next is the latest
	again   entry
	limit   int // bytes
	free    int // of these
	proven  int // bytes in the ring again
}

func (s *shard) init(bytes int) {
	s.limit, s.free, s.entries = bytes, bytes, make(map[uint64]*entry)
	for _, ring := range []*entry{&s.once, &s.again} {
		ring.prev, ring.next = ring, ring
	}
}

// An entry is constant but for its place in the ring and its counters.
type entry struct {
	prev, next *entry
	hash       uint64
	key        Key
	answer     wire.Answer
	failure    *Failure // that there is no answer
	stored     time.Time
	expiry     time.Time
	gone       time.Time // until when it serves as a stale one; not before expiry

	proven  bool // it is in the ring again
	uses    atomic.Uint32
	renewed atomic.Bool  // somebody is asking for a newer one
	retry   atomic.Int64 // not before this time, in nanoseconds since stored
}

// overhead is what an entry costs besides its bytes: itself, its answer, its
// key in the map, and the map's slack, as measured with a million entries.
const overhead = 400

func (e *entry) size() int {
	n := overhead
	if e.failure != nil {
		n += len(e.failure.reason)
	}
	return n + len(e.answer.Msg) + len(e.answer.TTLs) + len(e.answer.Why.Text) + len(e.key.Name)
}

// A Reply is an answer with how it was come by.
type Reply struct {
	*wire.Answer
	Life  uint32 // seconds for which it is good in all; zero: it is not kept
	Age   uint32 // of these have passed, rounded up: a record is never promised for longer than it has
	Kept  bool   // it was in the cache
	Stale bool   // and its time is over

	stale uint32 // the TTL that it is given with then
}

func (s *Source) reply(e *entry, now time.Time) Reply {
	passed := max(0, now.Sub(e.stored))
	stale := uint32(s.StaleTTL / time.Second)
	if stale == 0 {
		stale = staleTTL
	}
	answer, over := &e.answer, !now.Before(e.expiry)
	if over && answer.AD { // nobody vouches for it any more
		doubtful := *answer
		doubtful.AD, answer = false, &doubtful
	}
	return Reply{
		Answer: answer, Kept: true, Stale: over, Life: uint32(e.expiry.Sub(e.stored) / time.Second), stale: stale,
		Age: uint32((passed + time.Second - 1) / time.Second),
	}
}

// staleTTL is what records of a stale answer are promised for (RFC 8767
// section 4 recommends 30 seconds).
const staleTTL = 30

// Span returns what to make of the TTLs of the answer when it is given to
// somebody.
func (r Reply) Span() wire.Span {
	s := wire.Span{Age: r.Age}
	if r.Stale {
		s.Least, s.Most = r.stale, r.stale
	}
	return s
}

// Msg returns the answer as a message, with its TTLs counted down. It is the
// caller's.
func (r Reply) Msg() *dns.Msg {
	m := new(dns.Msg)
	if m.Unpack(r.Answer.Msg) != nil { // it was read before; then the memory is bad
		m.SetRcode(m, dns.RcodeServerFailure)
	}
	span := r.Span()
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range rrs {
			h := rr.Header()
			h.Ttl = max(h.Ttl-min(h.Ttl, span.Age), span.Least)
		}
	}
	m.Rcode, m.AuthenticatedData = r.Rcode, r.AD
	return m
}

func (c *Cache) find(k Key, now time.Time) *entry {
	hash := maphash.Comparable(c.seed, k)
	return c.shards[hash%shards].find(hash, k, now)
}

// has reports whether there is an entry that is good, or the best to be had for now.
func (c *Cache) has(k Key, now time.Time) bool {
	hash := maphash.Comparable(c.seed, k)
	s := &c.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[hash]
	return e != nil && (now.Before(e.expiry) || now.Sub(e.stored) < time.Duration(e.retry.Load()))
}

func (c *Cache) put(e *entry) {
	e.hash = maphash.Comparable(c.seed, e.key)
	if n := c.shards[e.hash%shards].put(e); n > 0 {
		c.Displaced.Add(n)
	}
}

// find returns the entry that serves at this time, be it as a stale one; nil
// if there is none.
func (s *shard) find(hash uint64, k Key, now time.Time) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[hash]
	if e == nil || e.key != k {
		return nil
	}
	if !now.Before(e.gone) {
		s.drop(e)
		return nil
	}
	e.unlink()
	if !e.proven {
		e.proven = true
		s.proven += e.size()
	}
	s.again.push(e)
	s.fallBack()
	return e
}

// fallBack takes from the ring again what is beyond its share.
func (s *shard) fallBack() {
	for s.proven > s.limit/5*4 && s.again.prev != s.again.next {
		old := s.again.prev
		old.unlink()
		old.proven = false
		s.proven -= old.size()
		s.once.push(old)
	}
}

// put keeps an entry, at the cost of those that were used least lately. One
// that is larger than the whole shard is not kept. It returns how many of these
// still served.
func (s *shard) put(e *entry) (displaced uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.entries[e.hash]; old != nil {
		e.proven = old.proven && old.key == e.key // it was asked for again, and is only renewed
		s.drop(old)
	}
	if e.size() > s.limit {
		return 0
	}
	for s.free < e.size() {
		old := s.oldest()
		if s.drop(old); e.stored.Before(old.gone) {
			displaced++
		}
	}
	s.free -= e.size()
	s.entries[e.hash] = e
	if !e.proven {
		s.once.push(e)
		return displaced
	}
	s.proven += e.size()
	s.again.push(e)
	s.fallBack()
	return displaced
}

// oldest returns what is given up next. There is something.
func (s *shard) oldest() *entry {
	if s.once.prev != &s.once {
		return s.once.prev
	}
	return s.again.prev
}

func (s *shard) drop(e *entry) {
	e.unlink()
	if e.proven {
		s.proven -= e.size()
	}
	delete(s.entries, e.hash)
	s.free += e.size()
}

func (e *entry) unlink() { e.prev.next, e.next.prev = e.next, e.prev }

// push puts e behind the ring's head.
func (head *entry) push(e *entry) {
	e.prev, e.next = head, head.next
	head.next.prev = e
	head.next = e
}

// Size returns how many answers are kept, those included whose time is over,
// and the bytes that they take.
func (c *Cache) Size() (entries, bytes int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		entries, bytes = entries+len(s.entries), bytes+s.limit-s.free
		s.mu.Unlock()
	}
	return entries, bytes
}

// Flush forgets the answers for whose name, in wire form, forget is true, and
// returns how many these were.
func (c *Cache) Flush(forget func(name string) bool) (n int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for _, e := range s.entries {
			if forget(e.key.Name) {
				s.drop(e)
				n++
			}
		}
		s.mu.Unlock()
	}
	return n
}
