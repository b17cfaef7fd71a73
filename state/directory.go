package state

import (
	"iter"
	"net/netip"

	"github.com/gaissmai/bart"
)

// A Directory says who sends from an address and how that device stands. It is
// compiled from the devices and verdicts of one moment and never changes; load
// it again for each packet.
type Directory struct {
	view    View // holds the entries
	sources *bart.Table[*Entry]
	offices *bart.Table[*office]
	marks   *bart.Table[*Entry] // by the places of marks.go
}

// An office is one range of a network's own addresses, and the overlay range
// of the same length that they are mapped to (zero if none).
type office struct {
	entry        *Entry
	own, overlay netip.Prefix
}

func emptyDirectory(v View) *Directory {
	return &Directory{view: v, sources: new(bart.Table[*Entry]), offices: new(bart.Table[*office]), marks: new(bart.Table[*Entry])}
}

// BySource returns the entry of the device, or network, that sends from an
// overlay address. It does not allocate.
func (d *Directory) BySource(overlay netip.Addr) (*Entry, bool) { return d.sources.Lookup(overlay) }

// ByLAN returns the entry of the network that an office's own address is in,
// of the narrowest if there are several, and the overlay address that this
// address is mapped to. Mapped is the zero Addr if the network has no overlay
// range, for then its machines may ask but have no way to send. It does not
// allocate.
func (d *Directory) ByLAN(own netip.Addr) (e *Entry, mapped netip.Addr, ok bool) {
	own = own.Unmap()
	o, ok := d.offices.Lookup(own)
	if !ok {
		return nil, netip.Addr{}, false
	}
	return o.entry, rebase(own, o.overlay), true
}

// ToLAN returns the office's own address that is mapped to an overlay address:
// the way back of [Directory.ByLAN]. It does not allocate.
func (d *Directory) ToLAN(overlay netip.Addr) (own netip.Addr, ok bool) {
	e, ok := d.sources.Lookup(overlay)
	if !ok {
		return netip.Addr{}, false
	}
	for i, p := range e.Device.Overlay {
		if p.Contains(overlay) && i < len(e.Device.LAN) && mappable(e.Device.LAN[i], p) {
			return rebase(overlay, e.Device.LAN[i]), true
		}
	}
	return netip.Addr{}, false
}

// All ranges over all entries in the order of their IDs.
func (d *Directory) All() iter.Seq[*Entry] { return all(d.view.tx, entryByID) }

// mappable reports whether two prefixes can be mapped onto each other 1:1.
func mappable(a, b netip.Prefix) bool {
	return a.IsValid() && b.IsValid() && a.Bits() == b.Bits() && a.Addr().Is4() == b.Addr().Is4()
}

// rebase returns the address that has the network bits of p and the host bits
// of a, or the zero Addr if p is not of a's family.
func rebase(a netip.Addr, p netip.Prefix) netip.Addr {
	switch {
	case !p.IsValid() || a.Is4() != p.Addr().Is4():
		return netip.Addr{}
	case a.Is4():
		to, host := p.Addr().As4(), a.As4()
		splice(to[:], host[:], p.Bits())
		return netip.AddrFrom4(to)
	default:
		to, host := p.Addr().As16(), a.As16()
		splice(to[:], host[:], p.Bits())
		return netip.AddrFrom16(to)
	}
}

// splice overwrites all but the first bits of to by those of from.
func splice(to, from []byte, bits int) {
	for i := range to {
		mask := byte(0xff) >> min(max(bits-8*i, 0), 8)
		to[i] = to[i]&^mask | from[i]&mask
	}
}

// without takes the addresses and marks of an entry out of the tables that are being
// built; with puts them in. Both copy what they change and share the rest.
func (d *Directory) without(e *Entry) {
	for _, p := range e.Device.Overlay {
		d.sources = d.sources.DeletePersist(p)
	}
	for _, p := range e.Device.LAN {
		d.offices = d.offices.DeletePersist(p)
	}
	for p := range placesOf(e.Device) {
		d.marks = d.marks.DeletePersist(p)
	}
}

func (d *Directory) with(e *Entry) {
	for _, p := range e.Device.Overlay {
		d.sources = d.sources.InsertPersist(p, e)
	}
	for i, p := range e.Device.LAN {
		o := &office{entry: e, own: p}
		if i < len(e.Device.Overlay) && mappable(p, e.Device.Overlay[i]) {
			o.overlay = e.Device.Overlay[i]
		}
		d.offices = d.offices.InsertPersist(p, o)
	}
	for p := range placesOf(e.Device) {
		d.marks = d.marks.InsertPersist(p, e)
	}
}
