package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/upstream"
	"github.com/starferry/starferry/resolver/wire"
)

// An Ask asks a group of resolvers. What it returns answers the question, and is
// only read.
type Ask = func(ctx context.Context, q Question) (msg []byte, err error)

// Times of serving stale answers and of prefetching.
const (
	// patience is how long an asker waits for a newer answer if there is a stale
	// one (RFC 8767 section 5: 1.8 seconds).
	patience = 1800 * time.Millisecond
	// recheck is how long a stale answer serves before upstream, which has
	// failed, is tried again (RFC 8767 section 5: no more often than every 30 s).
	recheck = 30 * time.Second
	// popular is how often an answer must have been used to be worth renewing
	// before it ends, which is done in the last tenth of its life.
	popular = 3
	// ahead bounds how many answers are asked for in the background at a time.
	ahead = 256
)

// DefaultLives are the bounds of lives that are used where nothing is said.
var DefaultLives = wire.Lives{Most: 24 * 3600, Negative: 3 * 3600, Fail: 5}

// A Source answers questions from the cache and, for what is not there, by a
// group of resolvers. Its exported fields must not change once it is used.
type Source struct {
	Cache    *Cache
	Group    string
	Ask      Ask
	Lives    wire.Lives    // zero: [DefaultLives]
	Stale    time.Duration // for which answers serve after their end; zero: none does
	StaleTTL time.Duration // that they are given with; zero: 30 s (RFC 8767 section 4)
	Prefetch bool
	TrustAD  bool // what the resolvers say is authentic is passed on as such
	// Back reports whether one of the resolvers has come back since then, so that
	// a failure holds no longer. Nil: it is not known.
	Back func(since time.Time) bool

	Count Counters

	behind atomic.Int32
	work   sync.WaitGroup
}

// Counters count since the start.
type Counters struct {
	Hits, Misses, Stale, Prefetched atomic.Uint64
}

// Resolve answers a question. If there is a stale answer it is what an asker
// gets when upstream fails, or takes its time; the work goes on behind.
func (s *Source) Resolve(ctx context.Context, q Question) (Reply, error) {
	k, now := Key{s.Group, q}, time.Now()
	e := s.Cache.find(k, now)
	if r, ok, err := s.kept(e, now); ok {
		s.renew(ctx, e, now)
		return r, err
	}
	if e == nil || e.failure != nil {
		s.Count.Misses.Add(1)
		return s.fetch(ctx, k, e, now)
	}
	return s.better(ctx, e)
}

// Kept answers a question if there is an answer at once, and nothing else to do:
// what else has to be done is done by [Source.Resolve]. What it finds counts, even if
// the caller finds that it needs more, and comes back.
func (s *Source) Kept(q Question) (r Reply, ok bool, err error) {
	now := time.Now()
	e := s.Cache.find(Key{s.Group, q}, now)
	if e != nil && s.due(e, now) {
		return r, false, nil
	}
	return s.kept(e, now)
}

// Keeps reports whether Kept is likely to have an answer. It counts nothing.
func (s *Source) Keeps(q Question) bool { return s.Cache.has(Key{s.Group, q}, time.Now()) }

// kept answers by an entry, which may be nil, if it is good, or as good as can be
// had now.
func (s *Source) kept(e *entry, now time.Time) (r Reply, ok bool, err error) {
	switch {
	case e == nil:
		return r, false, nil
	case e.failure != nil:
		if !s.refused(e, now) {
			return r, false, nil
		}
		return r, true, e.failure
	case now.Before(e.expiry):
		s.Count.Hits.Add(1)
		e.uses.Add(1)
	case s.waits(e, now):
		s.Count.Stale.Add(1)
	default:
		return r, false, nil
	}
	return s.reply(e, now), true, nil
}

// waits reports whether a stale answer serves without a new try: upstream failed
// lately, and none of those who did has come back since.
func (s *Source) waits(e *entry, now time.Time) bool {
	retry := time.Duration(e.retry.Load())
	return now.Sub(e.stored) < retry && (s.Back == nil || !s.Back(e.stored.Add(retry-recheck)))
}

// errFailed is what a resolver's SERVFAIL or REFUSED counts as where there is something
// better than to pass it on.
var errFailed = errors.New("the resolvers fail")

// fetch asks for an answer and keeps it, without the records that nobody asked
// for. Where old is an answer, a failure is an error and does not take its place.
func (s *Source) fetch(ctx context.Context, k Key, old *entry, begun time.Time) (Reply, error) {
	msg, err := s.Ask(ctx, k.Question)
	if err != nil {
		s.fail(ctx, k, old, begun, err)
		return Reply{}, err
	}
	a, err := read(msg)
	if err != nil {
		return Reply{}, fmt.Errorf("reading the answer of group %q: %w", k.Group, err)
	}
	a.Trim()
	a.AD = a.AD && s.TrustAD
	if old != nil && old.failure == nil && a.Failed() {
		return Reply{}, errFailed
	}
	lives := s.Lives
	if lives == (wire.Lives{}) {
		lives = DefaultLives
	}
	ttl, now := time.Duration(a.Settle(lives))*time.Second, time.Now()
	e := &entry{key: k, answer: a, stored: now, expiry: now.Add(ttl), gone: now.Add(ttl)}
	if ttl > 0 {
		if !a.Failed() {
			e.gone = e.gone.Add(s.Stale)
		}
		s.Cache.put(e)
	}
	return Reply{Answer: &e.answer, Life: uint32(ttl / time.Second)}, nil
}

// read takes a message apart. The rare one that is not plain is written anew.
func read(msg []byte) (wire.Answer, error) {
	if a, ok := wire.ReadAnswer(msg); ok {
		return a, nil
	}
	var m dns.Msg
	if err := m.Unpack(msg); err != nil {
		return wire.Answer{}, err
	}
	rcode := m.Rcode
	kept := m.Extra[:0]
	for _, rr := range m.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	m.Extra, m.Compress, m.Rcode = kept, true, rcode&15
	b, err := m.Pack()
	if err != nil {
		return wire.Answer{}, err
	}
	a, ok := wire.ReadAnswer(b)
	if !ok {
		return a, errors.New("a message that is not well-formed")
	}
	a.Rcode = rcode
	return a, nil
}

// better asks for a newer answer than one whose time is over, and falls back
// on that.
func (s *Source) better(ctx context.Context, e *entry) (Reply, error) {
	type result struct {
		r   Reply
		err error
	}
	done := make(chan result, 1)
	if !s.aside(func() {
		r, err := s.fetch(ctx, e.key, e, time.Now())
		if err != nil {
			e.retry.Store(int64(time.Since(e.stored) + recheck))
		}
		done <- result{r, err}
	}) {
		return s.reply(e, time.Now()), nil
	}
	wait := time.NewTimer(patience)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return Reply{}, ctx.Err()
	case r := <-done:
		if r.err == nil {
			s.Count.Misses.Add(1)
			return r.r, nil
		}
	case <-wait.C:
	}
	s.Count.Stale.Add(1)
	return s.reply(e, time.Now()), nil
}

// aside does something in the background, and reports whether it does: not if
// there is too much of that already.
func (s *Source) aside(do func()) bool {
	if s.behind.Add(1) > ahead {
		s.behind.Add(-1)
		return false
	}
	s.work.Go(func() {
		defer s.behind.Add(-1)
		do()
	})
	return true
}

// due reports whether an answer is popular and near its end, and nobody asks for a
// newer one yet.
func (s *Source) due(e *entry, now time.Time) bool {
	left, life := e.expiry.Sub(now), e.expiry.Sub(e.stored)
	return s.Prefetch && e.failure == nil && left > 0 && left <= life/10 && e.uses.Load() >= popular && !e.renewed.Load()
}

// renew asks for an answer anew that is due.
func (s *Source) renew(ctx context.Context, e *entry, now time.Time) {
	if !s.due(e, now) || !e.renewed.CompareAndSwap(false, true) {
		return
	}
	s.aside(func() {
		s.Count.Prefetched.Add(1)
		s.fetch(ctx, e.key, e, time.Now()) //nolint:errcheck // the old answer serves to its end
	})
}

// Renew asks for an answer anew that somebody above uses much, if it is near
// its end.
func (s *Source) Renew(ctx context.Context, q Question) {
	k, now := Key{s.Group, q}, time.Now()
	e := s.Cache.find(k, now)
	switch {
	case !s.Prefetch || e != nil && s.refused(e, now):
	case e != nil && e.failure == nil && now.Before(e.expiry):
		e.uses.Store(popular)
		s.renew(ctx, e, now)
	default:
		s.aside(func() {
			s.Count.Prefetched.Add(1)
			s.fetch(ctx, k, e, time.Now()) //nolint:errcheck // who asks next will see
		})
	}
}

// Wait returns when nothing goes on in the background any more; the contexts
// of those who asked must be done.
func (s *Source) Wait() { s.work.Wait() }

// Message answers a question in the library's form. Of m only the question, the DO
// and the CD bit are looked at. The answer is the caller's.
func (s *Source) Message(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	q, err := upstream.QuestionOf(m)
	if err != nil {
		return nil, err
	}
	r, err := s.Resolve(ctx, q)
	if err != nil {
		return nil, err
	}
	reply := r.Msg()
	reply.Id = m.Id
	return reply, nil
}
