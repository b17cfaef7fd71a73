package node

import (
	"net/netip"
	"sync"
	"time"

	"github.com/starferry/starferry/steer"
	"github.com/starferry/starferry/tunnel"
)

// classify says what a packet without a flow is. The connector knows neither
// devices nor policy: it takes sources of the configured slices, and lets
// nothing in from the mainland that no flow has asked for.
func (c *Connector) classify(from tunnel.Side, src, dst netip.Addr) (tunnel.Class, tunnel.Drop) {
	if from == tunnel.LAN {
		return tunnel.Stray, tunnel.DropNoFlow
	}
	if _, ok := c.egressOf(src); ok && c.isOwn(dst) {
		return tunnel.Service, 0
	}
	if !within(c.set.Slices, src) {
		return tunnel.Stray, tunnel.DropForgedSource
	}
	if !within(c.set.Pool, dst) {
		return tunnel.Stray, tunnel.DropNotALabel
	}
	return tunnel.Forward, 0
}

// judge finds the origin behind a label. A connection that this node does not
// know, after a restart, is reset: the origin sees another source port.
func (c *Connector) judge(f *tunnel.First) tunnel.Ruling {
	lease, ok := c.table.ByAddr(f.Dst.Addr())
	if !ok {
		return tunnel.Ruling{Why: tunnel.DropNeverLeased}
	}
	path := tunnel.Path{In: f.Side, Src: f.Src.Addr(), Dst: f.Dst.Addr(), Out: tunnel.LAN, NewSrc: f.Src.Addr()}
	r := tunnel.Ruling{Outcome: tunnel.Deny, Why: tunnel.DropNoFlow, Path: path}
	r.Stamps = [2]tunnel.Stamp{stamp(&c.moved), stamp(&c.moved)}
	r.Meta = &tunnel.Meta{Device: f.Src.Addr().String(), Name: lease.Name(), Lease: lease}
	if f.Proto == protoTCP && !f.Syn && f.Path == nil {
		r.Meta.Reason = "the connector has restarted and knows no such connection"
		return r
	}
	if f.Expired {
		r.Outcome = tunnel.Admit
		return r
	}
	origin, ok := c.origin(lease, f.Src.Addr())
	if !ok {
		r.Outcome = tunnel.Wait
		return r
	}
	r.Outcome, r.Path.NewDst, r.Meta.Far = tunnel.Admit, origin, origin.String()
	return r
}

// origin returns the address that a source is to reach behind a label, if it is
// known and fresh; if not, it has the resolver in China asked.
func (c *Connector) origin(lease *steer.Lease, src netip.Addr) (netip.Addr, bool) {
	now := time.Now()
	if a, ok := c.pins.find(src, lease.Addr(), now); ok {
		return a, true
	}
	n, ok := lease.Next(mainland)
	if !ok || n.Asked.Before(c.started) || now.Sub(n.Asked) > labelAge {
		c.resolve(lease)
		return netip.Addr{}, false
	}
	return c.pins.choose(src, lease.Addr(), origins(lease), now)
}

func origins(lease *steer.Lease) []netip.Addr {
	for _, hop := range lease.Facts() {
		return hop.Addrs
	}
	return nil
}

// pinFor is how long a source keeps to one address of an origin that has many.
const pinFor = 10 * time.Minute

// pins keep each (source, label) at one address of the origin, so that a
// session does not wander between servers. The table is bounded; what does not
// fit takes the first address.
type pins struct {
	mu sync.Mutex
	by map[pin]pinned
}

type pin struct{ src, label netip.Addr }

type pinned struct {
	to    netip.Addr
	until time.Time
}

const maxPins = 1 << 16

func (p *pins) find(src, label netip.Addr, now time.Time) (netip.Addr, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.by[pin{src, label}]
	if !ok || now.After(at.until) {
		return netip.Addr{}, false
	}
	return at.to, true
}

func (p *pins) choose(src, label netip.Addr, from []netip.Addr, now time.Time) (netip.Addr, bool) {
	if len(from) == 0 {
		return netip.Addr{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by = map[pin]pinned{}
	}
	if len(p.by) >= maxPins {
		for k, v := range p.by {
			if now.After(v.until) {
				delete(p.by, k)
			}
		}
	}
	if len(p.by) >= maxPins {
		return from[0], true
	}
	p.by[pin{src, label}] = pinned{from[0], now.Add(pinFor)}
	return from[0], true
}
