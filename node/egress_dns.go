package node

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/resolver/listen"
)

// An egressDNS is the way of a gateway's question through the egress.
type egressDNS struct {
	e       *Egress
	handler *resolver.Egress
	server  *listen.Server
}

func newEgressDNS(e *Egress) *egressDNS {
	d := &egressDNS{e: e}
	d.handler = &resolver.Egress{
		Name:       e.set.Name,
		Version:    e.near.Version,
		Gateway:    d.gateway,
		Node:       d.node,
		Ran:        e.ran,
		Explain:    func(name, route string) []string { return e.connectors(name, false, route) },
		Policy:     e.rules.now,
		Connectors: e.healthy,
		Ask:        e.askOne,
		Lease:      d.lease,
		Learn:      d.learn,
		Journal:    e.labels.table.Journal,
		Record:     e.records.decision,
		Now:        now,
	}
	d.server = &listen.Server{Handle: d.handler.Handle, Log: e.log}
	return d
}

// node says which node asks; that it asks shows that its link is up.
func (d *egressDNS) node(from netip.Addr) (string, bool) {
	name, ok := d.e.neighbourOf(from)
	if ok {
		d.e.neighbours.saw(name)
	}
	return name, ok
}

// gateway is node for those that may ask for names.
func (d *egressDNS) gateway(from netip.Addr) (string, bool) {
	name, ok := d.node(from)
	return name, ok && d.e.isGateway(name)
}

// ran ends the flows of a connector that has restarted: it has forgotten them,
// and the origins would see another source port. Whoever is only listening on
// such a connection would wait for long.
func (e *Egress) ran(connector string, run uint64) {
	if old, known := e.runs.Swap(connector, run); known && old != run && !e.isGateway(connector) {
		e.labels.table.Forget(connector) // should it have lost them, others may have got its labels meanwhile
		e.cutFar(connector)
	}
}

// askOne asks one connector, whose answer must be of its own pool.
func (e *Egress) askOne(ctx context.Context, connector string, q resolver.Question) (*resolver.NodeReply, error) {
	p, ok := peerWhere(e.set.Connectors, nameIs(connector))
	if !ok {
		return nil, fmt.Errorf("connector %s: %w", connector, errUnknownNode)
	}
	r, err := resolver.AskNode(ctx, e.trunk.local.DialContext, netip.AddrPortFrom(p.Address[0], dnsPort), q, "", nil)
	if err != nil {
		return nil, fmt.Errorf("asking connector %s: %w", connector, err)
	}
	for _, a := range r.Addrs {
		if !e.labels.owns(connector, a) {
			return nil, fmt.Errorf("connector %s answered %v: %w", connector, a, errNotItsOwn)
		}
	}
	r.Node = connector
	return r, nil
}

// askConnector is askOne in the form that labels ask in: a connector knows
// neither routes nor facts.
func (e *Egress) askConnector(ctx context.Context, connector, _ string, q resolver.Question, _ resolver.Facts) (*resolver.NodeReply, error) {
	return e.askOne(ctx, connector, q)
}

// lease gives the name this node's own label, behind which stand those of all
// connectors that know it.
func (d *egressDNS) lease(q resolver.Question, facts resolver.Facts, replies map[string]*resolver.NodeReply) (netip.Addr, error) {
	lease, err := d.e.labels.lease(q, "", facts)
	if err != nil {
		return netip.Addr{}, err
	}
	for connector, r := range replies {
		if _, err := d.e.labels.learn(lease, connector, r); err != nil {
			return netip.Addr{}, err
		}
	}
	return lease.Addr(), nil
}

// learn keeps a connector's answer that came after the gateway had its own.
func (d *egressDNS) learn(q resolver.Question, connector string, r *resolver.NodeReply) {
	lease, ok := d.e.labels.table.Peek(q.Name, qIsV6(q))
	if !ok {
		return
	}
	if _, err := d.e.labels.learn(lease, connector, r); err != nil {
		d.e.log.Debug("late answer", "connector", connector, "name", q.Name, "err", err)
	}
}
