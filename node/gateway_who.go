package node

import (
	"sync"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/tunnel/link"
)

// newIdentifier makes what says who asks.
func (g *Gateway) newIdentifier() (*identifier, error) {
	set := &g.set.DNS
	forwarders, err := newForwarders(set.Forwarders)
	if err != nil {
		return nil, err
	}
	i := &identifier{
		directory: g.store.Directory, bindings: &g.bindings, forwarders: forwarders,
		handshake: g.lastHandshake, lan: g.set.TUN != "" || g.near.LAN != nil, now: now,
	}
	if set.ServerName != "" {
		i.suffix = "." + set.ServerName
	}
	return i, nil
}

// moment names what identities go by now.
func (g *Gateway) moment() resolver.Moment {
	return resolver.Moment{Directory: g.store.Directory(), Bindings: g.bindings.changes.Load()}
}

// handshakes keeps when devices last shook hands over their links, as of a moment
// ago: to read that of one is to read that of all.
type handshakes struct {
	mu   sync.Mutex
	read time.Time
	last map[string]link.Status
}

// linkOf returns how the link of a device stands.
func (g *Gateway) linkOf(id device.ID) link.Status {
	h := &g.handshakes
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := now(); h.last == nil || t.Sub(h.read) > time.Second {
		h.read, h.last = t, map[string]link.Status{}
		for _, p := range g.trunk.wires[0].dev.Status() {
			h.last[p.Name] = p
		}
	}
	return h.last[string(id)]
}

// reported binds the address that a device's link comes from to the device,
// which has just proved by a report that it is there.
func (g *Gateway) reported(id device.ID) {
	if at := g.linkOf(id).Endpoint; at.IsValid() {
		g.bindings.Bind(at.Addr().Unmap(), id, now())
	}
}

// lastHandshake returns when a device last shook hands over its link.
func (g *Gateway) lastHandshake(id device.ID) time.Time { return g.linkOf(id).LastHandshake }
