package node

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/state"
)

// enrol has a gateway know these devices and no others.
func (o *office) enrol(t *testing.T, devices ...*device.Device) {
	t.Helper()
	if err := o.store.Update(func(tx state.Tx) error { return tx.ReplaceDevices(devices) }); err != nil {
		t.Fatal(err)
	}
}

// A question is put in the name of a device by what the device would show.
func TestStandIn(t *testing.T) {
	o := newOffice(t)
	o.set.DNS.Forwarders, o.set.DNS.ServerName = prefixes("10.0.0.53/32"), "dns.example"
	var err error
	if o.dns.who, err = o.newIdentifier(); err != nil {
		t.Fatal(err)
	}
	lan := &device.Device{ID: "office", Kind: device.ByNetwork, LAN: prefixes("192.168.1.0/24")}
	desk := &device.Device{ID: "desk", Kind: device.ByNetwork, LAN: prefixes("192.168.1.0/30")}
	alice := &device.Device{ID: "alice", Kind: device.ByWireGuard, Key: laptopKey.Public(), Overlay: singles(laptopAddrs)}
	phone := &device.Device{ID: "phone", Kind: device.ByServerName, Marks: device.Marks{ServerName: "phone"}}
	printer := &device.Device{ID: "printer", Kind: device.ByOption, Marks: device.Marks{MAC: device.MAC{2, 0, 0, 0, 0, 9}}}
	box := &device.Device{ID: "box", Kind: device.ByOption, Marks: device.Marks{CPE: "box-7"}}
	tablet := &device.Device{ID: "tablet", Kind: device.ByToken, Marks: device.Marks{Token: device.HashToken("secret")}}
	o.enrol(t, lan, desk, alice, phone, printer, box, tablet)
	for _, c := range []struct {
		device, from, over string
		kind               device.Kind
		wrong              string
	}{
		{device: "alice", from: "100.72.1.10", over: onLink, kind: device.ByWireGuard},
		{device: "office", from: "192.168.1.4", over: "control", kind: device.ByNetwork}, // the narrower network has those before
		{device: "desk", from: "192.168.1.1", over: "control", kind: device.ByNetwork},
		{device: "phone", from: "127.0.0.1", over: "control", kind: device.ByServerName},
		{device: "printer", from: "10.0.0.53", over: "control", kind: device.ByOption},
		{device: "box", from: "10.0.0.53", over: "control", kind: device.ByOption},
		{device: "tablet", wrong: "only a hash is kept"},
		{device: "mallory", wrong: `"mallory": `},
		{device: "", wrong: "who asks? give --device: known are alice, box, desk"},
	} {
		in, err := o.standIn(c.device)
		switch {
		case c.wrong != "":
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%q: %v, want %s", c.device, err, c.wrong)
			}
		case err != nil:
			t.Errorf("%s: %v", c.device, err)
		case string(in.asker.Device.ID) != c.device || in.asker.Kind != c.kind || in.client.Addr.Addr().String() != c.from || in.client.Listener != c.over:
			t.Errorf("%s: %s by %v from %v over %s", c.device, in.asker.Device.ID, in.asker.Kind, in.client.Addr, in.client.Listener)
		}
	}
	if _, err := o.standIn("mallory"); !errors.Is(err, errNoDevice) {
		t.Errorf("a stranger: %v", err)
	}

	// What would show another device is no question of this one.
	for last := range 256 {
		o.bindings.Bind(netip.AddrFrom4([4]byte{192, 168, 1, byte(last)}), "alice", now())
	}
	for _, name := range []string{"office", "desk"} {
		if _, err := o.standIn(name); err == nil || !strings.Contains(err.Error(), "known by it alone") {
			t.Errorf("%s: %v", name, err)
		}
	}
	o.bindings.Bind(netip.MustParseAddr("127.0.0.1"), "alice", now()) // which stands for nobody
	if _, err := o.standIn("phone"); err != nil {
		t.Errorf("phone: %v", err)
	}
}

// A question in the name of a device gets what the device would get.
func TestQuerySteers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		text, err := w.gateway.query(t.Context(), control.Question{Name: "WWW.china.test.", Device: "alice-laptop"})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			";; asked by alice-laptop (identity strong, by wireguard) from 100.72.1.10 over link\n",
			"status: NOERROR", "EDE: 4 (Forged Answer)", "policy china", "www.china.test.\t30\tIN\tA\t198.19.",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("the answer lacks %q:\n%s", want, text)
			}
		}
		text, err = w.gateway.query(t.Context(), control.Question{Name: "www.other.test", Device: "alice-laptop", Type: "MX"})
		if err != nil || !strings.Contains(text, "status: REFUSED") || !strings.Contains(text, "IN\t MX") {
			t.Errorf("what no policy decides: %v\n%s", err, text)
		}
		for _, q := range []control.Question{{Name: "", Device: "alice-laptop"}, {Name: "x.test", Type: "NO"}, {Name: "x.test"}, {Name: "x.test", Device: "bob"}} {
			if text, err := w.gateway.query(t.Context(), q); err == nil {
				t.Errorf("%+v:\n%s", q, text)
			}
		}
	})
}
