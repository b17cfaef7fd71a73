package node

import (
	"net"
	"net/netip"
	"testing"

	"github.com/starferry/starferry/configs"
)

// The resolver in China may name anything as an origin; what is the fleet's, or
// leads into the connector's own network or machine, is not believed.
func TestBelieve(t *testing.T) {
	set := &configs.Connector{Node: configs.Node{Address: connectorAddrs(1), Pool: poolC(1)}, Slices: slice}
	set.Egresses = []configs.Peer{{Name: "hk-1", Address: egressAddrs}}
	set.Poison = prefixes("203.0.113.66/32")
	set.AllowPrivate = prefixes("100.64.0.0/10", "10.9.0.0/16") // where some clouds have their resolver
	c := &Connector{set: set}
	for addr, want := range map[string]bool{
		"198.51.100.9": true, "::ffff:198.51.100.9": true, "2400:3200::1": true, "10.9.1.1": true, "100.100.2.136": true,
		"203.0.113.66": false, "100.72.1.10": false, "240.2.0.1": false, "100.72.160.1": false,
		"100.72.128.1": false, "fd5f:57a6:7272:8000::1": false, // the egress
		"10.8.1.1": false, "127.0.0.1": false, "::1": false, "169.254.169.254": false, "224.0.0.1": false, "0.0.0.0": false, "198.18.0.1": false,
		"::ffff:10.8.1.1": false, "64:ff9b::a08:101": false, "64:ff9b:1::a08:101": false, "::a08:101": false, "fec0::1": false, "fe80::1": false,
	} {
		if err := c.believe(netip.MustParseAddr(addr)); (err == nil) != want {
			t.Errorf("%s: %v", addr, err)
		}
	}
	set.AllowPrivate = nil
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range own {
		a := netip.MustParsePrefix(o.String()).Addr()
		if !ofThisMachine(a.Unmap()) || c.believe(a) == nil {
			t.Errorf("%v of this machine is believed", a)
		}
	}
	if ofThisMachine(netip.MustParseAddr("198.51.100.9")) {
		t.Error("198.51.100.9 is of this machine")
	}
}
