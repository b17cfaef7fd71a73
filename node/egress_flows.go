package node

import (
	"net/netip"
	"time"

	"github.com/starferry/starferry/policy"
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
	path := tunnel.Path{In: tunnel.Link, Src: f.Src.Addr(), Dst: f.Dst.Addr(), Out: tunnel.Link, NewSrc: f.Src.Addr()}
	return e.rule(f, lease, policy.Service{Proto: f.Proto, Port: f.Dst.Port()}, path)
}

func (e *Egress) judgeReverse(f *tunnel.First) tunnel.Ruling {
	if f.Proto != protoTCP || f.Syn || time.Since(e.started) > adoption {
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
	path := tunnel.Path{In: tunnel.Link, Src: f.Dst.Addr(), Dst: lease.Addr(), Out: tunnel.Link, NewSrc: f.Dst.Addr()}
	r := e.rule(f, lease, policy.Service{Proto: f.Proto, Port: f.Src.Port()}, path)
	if r.Outcome == tunnel.Admit && r.Path.NewDst != f.Src.Addr() {
		return tunnel.Ruling{Why: tunnel.DropNoFlow}
	}
	return r
}

func (e *Egress) rule(f *tunnel.First, lease *steer.Lease, service policy.Service, path tunnel.Path) tunnel.Ruling {
	entry, ok := e.store.Directory().BySource(path.Src)
	if !ok {
		return tunnel.Ruling{Why: tunnel.DropUnknownSource}
	}
	now, marks := time.Now(), stamps(&e.moved, entry)
	asker := policy.Asker{Device: entry.Device, Kind: entry.Device.Kind, Source: path.Src, Verdicts: entry.Verdicts}
	r := tunnel.Ruling{Outcome: tunnel.Deny, Why: tunnel.DropDenied, Path: path, Stamps: marks}
	r.Meta = &tunnel.Meta{Device: string(entry.Device.ID), Name: lease.Name(), Lease: lease}
	d := e.rules.now().Decide(query(lease, asker, service, now))
	r.Meta.Reason = verdictText(d)
	if d.Rule != nil {
		r.Meta.Policy = d.Rule.Name
	}
	if d.Then.Action != policy.Steer || d.Denied != "" {
		return r
	}
	r.Meta.Route = d.Then.Route
	if f.Expired || keeps(f, lease) {
		r.Outcome = tunnel.Admit
		if f.Path != nil {
			r.Path, r.Meta.Far = *f.Path, f.Meta.Far
		}
		return r
	}
	return e.way(r, lease, d.Then.Route, now)
}

// way finds the connector: the first of the route that answers and has the
// name. One of which that is not known yet is asked; the flow waits meanwhile.
func (e *Egress) way(r tunnel.Ruling, lease *steer.Lease, route string, now time.Time) tunnel.Ruling {
	r.Outcome = tunnel.Wait
	healthy := e.healthy(route)
	for _, c := range healthy {
		switch label, what := e.labels.find(lease, c, route, now); what {
		case found:
			r.Outcome, r.Path.NewDst, r.Meta.Far = tunnel.Admit, label, c
			return r
		case askedFor:
			return r
		}
	}
	return stuck(r, len(healthy) > 0, e.neighbours.allDownFor(routeNamed(e.set.Routes, route)))
}
