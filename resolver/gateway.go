package resolver

import (
	"context"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/listen"
)

// A Gateway answers the questions of devices. Its fields are the rest of the
// node, as functions; all but Node, Peek, PTR, Explain, Record and Now must be
// there. They must be safe for concurrent use.
type Gateway struct {
	Name    string
	Version string

	// Identify says who asks, and whether it can send packets to virtual
	// addresses. An asker of kind Unidentified is refused.
	Identify func(c *listen.Client) (a policy.Asker, way bool)
	// Node says which node of the fleet an address is, for those that probe.
	Node   func(from netip.Addr) (name string, ok bool)
	Policy func() *policy.Policy
	// Upstream answers what is allowed, from a cache if it can.
	Upstream func(ctx context.Context, m *dns.Msg) (*dns.Msg, error)
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
	Record  func(*Record)
	Now     func() time.Time
}

// An asking is one question in work at the gateway.
type asking struct {
	*inbound
	g     *Gateway
	asker policy.Asker
	way   bool
	now   time.Time

	policy   *policy.Policy // one for the whole question
	decision policy.Decision
	hops     Facts    // that it was decided by
	upstream *dns.Msg // the answer, if the question went upstream already
	failure  error    // or why there is none
}

// Handle answers one message; see [listen.Server].
func (g *Gateway) Handle(ctx context.Context, c *listen.Client, req []byte) []byte {
	in, resp := parse(req)
	if in == nil {
		return resp
	}
	a := &asking{inbound: in, g: g, now: now(g.Now)}
	a.asker, a.way = g.Identify(c)
	o := a.answer(ctx, c.Addr.Addr())
	if g.Record != nil {
		a.record(o, c)
	}
	return in.pack(o)
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
	case a.asker.Kind == device.Unidentified:
		return refused("unknown network")
	case a.Class == dns.ClassCHAOS:
		return a.chaos()
	case a.Class != dns.ClassINET:
		return refused("no such class here")
	case meta(a.Type):
		return (&outcome{action: Refused, rcode: dns.RcodeRefused}).explained(edeBadType, "not a type to be asked for")
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
	a.policy = a.g.Policy()
	a.decision = a.policy.Decide(&query)
	if !a.decision.NeedAnswer {
		return
	}
	a.hops = a.facts(ctx, q)
	query.Answered, query.Answer = true, a.hops
	a.decision = a.policy.Decide(&query)
}

// facts asks upstream for what the policy has to know. The addresses of other
// types than A and AAAA are those of both. If upstream does not answer, there
// are no facts, which match nothing.
func (a *asking) facts(ctx context.Context, q Question) Facts {
	hops := Facts{{Name: q.Name}}
	if q.Type != dns.TypeANY {
		if a.upstream, a.failure = a.g.Upstream(ctx, q.message()); a.failure == nil {
			hops = chain(q.Name, a.upstream.Answer)
		}
	}
	if _, arpa := reverse(q.Name); q.asksAddress() || arpa {
		return hops
	}
	for _, t := range [...]uint16{dns.TypeA, dns.TypeAAAA} {
		q := Question{Name: q.Name, Type: t, Class: q.Class, CD: q.CD}
		if m, err := a.g.Upstream(ctx, q.message()); err == nil {
			hops = merged(hops, chain(q.Name, m.Answer))
		}
	}
	return hops
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
	return &outcome{action: Allowed, answer: []dns.RR{&dns.HINFO{Hdr: h, Cpu: "RFC8482"}}}
}

// forward answers as upstream does.
func (a *asking) forward(ctx context.Context, as Action) *outcome {
	if a.upstream == nil && a.failure == nil {
		a.upstream, a.failure = a.g.Upstream(ctx, a.message())
	}
	if a.failure != nil {
		return a.failed(edeNoAnswer, "upstream does not answer")
	}
	hops := a.hops
	if hops == nil {
		hops = chain(a.Name, a.upstream.Answer)
	}
	return a.passed(as, hops, a.upstream)
}

// passed makes an outcome of upstream's answer, unless that has addresses
// which only the fleet may give.
func (a *asking) passed(as Action, hops Facts, m *dns.Msg) *outcome {
	if bad, ok := a.forbidden(m.Answer, m.Extra); ok {
		return a.failed(edeOther, "rebinding: the answer holds "+bad.String()+", an address of this network")
	}
	return &outcome{
		action: as, rcode: m.Rcode, ad: m.AuthenticatedData,
		answer: inChain(m.Answer, hops), ns: m.Ns, extra: withoutOPT(m.Extra),
	}
}

// failed is what who asks gets when something is broken.
func (a *asking) failed(code uint16, why string) *outcome {
	return (&outcome{action: Failed, rcode: dns.RcodeServerFailure}).explained(code, why)
}

// forbidden returns an address of the fleet that the records hold.
func (a *asking) forbidden(sections ...[]dns.RR) (netip.Addr, bool) {
	for _, rrs := range sections {
		for _, rr := range rrs {
			if addr, ok := addressOf(rr); ok && a.g.Forbidden(addr) {
				return addr, true
			}
			for _, addr := range hints(rr) {
				if a.g.Forbidden(addr) {
					return addr, true
				}
			}
		}
	}
	return netip.Addr{}, false
}

func withoutOPT(rrs []dns.RR) []dns.RR {
	for i, rr := range rrs {
		if rr.Header().Rrtype == dns.TypeOPT {
			return append(rrs[:i:i], rrs[i+1:]...) // there is one at most
		}
	}
	return rrs
}

// record tells what became of the question.
func (a *asking) record(o *outcome, from *listen.Client) {
	r := o.record
	r.Time, r.Took, r.Client = a.now, now(a.g.Now).Sub(a.now), *from
	r.Kind, r.Question, r.Action, r.Rcode, r.Hops = a.asker.Kind, a.Question, o.action, o.rcode, a.hops
	if a.asker.Device != nil {
		r.Asker = string(a.asker.Device.ID)
	}
	if rule := a.decision.Rule; rule != nil {
		r.Policy = rule.Name
	}
	r.Reason, r.EDE = o.text, -1
	if o.ede {
		r.EDE = int(o.code)
	}
	if o.silent {
		r.Rcode = -1
	}
	a.g.Record(&r)
}
