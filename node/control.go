package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/state"
	"github.com/starferry/starferry/steer"
	"github.com/starferry/starferry/tunnel"
	"github.com/starferry/starferry/tunnel/link"
)

func (g *Gateway) serveControl(ctx context.Context) error {
	return serveSocket(ctx, g.set.Control, control.Handlers{
		Status: g.Status, Explain: g.explain, Log: g.log,
		Reload: g.reload,
		Flush:  g.dns.flush,
		// Work that a question leaves behind outlives who asked.
		Query: func(_ context.Context, q control.Question) (string, error) { return g.query(ctx, q) },
	})
}

// reload answers `starferry reload`. Log files that were renamed are let go of
// also if the new policy is refused: a mistake in one must not fill the other's
// disk.
func (g *Gateway) reload(ctx context.Context) (*control.Reloaded, error) {
	done, err := g.rules.reloadAndTell(ctx)
	if err != nil {
		g.dns.reopen()
	}
	return done, err
}

func (e *Egress) serveControl(ctx context.Context) error {
	return serveSocket(ctx, e.set.Control, control.Handlers{
		Status: e.Status, Explain: e.explain, Log: e.log,
		Reload: e.rules.reloadAndTell,
	})
}

func (c *Connector) serveControl(ctx context.Context) error {
	return serveSocket(ctx, c.set.Control, control.Handlers{Status: c.Status, Log: c.log, Flush: c.dns.outside.flush})
}

func serveSocket(ctx context.Context, path string, h control.Handlers) error {
	if path == "" {
		<-ctx.Done()
		return nil
	}
	return control.Serve(ctx, path, h)
}

// Status says how the gateway is.
func (g *Gateway) Status() *control.Status {
	s := g.trunk.status(g.store, g.started)
	s.Name, s.Role, s.Version = g.set.Name, "gateway", g.near.Version
	s.Policy.Version, s.Policy.LoadedAt, s.Policy.Error = g.rules.status()
	s.Leases = leases(g.labels.table)
	s.DNS, s.NotReady = g.dns.status(), g.unready()
	s.Lists = g.near.Lists.status()
	if p := g.rules.now(); p != nil {
		s.Warnings = append(s.Warnings, p.Warnings()...)
	}
	return s
}

// Status says how the egress is.
func (e *Egress) Status() *control.Status {
	s := e.trunk.status(e.store, e.started)
	s.Name, s.Role, s.Version = e.set.Name, "egress", e.near.Version
	s.Policy.Version, s.Policy.LoadedAt, s.Policy.Error = e.rules.status()
	s.Leases = leases(e.labels.table)
	s.DNS.Listeners, s.NotReady = e.trunk.listening.now(), e.unready()
	s.Lists = e.near.Lists.status()
	s.Warnings = append(e.feeds.warnings(), e.rules.now().Warnings()...)
	return s
}

// Status says how the connector is.
func (c *Connector) Status() *control.Status {
	s := c.trunk.status(c.store, c.started)
	s.Name, s.Role, s.Version = c.set.Name, "connector", c.near.Version
	s.Leases = leases(c.table)
	s.DNS = control.DNS{
		Listeners: c.trunk.listening.now(), Upstreams: c.dns.outside.status(), Caches: []control.Cache{c.dns.outside.cacheStatus()},
	}
	s.NotReady = c.unready()
	if c.pingless != "" {
		s.Warnings = append(s.Warnings, "origins cannot be pinged from here: "+c.pingless)
	}
	return s
}

func leases(t *steer.Table) control.Leases {
	v4, v6 := t.Stats()
	return control.Leases{Used: v4.Used + v6.Used, Size: uint64(v4.Capacity + v6.Capacity)}
}

// status is what all roles tell: links, flows and dropped packets.
func (t *trunk) status(store *state.Store, started time.Time) *control.Status {
	s := &control.Status{Started: started, Flows: len(t.sw.Flows()), Drops: map[string]uint64{}}
	for why, n := range t.sw.Drops() {
		s.Drops[why.String()] = n
	}
	wg := map[string]link.Status{}
	for _, w := range t.wires {
		if n := w.dev.Forged(); n > 0 {
			s.Drops[tunnel.DropForgedSource.String()] += n
		}
		for _, p := range w.dev.Status() {
			wg[p.Name] = p
		}
	}
	for l := range store.View().Links() {
		row := control.Link{Name: l.Name, Role: l.Role, Up: l.Up, Since: l.Since, RTT: l.RTT, Reason: l.Reason}
		withWireGuard(&row, wg[l.Name])
		delete(wg, l.Name)
		s.Links = append(s.Links, row)
	}
	for _, name := range slices.Sorted(maps.Keys(wg)) {
		p := wg[name]
		row := control.Link{Name: name, Role: "device", Since: p.LastHandshake, Up: time.Since(p.LastHandshake) < handshakeFresh}
		withWireGuard(&row, p)
		if p.LastHandshake.IsZero() {
			row.Reason = "no handshake yet"
		}
		s.Links = append(s.Links, row)
	}
	return s
}

// handshakeFresh is how old a handshake with somebody who talks can be.
const handshakeFresh = 3 * time.Minute

func withWireGuard(row *control.Link, p link.Status) {
	row.LastHandshake = p.LastHandshake
	if p.Endpoint.IsValid() {
		row.Endpoint = fmt.Sprint(p.Endpoint)
	}
}
