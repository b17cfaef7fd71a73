package node

import (
	"context"
	"errors"
	"net/netip"

	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/tunnel"
	"github.com/starferry/starferry/tunnel/lan"
	"github.com/starferry/starferry/tunnel/netstack"
)

// openLAN opens the gateway's TUN device, where one is set: offices route the
// virtual pool to this machine, and the kernel forwards it into the TUN.
func (g *Gateway) openLAN() (undo func(), err error) {
	if g.near.LAN != nil {
		return g.trunk.openGiven(g.near.LAN)
	}
	if g.set.TUN == "" {
		return func() {}, nil
	}
	undoTUN, err := g.trunk.openTUN(g.set.TUN, g.set.MTU, lan.Setup{Routes: g.set.Pool})
	if err != nil {
		return nil, err
	}
	undoForward, err := lan.Forward(g.set.TUN, g.set.Pool)
	if err != nil {
		undoTUN()
		return nil, err
	}
	return func() {
		if err := undoForward(); err != nil {
			g.log.Warn("forwarding was not put back as it was", "err", err)
		}
		undoTUN()
	}, nil
}

// openGiven takes the side that the surroundings bring.
func (t *trunk) openGiven(open func(in func(pkt []byte)) (send func(pkt []byte))) (undo func(), err error) {
	t.lan = open(func(pkt []byte) { t.sw.Input(tunnel.LAN, [][]byte{pkt}, 0) })
	return func() {}, nil
}

// openTUN opens a TUN device as the switch's LAN side.
func (t *trunk) openTUN(name string, mtu int, setup lan.Setup) (undo func(), err error) {
	tun, err := lan.OpenTUN(name, mtu, func(pkts [][]byte, off int) { t.sw.Input(tunnel.LAN, pkts, off) })
	if err != nil {
		return nil, err
	}
	away, err := tun.Setup(setup)
	if err != nil {
		tun.Close()
		return nil, err
	}
	t.lan = tun.Send
	t.lanTask = &lifecycle.Task{Name: "tun " + name, Run: tun.Run}
	return func() {
		away() //nolint:errcheck // the device goes with the process
		tun.Close()
	}, nil
}

// openMainland opens what lies behind the connector: the kernel, which
// masquerades, or a network stack in this process that dials the origins.
func (c *Connector) openMainland() (undo func(), err error) {
	if c.near.LAN != nil {
		return c.trunk.openGiven(c.near.LAN)
	}
	if !c.set.Kernel {
		return c.openRootless()
	}
	undoTUN, err := c.trunk.openTUN(c.set.TUN, c.set.MTU, lan.Setup{Routes: c.set.Slices})
	if err != nil {
		return nil, err
	}
	undoNAT, err := lan.Masquerade(lan.Config{TUN: c.set.TUN, Sources: c.set.Slices, Table: "starferry_" + tableName(c.set.Name)})
	if err != nil {
		undoTUN()
		return nil, err
	}
	return func() {
		if err := undoNAT(); err != nil {
			c.log.Warn("the masquerade was not removed", "err", err)
		}
		undoTUN()
	}, nil
}

func (c *Connector) openRootless() (undo func(), err error) {
	ping := c.near.Ping
	if ping == nil {
		ping, err = netstack.PingUnprivileged()
		if err != nil {
			c.pingless = err.Error()
		}
	}
	f, err := netstack.NewForwarder(netstack.ForwarderConfig{
		MTU:  c.set.MTU,
		Out:  func(pkt []byte) { c.trunk.sw.Input(tunnel.LAN, [][]byte{pkt}, 0) },
		Dial: c.near.Dial, Ping: ping, Log: c.log, Metrics: c.near.Metrics,
	})
	if err != nil {
		return nil, err
	}
	c.trunk.lan = f.Inject
	c.trunk.lanTask = &lifecycle.Task{Name: "forwarder", Run: func(ctx context.Context) error { return f.Run(ctx) }}
	return f.Close, nil
}

// tableName makes a node's name fit for nftables.
func tableName(node string) string {
	b := []byte(node)
	for i, c := range b {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9') {
			b[i] = '_'
		}
	}
	return string(b)
}

// hasIPv6 reports whether a flow of this family can leave here: only then do
// names get an AAAA.
func (c *Connector) hasIPv6() bool {
	_, v6 := splitPrefixes(c.set.Pool)
	if !v6.IsValid() {
		return false
	}
	conn, err := c.near.Dial(context.Background(), "udp", probe6)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// probe6 is any public address: connecting a UDP socket asks the routing table
// and sends nothing.
var probe6 = netip.MustParseAddrPort("[2400:3200::1]:53")

// errNoDevice is the answer to a question about a device that is not enrolled.
var errNoDevice = errors.New("no device of that name")
