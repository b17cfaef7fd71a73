package node

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/tunnel/link"
)

// probeEvery is how often the dialing side asks the far node's DNS: the probe
// takes the way that questions take, so it says that they are answered, and
// not merely that somebody holds the key.
const probeEvery = time.Second

// prober watches a peer that this node dials. Its answers also tell the journal
// that its labels come from, for which heard may be nil.
func (t *trunk) prober(wire int, p configs.Peer, n *neighbours, heard func(node string, journal uint64)) lifecycle.Task {
	dev := t.wires[wire].dev
	at, run := netip.AddrPortFrom(p.Address[0], dnsPort), rand.Uint64()
	pr := &link.Prober{
		Every:    probeEvery,
		Initiate: func() { dev.Initiate(p.PublicKey) },
		Ask: func(ctx context.Context) error {
			info, err := resolver.Probe(ctx, t.local.DialContext, at, run)
			if err == nil && heard != nil {
				heard(p.Name, info.Journal)
			}
			return err
		},
		Changed: func(up bool, rtt time.Duration, err error) {
			reason := ""
			if err != nil {
				reason = err.Error()
			}
			n.report(p.Name, up, rtt, reason)
		},
		Answered: func(rtt time.Duration) { n.measured(p.Name, rtt) },
	}
	return lifecycle.Task{Name: "prober of " + p.Name, Run: pr.Run}
}

func (g *Gateway) probers() (tasks []lifecycle.Task) {
	for _, p := range g.set.Egresses {
		if p.Endpoint != "" {
			tasks = append(tasks, g.trunk.prober(0, p, g.neighbours, g.labels.heard))
		}
	}
	return tasks
}

func (e *Egress) probers() (tasks []lifecycle.Task) {
	for _, peers := range [][]configs.Peer{e.set.Gateways, e.set.Connectors} {
		for _, p := range peers {
			if p.Endpoint != "" {
				tasks = append(tasks, e.trunk.prober(0, p, e.neighbours, e.labels.heard))
			}
		}
	}
	return tasks
}

func (c *Connector) probers() (tasks []lifecycle.Task) {
	for i, p := range c.set.Egresses {
		if p.Endpoint != "" {
			tasks = append(tasks, c.trunk.prober(i, p, c.neighbours, nil))
		}
	}
	return tasks
}

// nameIs picks a peer by its name.
func nameIs(name string) func(*configs.Peer) bool {
	return func(p *configs.Peer) bool { return p.Name == name }
}
