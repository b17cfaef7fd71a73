package node

import (
	"net/netip"
	"strings"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/policy/match"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/state"
)

// The EDNS options by which forwarders say for whom they ask. None has been
// assigned by IANA; they are what dnsmasq sends.
const (
	optMAC      = 65001 // add-mac: the address in six bytes
	optDeviceID = 65073 // add-mac=base64 or =text: the address in base64, or in hex with colons
	optCPE      = 65074 // add-cpe-id: a text
)

// handshakeAge is how old a device's last handshake may be for its link to count
// as up: WireGuard makes no use of a session beyond (REJECT_AFTER_TIME, 180 s).
const handshakeAge = 3 * time.Minute

// An identifier says who asks, by the strongest evidence that a question
// brings:
//
//  1. the key of the WireGuard link that it came over,
//  2. the token behind the path of DoH,
//  3. the source address, if a token came from it, or a report, within [bindingAge],
//  4. the name that the handshake of DoT or DoH asked for; if it leads to
//     another device than the address stands for, it is what counts: the question
//     itself says for whom it is, and two devices may share an address,
//  5. what a configured forwarder says in an EDNS option: MAC address, then CPE id,
//  6. the configured network that the source address is in.
//
// What came over the link is looked at no further: WireGuard lets a source
// through for one key only. Evidence that leads to no device is as good as
// none, so an unknown token gets what the question would get without it.
//
// Its fields must not change once it is in use. It blocks for nothing but the
// lock of the bindings, and does not allocate.
type identifier struct {
	directory  func() *state.Directory
	bindings   *bindings
	forwarders *match.Networks
	suffix     string                    // of server names that name devices, with the dot before; empty: none does
	handshake  func(device.ID) time.Time // the last one over the device's link; zero: none
	lan        bool                      // packets of offices reach this node
	now        func() time.Time
}

// newForwarders makes the set of those whose EDNS options are believed.
func newForwarders(ranges []netip.Prefix) (*match.Networks, error) {
	var b match.NetworksBuilder
	for _, p := range ranges {
		if err := b.Add(p); err != nil {
			return nil, err
		}
	}
	return b.Build(), nil
}

// identify returns who asks, and whether they can send packets to a virtual
// address. opts returns the data of an EDNS option of the question, nil if there
// is none; it is called only for a forwarder.
func (i *identifier) identify(c *listen.Client, opts func(code uint16) []byte) (a policy.Asker, way bool) {
	dir, src := i.directory(), c.Addr.Addr()
	if c.Listener == onLink {
		e, ok := dir.BySource(src)
		if !ok || len(e.Device.LAN) > 0 {
			return policy.Asker{Source: src}, false
		}
		return askerOf(e, device.ByWireGuard, src), true
	}
	e, kind := i.machine(dir, c, opts)
	office, routed, inOffice := i.office(dir, src)
	switch {
	case e != nil:
		return askerOf(e, kind, src), routed || i.linked(e.Device)
	case inOffice:
		return askerOf(office, device.ByNetwork, src), routed
	}
	return policy.Asker{Source: src}, false
}

func askerOf(e *state.Entry, kind device.Kind, src netip.Addr) policy.Asker {
	return policy.Asker{Device: e.Device, Kind: kind, Source: src, Verdicts: e.Verdicts}
}

// office returns the network that an address is in, and whether that routes the
// virtual addresses to this node.
func (i *identifier) office(dir *state.Directory, src netip.Addr) (e *state.Entry, routed, ok bool) {
	e, overlay, ok := dir.ByLAN(src)
	return e, ok && e.Device.RoutesPool && overlay != src && i.lan, ok
}

// linked reports whether the device has a link that is up.
func (i *identifier) linked(d *device.Device) bool {
	if d.Key.IsZero() || i.handshake == nil {
		return false
	}
	last := i.handshake(d.ID)
	return !last.IsZero() && i.now().Sub(last) < handshakeAge
}

// machine returns the machine that asks by other means than a link. A
// forwarder asks for many: a token that came from its address, as from behind
// the same NAT, says nothing about its other questions.
func (i *identifier) machine(dir *state.Directory, c *listen.Client, opts func(code uint16) []byte) (*state.Entry, device.Kind) {
	src := c.Addr.Addr()
	forwards := i.forwarders.Contains(src)
	if e, ok := byToken(dir, c); ok {
		if !forwards {
			i.bindings.Bind(src, e.Device.ID, i.now())
		}
		return e, device.ByToken
	}
	named, ok := i.byServerName(dir, c)
	if !forwards {
		if e, bound := i.byBinding(dir, src); bound && (!ok || named.Device.ID == e.Device.ID) {
			return e, device.ByBinding
		}
	}
	if ok {
		return named, device.ByServerName
	}
	if forwards && opts != nil {
		if e, ok := byOption(dir, opts); ok {
			return e, device.ByOption
		}
	}
	return nil, device.Unidentified
}

func byToken(dir *state.Directory, c *listen.Client) (*state.Entry, bool) {
	if c.Token == "" {
		return nil, false
	}
	return dir.ByToken(device.HashToken(c.Token))
}

// unknownToken reports whether the question brought a token that is nobody's,
// for the record of it.
func (i *identifier) unknownToken(c *listen.Client) bool {
	_, ok := byToken(i.directory(), c)
	return c.Token != "" && !ok
}

// byBinding asks for the entry anew: what is known of the device may have changed
// since the address was bound, or it may be gone.
func (i *identifier) byBinding(dir *state.Directory, src netip.Addr) (*state.Entry, bool) {
	if i.bindings.empty() {
		return nil, false
	}
	id, ok := i.bindings.Lookup(src, i.now())
	if !ok {
		return nil, false
	}
	return dir.ByID(id)
}

func (i *identifier) byServerName(dir *state.Directory, c *listen.Client) (*state.Entry, bool) {
	if i.suffix == "" || c.ServerName == "" {
		return nil, false
	}
	label, ok := strings.CutSuffix(c.ServerName, i.suffix)
	if !ok {
		return nil, false
	}
	return dir.ByServerName(label)
}

// byOption finds the machine that a forwarder asks for.
func byOption(dir *state.Directory, opts func(code uint16) []byte) (*state.Entry, bool) {
	if b := opts(optMAC); len(b) == len(device.MAC{}) {
		if e, ok := dir.ByMAC(device.MAC(b)); ok {
			return e, true
		}
	}
	if m, ok := device.DecodeMAC(opts(optDeviceID)); ok {
		if e, ok := dir.ByMAC(m); ok {
			return e, true
		}
	}
	if b := opts(optCPE); len(b) > 0 && len(b) <= device.MaxCPE {
		return dir.ByCPE(string(b))
	}
	return nil, false
}
