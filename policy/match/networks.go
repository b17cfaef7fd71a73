package match

import (
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"
)

// Networks is an immutable set of address prefixes of both families, safe for
// concurrent use. The zero value and nil are the empty set.
//
// IPv4 addresses written as IPv6 ones (::ffff:192.0.2.1) count as IPv4.
type Networks struct {
	table *bart.Lite
	less  *bart.Lite // exceptions; nil for none
}

// Len returns how many different prefixes the set holds.
func (n *Networks) Len() int {
	if n == nil || n.table == nil {
		return 0
	}
	return n.table.Size()
}

// Contains reports whether a prefix of the set covers the address.
func (n *Networks) Contains(a netip.Addr) bool {
	if n == nil || n.table == nil {
		return false
	}
	if n.less != nil {
		_, ok := n.Lookup(a)
		return ok
	}
	return n.table.Contains(a.Unmap())
}

// Lookup returns the longest prefix of the set that covers the address.
func (n *Networks) Lookup(a netip.Addr) (netip.Prefix, bool) {
	a = a.Unmap()
	if n == nil || n.table == nil || !a.IsValid() {
		return netip.Prefix{}, false
	}
	whole := netip.PrefixFrom(a.WithZone(""), a.BitLen())
	p, ok := n.table.LookupPrefixLPM(whole)
	if ok && n.less != nil {
		if out, excepted := n.less.LookupPrefixLPM(whole); excepted && out.Bits() >= p.Bits() {
			return netip.Prefix{}, false
		}
	}
	return p, ok
}

// WithoutCloser returns a set of the same prefixes, but for addresses that out
// covers by a prefix as long or longer.
func (n *Networks) WithoutCloser(out *Networks) *Networks {
	if n.Len() == 0 || out.Len() == 0 {
		return n
	}
	return &Networks{table: n.table, less: out.table}
}

// A NetworksBuilder collects the prefixes of a set. The zero value is ready.
type NetworksBuilder struct {
	table *bart.Lite
}

// Add adds a prefix. Host bits are ignored.
func (b *NetworksBuilder) Add(p netip.Prefix) error {
	if !p.IsValid() {
		return fmt.Errorf("%v is no prefix", p)
	}
	if a := p.Addr(); a.Is4In6() {
		if p.Bits() < 96 {
			return fmt.Errorf("%v cuts through the mapped IPv4 addresses", p)
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	if b.table == nil {
		b.table = new(bart.Lite)
	}
	b.table.Insert(p.Masked())
	return nil
}

// AddRange adds all addresses of a range, both ends included.
func (b *NetworksBuilder) AddRange(from, to netip.Addr) error {
	from, to = from.Unmap(), to.Unmap()
	if !from.IsValid() || from.BitLen() != to.BitLen() || to.Less(from) {
		return fmt.Errorf("%v-%v is no range", from, to)
	}
	for {
		p := widest(from, to)
		if err := b.Add(p); err != nil {
			return err
		}
		if from = Last(p).Next(); !from.IsValid() || to.Less(from) {
			return nil
		}
	}
}

// Build returns the set of all that was added; the builder is empty after it.
func (b *NetworksBuilder) Build() *Networks {
	n := &Networks{table: b.table}
	*b = NetworksBuilder{}
	return n
}

// widest returns the widest prefix that starts at from and does not pass to.
func widest(from, to netip.Addr) netip.Prefix {
	p := netip.PrefixFrom(from, from.BitLen())
	for bits := from.BitLen() - 1; bits >= 0; bits-- {
		q := netip.PrefixFrom(from, bits)
		if q.Masked().Addr() != from || to.Less(Last(q)) {
			break
		}
		p = q
	}
	return p
}

// Last returns the highest address of a prefix.
func Last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b) // the length comes from an address
	return a
}
