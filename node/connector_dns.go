package node

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/steer"
)

// mainland is the node under which a connector's leases keep when their
// origins were last asked for; the origins themselves are the lease's facts.
const mainland = "mainland"

// A connectorDNS is the way of an egress's question to the resolver in China.
type connectorDNS struct {
	c       *Connector
	handler *resolver.Connector
	server  *listen.Server
	outside *outside
}

func newConnectorDNS(c *Connector) (*connectorDNS, error) {
	outside, err := newOutside([]configs.Upstream{c.set.Resolver}, configs.Cache{}, &c.near)
	if err != nil {
		return nil, err
	}
	d := &connectorDNS{c: c, outside: outside}
	d.handler = &resolver.Connector{
		Name:     c.set.Name,
		Version:  c.near.Version,
		Upstream: c.egressOf,
		Resolve:  outside.message,
		Believe:  c.believe,
		Lease:    d.lease,
		HasIPv6:  c.hasIPv6,
		Journal:  c.table.Journal,
		Record:   c.records.decision,
		Now:      now,
	}
	d.server = &listen.Server{Handle: d.handler.Handle, Log: c.log}
	return d, nil
}

// lease gives the name a label of this connector and keeps its origins.
func (d *connectorDNS) lease(q resolver.Question, origins []netip.Addr, _ time.Duration) (netip.Addr, error) {
	lease, err := d.c.table.Lease(q.Name, qIsV6(q), "", now())
	if err != nil {
		return netip.Addr{}, err
	}
	d.c.keep(lease, origins)
	return lease.Addr(), nil
}

func (c *Connector) keep(lease *steer.Lease, origins []netip.Addr) {
	c.table.SetFacts(lease, []policy.Hop{{Name: lease.Name(), Addrs: origins}})
	c.table.Learn(lease, mainland, steer.Next{Addr: origins[0], Asked: now()})
}

// resolve has the origins of a lease asked for anew, once for all flows that wait.
func (c *Connector) resolve(lease *steer.Lease) {
	if !c.asking.begin(lease.Addr()) {
		return
	}
	q := resolver.Question{Name: lease.Name(), Type: typeOf(lease.V6()), Class: dns.ClassINET}
	taken := c.worker.try(func(ctx context.Context) {
		defer c.asking.end(lease.Addr())
		if err := c.dns.handler.Refresh(ctx, q); err != nil {
			c.log.Warn("asking for an origin again", "name", q.Name, "err", err)
			return
		}
		c.trunk.sw.Wake(lease.Addr())
	})
	if !taken {
		c.asking.end(lease.Addr())
	}
}

func qIsV6(q resolver.Question) bool { return q.Type == dns.TypeAAAA }

// asking keeps which labels are being asked for.
type asking struct {
	mu sync.Mutex
	by map[netip.Addr]bool
}

func (a *asking) begin(label netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = map[netip.Addr]bool{}
	}
	if a.by[label] {
		return false
	}
	a.by[label] = true
	return true
}

func (a *asking) end(label netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.by, label)
}
