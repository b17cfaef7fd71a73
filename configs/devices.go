package configs

import (
	"fmt"
	"net/netip"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/yamlpos"
)

// readDevices reads machines, which are known by their WireGuard key, and
// networks, whose machines are known only by where they are.
func (r *reader) readDevices(m *yamlpos.Map) (out []*device.Device) {
	names, keys := firsts{}, firsts{}
	m.Maps("devices", func(m *yamlpos.Map) {
		d := r.readMachine(m)
		names.note(m, "name", string(d.ID))
		if !d.Key.IsZero() {
			keys.note(m, "key", d.Key.String())
		}
		out = append(out, d)
	})
	m.Maps("networks", func(m *yamlpos.Map) {
		d := r.readNetwork(m)
		names.note(m, "name", string(d.ID))
		out = append(out, d)
	})
	m.Done()
	return out
}

func (r *reader) readMachine(m *yamlpos.Map) *device.Device {
	m.Require("name", "key", "addresses")
	d := &device.Device{
		ID:       device.ID(yamlpos.Read(m, "name", "", parseName)),
		Kind:     device.ByWireGuard,
		Key:      yamlpos.Read(m, "key", device.Key{}, parseKey),
		Groups:   yamlpos.ReadOneOrList(m, "groups", parseName),
		User:     yamlpos.Read(m, "user", "", yamlpos.Word),
		Platform: yamlpos.Read(m, "platform", "", yamlpos.Word),
		Explain:  yamlpos.Read(m, "explain", false, yamlpos.Bool),
		At:       m.Pos(),
	}
	for _, item := range atLeastOne(m, "addresses") {
		if a := yamlpos.Value(item, netip.Addr{}, parseUnicast); a.IsValid() {
			p := netip.PrefixFrom(a, a.BitLen())
			d.Overlay = append(d.Overlay, p)
			r.claim(item, p, owner{devicesFile, string(d.ID)}, machine, true)
		}
	}
	m.Done()
	return d
}

func (r *reader) readNetwork(m *yamlpos.Map) *device.Device {
	m.Require("name", "addresses")
	d := &device.Device{
		ID:         device.ID(yamlpos.Read(m, "name", "", parseName)),
		Kind:       device.ByNetwork,
		Groups:     yamlpos.ReadOneOrList(m, "groups", parseName),
		RoutesPool: yamlpos.Read(m, "routes_pool", false, yamlpos.Bool),
		Explain:    yamlpos.Read(m, "explain", false, yamlpos.Bool),
		At:         m.Pos(),
	}
	who := owner{devicesFile, string(d.ID)}
	d.LAN = r.claimAll(m, "addresses", who, lan)
	d.Overlay = r.claimAll(m, "overlay", who, network)
	switch {
	case m.Has("overlay"):
		checkLengths(m, d)
	case d.RoutesPool:
		m.KeyErrorf("routes_pool", "add overlay: a range of the gateway's slice as long as each of addresses",
			"a network that routes the pool needs overlay addresses")
	}
	m.Done()
	return d
}

// checkLengths holds that the network's own ranges and its ranges in the fleet
// can be mapped onto one another address by address.
func checkLengths(m *yamlpos.Map, d *device.Device) {
	from, to := m.Node("addresses"), m.Node("overlay")
	if from == nil || len(d.LAN) != len(from.OneOrMore()) || len(d.Overlay) != len(to.OneOrMore()) {
		return // something could not be read
	}
	if len(d.LAN) != len(d.Overlay) {
		to.Errorf("", "%d ranges for the %d of addresses: each is mapped onto one", len(d.Overlay), len(d.LAN))
		return
	}
	for i, item := range to.OneOrMore() {
		a, b := d.LAN[i], d.Overlay[i]
		if a.Addr().Is4() == b.Addr().Is4() && a.Bits() == b.Bits() {
			continue
		}
		item.Errorf(sameLength(a, b), "%s cannot be mapped onto %s: want the same length", a, b)
	}
}

func sameLength(a, b netip.Prefix) string {
	if a.Addr().Is4() != b.Addr().Is4() {
		return "one is IPv4, the other IPv6"
	}
	return fmt.Sprintf("write %s", netip.PrefixFrom(b.Addr(), a.Bits()).Masked())
}
