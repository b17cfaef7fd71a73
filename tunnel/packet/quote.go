package packet

import (
	"encoding/binary"
	"net/netip"
)

// A Quote is the packet that an ICMP error quotes, as far as it is there: its
// IP header and at least eight bytes of layer 4 (RFC 792).
type Quote struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16 // as in Packet
	Proto            uint8
	Kind             Kind
	at, l4           int // where in the error the quoted headers begin
}

// Quoted fills q with what the ICMP error p quotes. It refuses quotes without
// ports, of another family, and of ICMP errors (there are no errors about errors).
func (p *Packet) Quoted(q *Quote) Reason {
	if p.Kind != Error {
		return UnknownProtocol
	}
	q.at = p.l4 + 8
	b := p.B[q.at:]
	var why Reason
	if p.V6 {
		why = q.decode6(b)
	} else {
		why = q.decode4(b)
	}
	if why != OK {
		return why
	}
	h := p.B[min(q.l4, len(p.B)):]
	if len(h) < lenL4 {
		return Truncated
	}
	switch q.Proto {
	case TCP, UDP:
		q.Kind = NotICMP
	case ICMP, ICMPv6:
		q.Kind = kind(p.V6, h[0])
		if p.V6 != (q.Proto == ICMPv6) || q.Kind != EchoRequest && q.Kind != EchoReply {
			return UnknownProtocol
		}
	default:
		return UnknownProtocol
	}
	q.SrcPort, q.DstPort = ports(q.Proto, q.Kind, h)
	return OK
}

func (q *Quote) decode4(b []byte) Reason {
	if len(b) < len4 {
		return Truncated
	}
	ihl := int(b[0]&15) * 4
	switch {
	case b[0]>>4 != 4:
		return BadVersion
	case ihl < len4:
		return BadHeaderLength
	case binary.BigEndian.Uint16(b[6:])&0x1fff != 0:
		return Fragment
	}
	q.Src, q.Dst, q.Proto, q.l4 = addr4(b[12:]), addr4(b[16:]), b[9], q.at+ihl
	return OK
}

func (q *Quote) decode6(b []byte) Reason {
	if len(b) < len6 {
		return Truncated
	}
	if b[0]>>4 != 6 {
		return BadVersion
	}
	u, why := walk6(b)
	q.Src, q.Dst, q.Proto, q.l4 = addr6(b[8:]), addr6(b[24:]), u.proto, q.at+u.l4
	if why == OK && (q.Src.Is4In6() || q.Dst.Is4In6()) {
		return BadAddress
	}
	return why
}

// Translate gives the ICMP error p new addresses, and those in its quote q:
// what reaches the sender of the quoted packet must quote it as it was sent.
// Checksums inside the quote are adjusted as far as the quote holds them, and
// that of the error with them.
func (p *Packet) Translate(q *Quote, src, dst, quotedSrc, quotedDst netip.Addr) {
	inner := (between(q.Src, quotedSrc) + between(q.Dst, quotedDst)).fold()
	t := touch{b: p.B}
	if p.V6 {
		t.addr(q.at+8, quotedSrc)
		t.addr(q.at+24, quotedDst)
	} else {
		t.addr(q.at+12, quotedSrc)
		t.addr(q.at+16, quotedDst)
		t.checksum(q.at+10, inner)
	}
	if at := checksumAt(q.Proto); at >= 0 && q.l4+at+2 <= len(p.B) {
		if b := p.B[q.l4+at:]; q.Proto != UDP {
			t.checksum(q.l4+at, inner)
		} else {
			old := binary.BigEndian.Uint16(b)
			inner.adjustUDP(b)
			t.d += word(old, binary.BigEndian.Uint16(b))
		}
	}
	q.Src, q.Dst = quotedSrc, quotedDst
	t.d.adjust(p.B[p.l4+2:])
	// The outer addresses, and in ICMPv6 the pseudo-header with them.
	r := NewRewrite(p.Src, p.Dst, src, dst)
	r.Apply(p)
}

// touch changes words of b and collects what that adds to the sum over b.
type touch struct {
	b []byte
	d delta
}

func (t *touch) addr(at int, a netip.Addr) {
	n := 16
	if a.Is4() {
		n = 4
	}
	var old [16]byte
	copy(old[:n], t.b[at:])
	put(t.b[at:], a)
	for i := 0; i < n; i += 2 {
		t.d += word(binary.BigEndian.Uint16(old[i:]), binary.BigEndian.Uint16(t.b[at+i:]))
	}
}

func (t *touch) checksum(at int, d delta) {
	old := binary.BigEndian.Uint16(t.b[at:])
	d.adjust(t.b[at:])
	t.d += word(old, binary.BigEndian.Uint16(t.b[at:]))
}
