package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/resolver/local"
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
	who     *identifier
	outside *outside
	queries *queries
	certs   *listen.Certificates // nil: nothing is encrypted
	names   atomic.Pointer[local.Table]
	page    *blockPage
}

// quickShare is which part of the cache's bytes answers take that are given
// again without deciding.
const quickShare = 2

func newGatewayDNS(g *Gateway) (*gatewayDNS, error) {
	set := &g.set.DNS
	d := &gatewayDNS{g: g}
	below := set.Cache
	below.Size -= below.Size / quickShare
	var err error
	if d.outside, err = newOutside(g.set.Upstreams, below, &g.near); err != nil {
		return nil, err
	}
	if d.who, err = g.newIdentifier(); err != nil {
		return nil, err
	}
	if d.queries, err = newQueries(g); err != nil {
		return nil, err
	}
	if err := d.readNames(); err != nil {
		return nil, err
	}
	d.page = newBlockPage(set.BlockPage, g.log)
	d.handler = d.makeHandler()
	if set.Cache.Size > 0 {
		d.handler.Quick = resolver.NewQuick(int(set.Cache.Size / quickShare))
	}
	d.server = &listen.Server{Handle: d.handler.Handle, Fast: d.handler.Fast, Soon: d.handler.Soon, Log: g.log, Limits: limits(set.Limits)}
	if d.server.Guard, err = newGuard(set); err != nil {
		return nil, err
	}
	return d, d.loadCertificates()
}

func (d *gatewayDNS) makeHandler() *resolver.Gateway {
	g, set := d.g, &d.g.set.DNS
	h := &resolver.Gateway{
		Name:      g.set.Name,
		Identify:  d.who.identify,
		Moment:    g.moment,
		Epoch:     func() uint64 { return g.moved.Load() + 1 },
		Node:      d.node,
		Version:   g.near.Version,
		Policy:    g.rules.now,
		Local:     d.local,
		Upstream:  d.outside.ask,
		Kept:      d.outside.kept,
		Keeps:     d.outside.keeps,
		Renew:     d.outside.again,
		Ask:       d.ask,
		Lease:     d.lease,
		Forbidden: g.forbidden,
		Private:   newRebinding(set.Rebinding, g.set.Upstreams).refuses,
		Page:      set.BlockPage.Address,
		PTR:       d.ptr,
		Peek:      d.peek,
		Journal:   g.labels.table.Journal,
		Explain:   g.explainLines,
		Says:      map[string]string{},
		Tally:     g.records.decisions.of,
		Record:    d.queries.record,
		Repeat:    d.queries.repeat(),

		Unrecorded: d.queries.unrecorded,
	}
	if len(set.Forwarders) > 0 {
		h.Forwarder = d.who.forwarders.Contains
	}
	for _, name := range []string{"version.bind", "version.server"} {
		h.Says[name] = set.Chaos.Version
	}
	for _, name := range []string{"hostname.bind", "id.server"} {
		h.Says[name] = set.Chaos.Hostname
	}
	return h
}

// tasks opens the listeners: the node's own address on the link, and those on
// the machine's. Besides it returns what runs behind them.
func (d *gatewayDNS) tasks() ([]lifecycle.Task, error) {
	tasks, err := d.g.trunk.serveDNS(d.server, d.g.set.Address)
	if err != nil {
		return nil, err
	}
	outside, err := d.listenOutside()
	if err != nil {
		return nil, err
	}
	tasks = append(append(tasks, outside...), d.outside.tasks()...)
	tasks = append(tasks, lifecycle.Task{Name: "query log", Run: d.queries.Run})
	guard := &d.server.Guard
	if guard.Load != nil {
		tasks = append(tasks, lifecycle.Task{Name: "load", Run: guard.Load.Run})
	}
	if guard.Cookies != nil && d.g.set.DNS.Cookies.SecretFile == "" {
		tasks = append(tasks, lifecycle.Task{Name: "cookies", Run: guard.Cookies.Run})
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

func dnsTasks(s *listen.Server, pc net.PacketConn, l net.Listener, name string) []lifecycle.Task {
	return []lifecycle.Task{
		{Name: "dns udp " + name, Run: func(ctx context.Context) error { return s.ServeUDP(ctx, pc, name) }},
		{Name: "dns tcp " + name, Run: func(ctx context.Context) error { return s.ServeTCP(ctx, l, name) }},
	}
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

func (d *gatewayDNS) local(name string, qtype uint16) (local.Answer, bool) {
	return d.names.Load().Lookup(name, qtype)
}

// readNames reads zones and hosts files. After a mistake those before stay.
func (d *gatewayDNS) readNames() error {
	t, err := d.g.localNames()
	if err == nil {
		d.names.Store(t)
	}
	return err
}

// reloaded reads anew what is no part of the policy and yet follows it.
func (d *gatewayDNS) reloaded() {
	quick := d.handler.Quick
	if quick != nil {
		quick.Leave(d.g.rules.now())
	}
	if err := d.readNames(); err != nil {
		d.g.log.Error("zones and hosts files were not read anew; those before stay", "err", err)
		return
	}
	if set := &d.g.set.DNS.Local; quick != nil && len(set.Zones)+len(set.Hosts) > 0 {
		quick.Clear()
	}
}

// flush forgets answers: those of a name, with suffix of all under it too, or
// all if there is none.
func (d *gatewayDNS) flush(name string, suffix bool) (int, error) {
	forget, err := under(name, suffix)
	if err != nil {
		return 0, err
	}
	n := d.outside.cache.Flush(forget)
	if d.handler.Quick != nil {
		n += d.handler.Quick.Flush(forget)
	}
	return n, nil
}
