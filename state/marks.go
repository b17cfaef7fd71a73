package state

import (
	"crypto/sha256"
	"fmt"
	"iter"
	"net/netip"

	"github.com/starferry/starferry/device"
)

// A Directory finds devices by their ids and marks in one persistent map, for
// which the table of prefixes at hand serves: each is filed under a prefix of
// 128 bits, whose first byte says what it is. The rest is the beginning of a
// hash, so whoever looks one up compares the mark itself.
const (
	idPlace byte = 1 + iota
	tokenPlace
	serverNamePlace
	macPlace
	cpePlace
)

func place128(what byte, b []byte) netip.Addr {
	a := [16]byte{what}
	copy(a[1:], b)
	return netip.AddrFrom16(a)
}

// placeText is the place of a text. It allocates only for texts that are longer
// than any of a file.
func placeText(what byte, s string) netip.Addr {
	var buf [128]byte
	b := buf[:copy(buf[:], s)]
	if len(s) > len(buf) {
		b = []byte(s)
	}
	h := sha256.Sum256(b)
	return place128(what, h[:15])
}

// placesOf ranges over the places that a device takes.
func placesOf(d *device.Device) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for _, a := range [...]netip.Addr{
			placeText(idPlace, string(d.ID)), tokenAt(d.Token), textAt(serverNamePlace, d.ServerName), macAt(d.MAC), textAt(cpePlace, d.CPE),
		} {
			if a.IsValid() && !yield(netip.PrefixFrom(a, a.BitLen())) {
				return
			}
		}
	}
}

// tokenAt, macAt and textAt return the place of a mark, the zero Addr of none.
func tokenAt(h device.TokenHash) netip.Addr {
	if h.IsZero() {
		return netip.Addr{}
	}
	return place128(tokenPlace, h[:15])
}

func macAt(m device.MAC) netip.Addr {
	if m.IsZero() {
		return netip.Addr{}
	}
	return place128(macPlace, m[:])
}

func textAt(what byte, s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return placeText(what, s)
}

// at returns the entry at a place, for the caller to compare.
func (d *Directory) at(a netip.Addr) (*Entry, bool) {
	if !a.IsValid() {
		return nil, false
	}
	return d.marks.Lookup(a)
}

// ByID returns the entry of a device. It does not allocate for an ID of up to
// 128 bytes.
func (d *Directory) ByID(id device.ID) (*Entry, bool) {
	if e, ok := d.at(placeText(idPlace, string(id))); ok && e.Device.ID == id {
		return e, true
	}
	return nil, false
}

// ByToken returns the entry of the device whose token has this hash. Since what
// is looked up is a hash, how long it takes says nothing about other tokens. It
// does not allocate.
func (d *Directory) ByToken(h device.TokenHash) (*Entry, bool) {
	if e, ok := d.at(tokenAt(h)); ok && e.Device.Token == h {
		return e, true
	}
	return nil, false
}

// ByServerName returns the entry of the device with this label below the
// gateway's server name. It does not allocate.
func (d *Directory) ByServerName(label string) (*Entry, bool) {
	if len(label) > 63 {
		return nil, false
	}
	if e, ok := d.at(textAt(serverNamePlace, label)); ok && e.Device.ServerName == label {
		return e, true
	}
	return nil, false
}

// ByMAC returns the entry of the device with this hardware address. It does not
// allocate.
func (d *Directory) ByMAC(m device.MAC) (*Entry, bool) {
	if e, ok := d.at(macAt(m)); ok && e.Device.MAC == m {
		return e, true
	}
	return nil, false
}

// ByCPE returns the entry of the device to which forwarders give this id. It
// does not allocate.
func (d *Directory) ByCPE(id string) (*Entry, bool) {
	if len(id) > device.MaxCPE {
		return nil, false
	}
	if e, ok := d.at(textAt(cpePlace, id)); ok && e.Device.CPE == id {
		return e, true
	}
	return nil, false
}

// sameMarks returns the conflicts over marks.
func sameMarks(devices []*device.Device) (errs []error) {
	owners := map[string]*device.Device{}
	for _, d := range devices {
		for _, mark := range words(&d.Marks) {
			if first, taken := owners[mark]; taken {
				errs = append(errs, &Conflict{mark, first, d})
			}
			owners[mark] = d
		}
	}
	return errs
}

// words says each mark that there is.
func words(m *device.Marks) (out []string) {
	if !m.Token.IsZero() {
		out = append(out, "the token "+m.Token.String())
	}
	if m.ServerName != "" {
		out = append(out, fmt.Sprintf("the server name %q", m.ServerName))
	}
	if !m.MAC.IsZero() {
		out = append(out, "the MAC address "+m.MAC.String())
	}
	if m.CPE != "" {
		out = append(out, fmt.Sprintf("the CPE id %q", m.CPE))
	}
	return out
}
