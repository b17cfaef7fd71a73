package resolver

import (
	"context"
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/cache"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/resolver/packed"
	"github.com/starferry/starferry/resolver/wire"
)

// A Quick is what a gateway needs to answer without deciding: who its clients
// are, and what those were answered who are no different to the policy.
type Quick struct {
	clients clients
	scopes  scopes
	answers *packed.Cache[memo]
	records sync.Pool
	Hits    atomic.Uint64
}

// NewQuick returns one that takes about so many bytes.
func NewQuick(bytes int) *Quick {
	return &Quick{
		clients: clients{seed: maphash.MakeSeed()}, answers: packed.New[memo](bytes),
		records: sync.Pool{New: func() any { return new(Record) }},
	}
}

// A memo is what is to be done besides when an answer is given again.
type memo struct {
	tally   *atomic.Uint64
	log     policy.Logging
	least   uint32 // bounds of TTLs
	most    uint32
	blocked bool
	rarely  *rarely
}

// rarely is the part of a memo that is looked at now and then only. It lies
// elsewhere: the less an entry takes, the more of them lie in the processor's caches.
type rarely struct {
	result Result
	origin cache.Question // what it comes of, to be renewed; no name: nothing
}

// size returns about how many bytes it takes, with what it alone points at.
func (r *rarely) size() int {
	const alloc = 16 // that each piece takes more than it holds, on average
	n := int(unsafe.Sizeof(*r)) + len(r.result.Question.Name) + len(r.result.Shadow) + len(r.origin.Name) + 3*alloc
	for i := range r.result.Hops {
		h := &r.result.Hops[i]
		n += int(unsafe.Sizeof(*h)) + len(h.Name) + cap(h.Addrs)*int(unsafe.Sizeof(netip.Addr{})) + 2*alloc
		for k := range h.Values {
			n += int(unsafe.Sizeof(h.Values[k])) + len(h.Values[k].Text)
		}
	}
	return n
}

// Size returns how many answers are kept, and the bytes that they take.
func (k *Quick) Size() (entries, bytes int) { return k.answers.Size() }

// Beyond returns how many askers had to do without a scope.
func (k *Quick) Beyond() uint64 { return k.scopes.Beyond.Load() }

// Displaced returns how many good answers were given up for want of room.
func (k *Quick) Displaced() uint64 { return k.answers.Displaced.Load() }

// Clear forgets all answers.
func (k *Quick) Clear() { k.answers.Clear() }

// Flush forgets the answers for whose name, in wire form, forget is true.
func (k *Quick) Flush(forget func(name string) bool) int { return k.answers.Flush(forget) }

// Fast answers a question as it was answered before in the scope of its
// asker; see [listen.Fast]. It never decides: what decides is [Gateway.Soon], and
// [Gateway.Handle].
func (g *Gateway) Fast(c *listen.Client, q *wire.Question, out []byte) (resp []byte, ok bool) {
	now := g.when(c)
	p := g.scoped(c, now)
	if p == nil {
		return out, false
	}
	e := g.Quick.answers.Lookup(p.scope, q, now)
	if e == nil || e.Epoch != 0 && e.Epoch != g.epoch() {
		return out, false
	}
	if q.End+len(e.Answer.Msg)-e.Answer.Body+len(e.Answer.Why.Text)+32 > q.Size {
		return out, false // it has to be cut
	}
	g.Quick.Hits.Add(1)
	g.used(e, now)
	start := len(out)
	out = e.Answer.Append(out, q, wire.Span{Age: age(now.Sub(e.Stored)), Least: e.Note.least, Most: e.Note.most})
	out = wire.AppendOPT(out, start, q, e.Answer.Rcode, &e.Answer.Why)
	g.again(e, c, p, now, q, out[start:])
	return out, true
}

// scoped returns who a client is, if it is in a scope, and need not be asked for more
// than where it comes from.
func (g *Gateway) scoped(c *listen.Client, now time.Time) *known {
	if g.Quick == nil || g.Forwarder != nil && g.Forwarder(c.Addr.Addr()) {
		return nil
	}
	if p := g.who(c, nil, now); p.scope != 0 {
		return p
	}
	return nil
}

// Soon decides a question whose answer is likely to be here, and gives it unless
// somebody would have to be asked, or to write, after all; see [listen.Server]. To hand
// it over to those who may wait costs more than to decide, but to decide twice costs
// too.
func (g *Gateway) Soon(c *listen.Client, q *wire.Question, out []byte) (resp []byte, ok bool) {
	if g.Kept == nil || !g.Keeps(cache.Question{Name: lowered(q.Name), Type: q.Type, Class: q.Class, DO: q.DO, CD: q.CD}) {
		return out, false
	}
	now := g.when(c)
	p := g.scoped(c, now)
	if p == nil {
		return out, false
	}
	w := works.Get().(*work)
	defer w.put()
	in, a := &w.in, &w.asking
	if _, ok := in.read(q.Req); !ok {
		return out, false
	}
	a.inbound, a.g, a.known, a.now, a.epoch, a.kept, a.hurry = in, g, p, now, g.epoch(), true, true
	o := a.answer(context.Background(), c.Addr.Addr())
	if a.waits {
		return out, false
	}
	wanted := a.wanted(o)
	if wanted && g.Repeat == nil {
		return out, false // records are written on the spot
	}
	if resp = in.pack(o); len(resp) > q.Size {
		return out, false // it has to be cut
	}
	a.keep(o, resp)
	a.record(o, wanted, c, q.Req, resp)
	return append(out, resp...), true
}

// age is a time in whole seconds, rounded up: a record is never promised for
// longer than it has.
func age(d time.Duration) uint32 {
	return uint32((max(0, d) + time.Second - 1) / time.Second)
}

// used has an answer renewed that is used much and near its end.
func (g *Gateway) used(e *packed.Entry[memo], now time.Time) {
	const popular = 3
	if e.Uses.Load() < popular {
		e.Uses.Add(1)
		return
	}
	if g.Renew == nil || e.Expiry.Sub(now) > e.Expiry.Sub(e.Stored)/10 {
		return
	}
	if r := e.Note.rarely; r.origin.Name != "" && e.Renewed.CompareAndSwap(false, true) {
		g.Renew(r.result.Group, r.origin)
	}
}

// again counts and remembers an answer that was given again.
func (g *Gateway) again(e *packed.Entry[memo], c *listen.Client, p *known, now time.Time, q *wire.Question, reply []byte) {
	if e.Note.tally != nil {
		e.Note.tally.Add(1)
	}
	if g.Repeat == nil || !e.Note.log.Wants(e.Note.blocked, rand.Uint64()) {
		return
	}
	r := g.Quick.records.Get().(*Record)
	r.Time, r.Client, r.Kind, r.Result, r.Query, r.Reply = now, *c, p.asker.Kind, e.Note.rarely.result, q.Req, reply
	r.From = FromPacked
	r.who(&p.asker)
	g.Repeat(r)
	*r = Record{}
	g.Quick.records.Put(r)
}

// keep keeps an answer for all who are in the asker's scope, if it says nothing
// that is meant for the asker alone, and holds as long as it is kept.
func (a *asking) keep(o *outcome, resp []byte) {
	if a.scope == 0 || a.plain.Req == nil || a.failure != nil || a.once || o.sent != whole || !o.general() {
		return
	}
	if a.upstream != nil && !a.kept {
		return // many names are asked for once
	}
	e := &packed.Entry[memo]{Stored: a.now}
	if o.reply != nil {
		e.Answer, e.Stored = *o.reply.Answer, a.now.Add(-time.Duration(o.reply.Age)*time.Second)
		e.Note.least, e.Note.most = o.span.Least, o.span.Most
		e.Expiry = a.now.Add(a.good) // it was learnt with what else there is
	} else {
		ans, ok := wire.ReadAnswer(resp)
		if !ok {
			return
		}
		e.Answer, e.Expiry = ans, a.now.Add(time.Duration(ans.Least(uint32(blockTTL/time.Second)))*time.Second)
	}
	if a.good > 0 {
		e.Expiry = earlier(e.Expiry, a.now.Add(a.good))
	}
	if !e.Expiry.After(a.now) {
		return
	}
	e.Answer.Rcode, e.Answer.Why = o.rcode, wire.Explanation{Given: o.ede, Code: o.code, Text: shorten(o.text, edeText)}
	if o.action == Steered {
		if e.Epoch = a.epoch; e.Epoch == 0 {
			return
		}
	}
	a.noted(e, o)
	e.Beside = uint32(e.Note.rarely.size())
	a.g.Quick.answers.Put(a.scope, &a.plain, e)
}

// noted completes an entry by what is to be done when it is given again.
func (a *asking) noted(e *packed.Entry[memo], o *outcome) {
	r := &rarely{result: a.result(o)}
	n := &e.Note
	n.rarely, n.blocked, n.log = r, o.action == Blocked, a.logging()
	if a.g.Tally != nil {
		n.tally = a.g.Tally(o.action, r.result.Policy, r.result.Rcode)
	}
	if o.action == Allowed && a.upstream != nil && !a.upstream.Stale { // what is stale is rechecked in its time
		r.origin, _ = a.Question.upstream() // it was one before
	}
}

// general reports whether the outcome is the same for all in a scope.
func (o *outcome) general() bool {
	switch o.action {
	case Allowed:
		return o.rcode == dns.RcodeSuccess || o.rcode == dns.RcodeNameError
	case Blocked, Overridden, Steered:
		return o.rcode != dns.RcodeServerFailure
	}
	return false
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (g *Gateway) epoch() uint64 {
	if g.Epoch == nil {
		return 0
	}
	return g.Epoch()
}

func (g *Gateway) now() time.Time { return now(g.Now) }

// when returns the time of a client's question.
func (g *Gateway) when(c *listen.Client) time.Time {
	if g.Now != nil || c.At.IsZero() {
		return g.now()
	}
	return c.At
}
