package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/state"
	"github.com/starferry/starferry/steer"
	"github.com/starferry/starferry/tunnel"
)

// flow adds what is told of a flow. Who sends one hears of no policy.
func (x *Explanation) flow(to policy.Service, d *policy.Decision) {
	x.Flow, x.Route, x.Told = to.String(), x.trace.Route, ""
	if d.Then.Action == policy.Steer && d.Denied == "" {
		return
	}
	x.why, x.Told = d.Text(), "ICMP, administratively prohibited"
	if to.Proto == protoTCP {
		x.Told = "TCP reset"
	}
}

// FlowFamily reports whether a flow that is decided as a question of this type
// is one of IPv6.
func FlowFamily(t uint16) (v6 bool, err error) {
	if t != dns.TypeA && t != dns.TypeAAAA {
		return false, fmt.Errorf("a flow has no type %v: it is A for IPv4, AAAA for IPv6", dns.Type(t))
	}
	return t == dns.TypeAAAA, nil
}

// FlowSource returns an address that a node takes flows of the device from, by
// its directory. lan says that packets of offices reach it.
func FlowSource(dir *state.Directory, d *device.Device, v6, lan bool) (netip.Addr, error) {
	side := tunnel.Link
	if len(d.LAN) > 0 {
		side = tunnel.LAN
	}
	is := func(a netip.Addr) bool {
		from, _, ok := sender(dir, side, a)
		return ok && from.Device.ID == d.ID && (side == tunnel.Link || lan)
	}
	for a := range d.Sources(v6) {
		if is(a) {
			return a, nil
		}
	}
	family := map[bool]string{false: "IPv4", true: "IPv6"}
	for a := range d.Sources(!v6) {
		if is(a) {
			return netip.Addr{}, fmt.Errorf("%s sends no flows over %s, it has no such address: there is --type %v", d.ID, family[v6], dns.Type(typeOf(!v6)))
		}
	}
	if len(d.LAN) > 0 || d.Kind == device.ByNetwork {
		return netip.Addr{}, fmt.Errorf("%s sends no flows: a network does if it has an overlay range and routes_pool: true, and the gateway a lan", d.ID)
	}
	return netip.Addr{}, fmt.Errorf("%s sends no flows of its own: it has no link. What it sends from an office is a flow of that network: --device NETWORK", d.ID)
}

// A flowTo is what somebody asks about at the control socket: a flow to a name.
type flowTo struct {
	service policy.Service
	name    string
	v6      bool
	lease   *steer.Lease // nil: the name has none
}

// flowTo reads what a flow goes to: a name, or a label of this node's pool.
func (s *steering) flowTo(q control.Question, pool []netip.Prefix) (f flowTo, err error) {
	if f.service, err = policy.ParseService(q.Flow); err != nil {
		return f, err
	}
	if addr, err := netip.ParseAddr(q.Name); err == nil {
		return s.flowToLabel(f, addr.Unmap(), q.Type, pool)
	}
	var t uint16
	if f.name, t, err = asked(q); err != nil {
		return f, err
	}
	if f.v6, err = FlowFamily(t); err != nil {
		return f, err
	}
	if lease, ok := s.labels.table.Peek(f.name, f.v6); ok {
		f.lease = lease
	}
	return f, nil
}

// flowToLabel looks a label up as packets to it are.
func (s *steering) flowToLabel(f flowTo, addr netip.Addr, rrtype string, pool []netip.Prefix) (flowTo, error) {
	if !within(pool, addr) {
		return f, fmt.Errorf("%v is not in the pool of this node (%s): packets to it are dropped, as %v", addr, joined(pool), tunnel.DropNotALabel)
	}
	var ok bool
	if f.lease, ok = s.labels.table.ByAddr(addr); !ok {
		return f, fmt.Errorf("%v: no lease has it: packets to it are dropped, as %v. Ask for the name again, it may have another address by now", addr, tunnel.DropNeverLeased)
	}
	f.name, f.v6 = f.lease.Name(), f.lease.V6()
	if t := dns.TypeToString[typeOf(f.v6)]; rrtype != "" && !strings.EqualFold(rrtype, t) {
		return f, fmt.Errorf("%v is of type %s, not %s", addr, t, rrtype)
	}
	return f, nil
}

func joined(pool []netip.Prefix) string {
	var words []string
	for _, p := range pool {
		words = append(words, p.String())
	}
	return strings.Join(words, ", ")
}

// query is what a flow of somebody's to this puts to the policy. facts are those
// of a name without a lease.
func (f *flowTo) query(from policy.Asker, facts []policy.Hop) *policy.Query {
	if f.lease != nil {
		facts = f.lease.Facts()
	}
	return FlowQuery(f.name, f.v6, facts, from, f.service, time.Now())
}

// explainFlow explains how the gateway would decide the first packet of a flow.
func (g *Gateway) explainFlow(ctx context.Context, q control.Question) (*Explanation, error) {
	f, err := g.flowTo(q, g.set.Pool)
	if err != nil {
		return nil, err
	}
	e, src, err := g.flowFrom(q.Device, f.v6)
	if err != nil {
		return nil, err
	}
	var facts []policy.Hop
	virtual := ""
	if f.lease != nil {
		virtual = f.lease.Addr().String()
	} else {
		facts, virtual = g.unleased(ctx, &f, askerFrom(e, src))
	}
	x, d := Explain(g.rules.now(), f.query(askerFrom(e, src), facts))
	if x.Virtual = virtual; x.why == "" {
		_, x.Way = g.wayOf(ctx, f.name, typeOf(f.v6), d.Then.Route)
		x.Way = append(x.Way, g.noWay(&f, d.Then.Route)...)
		x.Way = append(x.Way, g.decidedAgain(&f, e)...)
	}
	return x, nil
}

// flowFrom returns who sends, and an address that is taken for them.
func (g *Gateway) flowFrom(name string, v6 bool) (*state.Entry, netip.Addr, error) {
	dir := g.store.Directory()
	if name == "" {
		return nil, netip.Addr{}, fmt.Errorf("whose flow? give --device: %s", known(dir))
	}
	e, ok := dir.ByID(device.ID(name))
	if !ok {
		return nil, netip.Addr{}, fmt.Errorf("%q: %w; %s", name, errNoDevice, known(dir))
	}
	src, err := FlowSource(dir, e.Device, v6, g.set.TUN != "")
	return e, src, err
}

// unleased returns the facts that a question would leave with the lease of a name
// which has none yet, and what is to be said instead of a virtual address.
func (g *Gateway) unleased(ctx context.Context, f *flowTo, a policy.Asker) (facts []policy.Hop, virtual string) {
	q := &policy.Query{Name: f.name, Type: typeOf(f.v6), Asker: a, Now: time.Now()}
	d := g.rules.now().Decide(q)
	if d.NeedAnswer {
		g.answer(ctx, q, &d)
		d = g.rules.now().Decide(q)
	}
	if d.Then.Action != policy.Steer || d.Denied != "" {
		return q.Answer, "none: a question for the name comes to " + d.String()
	}
	return q.Answer, "none yet; a question for the name leases one"
}

// noWay says what becomes of an admitted flow that no node of its route takes, as
// [steering.way] finds it; nothing if one does.
func (s *steering) noWay(f *flowTo, route string) []string {
	up := s.healthy(route)
	says := func(node string) bool { return f.lease != nil && s.labels.denied(f.lease, node, time.Now()) }
	switch {
	case slices.ContainsFunc(up, func(node string) bool { return !says(node) }):
		return nil
	case len(up) > 0:
		return []string{fmt.Sprintf("no node of route %s has the name now: packets are dropped, as %v", route, tunnel.DropNoNextHop)}
	case s.neighbours.allDownFor(routeNamed(s.routes, route)) > linkPatience:
		return []string{"no node of route " + route + " answers: the flow is denied"}
	}
	return []string{fmt.Sprintf("no node of route %s answers: the flow waits for one, %v at most", route, linkPatience)}
}

// decidedAgain says how to ask the egresses of a flow about their own decision.
func (g *Gateway) decidedAgain(f *flowTo, e *state.Entry) []string {
	if g.postures.opaque == nil { // not running yet
		return nil
	}
	flags := ""
	if f.v6 {
		flags = " --type AAAA"
	}
	return []string{fmt.Sprintf("the egress decides again, by its own policy: ask there for %s --flow %v%s --device %s/%s",
		f.name, f.service, flags, g.set.Name, g.postures.opaque(e.Device.ID))}
}

// explainFlow explains how the egress would decide the first packet of a flow.
func (e *Egress) explainFlow(q control.Question) (*Explanation, error) {
	f, err := e.flowTo(q, e.set.Pool)
	if err != nil {
		return nil, err
	}
	if q.Device == "" {
		return nil, errors.New("whose flow? give --device GATEWAY/ID, with an id that the flow records show, and the gateway's starferry explain --flow")
	}
	entry, err := e.device(q.Device)
	if err != nil {
		return nil, err
	}
	src, err := FlowSource(e.store.Directory(), entry.Device, f.v6, false)
	if err != nil {
		return nil, err
	}
	x, d := Explain(e.rules.now(), f.query(askerFrom(entry, src), nil))
	x.Label = "none yet: the flow is judged without the addresses that a gateway's question brings"
	if f.lease != nil {
		x.Label = f.lease.Addr().String()
	}
	if x.why == "" {
		x.Way = append(e.connectors(f.name, f.v6, d.Then.Route), e.noWay(&f, d.Then.Route)...)
	}
	return x, nil
}
