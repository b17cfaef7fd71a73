package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/state"
	"github.com/starferry/starferry/steer"
	"github.com/starferry/starferry/tunnel"
	"github.com/starferry/starferry/tunnel/link"
)

// An Egress is the node at which gateways' traffic is decided a second time
// before it goes to the connectors that dial in.
type Egress struct {
	*steering
	set   *configs.Egress
	dns   *egressDNS
	feeds *feeds
	runs  sync.Map // connector -> run, a uint64
}

// NewEgress checks and makes an egress. load reads its policy, now and
// whenever it changes.
func NewEgress(set *configs.Egress, key link.PrivateKey, load func() (*Loaded, error), near Surroundings) (*Egress, error) {
	e := &Egress{set: set, feeds: &feeds{told: map[string]feedStatus{}}}
	var err error
	if e.steering, err = newSteering(&set.Node, set.Routes, near, e.linkLost); err != nil {
		return nil, err
	}
	for _, p := range set.Gateways {
		e.neighbours.add(p.Name, "gateway", p.Endpoint == "")
	}
	for _, p := range set.Connectors {
		e.neighbours.add(p.Name, "connector", p.Endpoint == "")
	}
	err = e.makeLink(&set.Node, key, tunnel.Config{Classify: e.classify, Judge: e.judge, KeepRouter: e.isNode})
	if err != nil {
		return nil, err
	}
	if err := e.trunk.wires[0].dev.SetPeers(e.peers()); err != nil {
		return nil, err
	}
	// No budget here: gateways hold devices to theirs.
	if err := e.makeLabels(&set.Node, steer.Config{Keep: keepEgress, Budget: -1}, set.Connectors, e.askConnector); err != nil {
		return nil, err
	}
	if e.rules, err = newRules(load, func(*Loaded) error { return nil }, e.judgeAll, e.log, &e.near); err != nil {
		return nil, err
	}
	e.dns = newEgressDNS(e)
	m := &metrics{leases: e.labels.table, store: e.store, rules: e.rules, gateways: set.Gateways, feeds: e.feeds}
	return e, m.register(e.near.Metrics, e.dns.server)
}

// peers lists who may speak over the link: a gateway with the sources of its
// slice, a connector with its labels, each with its node address.
func (e *Egress) peers() []link.Peer {
	var peers []link.Peer
	for _, g := range e.set.Gateways {
		peers = append(peers, dialed(g, slices.Concat(g.Slice, singles(g.Address))))
	}
	for _, c := range e.set.Connectors {
		peers = append(peers, dialed(c, slices.Concat(c.Pool, singles(c.Address))))
	}
	return peers
}

// dialed makes a peer of the link; it is kept alive from here if we dial it.
func dialed(p configs.Peer, allowed []netip.Prefix) link.Peer {
	out := link.Peer{Name: p.Name, Key: p.PublicKey, Endpoint: p.Endpoint, AllowedIPs: allowed}
	if p.Endpoint != "" {
		out.Keepalive = keepalive
	}
	return out
}

// linkLost ends the flows of a connector that does not come back: a device that
// opens them again gets another.
func (e *Egress) linkLost(name string) {
	if !e.isGateway(name) {
		e.cutFar(name)
	}
}

// Run serves until ctx is done.
func (e *Egress) Run(ctx context.Context) error {
	if err := e.trunk.startLocal(&e.near, e.set.Address, e.set.MTU); err != nil {
		return err
	}
	defer e.trunk.local.Close()
	defer e.labels.table.Close()
	e.store.Changed = e.judgeDevices
	defer e.dns.handler.Wait()
	dns, err := e.trunk.serveDNS(e.dns.server, e.set.Address)
	if err != nil {
		return err
	}
	e.trunk.listening.opened(dns)
	tasks := slices.Concat(e.tasks(), dns, e.followers(), e.probers(), []lifecycle.Task{
		{Name: "control", Run: e.serveControl},
		{Name: "metrics", Run: func(ctx context.Context) error { return serveMetrics(ctx, e.set.Metrics, &e.near, e.unready) }},
	})
	e.log.Info("egress", "address", e.set.Address, "policy", e.rules.now().Version())
	return lifecycle.Run(ctx, tasks...)
}

// followers follow the directory of each gateway.
func (e *Egress) followers() (tasks []lifecycle.Task) {
	for _, g := range e.set.Gateways {
		tasks = append(tasks, lifecycle.Task{Name: "directory of " + g.Name, Run: func(ctx context.Context) error {
			return state.FollowDirectory(ctx, state.FollowConfig{
				Egress: e.set.Name, Slice: g.Slice,
				Dial: func(ctx context.Context) (net.Conn, error) {
					return e.trunk.local.DialContext(ctx, "tcp", netip.AddrPortFrom(g.Address[0], directoryAPI))
				},
				Apply:  func(rows []state.DirectoryRow) { e.follow(g.Name, rows) },
				Health: func(up bool, reason string) { e.feeds.health(g.Name, up, reason) },
				Skew:   func(d time.Duration) { e.feeds.skew(g.Name, d) },
				Log:    e.log.With("gateway", g.Name),
			})
		}})
	}
	return tasks
}

// follow takes over what a gateway says of its devices.
func (e *Egress) follow(gateway string, rows []state.DirectoryRow) {
	if err := e.store.Update(func(tx state.Tx) error { return tx.ReplaceDirectoryOf(gateway, rows) }); err != nil {
		e.log.Error("taking over a directory", "gateway", gateway, "err", err)
	}
}

// feeds holds how each gateway's directory is being followed.
type feeds struct {
	mu   sync.Mutex
	told map[string]feedStatus
}

type feedStatus struct {
	up     bool
	reason string
	skew   time.Duration
	timed  bool // skew is known
}

// of returns how the directory of a gateway is being followed.
func (f *feeds) of(gateway string) feedStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.told[gateway]
}

func (f *feeds) health(gateway string, up bool, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.told[gateway]
	s.up, s.reason = up, reason
	f.told[gateway] = s
}

func (f *feeds) skew(gateway string, d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.told[gateway]
	s.skew, s.timed = d, true
	f.told[gateway] = s
}

// maxSkew is from where on clocks that differ are worth a warning: expiry is
// judged by each node's own.
const maxSkew = time.Second

// warnings says what is wrong with the directories.
func (f *feeds) warnings() (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for gateway, s := range f.told {
		if !s.up {
			out = append(out, fmt.Sprintf("the directory of %s is not followed: %s", gateway, s.reason))
		}
		if s.skew.Abs() > maxSkew {
			out = append(out, fmt.Sprintf("the clock differs from that of %s by %v: set both by NTP", gateway, s.skew.Round(time.Millisecond)))
		}
	}
	slices.Sort(out)
	return out
}

func (e *Egress) isOwn(a netip.Addr) bool { return slices.Contains(e.set.Address, a) }

func (e *Egress) isNode(a netip.Addr) bool {
	_, ok := peerWhere(e.set.Connectors, func(p *configs.Peer) bool { return slices.Contains(p.Address, a) })
	return ok
}

func (e *Egress) inSlices(a netip.Addr) bool {
	_, ok := peerWhere(e.set.Gateways, func(p *configs.Peer) bool { return within(p.Slice, a) })
	return ok
}

func (e *Egress) connectorOfLabel(a netip.Addr) (string, bool) {
	p, ok := peerWhere(e.set.Connectors, func(p *configs.Peer) bool { return within(p.Pool, a) })
	if !ok {
		return "", false
	}
	return p.Name, true
}

func (e *Egress) isGateway(name string) bool {
	_, ok := peerWhere(e.set.Gateways, nameIs(name))
	return ok
}

// neighbourOf returns the node that has the address.
func (e *Egress) neighbourOf(a netip.Addr) (string, bool) {
	has := func(p *configs.Peer) bool { return slices.Contains(p.Address, a) }
	if p, ok := peerWhere(e.set.Gateways, has); ok {
		return p.Name, true
	}
	if p, ok := peerWhere(e.set.Connectors, has); ok {
		return p.Name, true
	}
	return "", false
}
