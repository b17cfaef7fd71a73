package node

import (
	"net/netip"

	"github.com/starferry/starferry/steer"
	"github.com/starferry/starferry/tunnel"
)

// classify says what a packet without a flow is: from a gateway's slice towards
// an own label, from a connector's labels back to a device, or a question of a
// neighbour to this node. Devices reach no service here.
func (e *Egress) classify(_ tunnel.Side, src, dst netip.Addr) (tunnel.Class, tunnel.Drop) {
	if _, ok := e.connectorOfLabel(src); ok {
		if e.inSlices(dst) {
			return tunnel.Reverse, 0
		}
		return tunnel.Stray, tunnel.DropNotALabel
	}
	if _, ok := e.neighbourOf(src); ok && e.isOwn(dst) {
		return tunnel.Service, 0
	}
	if !e.inSlices(src) {
		return tunnel.Stray, tunnel.DropForgedSource
	}
	if !within(e.set.Pool, dst) {
		return tunnel.Stray, tunnel.DropNotALabel
	}
	return tunnel.Forward, 0
}

// judge decides a flow for the second time, by this node's own policy and by
// what the gateways have told of the device.
func (e *Egress) judge(f *tunnel.First) tunnel.Ruling {
	if f.Reverse {
		return e.judgeReverse(f)
	}
	lease, ok := e.labels.table.ByAddr(f.Dst.Addr())
	if !ok {
		return tunnel.Ruling{Why: tunnel.DropNeverLeased}
	}
	return e.ruleFor(f, lease, f.Src.Addr())
}

// judgeReverse takes up a connection whose far side speaks first after this
// node has restarted.
func (e *Egress) judgeReverse(f *tunnel.First) tunnel.Ruling {
	if !e.adoptable(f) {
		return tunnel.Ruling{Why: tunnel.DropNoFlow}
	}
	connector, ok := e.connectorOfLabel(f.Src.Addr())
	if !ok {
		return tunnel.Ruling{Why: tunnel.DropForgedSource}
	}
	lease, ok := e.labels.table.ByNext(connector, f.Src.Addr())
	if !ok {
		return tunnel.Ruling{Why: tunnel.DropNoFlow}
	}
	return e.ruleFor(f, lease, f.Dst.Addr())
}

// ruleFor rules on a flow of the device that has this overlay address.
func (e *Egress) ruleFor(f *tunnel.First, lease *steer.Lease, src netip.Addr) tunnel.Ruling {
	entry, ok := e.store.Directory().BySource(src)
	if !ok {
		return tunnel.Ruling{Why: tunnel.DropUnknownSource}
	}
	return e.rule(f, entry, lease, tunnel.Path{In: tunnel.Link, Src: src, Dst: lease.Addr(), Out: tunnel.Link, NewSrc: src})
}
