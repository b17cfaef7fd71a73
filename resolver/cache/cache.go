// Package cache keeps what upstream resolvers answered, as they answered it.
//
// It stands below policy: nothing in it depends on who asked, and the policy
// is asked again at every hit. Two questions share an answer only if all of
// their [Key] is equal, so that the DO and CD bits and the group of resolvers
// never mix. Answers are kept packed: their size is exactly known, and who
// gets one owns it.
//
// How long an answer lives: the least TTL of its records, at most a day. A
// negative one lives by its SOA record (RFC 2308 section 5), at most three
// hours, and not at all without one. SERVFAIL lives five seconds (RFC 9520
// section 3.2 asks for at least one). Other errors and truncated answers are
// not kept.
package cache

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// The longest that answers are kept.
const (
	maxPositive = 24 * time.Hour
	maxNegative = 3 * time.Hour // RFC 2308 section 5: one to three hours work well
	maxServfail = 5 * time.Second
)

// A Key names an answer.
type Key struct {
	Group       string // the upstream group that was asked
	Name        string // lower case
	Type, Class uint16
	DO, CD      bool
}

// KeyOf returns the key of the question in m, asked of a group.
func KeyOf(group string, m *dns.Msg) Key {
	q := m.Question[0]
	k := Key{Group: group, Name: dns.CanonicalName(q.Name), Type: q.Qtype, Class: q.Qclass, CD: m.CheckingDisabled}
	if o := m.IsEdns0(); o != nil {
		k.DO = o.Do()
	}
	return k
}

const shards = 32

// A Cache is a bounded store of answers, safe for concurrent use. Make one
// with [New].
type Cache struct {
	seed   maphash.Seed
	shards [shards]shard
}

// New returns a cache that takes no more than about so many bytes of memory.
func New(bytes int) *Cache {
	c := &Cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].limit, c.shards[i].free = bytes/shards, bytes/shards
		c.shards[i].entries = make(map[Key]*entry)
		c.shards[i].ring.prev, c.shards[i].ring.next = &c.shards[i].ring, &c.shards[i].ring
	}
	return c
}

// A shard is a part of the cache under one lock. Its entries hang in a ring
// in the order of their last use: ring.next is the latest.
type shard struct {
	mu      sync.Mutex
	entries map[Key]*entry
	ring    entry
	limit   int // bytes
	free    int // of these
}

type entry struct {
	prev, next     *entry
	key            Key
	wire           []byte
	stored, expiry time.Time
}

// overhead is what an entry costs besides its bytes: itself, its key in the
// map, and the map's slack, as measured with a million entries.
const overhead = 320

func (e *entry) size() int { return overhead + len(e.wire) + len(e.key.Name) }

func (c *Cache) shard(k Key) *shard {
	return &c.shards[maphash.Comparable(c.seed, k)%shards]
}

// Lookup returns the answer to a question, with its TTLs counted down to now,
// and nil if there is none. The message is the caller's.
func (c *Cache) Lookup(k Key, now time.Time) *dns.Msg {
	wire, age := c.shard(k).find(k, now)
	if wire == nil {
		return nil
	}
	m := new(dns.Msg)
	if m.Unpack(wire) != nil { // it was packed by us; then the memory is bad
		return nil
	}
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range rrs {
			h := rr.Header()
			if soa, ok := rr.(*dns.SOA); ok {
				h.Ttl = min(h.Ttl, soa.Minttl) // else its MINIMUM would prolong a negative answer
			}
			h.Ttl -= min(h.Ttl, age)
		}
	}
	return m
}

// find returns a live entry's bytes, which are never modified, and its age in
// seconds, rounded up: a record is never promised for longer than it has.
func (s *shard) find(k Key, now time.Time) (wire []byte, age uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[k]
	if e == nil {
		return nil, 0
	}
	if !now.Before(e.expiry) {
		s.drop(e)
		return nil, 0
	}
	e.unlink()
	s.ring.push(e)
	passed := max(0, now.Sub(e.stored))
	return e.wire, uint32((passed + time.Second - 1) / time.Second)
}

// Store keeps the answer to a question for as long as it may be kept. OPT
// records are not kept, they belong to one exchange. The message remains the
// caller's.
func (c *Cache) Store(k Key, m *dns.Msg, now time.Time) {
	ttl := lifetime(m)
	if ttl <= 0 {
		return
	}
	kept := *m
	kept.Id, kept.Compress, kept.Extra = 0, true, withoutOPT(m.Extra)
	wire, err := kept.Pack()
	if err != nil {
		return
	}
	e := &entry{key: k, wire: wire, stored: now, expiry: now.Add(ttl)}
	c.shard(k).put(e)
}

func withoutOPT(rrs []dns.RR) []dns.RR {
	var kept []dns.RR
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	return kept
}

// put keeps an entry, at the cost of those that were used least lately. One
// that is larger than the whole shard is not kept.
func (s *shard) put(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.entries[e.key]; old != nil {
		s.drop(old)
	}
	if e.size() > s.limit {
		return
	}
	for s.free < e.size() && s.ring.prev != &s.ring {
		s.drop(s.ring.prev)
	}
	s.free -= e.size()
	s.entries[e.key] = e
	s.ring.push(e)
}

func (s *shard) drop(e *entry) {
	e.unlink()
	delete(s.entries, e.key)
	s.free += e.size()
}

func (e *entry) unlink() { e.prev.next, e.next.prev = e.next, e.prev }

// push puts e behind the ring's head.
func (head *entry) push(e *entry) {
	e.prev, e.next = head, head.next
	head.next.prev = e
	head.next = e
}

// Len returns how many answers are kept, expired ones that nobody asked for
// since included.
func (c *Cache) Len() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += len(s.entries)
		s.mu.Unlock()
	}
	return n
}

// Flush forgets everything.
func (c *Cache) Flush() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for s.ring.prev != &s.ring {
			s.drop(s.ring.prev)
		}
		s.mu.Unlock()
	}
}
