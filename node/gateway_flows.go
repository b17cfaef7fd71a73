package node

import (
	"net/netip"
	"time"

	"github.com/starferry/starferry/state"
	"github.com/starferry/starferry/tunnel"
)

const (
	// adoption is how long after its start a node takes up connections from
	// their reverse direction: the far side may be the only one that talks.
	adoption = 2 * time.Minute
	// linkPatience is how long flows wait for a link before they are denied.
	// A far node that restarts is back within it.
	linkPatience = 15 * time.Second
)

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// classify says what a packet without a flow is. Identity on a flow is ingress
// plus source: WireGuard has made sure that a packet from the link carries a
// source of its peer, and a LAN may only speak for the networks configured.
// Destinations are own labels and own services: never devices, never nodes.
func (g *Gateway) classify(from tunnel.Side, src, dst netip.Addr) (tunnel.Class, tunnel.Drop) {
	if from == tunnel.LAN {
		if _, _, ok := g.sender(from, src); !ok {
			return tunnel.Stray, tunnel.DropUnknownSource
		}
		return g.forward(dst)
	}
	if _, ok := g.egressOfLabel(src); ok {
		if within(g.set.Slice, dst) {
			return tunnel.Reverse, 0
		}
		return tunnel.Stray, tunnel.DropNotALabel
	}
	own := g.isOwn(dst)
	if _, ok := g.egressOfNode(src); ok && own {
		return tunnel.Service, 0
	}
	if e, ok := g.store.Directory().BySource(src); !ok || len(e.Device.LAN) > 0 {
		return tunnel.Stray, tunnel.DropUnknownSource
	}
	if own {
		return tunnel.Service, 0
	}
	return g.forward(dst)
}

func (g *Gateway) forward(dst netip.Addr) (tunnel.Class, tunnel.Drop) {
	if !within(g.set.Pool, dst) {
		return tunnel.Stray, tunnel.DropNotALabel
	}
	return tunnel.Forward, 0
}

// sender returns who sends from a source, and the overlay address that the
// source has inside the fleet.
func (g *Gateway) sender(from tunnel.Side, src netip.Addr) (*state.Entry, netip.Addr, bool) {
	return sender(g.store.Directory(), from, src)
}

func sender(dir *state.Directory, from tunnel.Side, src netip.Addr) (*state.Entry, netip.Addr, bool) {
	if from == tunnel.LAN {
		e, overlay, ok := dir.ByLAN(src)
		return e, overlay, ok && overlay != src && e.Device.RoutesPool
	}
	e, ok := dir.BySource(src)
	return e, src, ok && len(e.Device.LAN) == 0
}

// judge decides the first packet of a flow, and each flow again whose stamps moved.
func (g *Gateway) judge(f *tunnel.First) tunnel.Ruling {
	if f.Reverse {
		return g.judgeReverse(f)
	}
	e, overlay, ok := g.sender(f.Side, f.Src.Addr())
	if !ok {
		return tunnel.Ruling{Why: tunnel.DropUnknownSource}
	}
	lease, ok := g.labels.table.ByAddr(f.Dst.Addr())
	if !ok {
		return tunnel.Ruling{Why: tunnel.DropNeverLeased}
	}
	return g.rule(f, e, lease, tunnel.Path{In: f.Side, Src: f.Src.Addr(), Dst: f.Dst.Addr(), Out: tunnel.Link, NewSrc: overlay})
}

// judgeReverse takes up a connection whose far side speaks first after this
// node has restarted: the label leads to the name, the destination to the device.
func (g *Gateway) judgeReverse(f *tunnel.First) tunnel.Ruling {
	if !g.adoptable(f) {
		return tunnel.Ruling{Why: tunnel.DropNoFlow}
	}
	eg, ok := g.egressOfLabel(f.Src.Addr())
	if !ok {
		return tunnel.Ruling{Why: tunnel.DropForgedSource}
	}
	lease, ok := g.labels.table.ByNext(eg.Name, f.Src.Addr())
	if !ok {
		return tunnel.Ruling{Why: tunnel.DropNoFlow}
	}
	e, ok := g.store.Directory().BySource(f.Dst.Addr())
	if !ok {
		return tunnel.Ruling{Why: tunnel.DropNotALabel}
	}
	path := tunnel.Path{In: tunnel.Link, Src: f.Dst.Addr(), Dst: lease.Addr(), Out: tunnel.Link, NewSrc: f.Dst.Addr()}
	if len(e.Device.LAN) > 0 {
		path.In = tunnel.LAN
		if path.Src, ok = g.store.Directory().ToLAN(f.Dst.Addr()); !ok || !e.Device.RoutesPool {
			return tunnel.Ruling{Why: tunnel.DropNotALabel}
		}
	}
	return g.rule(f, e, lease, path)
}
