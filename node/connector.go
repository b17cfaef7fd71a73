package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/state"
	"github.com/starferry/starferry/steer"
	"github.com/starferry/starferry/tunnel"
	"github.com/starferry/starferry/tunnel/link"
)

// A Connector is the node in the mainland: it dials out to egresses, asks the
// resolver there, and lets flows out to the origins with its own address as
// source. It is not trusted, and told nothing about devices.
type Connector struct {
	set        *configs.Connector
	near       Surroundings
	log        *slog.Logger
	trunk      trunk
	table      *steer.Table
	store      *state.Store
	neighbours *neighbours
	records    *records
	dns        *connectorDNS
	worker     *worker
	pins       pins
	asking     asking
	pingless   string // why origins cannot be pinged

	started time.Time
	moved   atomic.Uint64 // never moves: a connector has no policy
}

// NewConnector checks and makes a connector.
func NewConnector(set *configs.Connector, key link.PrivateKey, near Surroundings) (*Connector, error) {
	near.fill()
	c := &Connector{set: set, near: near, log: near.Log.With("node", set.Name), store: state.New(), worker: newWorker(), started: time.Now()}
	if err := ensureDir(set.StateDir); err != nil {
		return nil, err
	}
	var err error
	if c.records, err = newRecords(c.log, near.Metrics); err != nil {
		return nil, err
	}
	c.neighbours = newNeighbours(c.store, c.log, func(string, bool) {}, func(string) {})
	for _, e := range set.Egresses {
		c.neighbours.add(e.Name, "egress", false)
	}
	if err := c.makeLinks(key); err != nil {
		return nil, err
	}
	v4, v6 := splitPrefixes(set.Pool)
	c.table, err = steer.Open(steer.Config{
		Path: filepath.Join(set.StateDir, "leases"), V4: v4, V6: v6,
		Keep: keepConnector, Quarantine: quarantine, Log: c.log, Budget: -1,
	})
	if err != nil {
		return nil, err
	}
	if c.dns, err = newConnectorDNS(c); err != nil {
		return nil, err
	}
	m := &metrics{leases: c.table, store: c.store, outside: c.dns.outside}
	return c, m.register(near.Metrics, c.dns.server)
}

// makeLinks makes one WireGuard device for each egress: both carry the same
// device sources, which one device could allow one peer only.
func (c *Connector) makeLinks(key link.PrivateKey) error {
	v4, v6 := split(c.set.Address)
	c.trunk.sw = tunnel.New(tunnel.Config{
		MTU: c.set.MTU, Node4: v4, Node6: v6,
		Classify: c.classify, Judge: c.judge, Emit: c.trunk.emit, Ended: c.records.flow,
		ServiceSide: c.sideOf, Metrics: c.near.Metrics,
	})
	for _, e := range c.set.Egresses {
		err := c.trunk.addWire(&c.near, c.set.MTU, link.Config{
			Key: key, Listen: c.set.WireGuard.Listen,
			EndpointsFile: filepath.Join(c.set.StateDir, "endpoint-"+e.Name+".json"),
		})
		if err != nil {
			return err
		}
		last := c.trunk.wires[len(c.trunk.wires)-1]
		peer := dialed(e, slices.Concat(c.set.Slices, singles(e.Address)))
		if err := last.dev.SetPeers([]link.Peer{peer}); err != nil {
			return err
		}
	}
	return nil
}

// sideOf returns the link behind which an egress is.
func (c *Connector) sideOf(a netip.Addr) tunnel.Side {
	for i, e := range c.set.Egresses {
		if slices.Contains(e.Address, a) {
			return tunnel.LinkSide(i)
		}
	}
	return tunnel.Link
}

// Run serves until ctx is done.
func (c *Connector) Run(ctx context.Context) error {
	if err := c.trunk.startLocal(&c.near, c.set.Address, c.set.MTU); err != nil {
		return err
	}
	defer c.trunk.local.Close()
	defer c.table.Close()
	undo, err := c.openMainland()
	if err != nil {
		return err
	}
	defer undo()
	dns, err := c.trunk.serveDNS(c.dns.server, c.set.Address)
	if err != nil {
		return err
	}
	c.trunk.listening.opened(dns)
	tasks := slices.Concat(c.trunk.tasks(), dns, c.dns.outside.tasks(), c.probers(), []lifecycle.Task{
		{Name: "errands", Run: c.worker.Run},
		{Name: "leases", Run: c.table.Run},
		{Name: "neighbours", Run: c.neighbours.Run},
		{Name: "control", Run: c.serveControl},
		{Name: "signals", Run: c.outliveHangups},
		{Name: "metrics", Run: func(ctx context.Context) error { return serveMetrics(ctx, c.set.Metrics, &c.near, c.unready) }},
	})
	if lan := c.trunk.lanTask; lan != nil {
		tasks = append(tasks, *lan)
	}
	c.log.Info("connector", "address", c.set.Address)
	return lifecycle.Run(ctx, tasks...)
}

// outliveHangups keeps SIGHUP, which makes gateway and egress reload and would
// end this process by default, from doing anything here.
func (c *Connector) outliveHangups(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
			c.log.Info("SIGHUP: a connector has nothing to reload; a changed file takes effect at the next start")
		}
	}
}

func (c *Connector) isOwn(a netip.Addr) bool { return slices.Contains(c.set.Address, a) }

func (c *Connector) egressOf(a netip.Addr) (string, bool) {
	p, ok := peerWhere(c.set.Egresses, func(p *configs.Peer) bool { return slices.Contains(p.Address, a) })
	if !ok {
		return "", false
	}
	return p.Name, true
}

// believe refuses addresses that no origin in the mainland can have: those of
// the fleet itself, those that lead back into the connector's own network
// or to the machine itself unless its settings allow them, and those known to
// be forged.
func (c *Connector) believe(a netip.Addr) error {
	a = a.Unmap()
	_, egress := c.egressOf(a)
	switch {
	case within(c.set.Poison, a):
		return fmt.Errorf("%v is listed as poison", a)
	case within(c.set.Slices, a) || within(c.set.Pool, a) || c.isOwn(a) || egress:
		return fmt.Errorf("%v is an address of the fleet", a)
	case within(c.set.AllowPrivate, a):
		return nil
	case !a.IsGlobalUnicast() || a.IsPrivate() || within(neverOrigins, a):
		return fmt.Errorf("%v is no public address; allow_private may allow it", a)
	case ofThisMachine(a):
		return fmt.Errorf("%v is an address of this machine; allow_private may allow it", a)
	default:
		return nil
	}
}

// ofThisMachine reports whether an address is one of the machine's own, under
// which its other services answer. It is not known beforehand: addresses of
// machines in the mainland change.
func ofThisMachine(a netip.Addr) bool {
	own, err := net.InterfaceAddrs()
	return err != nil || slices.ContainsFunc(own, func(at net.Addr) bool {
		p, err := netip.ParsePrefix(at.String())
		return err == nil && p.Addr().Unmap() == a
	})
}

// neverOrigins are ranges that net/netip has no word for: shared address space
// (RFC 6598), this network (RFC 791), benchmarking v4 (RFC 2544), reserved
// (RFC 1112), site-local (RFC 3879) and the prefixes that embed IPv4 (RFC 4291,
// RFC 6052, RFC 8215, RFC 3056, RFC 4380).
var neverOrigins = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/32"),
	netip.MustParsePrefix("fec0::/10"),
}
