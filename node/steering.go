package node

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/state"
	"github.com/starferry/starferry/steer"
	"github.com/starferry/starferry/tunnel"
	"github.com/starferry/starferry/tunnel/link"
)

// steering is what gateway and egress are alike in: each has leases of its own
// and stands for names with them, judges every flow by policy and device, and
// hands it to the first node of a route that answers.
type steering struct {
	near       Surroundings
	log        *slog.Logger
	trunk      trunk
	labels     *labels
	store      *state.Store
	rules      *rules
	neighbours *neighbours
	records    *records
	worker     *worker
	routes     []configs.Route

	started time.Time
	moved   atomic.Uint64 // policy and links: every flow is judged again when it moves
}

// newSteering begins a node; lost is told of neighbours that do not come back.
func newSteering(n *configs.Node, routes []configs.Route, near Surroundings, lost func(name string)) (*steering, error) {
	near.fill()
	s := &steering{near: near, log: near.Log.With("node", n.Name), store: state.New(), worker: newWorker(), routes: routes, started: time.Now()}
	if err := ensureDir(n.StateDir); err != nil {
		return nil, err
	}
	s.neighbours = newNeighbours(s.store, s.log, func(string, bool) { s.moved.Add(1) }, lost)
	var err error
	s.records, err = newRecords(s.log, near.Metrics)
	return s, err
}

// makeLink makes the switch and the WireGuard device. What differs between the
// roles, c says: how packets are classified and judged.
func (s *steering) makeLink(n *configs.Node, key link.PrivateKey, c tunnel.Config) error {
	c.MTU = n.MTU
	c.Node4, c.Node6 = split(n.Address)
	c.Emit, c.Ended, c.Metrics = s.trunk.emit, s.records.flow, s.near.Metrics
	s.trunk.sw = tunnel.New(c)
	return s.trunk.addWire(&s.near, n.MTU, link.Config{
		Key: key, Listen: n.WireGuard.Listen,
		EndpointsFile: filepath.Join(n.StateDir, "endpoints.json"),
	})
}

// makeLabels opens the leases. ask asks a node of the next hop, which are nexts.
func (s *steering) makeLabels(n *configs.Node, c steer.Config, nexts []configs.Peer, ask asker) error {
	c.Path, c.Log, c.Quarantine = filepath.Join(n.StateDir, "leases"), s.log, quarantine
	c.V4, c.V6 = splitPrefixes(n.Pool)
	table, err := steer.Open(c)
	if err != nil {
		return err
	}
	s.labels = newLabels(table, s.started, s.worker)
	s.labels.nexts = nexts
	s.labels.ask, s.labels.wake, s.labels.voided = ask, s.trunk.sw.Wake, func() { s.moved.Add(1) }
	return nil
}

// tasks are what runs in both roles.
func (s *steering) tasks() []lifecycle.Task {
	return append(s.trunk.tasks(), []lifecycle.Task{
		{Name: "lists", Run: s.near.Lists.run},
		{Name: "errands", Run: s.worker.Run},
		{Name: "leases", Run: s.labels.table.Run},
		{Name: "state", Run: s.store.Run},
		{Name: "neighbours", Run: s.neighbours.Run},
		{Name: "reload", Run: s.rules.Run},
	}...)
}

// LinkPort returns the UDP port at which devices and nodes dial this one.
func (s *steering) LinkPort() uint16 { return s.trunk.wires[0].dev.LocalPort() }

// judgeAll has every flow judged again, now and not at its next packet.
func (s *steering) judgeAll() {
	s.moved.Add(1)
	s.trunk.sw.Rejudge(func(*tunnel.Info) bool { return true })
}

// judgeDevices has the flows of devices judged again: what one of them may no
// longer have is cut off unasked.
func (s *steering) judgeDevices(ids []device.ID) {
	s.trunk.sw.Rejudge(func(i *tunnel.Info) bool { return slices.Contains(ids, device.ID(i.Device)) })
}

// cutFar ends the flows that go by a node.
func (s *steering) cutFar(name string) {
	s.trunk.sw.Cut(func(i *tunnel.Info) bool { return i.Far == name }, tunnel.CloseLinkDown)
}

// healthy returns the nodes of a route that answer, best first.
func (s *steering) healthy(route string) (names []string) {
	for _, name := range routeNamed(s.routes, route) {
		if s.neighbours.up(name) {
			names = append(names, name)
		}
	}
	return names
}

// adoptable reports whether a connection may be taken up from its far side,
// which after a restart may be the only one that speaks.
func (s *steering) adoptable(f *tunnel.First) bool {
	return f.Proto == protoTCP && !f.Syn && time.Since(s.started) <= adoption
}

// rule puts a flow to the policy and finds its way. path is how it arrives.
func (s *steering) rule(f *tunnel.First, e *state.Entry, lease *steer.Lease, path tunnel.Path) tunnel.Ruling {
	marks := stamps(&s.moved, e) // before the policy is read
	service := policy.Service{Proto: f.Proto, Port: f.Dst.Port()}
	if f.Reverse {
		service.Port = f.Src.Port()
	}
	d := s.rules.now().Decide(FlowQuery(lease.Name(), lease.V6(), lease.Facts(), askerFrom(e, path.Src), service, time.Now()))
	r := tunnel.Ruling{Outcome: tunnel.Deny, Why: tunnel.DropDenied, Path: path, Stamps: marks}
	r.Meta = &tunnel.Meta{Device: string(e.Device.ID), Name: lease.Name(), Reason: verdictText(d), Lease: lease}
	if d.Rule != nil {
		r.Meta.Policy = d.Rule.Name
	}
	if d.Then.Action != policy.Steer || d.Denied != "" {
		return r
	}
	r.Meta.Route = d.Then.Route
	switch {
	case f.Expired:
		r.Outcome = tunnel.Admit
	case keeps(f, lease, routeNamed(s.routes, r.Meta.Route)):
		r.Outcome, r.Path, r.Meta.Far = tunnel.Admit, *f.Path, f.Meta.Far
	default:
		r = s.way(r, lease)
	}
	if f.Reverse && r.Outcome == tunnel.Admit && r.Path.NewDst != f.Src.Addr() {
		return tunnel.Ruling{Why: tunnel.DropNoFlow} // it came from elsewhere than the flow would go
	}
	return r
}

// way finds the node that takes an admitted flow: the first of the route that
// answers and has the name. One of which that is not known is asked; the flow
// waits meanwhile, and as long as a restart may take if none answers.
func (s *steering) way(r tunnel.Ruling, lease *steer.Lease) tunnel.Ruling {
	r.Outcome = tunnel.Wait
	up := s.healthy(r.Meta.Route)
	for _, node := range up {
		switch label, what := s.labels.find(lease, node, r.Meta.Route, time.Now()); what {
		case found:
			r.Outcome, r.Path.NewDst, r.Meta.Far = tunnel.Admit, label, node
			return r
		case askedFor:
			return r
		}
	}
	switch {
	case len(up) > 0: // they have just said no: the next packet asks again
		return tunnel.Ruling{Why: tunnel.DropNoNextHop}
	case s.neighbours.allDownFor(routeNamed(s.routes, r.Meta.Route)) > linkPatience:
		r.Outcome, r.Meta.Reason = tunnel.Deny, fmt.Sprintf("no node of route %s answers", r.Meta.Route)
	}
	return r
}
