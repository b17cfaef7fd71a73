package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/resolver/listen"
)

// onLink is the name of the listener on the node's own address, which only the
// link reaches: who asks there is known by the key that WireGuard has checked.
const onLink = "link"

const dnsPort = 53

// A gatewayDNS is the way of a query at the gateway, with its listeners.
type gatewayDNS struct {
	g       *Gateway
	handler *resolver.Gateway
	server  *listen.Server
	outside *outside
}

func newGatewayDNS(g *Gateway) (*gatewayDNS, error) {
	up, err := newOutside(g.set.Upstreams, &g.near)
	if err != nil {
		return nil, err
	}
	d := &gatewayDNS{g: g, outside: up}
	d.handler = &resolver.Gateway{
		Name:      g.set.Name,
		Identify:  d.identify,
		Node:      d.node,
		Version:   g.near.Version,
		Policy:    g.rules.now,
		Upstream:  up.ask,
		Ask:       d.ask,
		Lease:     d.lease,
		Forbidden: g.forbidden,
		PTR:       d.ptr,
		Peek:      d.peek,
		Journal:   g.labels.table.Journal,
		Explain:   g.explainLines,
		Record:    g.records.decision,
		Now:       now,
	}
	d.server = &listen.Server{Handle: d.handler.Handle, Log: g.log}
	return d, nil
}

// tasks opens the listeners: the node's own address on the link, and those for
// offices on the machine's.
func (d *gatewayDNS) tasks() ([]lifecycle.Task, error) {
	tasks, err := d.g.trunk.serveDNS(d.server, d.g.set.Address)
	if err != nil {
		return nil, err
	}
	for _, at := range d.g.set.Listen {
		more, err := kernelDNS(d.server, at)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, more...)
	}
	return tasks, nil
}

// serveDNS opens UDP and TCP listeners on a node's own addresses.
func (t *trunk) serveDNS(s *listen.Server, addrs []netip.Addr) (tasks []lifecycle.Task, err error) {
	for _, a := range addrs {
		at := netip.AddrPortFrom(a, dnsPort)
		pc, err := t.local.ListenUDP(at)
		if err != nil {
			return nil, fmt.Errorf("listening on the link for DNS: %w", err)
		}
		l, err := t.local.ListenTCP(at)
		if err != nil {
			return nil, fmt.Errorf("listening on the link for DNS: %w", err)
		}
		tasks = append(tasks, dnsTasks(s, pc, l, onLink)...)
	}
	return tasks, nil
}

func kernelDNS(s *listen.Server, at netip.AddrPort) ([]lifecycle.Task, error) {
	// One family each: a socket on [::] must not take the place of one on 0.0.0.0.
	family := "4"
	if at.Addr().Is6() {
		family = "6"
	}
	pc, err := net.ListenUDP("udp"+family, net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, fmt.Errorf("listening for DNS on udp %v (dns.listen): %w", at, err)
	}
	l, err := net.ListenTCP("tcp"+family, net.TCPAddrFromAddrPort(at))
	if err != nil {
		pc.Close()
		return nil, fmt.Errorf("listening for DNS on tcp %v (dns.listen): %w", at, err)
	}
	return dnsTasks(s, pc, l, at.String()), nil
}

func dnsTasks(s *listen.Server, pc net.PacketConn, l net.Listener, name string) []lifecycle.Task {
	return []lifecycle.Task{
		{Name: "dns udp " + name, Run: func(ctx context.Context) error { return s.ServeUDP(ctx, pc, name) }},
		{Name: "dns tcp " + name, Run: func(ctx context.Context) error { return s.ServeTCP(ctx, l, name) }},
	}
}

// identify says who asks, by the strongest evidence there is, and whether they
// can send packets to a virtual address.
func (d *gatewayDNS) identify(c *listen.Client) (policy.Asker, bool) {
	dir := d.g.store.Directory()
	src := c.Addr.Addr()
	if c.Listener == onLink {
		e, ok := dir.BySource(src)
		if !ok || len(e.Device.LAN) > 0 {
			return policy.Asker{Source: src}, false
		}
		return policy.Asker{Device: e.Device, Kind: device.ByWireGuard, Source: src, Verdicts: e.Verdicts}, true
	}
	e, overlay, ok := dir.ByLAN(src)
	if !ok {
		return policy.Asker{Source: src}, false
	}
	way := e.Device.RoutesPool && overlay != src && d.g.trunk.lan != nil
	return policy.Asker{Device: e.Device, Kind: device.ByNetwork, Source: src, Verdicts: e.Verdicts}, way
}

// ask asks the first egress of the route that answers.
func (d *gatewayDNS) ask(ctx context.Context, route string, q resolver.Question, facts resolver.Facts) (*resolver.NodeReply, error) {
	up := d.g.healthy(route)
	if len(up) == 0 {
		return nil, fmt.Errorf("no egress of route %s answers: %w", route, resolver.ErrLinkDown)
	}
	return d.g.askNode(ctx, up[0], route, q, facts)
}

// askNode asks one egress over the link.
func (g *Gateway) askNode(ctx context.Context, egress, route string, q resolver.Question, facts resolver.Facts) (*resolver.NodeReply, error) {
	p, ok := peerWhere(g.set.Egresses, nameIs(egress))
	if !ok {
		return nil, fmt.Errorf("egress %s: %w", egress, errUnknownNode)
	}
	r, err := resolver.AskNode(ctx, g.trunk.local.DialContext, netip.AddrPortFrom(p.Address[0], dnsPort), q, route, facts)
	if err != nil {
		return nil, fmt.Errorf("asking egress %s: %w", egress, err)
	}
	r.Node = egress
	return r, nil
}

// lease gives the name its virtual address, once the next hop has a label for it.
func (d *gatewayDNS) lease(q resolver.Question, a policy.Asker, facts resolver.Facts, r *resolver.NodeReply) (netip.Addr, error) {
	if len(r.Addrs) == 0 || !d.g.labels.owns(r.Node, r.Addrs[0]) {
		return netip.Addr{}, fmt.Errorf("egress %s: %w", r.Node, errNotItsOwn)
	}
	lease, err := d.g.labels.lease(q, string(a.Device.ID), facts)
	if err != nil {
		return netip.Addr{}, err
	}
	if _, err := d.g.labels.learn(lease, r.Node, r); err != nil {
		return netip.Addr{}, err
	}
	return lease.Addr(), nil
}

// node says which node asks, of those that probe.
func (d *gatewayDNS) node(from netip.Addr) (string, bool) {
	p, ok := d.g.egressOfNode(from)
	if !ok {
		return "", false
	}
	d.g.neighbours.saw(p.Name)
	return p.Name, true
}

func (d *gatewayDNS) peek(name string, v6 bool) (netip.Addr, bool) {
	lease, ok := d.g.labels.table.Peek(name, v6)
	if !ok {
		return netip.Addr{}, false
	}
	return lease.Addr(), true
}

func (d *gatewayDNS) ptr(a netip.Addr) (name string, pool, ok bool) {
	if !within(d.g.set.Pool, a) {
		return "", false, false
	}
	lease, ok := d.g.labels.table.ByAddr(a)
	if !ok {
		return "", true, false
	}
	return lease.Name(), true, true
}
