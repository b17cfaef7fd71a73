package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/flight"
	"github.com/starferry/starferry/resolver/listen"
)

// An Egress answers the questions of gateways by asking its connectors. Only
// names that its own policy could steer by the asked route, for whomever, are
// asked for; which device may reach them is judged on flows. All fields but
// Node, Learn, Record and Now must be there and be safe for concurrent use.
type Egress struct {
	Name    string
	Version string

	// Gateway says which gateway an address is. Others are refused.
	Gateway func(from netip.Addr) (name string, ok bool)
	// Node says which node an address is that may probe this one, but ask
	// nothing else: the connectors.
	Node func(from netip.Addr) (name string, ok bool)
	// Explain, if set, says for a gateway which way a name takes from here on
	// the asked route: CH TXT NAME.explain.starferry.
	Explain func(name, route string) []string
	// Ran, if set, is told at each probe of a node which run of it asks: one that
	// has restarted has forgotten its flows.
	Ran    func(node string, run uint64)
	Policy func() *policy.Policy
	// Connectors returns those connectors of a route that are up.
	Connectors func(route string) []string
	// Ask asks one connector.
	Ask func(ctx context.Context, connector string, q Question) (*NodeReply, error)
	// Lease returns the label of a name for which these connectors answered. The
	// text of an error reaches the gateway.
	Lease func(q Question, facts Facts, replies map[string]*NodeReply) (netip.Addr, error)
	// Learn gets the answer of a connector that said yes later than another, for
	// a name that has a label by then.
	Learn func(q Question, connector string, r *NodeReply)

	Journal func() uint64
	Record  func(*Record)
	Now     func() time.Time

	asked flight.Group[asked, *outcome]
	late  sync.WaitGroup
}

// asked is what makes two questions equal: gateways ask again when they are
// left without an answer, and the first question is still in work.
type asked struct {
	q     Question
	route string
	facts string
}

// How long connectors are waited for: with bad news until all have said so or
// this time is over, and to learn of the others what they know.
const (
	badNews = 2500 * time.Millisecond
	lateYes = 5 * time.Second
)

// Handle answers one message; see [listen.Server].
func (e *Egress) Handle(ctx context.Context, c *listen.Client, req []byte) []byte {
	in, resp := parse(req)
	if in == nil {
		return resp
	}
	start := now(e.Now)
	p, err := readPrivate(in.opt)
	if err != nil {
		return malformed(req, dns.RcodeFormatError)
	}
	node, gateway := e.who(c.Addr.Addr())
	o := e.answer(ctx, in, node, gateway, p)
	if node != "" {
		o = signed(o, e.Name, journal(e.Journal))
	}
	note(e.Record, in, o, Record{Time: start, Took: now(e.Now).Sub(start), Asker: node, Client: *c, Result: Result{Route: p.route, Hops: p.facts}})
	return in.pack(o)
}

// who returns the name of the node that asks, "" for strangers.
func (e *Egress) who(from netip.Addr) (node string, gateway bool) {
	if name, ok := e.Gateway(from); ok {
		return name, true
	}
	if e.Node != nil {
		if name, ok := e.Node(from); ok {
			return name, false
		}
	}
	return "", false
}

// Wait waits for the answers of connectors that are still to be learnt from.
// They are given up when the context of Handle ends.
func (e *Egress) Wait() { e.late.Wait() }

// signed adds to an answer who gives it. It is made anew: outcomes are shared.
func signed(o *outcome, name string, journal uint64) *outcome {
	s := *o
	s.options = private{journal: journal, node: name}.options()
	return &s
}

// note records what a node did with the question of another.
func note(record func(*Record), in *inbound, o *outcome, r Record) {
	if record == nil {
		return
	}
	r.Question, r.Action, r.Rcode, r.Addr = in.Question, o.action, o.rcode, o.addr
	r.Reason, r.EDE = o.text, -1
	if o.ede {
		r.EDE = int(o.code)
	}
	if r.Asker != "" {
		r.Kind = device.ByWireGuard // nodes are known by their links alone
	}
	record(&r)
}

func (e *Egress) answer(ctx context.Context, in *inbound, node string, gateway bool, p private) *outcome {
	switch {
	case node != "" && in.Class == dns.ClassCHAOS && in.Name == NodeName:
		if e.Ran != nil && p.run != 0 {
			e.Ran(node, p.run)
		}
		return NodeInfo{e.Name, "egress", journal(e.Journal), e.Version}.outcome(in)
	case !gateway:
		return refused("not a gateway of this egress")
	case in.Class == dns.ClassCHAOS && in.Type == dns.TypeTXT && e.Explain != nil && strings.HasSuffix(in.Name, explainSuffix):
		lines := e.Explain(strings.TrimSuffix(in.Name, explainSuffix), p.route)
		return &outcome{action: Local, answer: []dns.RR{in.texts(lines)}}
	case in.Class != dns.ClassINET || meta(in.Type) || in.Type == dns.TypeANY:
		return refused(e.Name + ": not a question for an egress")
	case p.route == "":
		return refused(e.Name + ": no route was asked for")
	case !e.Policy().CouldSteer(in.Name, p.facts, p.route, now(e.Now)):
		return refused(e.Name + ": no policy here steers this name by " + p.route)
	}
	k := asked{in.Question, p.route, string(appendFacts(nil, p.facts))}
	o, _, err := e.asked.Do(ctx, k, func(ctx context.Context) (*outcome, error) {
		return e.gather(ctx, in.Question, p), nil
	})
	if err != nil {
		return unreachable(edeNoAnswer, e.Name+": "+err.Error())
	}
	return o
}

// unreachable is what a node answers that asked in vain. The extended error
// tells who asked it that nothing is wrong with the name.
func unreachable(code uint16, why string) *outcome {
	return (&outcome{action: Down, rcode: dns.RcodeServerFailure}).explained(code, why)
}

// heard is what came of asking one connector.
type heard struct {
	connector string
	r         *NodeReply
	err       error
}

// positive reports whether the answer holds what was asked for.
func (h heard) positive(q Question) bool {
	if h.err != nil || h.r.Msg.Rcode != dns.RcodeSuccess {
		return false
	}
	if q.asksAddress() {
		return len(h.r.Addrs) > 0
	}
	for _, rr := range h.r.Msg.Answer {
		if rr.Header().Rrtype == q.Type {
			return true
		}
	}
	return false
}

// gather asks all connectors at once. The first that says yes answers. If none
// does, the answer waits for all of them, or for as long as bad news may take.
func (e *Egress) gather(ctx context.Context, q Question, p private) *outcome {
	connectors := e.Connectors(p.route)
	if len(connectors) == 0 {
		return unreachable(edeLinkDown, e.Name+": no connector of "+p.route+" is up")
	}
	ctx, cancel := context.WithTimeout(ctx, lateYes)
	answers := make(chan heard, len(connectors))
	for _, c := range connectors {
		e.late.Go(func() {
			r, err := e.Ask(ctx, c, q)
			answers <- heard{c, r, err}
		})
	}
	yes, no, left := first(answers, len(connectors), q)
	o := e.decide(q, p, yes, no)
	if left == 0 || !q.asksAddress() || e.Learn == nil || o.action == Failed {
		cancel()
		return o
	}
	e.late.Go(func() {
		defer cancel()
		e.learn(q, answers, left)
	})
	return o
}

// first waits for the first answer that says yes, and returns also those that
// said no before it and how many are still to come.
func first(answers <-chan heard, left int, q Question) (yes *heard, no []heard, stillOut int) {
	enough := time.NewTimer(badNews)
	defer enough.Stop()
	for left > 0 {
		select {
		case h := <-answers:
			left--
			if h.positive(q) {
				return &h, no, left
			}
			no = append(no, h)
		case <-enough.C:
			return nil, no, left
		}
	}
	return nil, no, 0
}

// learn takes in the answers that came late.
func (e *Egress) learn(q Question, answers <-chan heard, left int) {
	for range left {
		if h := <-answers; h.positive(q) {
			e.Learn(q, h.connector, h.r)
		}
	}
}

// decide makes the answer of what the connectors said.
func (e *Egress) decide(q Question, p private, yes *heard, no []heard) *outcome {
	switch {
	case yes == nil:
		return e.negative(q, no)
	case !q.asksAddress():
		return &outcome{action: Steered, answer: yes.r.Msg.Answer, ns: yes.r.Msg.Ns}
	}
	addr, err := e.Lease(q, p.facts, map[string]*NodeReply{yes.connector: yes.r})
	if err != nil {
		return (&outcome{action: Failed, rcode: dns.RcodeServerFailure}).explained(edeOther, e.Name+": "+err.Error())
	}
	o := &outcome{action: Steered, answer: []dns.RR{q.address(addr, steeredTTL)}}
	o.addr = addr
	return o
}

// negative chooses among bad news. That a name exists without this type
// outweighs that it does not exist, for it exists somewhere; either outweighs
// a failure, of which one that says why goes before silence.
func (e *Egress) negative(q Question, no []heard) *outcome {
	rank := func(h heard) int {
		switch {
		case h.err != nil:
			return 0
		case h.r.Msg.Rcode == dns.RcodeSuccess:
			return 3
		case h.r.Msg.Rcode == dns.RcodeNameError:
			return 2
		}
		return 1
	}
	var best heard
	for i, h := range no {
		if i == 0 || rank(h) > rank(best) {
			best = h
		}
	}
	switch {
	case best.connector == "":
		return unreachable(edeNoAnswer, e.Name+": no connector answered in time")
	case rank(best) == 0:
		return unreachable(edeNoAnswer, fmt.Sprintf("%s: %s: %v", e.Name, best.connector, best.err))
	case rank(best) == 1:
		return e.failed(best)
	}
	return &outcome{action: Steered, rcode: best.r.Msg.Rcode, ns: q.authority(best.r.Msg)}
}

// failed passes on why a connector failed.
func (e *Egress) failed(h heard) *outcome {
	code, text, ok := extended(h.r.Msg)
	if !ok {
		code, text = edeOther, h.connector+" answered "+dns.RcodeToString[h.r.Msg.Rcode]
	}
	return (&outcome{action: Failed, rcode: dns.RcodeServerFailure}).explained(code, e.Name+": "+text)
}
