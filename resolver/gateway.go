package resolver

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/cache"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/resolver/local"
	"github.com/starferry/starferry/resolver/wire"
)

// A Gateway answers the questions of devices. Its fields are the rest of the
// node, as functions; all but Node, Kept with Keeps, Peek, PTR, Explain, Record and Now must be
// there. They must be safe for concurrent use.
type Gateway struct {
	Name    string
	Version string

	// Identify says who asks, and whether it can send packets to virtual
	// addresses. An asker of kind Unidentified is refused. option returns the
	// EDNS option of a code that the question has; it may be nil.
	Identify func(c *listen.Client, option func(code uint16) []byte) (a policy.Asker, way bool)
	// Forwarder tells those whose EDNS options Identify goes by.
	Forwarder func(netip.Addr) bool
	// Moment names what Identify goes by besides; see [Moment].
	Moment func() Moment
	// Quick, if there is one, answers what was answered before.
	Quick *Quick
	// Epoch moves when steered answers must be asked for anew. It is not zero.
	Epoch func() uint64
	// Renew has a question asked upstream before its answer ends. It does not wait.
	Renew func(group string, q cache.Question)
	// Node says which node of the fleet an address is, for those that probe.
	Node   func(from netip.Addr) (name string, ok bool)
	Policy func() *policy.Policy
	// Upstream answers what is allowed, from a cache if it can. The group is what
	// the policy wants to be asked; empty: it goes by the name.
	Upstream func(ctx context.Context, group string, q cache.Question) (cache.Reply, error)
	// Kept does the same if it can at once; ok is false if not, or if there is
	// something to be done besides.
	Kept func(group string, q cache.Question) (r cache.Reply, ok bool, err error)
	// Keeps reports whether Kept is likely to, at next to no price, for a question as
	// it is asked where neither the policy nor who asks wants anything special.
	Keeps func(q cache.Question) bool
	// Local answers what is known here, in place of upstream.
	Local func(name string, qtype uint16) (local.Answer, bool)
	// Private tells addresses that an answer from outside must not hold for a
	// name: whoever could smuggle one in would have browsers speak to what is
	// inside (rebinding).
	Private func(name string, a netip.Addr) bool
	// Page is the addresses of the page that says why something is blocked.
	Page []netip.Addr
	// Says is what is said in class CH to names of the kind of version.bind;
	// those without a text are refused.
	Says map[string]string
	// Ask asks the nodes of a route. Errors wrap ErrLinkDown or ErrNoAnswer.
	Ask func(ctx context.Context, route string, q Question, facts Facts) (*NodeReply, error)
	// Lease returns the virtual address of a name that a node answered for. The
	// text of an error reaches the asker.
	Lease func(q Question, a policy.Asker, facts Facts, r *NodeReply) (netip.Addr, error)
	// Peek returns the virtual address that a name has already.
	Peek func(name string, v6 bool) (netip.Addr, bool)
	// Forbidden tells the addresses of the fleet: virtual, overlay, nodes.
	Forbidden func(netip.Addr) bool
	// PTR returns the name that a virtual address is leased to, and whether the
	// address is of the pool at all.
	PTR func(addr netip.Addr) (name string, pool, ok bool)
	// Explain returns the lines that explain how a question would be decided.
	Explain func(name string, qtype uint16, a policy.Asker) []string

	Journal func() uint64
	// Tally returns where answers of a kind are counted.
	Tally func(as Action, policy string, rcode int) *atomic.Uint64
	// Record remembers what became of a question, if its policy wants that, and
	// Repeat what was answered by Quick; where that is nil, Record may take its time.
	// The record is their own only until they return.
	Record func(*Record)
	Repeat func(*Record)
	// Unrecorded tells actions that nobody wants a record of.
	Unrecorded func(Action) bool
	Now        func() time.Time // nil: the clock's, or that of the question's coming
}

// An asking is one question in work at the gateway.
type asking struct {
	*inbound
	g *Gateway
	*known
	now   time.Time
	epoch uint64 // before the chain was asked

	decision policy.Decision
	hops     Facts        // that it was decided by
	upstream *cache.Reply // the answer, if the question went upstream already
	failure  error        // or why there is none
	plainly  bool         // the answer can be given as it is, by the hops

	good  time.Duration // how long what was learnt upstream holds; zero: nothing was
	kept  bool          // all of it was known before
	once  bool          // what comes of it is for this question alone
	local bool          // it is known here

	hurry bool // it is answered only if that takes no waiting
	waits bool // it does

	room struct { // for what is made on the way, which lasts no longer
		reply   cache.Reply
		outcome outcome
	}
}

// A work is what one question takes while it is answered. It is used again, and
// all zero until then.
type work struct {
	asking
	in inbound
}

var works = sync.Pool{New: func() any { return new(work) }}

func (w *work) put() {
	w.asking, w.in = asking{}, inbound{}
	works.Put(w)
}

// Handle answers one message; see [listen.Server].
func (g *Gateway) Handle(ctx context.Context, c *listen.Client, req []byte) []byte {
	w := works.Get().(*work)
	defer w.put()
	in, a := &w.in, &w.asking
	if resp, ok := in.read(req); !ok {
		return resp
	}
	a.inbound, a.g, a.now, a.epoch, a.kept = in, g, g.when(c), g.epoch(), true
	if g.Forwarder != nil && g.Forwarder(c.Addr.Addr()) {
		a.known = g.who(c, in.option, a.now)
	} else {
		a.known = g.who(c, nil, a.now)
	}
	o := a.answer(ctx, c.Addr.Addr())
	resp := in.pack(o)
	a.record(o, a.wanted(o), c, req, resp)
	if g.Quick != nil {
		a.keep(o, resp)
	}
	return resp
}

func now(f func() time.Time) time.Time {
	if f != nil {
		return f()
	}
	return time.Now()
}

func (a *asking) answer(ctx context.Context, from netip.Addr) *outcome {
	if a.Class == dns.ClassCHAOS && a.Name == NodeName && a.g.Node != nil {
		if _, ok := a.g.Node(from); ok {
			return NodeInfo{a.g.Name, "gateway", journal(a.g.Journal), a.g.Version}.outcome(a.inbound)
		}
	}
	switch {
	case a.policy == nil: // nor are the devices, so that nobody is known
		return a.failed(dns.ExtendedErrorCodeNotReady, "the policy is not loaded yet")
	case a.asker.Kind == device.Unidentified:
		return refused("unknown network")
	case a.Class == dns.ClassCHAOS:
		return a.chaos()
	case a.Class != dns.ClassINET:
		return refused("no such class here")
	case meta(a.Type):
		o := &outcome{action: Refused, rcode: dns.RcodeRefused}
		if a.Type == dns.TypeNXNAME { // RFC 9824 section 3.5
			o.rcode = dns.RcodeFormatError
		}
		return o.explained(edeBadType, "not a type to be asked for")
	}
	if addr, ok := reverse(a.Name); ok && a.g.PTR != nil {
		if name, pool, leased := a.g.PTR(addr); pool {
			return a.pointer(ctx, addr, name, leased)
		}
	}
	a.judge(ctx, a.Question)
	return a.act(ctx)
}

func journal(f func() uint64) uint64 {
	if f == nil {
		return 0
	}
	return f()
}

// refused is what those get who have no business here.
func refused(why string) *outcome {
	return (&outcome{action: Refused, rcode: dns.RcodeRefused}).explained(edeDenied, why)
}

// meta reports whether a type is none of data (RFC 6895 section 3.1). ANY is
// answered in its own way.
func meta(t uint16) bool {
	return t == dns.TypeOPT || t >= 128 && t < 256 && t != dns.TypeANY || t == 0
}

// judge decides what to do with a question, by the answer if it takes that.
func (a *asking) judge(ctx context.Context, q Question) {
	query := policy.Query{Name: q.Name, Type: q.Type, Asker: a.asker, Now: a.now}
	a.decide(&query, &a.decision)
	if !a.decision.NeedAnswer {
		return
	}
	a.hops = a.facts(ctx, q)
	query.Answered, query.Answer = true, a.hops
	a.decide(&query, &a.decision)
}

func (p *known) decide(q *policy.Query, d *policy.Decision) {
	if p.view != nil {
		*d = p.view.Decide(q)
	} else {
		*d = p.policy.Decide(q)
	}
}

// facts asks upstream for what the policy has to know. The addresses of other
// types than A and AAAA are those of both. If upstream does not answer, there
// are no facts, which match nothing.
func (a *asking) facts(ctx context.Context, q Question) Facts {
	var hops Facts
	if q.Type != dns.TypeANY {
		if a.ask(ctx, q); a.failure == nil {
			hops, a.plainly = follow(q.Name, a.upstream.Answer)
		}
	}
	if hops == nil {
		hops = Facts{{Name: q.Name}}
	}
	if _, arpa := reverse(q.Name); q.asksAddress() || arpa {
		return hops
	}
	for _, t := range [...]uint16{dns.TypeA, dns.TypeAAAA} {
		if r, err := a.reply(ctx, Question{Name: q.Name, Type: t, Class: q.Class, CD: q.CD}); err == nil {
			others, _ := follow(q.Name, r.Answer)
			hops = merged(hops, others)
		}
	}
	return hops
}

// ask asks upstream for what is to be answered.
func (a *asking) ask(ctx context.Context, q Question) {
	if r, err := a.reply(ctx, q); err != nil {
		a.failure = err
	} else {
		a.room.reply = r
		a.upstream = &a.room.reply
	}
}

// reply asks upstream, and keeps how long what it learns is good.
func (a *asking) reply(ctx context.Context, q Question) (cache.Reply, error) {
	u, err := a.outward(q)
	if err != nil {
		return cache.Reply{}, err
	}
	then := &a.decision.Then
	u.ECS = then.ECS.Of(a.asker.Source)
	r, here, err := a.here(q, then.Upstream)
	if !here {
		r, err = a.outside(ctx, then.Upstream, u)
	}
	if err == nil && open(&r) {
		r, err = a.finished(ctx, q, r)
	}
	if err != nil {
		a.once = true // what is decided without it holds no longer
		return r, err
	}
	good := time.Duration(r.Life-min(r.Life, r.Age)) * time.Second
	if r.Stale && r.Life > 0 {
		good = overdue
	}
	if good == 0 {
		a.once = true // nothing that follows from it may be kept
	} else if a.good == 0 || good < a.good {
		a.good = good
	}
	a.once, a.kept = a.once || then.ECS.Client, a.kept && r.Kept
	return r, nil
}

// outside asks a group of resolvers, which may take waiting.
func (a *asking) outside(ctx context.Context, group string, q cache.Question) (cache.Reply, error) {
	if !a.hurry {
		return a.g.Upstream(ctx, group, q)
	}
	if !a.waits {
		r, ok, err := a.g.Kept(group, q)
		if a.waits = !ok; ok {
			return r, err
		}
	}
	return cache.Reply{}, errWaits
}

// errWaits is the error of what would have to wait, where there is no time for that.
var errWaits = errors.New("it takes waiting")

// overdue is how long a stale answer is given again before it is looked whether
// there is a newer one. It is short, as a resolver may come back at any time, and
// long enough that most questions of an outage cost no more than others.
const overdue = time.Second

// outward returns a question as upstream is asked. That of the asked name has
// come in that form already.
func (a *asking) outward(q Question) (cache.Question, error) {
	if a.plain.Req == nil || q.Name != a.Name {
		return q.upstream()
	}
	return cache.Question{Name: lowered(a.plain.Name), Type: q.Type, Class: q.Class, DO: q.DO, CD: q.CD}, nil
}

func lowered(name []byte) string {
	var lower [256]byte
	return string(wire.AppendLower(lower[:0], name))
}

// act does what was decided.
func (a *asking) act(ctx context.Context) *outcome {
	then := &a.decision.Then
	switch {
	case then.Action == policy.Block:
		return a.block()
	case a.Type == dns.TypeANY:
		return a.any()
	case then.Action == policy.Allow:
		return a.forward(ctx, Allowed)
	case then.Action == policy.Override:
		return a.override(ctx)
	case then.Action == policy.Steer:
		return a.steer(ctx)
	}
	return a.block()
}

// any answers ANY with next to nothing, RFC 8482 section 4.2.
func (a *asking) any() *outcome {
	h := a.header(time.Hour)
	h.Rrtype = dns.TypeHINFO
	o := &outcome{action: Allowed, answer: []dns.RR{&dns.HINFO{Hdr: h, Cpu: "RFC8482"}}}
	return o.explained(edeBadType, "ANY is answered with next to nothing (RFC 8482)")
}

// forward answers as upstream does.
func (a *asking) forward(ctx context.Context, as Action) *outcome {
	if a.upstream == nil && a.failure == nil {
		a.ask(ctx, a.Question)
	}
	if a.failure != nil {
		return a.unanswered("upstream does not answer", a.failure)
	}
	if a.hops == nil {
		a.hops, a.plainly = follow(a.Name, a.upstream.Answer)
	}
	return a.passed(as, a.hops, a.upstream, a.plainly)
}

// passed makes an outcome of upstream's answer, unless that has addresses
// which only the fleet may give. What has to be looked into record by record is
// not given plainly.
func (a *asking) passed(as Action, hops Facts, r *cache.Reply, plainly bool) *outcome {
	bad, bindings := a.unwanted(r)
	if bad.IsValid() {
		return a.rebinding(bad)
	}
	o := &a.room.outcome
	*o = outcome{action: as, rcode: r.Rcode, reply: r, span: a.span(r)}
	if a.told(o, r); plainly && !bindings && !bare(r) {
		return o
	}
	m := r.Msg()
	if bad, ok := a.forbidden(m.Answer, m.Extra); ok {
		return a.rebinding(bad)
	}
	answers := len(m.Answer)
	o.reply, o.answer, o.ns, o.extra = nil, inChain(m.Answer, hops), m.Ns, m.Extra
	o.ad = r.AD && len(o.answer) == answers // it is what upstream has vouched for
	if !r.Failed() && (len(o.answer) == 0 || r.Rcode == dns.RcodeNameError) {
		end := a.Question
		end.Name = hops[len(hops)-1].Name
		o.ns = end.denied(o.ns)
	}
	return o
}

// bare reports whether an answer denies something and nothing in it says for how
// long. (One that ends in a CNAME is not done: who asks may go on from there.)
func bare(r *cache.Reply) bool {
	return r.Count[1] == 0 && !r.Failed() && (r.Count[0] == 0 || r.Rcode == dns.RcodeNameError)
}

// span returns what to make of the TTLs of upstream's answer.
func (a *asking) span(r *cache.Reply) wire.Span {
	s := r.Span()
	if then := &a.decision.Then; !r.Stale && then.Action == policy.Allow {
		s.Least = uint32(then.MinTTL / time.Second)
		s.Most = uint32(then.MaxTTL / time.Second)
	}
	return s
}

// told adds the extended error that an answer of upstream is given with: it is
// stale (RFC 8914 sections 4.4 and 4.20), a failure that was kept (4.14), or what
// upstream itself says.
func (a *asking) told(o *outcome, r *cache.Reply) {
	switch {
	case a.local && r.Failed():
		o.explained(edeOther, "a chain of CNAMEs here has no end")
	case r.Stale && r.Rcode == dns.RcodeNameError:
		o.explained(dns.ExtendedErrorCodeStaleNXDOMAINAnswer, "upstream does not answer")
	case r.Stale:
		o.explained(dns.ExtendedErrorCodeStaleAnswer, "upstream does not answer")
	case r.Why.Given:
		o.explained(r.Why.Code, "upstream: "+r.Why.Text)
	case r.Kept && r.Failed():
		o.explained(dns.ExtendedErrorCodeCachedError, "upstream failed lately")
	}
}

// unanswered is what who asks gets when upstream does not answer, or did not
// lately (RFC 8914 section 4.14).
func (a *asking) unanswered(why string, err error) *outcome {
	o := a.failed(edeNoAnswer, why)
	o.kept = errors.As(err, new(*cache.Failure))
	return o
}

// failed is what who asks gets when something is broken.
func (a *asking) failed(code uint16, why string) *outcome {
	return (&outcome{action: Failed, rcode: dns.RcodeServerFailure}).explained(code, why)
}

// refuses reports whether an answer must not hold an address. One that says what
// the policy wants to be asked, or what is known here, may hold private ones.
func (a *asking) refuses(addr netip.Addr) bool {
	if a.leadsInside(addr) {
		return true
	}
	for _, within := range carried(addr) {
		if within.IsValid() && a.leadsInside(within) {
			return true
		}
	}
	return false
}

func (a *asking) leadsInside(addr netip.Addr) bool {
	if a.g.Forbidden(addr) {
		return true
	}
	return a.g.Private != nil && !a.local && a.decision.Then.Upstream == "" && a.decision.Then.Action != policy.Override && a.g.Private(a.Name, addr)
}

// rebinding is the answer in place of one with an address that it must not hold.
func (a *asking) rebinding(bad netip.Addr) *outcome {
	whose := "an address of this network"
	within := carried(bad)
	if !a.g.Forbidden(bad) && !slices.ContainsFunc(within[:], a.g.Forbidden) {
		whose = "a private address; if that is meant, name it in dns.rebinding.except"
	}
	return a.failed(edeOther, "rebinding: the answer holds "+bad.String()+", "+whose)
}

// unwanted returns an address of an answer that only the fleet may give, and
// whether there are service bindings in it, which may hold more.
func (a *asking) unwanted(r *cache.Reply) (bad netip.Addr, bindings bool) {
	for rr := range r.Records {
		if addr, ok := rr.Addr(); ok && a.refuses(addr) {
			return addr, false
		}
		bindings = bindings || rr.Type == wire.TypeSVCB || rr.Type == wire.TypeHTTPS
	}
	return netip.Addr{}, bindings
}

// forbidden returns an address of the fleet that the records hold.
func (a *asking) forbidden(sections ...[]dns.RR) (netip.Addr, bool) {
	for _, rrs := range sections {
		for _, rr := range rrs {
			if addr, ok := addressOf(rr); ok && a.refuses(addr) {
				return addr, true
			}
			for _, addr := range hints(rr) {
				if a.refuses(addr) {
					return addr, true
				}
			}
		}
	}
	return netip.Addr{}, false
}

// wanted reports whether somebody wants a record of what became of the question. Of
// those that are wanted now and then it draws lots.
func (a *asking) wanted(o *outcome) bool {
	if a.policy == nil { // before there is one all get the same
		return false
	}
	blocked := o.action == Blocked || o.action == Denied
	return a.g.Record != nil && (a.g.Unrecorded == nil || !a.g.Unrecorded(o.action)) && a.logging().Wants(blocked, rand.Uint64())
}

// record counts what became of the question, and tells it where that is wanted.
func (a *asking) record(o *outcome, wanted bool, from *listen.Client, req, resp []byte) {
	if a.g.Tally != nil {
		rcode := o.rcode
		if o.sent == nothing {
			rcode = -1
		}
		a.g.Tally(o.action, a.rule(), rcode).Add(1)
	}
	if !wanted {
		return
	}
	r := Record{Time: a.now, Took: a.g.now().Sub(a.now), Client: *from, Kind: a.asker.Kind, Result: a.result(o), Query: req, Reply: resp}
	r.who(&a.asker)
	a.g.Record(&r)
}

// result returns what is to be remembered of an outcome, whoever asked.
func (a *asking) result(o *outcome) Result {
	r := Result{
		Question: a.Question, Action: o.action, Policy: a.rule(), Rcode: o.rcode, Hops: a.hops, Route: o.route, Addr: o.addr,
	}
	r.Reason, r.EDE = o.text, -1
	if o.ede {
		r.EDE = int(o.code)
	}
	if o.sent == nothing {
		r.Rcode = -1
	}
	if s := a.decision.Shadow; s != nil {
		r.Shadow = a.decision.Would() + " by " + s.Name
	}
	r.Learned = a.decision.Learned
	if a.upstream != nil {
		r.From = FromUpstream
		if a.upstream.Kept {
			r.From = FromCache
		}
		r.Stale, r.Group = a.upstream.Stale, a.decision.Then.Upstream
	}
	return r
}

// who puts into a record who asked.
func (r *Record) who(a *policy.Asker) {
	r.Asker, r.Who = "", *a
	if a.Device != nil {
		r.Asker = string(a.Device.ID)
	}
}

// rule returns the name of the policy that decided, "" if none did.
func (a *asking) rule() string {
	if a.decision.Rule == nil {
		return ""
	}
	return a.decision.Rule.Name
}

// logging returns what the policy that decided wants to be logged.
func (a *asking) logging() policy.Logging {
	if a.decision.Rule == nil {
		return policy.Logging{}
	}
	return a.decision.Rule.Log
}
