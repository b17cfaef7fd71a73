// Package node joins the rooms of the house into the three programs that run:
// gateway, egress and connector.
//
// Each is one WireGuard device (a connector has one for each egress), a label
// switch ([tunnel.Switch]) behind it, and a small network stack on the node's
// own address for what the node itself offers: DNS, and at a gateway the
// posture API and the directory. Constructors check and start nothing;
// Run starts everything and leaves nothing behind.
//
// The way of a query is in gateway_dns.go, egress_dns.go and connector_dns.go,
// the way of a flow in gateway_flows.go, egress_flows.go and
// connector_flows.go. What gateway and egress share stands in steering.go (how
// a flow is decided and finds its way), labels.go (leases and the next hop's
// labels), neighbours.go (which links answer) and rules.go (the policy in
// force, and reloading it).
package node

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/state"
	"github.com/starferry/starferry/steer"
	"github.com/starferry/starferry/tunnel"
	"github.com/starferry/starferry/tunnel/link"
)

// How long leases live after their last answer or packet, and rest before
// their address serves another name: browsers and JVMs keep addresses for
// hours, and a lease further down the chain must outlive those above it.
const (
	keepGateway   = 72 * time.Hour
	keepEgress    = 96 * time.Hour
	keepConnector = 120 * time.Hour
	quarantine    = time.Hour
)

// A Gateway is the node that devices ask, and whose virtual addresses they send to.
type Gateway struct {
	*steering
	set      *configs.Gateway
	shared   *Shared
	postures *postures
	dns      *gatewayDNS

	bindings   bindings
	handshakes handshakes
}

// NewGateway checks and makes a gateway. load reads its policy and devices once
// it listens, and whenever they change.
func NewGateway(set *configs.Gateway, key link.PrivateKey, load func() (*Loaded, error), near Surroundings) (*Gateway, error) {
	g := &Gateway{set: set}
	var err error
	if g.steering, err = newSteering(&set.Node, set.Routes, near, g.linkLost); err != nil {
		return nil, err
	}
	for _, e := range set.Egresses {
		g.neighbours.add(e.Name, "egress", false)
	}
	g.postures = newPostures(g)
	err = g.makeLink(&set.Node, key, tunnel.Config{Classify: g.classify, Judge: g.judge, KeepRouter: g.isNode})
	if err != nil {
		return nil, err
	}
	if err := g.makeLabels(&set.Node, steer.Config{Keep: keepGateway}, set.Egresses, g.askNode); err != nil {
		return nil, err
	}
	if g.rules, err = makeRules(load, g.apply, g.reloaded, g.log, &g.near); err != nil {
		return nil, err
	}
	if g.dns, err = newGatewayDNS(g); err != nil {
		return nil, err
	}
	g.rules.tells.recent = g.dns.queries.recent
	m := &metrics{leases: g.labels.table, store: g.store, rules: g.rules, outside: g.dns.outside, gateway: g.dns}
	return g, m.register(g.near.Metrics, g.dns.server)
}

// apply puts devices in force, in the tables and as peers of the link, or
// neither.
func (g *Gateway) apply(l *Loaded) error {
	before, gone := slices.Collect(g.store.View().Devices()), g.missing(l.Devices)
	put := func(devices []*device.Device) error {
		return g.store.Update(func(tx state.Tx) error { return tx.ReplaceDevices(devices) })
	}
	if err := put(l.Devices); err != nil {
		return err
	}
	if err := g.trunk.wires[0].dev.SetPeers(g.peers(l.Devices)); err != nil {
		return errors.Join(err, put(before))
	}
	g.postures.forget(gone)
	return nil
}

// peers lists who may speak over the link and with which sources: a device with
// its own addresses, an egress with its labels and its node address (and those
// of the nodes behind it, which send ICMP errors).
func (g *Gateway) peers(devices []*device.Device) []link.Peer {
	var peers []link.Peer
	for _, d := range devices {
		if !d.Key.IsZero() {
			peers = append(peers, link.Peer{Name: string(d.ID), Key: d.Key, AllowedIPs: d.Overlay})
		}
	}
	for _, e := range g.set.Egresses {
		allowed := slices.Concat(e.Pool, singles(e.Address), e.Nodes)
		peers = append(peers, link.Peer{Name: e.Name, Key: e.PublicKey, Endpoint: e.Endpoint, AllowedIPs: allowed, Keepalive: keepalive})
	}
	return peers
}

// keepalive is sent by the dialing side only: two sides doing it collide.
const keepalive = 20 * time.Second

// reloaded has everything judged again under the new policy.
func (g *Gateway) reloaded() {
	g.dns.reopen()
	g.dns.reloaded()
	g.postures.judgeAll()
	g.postures.sync()
	g.judgeAll()
}

// devicesChanged tells the egresses, and cuts what a device may no longer have.
func (g *Gateway) devicesChanged(ids []device.ID) {
	g.postures.sync()
	g.judgeDevices(ids)
}

// linkLost ends the flows of an egress that does not come back.
func (g *Gateway) linkLost(name string) { g.cutFar(name) }

// Run serves until ctx is done. It listens at once; until the policy is loaded
// all questions are answered SERVFAIL, and nothing else is done for anybody.
func (g *Gateway) Run(ctx context.Context) error {
	if err := g.trunk.startLocal(&g.near, g.set.Address, g.set.MTU); err != nil {
		return err
	}
	defer g.rules.catch()()
	defer g.trunk.local.Close()
	defer g.labels.table.Close()
	dns, err := g.dns.tasks()
	if err != nil {
		return err
	}
	g.trunk.listening.opened(dns)
	g.store.Changed = g.devicesChanged
	undo := func() {}
	defer func() { undo() }()
	return lifecycle.Run(ctx, append(dns, []lifecycle.Task{
		{Name: "control", Run: g.serveControl},
		{Name: "metrics", Run: func(ctx context.Context) error { return serveMetrics(ctx, g.set.Metrics, &g.near, g.unready) }},
		{Name: "gateway", Run: func(ctx context.Context) (err error) {
			undo, err = g.prepare(ctx)
			switch {
			case ctx.Err() != nil: // what else went wrong comes of that
				return nil
			case err != nil:
				return err
			}
			return g.serve(ctx)
		}},
	}...)...)
}

// prepare loads all that is decided by, and opens what is not there for
// questions alone. What it returns undoes that, also after an error.
func (g *Gateway) prepare(ctx context.Context) (undo func(), err error) {
	var all []func()
	undo = func() {
		for _, f := range slices.Backward(all) {
			f()
		}
	}
	if err := g.openShared(ctx); err != nil {
		return undo, err
	}
	all = append(all, func() { g.shared.Close() })
	if err := g.shared.countRefused(g.near.Metrics); err != nil {
		return undo, err
	}
	down, err := g.openLAN()
	if err != nil {
		return undo, err
	}
	all = append(all, down)
	return undo, g.rules.first() // last: from then on questions are decided
}

// serve does all but answer questions.
func (g *Gateway) serve(ctx context.Context) error {
	posture, err := g.postures.tasks()
	if err != nil {
		return err
	}
	tasks := slices.Concat(g.tasks(), g.probers(), posture)
	if lan := g.trunk.lanTask; lan != nil {
		tasks = append(tasks, *lan)
	}
	g.log.Info("gateway", "address", g.set.Address, "policy", g.rules.now().Version())
	return lifecycle.Run(ctx, tasks...)
}

func (g *Gateway) isOwn(a netip.Addr) bool { return slices.Contains(g.set.Address, a) }

func (g *Gateway) egressOfNode(a netip.Addr) (*configs.Peer, bool) {
	return peerWhere(g.set.Egresses, func(p *configs.Peer) bool { return slices.Contains(p.Address, a) })
}

func (g *Gateway) egressOfLabel(a netip.Addr) (*configs.Peer, bool) {
	return peerWhere(g.set.Egresses, func(p *configs.Peer) bool { return within(p.Pool, a) })
}

// isNode reports whether an address belongs to a node of the fleet, whose ICMP
// errors are shown as they are: that is what makes traceroute tell the way.
func (g *Gateway) isNode(a netip.Addr) bool {
	_, ok := peerWhere(g.set.Egresses, func(p *configs.Peer) bool { return slices.Contains(p.Address, a) || within(p.Nodes, a) })
	return ok
}

// forbidden are addresses that no answer from outside may hold: whoever could
// smuggle one in would speak with the fleet's own voice (rebinding).
func (g *Gateway) forbidden(a netip.Addr) bool {
	if within(g.set.Pool, a) || within(g.set.Slice, a) || g.isOwn(a) || g.isNode(a) {
		return true
	}
	_, ok := g.egressOfLabel(a)
	return ok
}

func peerWhere(peers []configs.Peer, is func(*configs.Peer) bool) (*configs.Peer, bool) {
	for i := range peers {
		if is(&peers[i]) {
			return &peers[i], true
		}
	}
	return nil, false
}

func routeNamed(routes []configs.Route, name string) []string {
	for _, r := range routes {
		if r.Name == name {
			return r.Via
		}
	}
	return nil
}

var errUnknownNode = errors.New("no such neighbour")
