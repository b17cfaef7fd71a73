package configs

import (
	"fmt"
	"net/netip"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/yamlpos"
)

// readDevices reads machines, which are known by their WireGuard key or another
// mark of theirs, and networks, whose machines are known only by where they are.
func (r *reader) readDevices(m *yamlpos.Map) (out []*device.Device) {
	names := firsts{}
	seen := map[string]firsts{"key": {}, "token": {}, "server_name": {}, "mac": {}, "cpe_id": {}}
	m.Maps("devices", func(m *yamlpos.Map) {
		d := r.readMachine(m)
		names.note(m, "name", string(d.ID))
		for key, val := range map[string]string{
			"key": said(d.Key), "token": said(d.Token), "server_name": d.ServerName, "mac": said(d.MAC), "cpe_id": d.CPE,
		} {
			seen[key].note(m, key, val)
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

// said is a value as text, and nothing for a zero one.
func said[T interface {
	comparable
	String() string
}](v T) string {
	var zero T
	if v == zero {
		return ""
	}
	return v.String()
}

// readMachine reads a machine. It sends by a link, with key and addresses; one
// without is known by something else, and can ask and no more.
func (r *reader) readMachine(m *yamlpos.Map) *device.Device {
	m.Require("name")
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
	d.Marks = readMarks(m, string(d.ID))
	checkEvidence(m, d)
	m.Done()
	return d
}

// readMarks reads what a machine may be known by besides its key.
func readMarks(m *yamlpos.Map, name string) device.Marks {
	return device.Marks{
		Token: yamlpos.Read(m, "token", device.TokenHash{}, device.ParseTokenHash),
		ServerName: yamlpos.Read(m, "server_name", "", func(s string) (string, error) {
			switch on, err := yamlpos.Bool(s); {
			case err != nil:
				return device.ParseServerName(s)
			case !on:
				return "", nil
			}
			return device.ParseServerName(name)
		}),
		MAC: yamlpos.Read(m, "mac", device.MAC{}, device.ParseMAC),
		CPE: yamlpos.Read(m, "cpe_id", "", device.ParseCPE),
	}
}

// checkEvidence holds that a machine can be known, and that one with a link has
// both the key that it is known by and the addresses that it sends from.
func checkEvidence(m *yamlpos.Map, d *device.Device) {
	if m.Has("key") || m.Has("addresses") {
		m.Require("key", "addresses")
		return
	}
	d.Kind = d.Evidence()
	for _, key := range []string{"token", "mac", "cpe_id"} {
		if m.Has(key) {
			return
		}
	}
	if d.ServerName == "" && (!m.Has("server_name") || isOff(m.Node("server_name"))) {
		m.Errorf("add key and addresses of its link, or one of token, server_name, mac and cpe_id", "nothing is said by which this machine is known")
	}
}

func isOff(n *yamlpos.Node) bool {
	on, err := yamlpos.Bool(n.Text())
	return err == nil && !on
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
