package device

import (
	"iter"
	"net/netip"
)

// maxSources bounds how many addresses of one range are looked at.
const maxSources = 256

// Sources ranges over addresses of a family from which a device's packets come
// to the node that takes them in: of a machine those of its link; of a network
// its own, as far as they are mapped into the fleet, but not the first of a
// range, which is the network's own (RFC 1122 section 3.2.1.3), nor all of a
// large one. What an egress knows of a device has no own addresses: there they
// are those inside the fleet.
func (d *Device) Sources(v6 bool) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for i, p := range d.Overlay {
			if len(d.LAN) > 0 {
				if i >= len(d.LAN) || !p.IsValid() || d.LAN[i].Bits() != p.Bits() || d.LAN[i].Addr().Is4() != p.Addr().Is4() {
					continue
				}
				p = d.LAN[i]
			}
			if p.IsValid() && p.Addr().Is4() != v6 && !some(p, yield) {
				return
			}
		}
	}
}

// Source returns an address that questions of the device come from: of a network
// one of its own, of a machine that of its link. Others have none.
func (d *Device) Source() netip.Addr {
	switch {
	case len(d.LAN) > 0:
		return d.LAN[0].Addr()
	case len(d.Overlay) > 0:
		return d.Overlay[0].Addr()
	}
	return netip.Addr{}
}

// some yields addresses of a range until it is told to stop.
func some(p netip.Prefix, yield func(netip.Addr) bool) bool {
	a := p.Addr()
	if next := a.Next(); p.Contains(next) {
		a = next
	}
	for range maxSources {
		if !yield(a) {
			return false
		}
		if a = a.Next(); !p.Contains(a) {
			return true
		}
	}
	return true
}
