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

// some yields addresses of a range until it is told to stop: the first of a
// machine, then such as lie far apart, since parts of it may be another's.
func some(p netip.Prefix, yield func(netip.Addr) bool) bool {
	host := p.Addr().BitLen() - p.Bits()
	first := p.Addr()
	if host > 0 {
		first = first.Next()
	}
	if !yield(first) {
		return false
	}
	for i := 1; i < min(maxSources, 1<<min(host, 8)); i++ {
		if a := spread(p, i); a != first && !yield(a) {
			return false
		}
	}
	return true
}

// spread returns the i-th address of a range, whose bits follow the range's own from
// the lowest on.
func spread(p netip.Prefix, i int) netip.Addr {
	b := p.Addr().AsSlice()
	for at := p.Bits(); i > 0; i, at = i>>1, at+1 {
		b[at/8] |= byte(i&1) << (7 - at%8)
	}
	a, _ := netip.AddrFromSlice(b)
	if a.BitLen()-p.Bits() > 8 {
		a = a.Next() // of networks within it the first of a machine
	}
	return a
}
