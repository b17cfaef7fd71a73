package packet

import (
	"encoding/binary"
	"net/netip"
)

// sum adds the bytes of b, as big-endian words, to an unfolded Internet sum.
func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return uint32(delta(s).fold())
}

// header appends an IP header for n bytes of layer 4 that follow.
func header(buf []byte, src, dst netip.Addr, proto uint8, n int) []byte {
	at := len(buf)
	if src.Is4() {
		buf = append(buf, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, proto, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		h := buf[at:]
		binary.BigEndian.PutUint16(h[2:], uint16(len4+n))
		put(h[12:], src)
		put(h[16:], dst)
		binary.BigEndian.PutUint16(h[10:], ^uint16(sum(0, h)))
		return buf
	}
	buf = append(buf, 0x60, 0, 0, 0, byte(n>>8), byte(n), proto, 64)
	s, d := src.As16(), dst.As16()
	return append(append(buf, s[:]...), d[:]...)
}

// seal computes the checksum of the layer 4 segment h between two addresses;
// its field is zero.
func seal(h []byte, src, dst netip.Addr, proto uint8) {
	at, s := checksumAt(proto), uint32(0)
	if at < 0 {
		at = 2
	} else {
		a, b := src.As16(), dst.As16()
		from := 0
		if src.Is4() {
			from = 12
		}
		s = sum(sum(uint32(proto)+uint32(len(h)), a[from:]), b[from:])
	}
	binary.BigEndian.PutUint16(h[at:], ^uint16(sum(s, h)))
}

// A Reset is a TCP segment with RST.
type Reset struct {
	Src, Dst netip.AddrPort
	Seq, Ack uint32
	WithAck  bool // Ack is valid
}

// Answer returns the reset that answers a TCP segment to its sender (RFC 9293,
// section 3.10.7.1): <SEQ=SEG.ACK><CTL=RST>, which is exactly what the
// sender expects next and so what RFC 5961 accepts at once; or, for a
// segment without ACK, <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>. A reset is
// never answered: ok is false.
func (p *Packet) Answer() (r Reset, ok bool) {
	if p.Proto != TCP || p.Flags&RST != 0 {
		return Reset{}, false
	}
	r.Src, r.Dst = netip.AddrPortFrom(p.Dst, p.DstPort), netip.AddrPortFrom(p.Src, p.SrcPort)
	if p.Flags&ACK != 0 {
		r.Seq = p.Ack()
	} else {
		r.Ack, r.WithAck = p.Seq()+p.SegLen(), true
	}
	return r, true
}

// AppendReset appends the packet to buf. It takes 60 bytes at most.
func AppendReset(buf []byte, r Reset) []byte {
	src, dst := r.Src.Addr(), r.Dst.Addr()
	buf = header(buf, src, dst, TCP, lenTCP)
	at := len(buf)
	buf = binary.BigEndian.AppendUint16(buf, r.Src.Port())
	buf = binary.BigEndian.AppendUint16(buf, r.Dst.Port())
	buf = binary.BigEndian.AppendUint32(buf, r.Seq)
	buf = binary.BigEndian.AppendUint32(buf, r.Ack)
	flags := byte(RST)
	if r.WithAck {
		flags |= ACK
	}
	buf = append(buf, lenTCP/4<<4, flags, 0, 0, 0, 0, 0, 0)
	seal(buf[at:], src, dst, TCP)
	return buf
}

// A Problem is what an ICMP error says.
type Problem uint8

// The problems.
const (
	Prohibited Problem = iota // communication administratively prohibited
	HostUnreachable
	PortUnreachable
	TimeExceeded // in transit
	TooBig       // packet too big; fragmentation needed
)

// codes gives type and code of each problem: RFC 792, RFC 1812 section 5.2.7.1, RFC 4443.
var codes = [...]struct{ v4, v6 [2]uint8 }{
	Prohibited:      {[2]uint8{3, 13}, [2]uint8{1, 1}},
	HostUnreachable: {[2]uint8{3, 1}, [2]uint8{1, 3}},
	PortUnreachable: {[2]uint8{3, 3}, [2]uint8{1, 4}},
	TimeExceeded:    {[2]uint8{11, 0}, [2]uint8{3, 0}},
	TooBig:          {[2]uint8{3, 4}, [2]uint8{2, 0}},
}

// How long an error gets at most: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c).
const (
	errorMax4 = 576
	errorMax6 = 1280
	// ErrorMax is room enough for what AppendError appends.
	ErrorMax = errorMax6
)

// AppendError appends to buf an ICMP error from src to the sender of p, about
// p as it was received. The MTU is told by TooBig alone. ok is false where no
// error may be sent (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)): about
// ICMP errors and other ICMP that is no echo, about multicast and broadcast,
// to a source that is no single host, or when src is not of the family of p.
func AppendError(buf []byte, src netip.Addr, p *Packet, what Problem, mtu int) (_ []byte, ok bool) {
	if p.Kind == Error || p.Kind == Other || src.Is6() != p.V6 || !src.IsValid() || !single(p.Src) || !single(p.Dst) {
		return buf, false
	}
	code, proto, room := codes[what].v4, uint8(ICMP), errorMax4-len4-8
	if p.V6 {
		code, proto, room = codes[what].v6, ICMPv6, errorMax6-len6-8
	}
	quote := p.B[:min(len(p.B), room)]
	buf = header(buf, src, p.Src, proto, 8+len(quote))
	at := len(buf)
	buf = append(buf, code[0], code[1], 0, 0)
	if what != TooBig {
		mtu = 0
	}
	buf = binary.BigEndian.AppendUint32(buf, uint32(mtu))
	buf = append(buf, quote...)
	seal(buf[at:], src, p.Src, proto)
	return buf, true
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// single reports whether a is the address of one host that can be answered.
func single(a netip.Addr) bool {
	return !a.IsMulticast() && !a.IsUnspecified() && !a.IsLoopback() && a != broadcast
}
