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
// connector_flows.go. What gateway and egress share stands in labels.go (leases
// and the next hop's labels), neighbours.go (which links answer) and rules.go
// (the policy in force, and reloading it).
package node

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync/atomic"
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
	set        *configs.Gateway
	near       Surroundings
	log        *slog.Logger
	trunk      trunk
	labels     *labels
	store      *state.Store
	shared     *Shared
	rules      *rules
	neighbours *neighbours
	postures   *postures
	records    *records
	dns        *gatewayDNS
	worker     *worker

	started time.Time
	moved   atomic.Uint64 // policy and links: every flow is judged again when it moves
}

// NewGateway checks and makes a gateway. load reads its policy and devices,
// now and whenever they change.
func NewGateway(set *configs.Gateway, key link.PrivateKey, load func() (*Loaded, error), near Surroundings) (*Gateway, error) {
	near.fill()
	g := &Gateway{set: set, near: near, log: near.Log.With("node", set.Name), store: state.New(), worker: newWorker(), started: time.Now()}
	if err := ensureDir(set.StateDir); err != nil {
		return nil, err
	}
	var err error
	if g.records, err = newRecords(g.log, near.Metrics); err != nil {
		return nil, err
	}
	g.neighbours = newNeighbours(g.store, g.log, g.linkChanged, g.linkLost)
	for _, e := range set.Egresses {
		g.neighbours.add(e.Name, "egress", false)
	}
	g.postures = newPostures(g)
	if err := g.makeLink(key); err != nil {
		return nil, err
	}
	if err := g.makeLabels(); err != nil {
		return nil, err
	}
	if g.rules, err = newRules(load, g.apply, g.reloaded, g.log, near.Metrics); err != nil {
		return nil, err
	}
	if g.dns, err = newGatewayDNS(g); err != nil {
		return nil, err
	}
	m := &metrics{leases: g.labels.table, store: g.store, rules: g.rules}
	return g, m.register(near.Metrics, g.dns.server)
}

func (g *Gateway) makeLink(key link.PrivateKey) error {
	v4, v6 := split(g.set.Address)
	g.trunk.sw = tunnel.New(tunnel.Config{
		MTU: g.set.MTU, Node4: v4, Node6: v6,
		Classify: g.classify, Judge: g.judge, Emit: g.trunk.emit, Ended: g.records.flow,
		KeepRouter: g.isNode, Metrics: g.near.Metrics,
	})
	return g.trunk.addWire(&g.near, g.set.MTU, link.Config{
		Key: key, Listen: g.set.WireGuard.Listen,
		EndpointsFile: filepath.Join(g.set.StateDir, "endpoints.json"),
	})
}

func (g *Gateway) makeLabels() error {
	v4, v6 := splitPrefixes(g.set.Pool)
	table, err := steer.Open(steer.Config{
		Path: filepath.Join(g.set.StateDir, "leases"), V4: v4, V6: v6,
		Keep: keepGateway, Quarantine: quarantine, Log: g.log,
	})
	if err != nil {
		return err
	}
	g.labels = newLabels(table, g.started, g.worker)
	g.labels.ask, g.labels.wake, g.labels.voided = g.askNode, g.trunk.sw.Wake, func() { g.moved.Add(1) }
	return nil
}

// apply puts devices in force: in the tables, and as peers of the link.
func (g *Gateway) apply(l *Loaded) error {
	gone := g.missing(l.Devices)
	if err := g.store.Update(func(tx state.Tx) error { return tx.ReplaceDevices(l.Devices) }); err != nil {
		return err
	}
	g.postures.forget(gone)
	return g.trunk.wires[0].dev.SetPeers(g.peers(l.Devices))
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
	g.moved.Add(1)
	g.postures.judgeAll()
	g.postures.sync()
	g.trunk.sw.Rejudge(func(*tunnel.Info) bool { return true })
}

// devicesChanged cuts what a device may no longer have, unasked: its flows are
// judged again now and not at their next packet.
func (g *Gateway) devicesChanged(ids []device.ID) {
	g.postures.sync()
	g.trunk.sw.Rejudge(func(i *tunnel.Info) bool { return slices.Contains(ids, device.ID(i.Device)) })
}

func (g *Gateway) linkChanged(string, bool) { g.moved.Add(1) }

// linkLost ends the flows of an egress that does not come back.
func (g *Gateway) linkLost(name string) {
	g.trunk.sw.Cut(func(i *tunnel.Info) bool { return i.Far == name }, tunnel.CloseLinkDown)
}

// LinkPort returns the UDP port at which devices and nodes dial this one.
func (g *Gateway) LinkPort() uint16 { return g.trunk.wires[0].dev.LocalPort() }

// Run serves until ctx is done.
func (g *Gateway) Run(ctx context.Context) error {
	if err := g.trunk.startLocal(&g.near, g.set.Address, g.set.MTU); err != nil {
		return err
	}
	defer g.trunk.local.Close()
	defer g.labels.table.Close()
	if err := g.openShared(ctx); err != nil {
		return err
	}
	defer g.shared.Close()
	if err := g.shared.countRefused(g.near.Metrics); err != nil {
		return err
	}
	undo, err := g.openLAN()
	if err != nil {
		return err
	}
	defer undo()
	g.store.Changed = g.devicesChanged
	dns, err := g.dns.tasks()
	if err != nil {
		return err
	}
	posture, err := g.postures.tasks()
	if err != nil {
		return err
	}
	tasks := slices.Concat(g.trunk.tasks(), g.probers(), dns, posture, []lifecycle.Task{
		{Name: "errands", Run: g.worker.Run},
		{Name: "leases", Run: g.labels.table.Run},
		{Name: "state", Run: g.store.Run},
		{Name: "neighbours", Run: g.neighbours.Run},
		{Name: "reload", Run: g.rules.Run},
		{Name: "control", Run: g.serveControl},
		{Name: "metrics", Run: func(ctx context.Context) error { return serveMetrics(ctx, g.set.Metrics, &g.near) }},
	})
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
	if within(g.set.Pool, a) || within(g.set.Slice, a) || g.isNode(a) {
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

// egressFor returns the first egress of the route that answers.
func (g *Gateway) egressFor(route string) (string, bool) {
	for _, name := range routeNamed(g.set.Routes, route) {
		if g.neighbours.up(name) {
			return name, true
		}
	}
	return "", false
}

var errUnknownNode = errors.New("no such neighbour")
