package packet

import (
	"encoding/binary"
	"net/netip"
)

// A delta is what changes add to an Internet checksum: the sum of ~m + m'
// over all changed 16-bit words (RFC 1624, equation 3: HC' = ~(~HC + ~m + m')).
type delta uint32

// word returns the delta of one word.
func word(from, to uint16) delta { return delta(^from) + delta(to) }

func (d delta) fold() delta {
	for d > 0xffff {
		d = d>>16 + d&0xffff
	}
	return d
}

// adjust applies d to the checksum at b.
func (d delta) adjust(b []byte) {
	c := (delta(^binary.BigEndian.Uint16(b)) + d).fold()
	binary.BigEndian.PutUint16(b, ^uint16(c))
}

// adjustUDP is adjust for UDP, where 0 means that there is no checksum, and a
// computed 0 is sent as all ones (RFC 768).
func (d delta) adjustUDP(b []byte) {
	if b[0]|b[1] == 0 {
		return
	}
	if d.adjust(b); b[0]|b[1] == 0 {
		b[0], b[1] = 0xff, 0xff
	}
}

// between returns the delta of one address replaced by another of its family.
func between(from, to netip.Addr) (d delta) {
	a, b := from.As16(), to.As16()
	for i := 0; i < 16; i += 2 {
		if a[i] != b[i] || a[i+1] != b[i+1] {
			d += word(binary.BigEndian.Uint16(a[i:]), binary.BigEndian.Uint16(b[i:]))
		}
	}
	return d
}

// put writes an address, v4 in 4 bytes and v6 in 16.
func put(b []byte, a netip.Addr) {
	if a.Is4() {
		x := a.As4()
		copy(b, x[:])
		return
	}
	x := a.As16()
	copy(b, x[:])
}

// checksumAt returns where the checksum that covers the addresses stands in
// layer 4, or -1: ICMP has no pseudo-header in IPv4.
func checksumAt(proto uint8) int {
	switch proto {
	case TCP:
		return 16
	case UDP:
		return 6
	case ICMPv6:
		return 2
	}
	return -1
}

// A Rewrite replaces the addresses of all packets of one direction of a flow.
// It is prepared once and applied often; it is never changed.
type Rewrite struct {
	src, dst netip.Addr
	delta    delta
}

// NewRewrite prepares the replacement of (src, dst) by (newSrc, newDst), all
// of one family.
func NewRewrite(src, dst, newSrc, newDst netip.Addr) Rewrite {
	return Rewrite{newSrc, newDst, (between(src, newSrc) + between(dst, newDst)).fold()}
}

// Apply rewrites a packet that has the addresses for which r was prepared,
// with its checksums.
func (r *Rewrite) Apply(p *Packet) {
	if p.V6 {
		put(p.B[8:24], r.src)
		put(p.B[24:40], r.dst)
	} else {
		put(p.B[12:16], r.src)
		put(p.B[16:20], r.dst)
		r.delta.adjust(p.B[10:])
	}
	p.Src, p.Dst = r.src, r.dst
	at := p.l4 + checksumAt(p.Proto)
	switch p.Proto {
	case UDP:
		r.delta.adjustUDP(p.B[at:])
	case TCP, ICMPv6:
		r.delta.adjust(p.B[at:])
	}
}

// DecrementTTL takes one off the time to live or hop limit, which must not be
// 0, and corrects the IPv4 header checksum.
func (p *Packet) DecrementTTL() {
	if p.V6 {
		p.B[7]--
		return
	}
	old := binary.BigEndian.Uint16(p.B[8:])
	p.B[8]--
	word(old, old-0x100).adjust(p.B[10:])
}

// ClampMSS lowers the maximum segment size that a SYN or SYN-ACK announces to
// what fits into packets of mtu bytes, and reports whether it did. Where the
// option is absent nothing is added: the peer then takes 536 or 1220
// (RFC 9293, section 3.7.1), which fits.
func (p *Packet) ClampMSS(mtu int) bool {
	limit := mtu - len4 - lenTCP
	if p.V6 {
		limit = mtu - len6 - lenTCP
	}
	if p.Flags&SYN == 0 || limit <= 0 || limit > 0xffff {
		return false
	}
	at := p.mssAt()
	if at < 0 {
		return false
	}
	b := p.B[at:]
	old := binary.BigEndian.Uint16(b)
	if int(old) <= limit {
		return false
	}
	binary.BigEndian.PutUint16(b, uint16(limit))
	d := word(old, uint16(limit))
	if (at-p.l4)&1 == 1 { // the value lies across two words of the sum: RFC 1071, section 2 (B)
		d = word(old<<8|old>>8, uint16(limit)<<8|uint16(limit)>>8)
	}
	d.adjust(p.B[p.l4+16:])
	return true
}

// mssAt returns where the value of the option stands, or -1.
func (p *Packet) mssAt() int {
	i, end := p.l4+lenTCP, p.l4+int(p.B[p.l4+12]>>4)*4
	for i < end && p.B[i] != 0 {
		if p.B[i] == 1 {
			i++
			continue
		}
		if i+1 >= end || p.B[i+1] < 2 || i+int(p.B[i+1]) > end {
			return -1
		}
		if p.B[i] == 2 && p.B[i+1] == 4 {
			return i + 2
		}
		i += int(p.B[i+1])
	}
	return -1
}
