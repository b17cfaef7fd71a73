package node

import (
	"maps"
	"slices"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/resolver/upstream"
)

// The names of the two levels of the cache, as the query log has them too:
// answers as they were given, and below the policy those of resolvers.
const (
	packedLevel = "packed"
	lowerLevel  = "lower"
)

// status says how the gateway's DNS stands.
func (d *gatewayDNS) status() control.DNS {
	s := control.DNS{Listeners: d.g.trunk.listening.now(), Upstreams: d.outside.status(), Guard: guardStatus(&d.server.Guard)}
	if k := d.handler.Quick; k != nil {
		c := control.Cache{Level: packedLevel, Hits: k.Hits.Load()}
		c.Entries, c.Bytes = k.Size()
		s.Caches = append(s.Caches, c)
	}
	s.Caches = append(s.Caches, d.outside.cacheStatus())
	if d.certs != nil {
		for _, c := range d.certs.Status() {
			s.Certificates = append(s.Certificates, control.Certificate{File: c.File, Names: c.Names, Expires: c.NotAfter, Problem: c.Problem})
		}
	}
	if d.queries.log != nil {
		for _, l := range d.queries.log.Stats() {
			s.QueryLog = append(s.QueryLog, control.Sink{Name: l.Sink, Waiting: l.Waiting, Written: l.Written, Dropped: l.Dropped, Lost: l.Lost, Error: l.Err})
		}
	}
	return s
}

// status says how the resolvers stand, of one group after the other.
func (o *outside) status() (rows []control.Upstream) {
	for _, name := range slices.Sorted(maps.Keys(o.groups)) {
		g := o.groups[name].resolvers
		counted := g.Stats().Servers
		for i, s := range g.Status() {
			rows = append(rows, upstreamRow(name, s, counted[i]))
		}
	}
	return rows
}

func upstreamRow(group string, s upstream.Status, n upstream.ServerStats) control.Upstream {
	row := control.Upstream{
		Group: group, Server: s.Server, Up: s.Up, Since: s.Since, RTT: s.RTT, Asked: n.Asked, Failed: n.Failures + n.Refusals, InARow: s.Failures,
	}
	if s.Err != nil {
		row.Error = s.Err.Error()
	}
	return row
}

func (o *outside) cacheStatus() control.Cache {
	c := control.Cache{Level: lowerLevel}
	c.Entries, c.Bytes = o.cache.Size()
	for _, g := range o.groups {
		n := &g.Count
		c.Hits += n.Hits.Load()
		c.Misses += n.Misses.Load()
		c.Stale += n.Stale.Load()
		c.Prefetched += n.Prefetched.Load()
	}
	return c
}

func guardStatus(g *listen.Guard) *control.Guard {
	var s control.Guard
	if g.Clients != nil {
		n := g.Clients.Stats()
		s.OverClient, s.OverNetwork, s.Displaced = n.OverClient, n.OverPrefix, n.Displaced
	}
	if g.Responses != nil {
		n := g.Responses.Stats()
		s.Dropped, s.Truncated, s.Challenged = n.Dropped, n.Truncated, n.Challenged
		s.Displaced += n.Displaced
	}
	if g.Load != nil {
		n := g.Load.Stats()
		s.InWork, s.Memory, s.Shedding, s.ShedWork, s.ShedMemory = n.InWork, n.Memory, n.Shedding, n.OverWork, n.OverMemory
	}
	return &s
}
