// Package packet reads and changes the headers of single IP packets, in place
// and without allocating: IPv4 and IPv6, TCP, UDP, ICMP and ICMPv6.
//
// [Decode] looks at a packet once and fills a [Packet] that the caller owns,
// or says by a [Reason] why the packet is refused. Everything else may then
// rely on what it has checked: a Packet that was decoded with [OK] is never
// read beyond its end. A Packet belongs to one goroutine.
//
// Checksums are never verified and never computed anew for packets that pass
// through: they are adjusted by what has changed (RFC 1624, equation 3), so
// that a packet damaged on its way is still damaged when it arrives. Only
// packets that are built here ([AppendReset], [AppendError]) are summed.
//
// Fragments other than the first are refused: they have no ports. A first
// fragment has its ports, and passes.
package packet

import (
	"encoding/binary"
	"net/netip"
)

// The protocols that are known.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

// The flags of a TCP header.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// A Reason says why a packet is refused.
type Reason uint8

// The reasons.
const (
	OK              Reason = iota
	Truncated              // a header ends beyond the packet
	BadVersion             // neither 4 nor 6
	BadHeaderLength        // a length field is too small for its own header
	BadTotalLength         // the length in the IP header disagrees with the packet
	BadAddress             // an IPv4-mapped address on the wire
	Fragment               // a fragment other than the first
	UnknownProtocol        // none of TCP, UDP, ICMP; or the ICMP of the other family
	TooManyHeaders         // more than four IPv6 extension headers, or hop-by-hop out of place
	SourceRoute            // an IPv4 source route (RFC 7126) or a live IPv6 routing header (RFC 5095)
)

var reasons = [...]string{
	"ok", "truncated", "bad version", "bad header length", "bad total length", "bad address",
	"fragment", "unknown protocol", "too many headers", "source route",
}

func (r Reason) String() string { return reasons[r] }

// A Kind tells ICMP messages apart by what has to be done with them.
type Kind uint8

// The kinds.
const (
	NotICMP Kind = iota
	EchoRequest
	EchoReply
	Error // quotes the packet that it is about
	Other // redirects, neighbour discovery, timestamps …: never forwarded
)

// A Packet is what Decode found in the bytes B, which it shares.
type Packet struct {
	B        []byte // the packet, cut to the length that its header gives
	Src, Dst netip.Addr
	// Ports of TCP and UDP. An echo request has its identifier as SrcPort and
	// 0 as DstPort, an echo reply the reverse, so that swapping source and
	// destination names the other direction here too.
	SrcPort, DstPort uint16
	Proto            uint8
	Flags            uint8 // of TCP
	Kind             Kind
	First            bool // the first of several fragments
	V6               bool
	l4               int // where layer 4 begins
}

const (
	len4, len6   = 20, 40 // fixed headers
	lenTCP       = 20
	lenL4        = 8 // UDP, ICMP, and all that an ICMP error has to quote of layer 4
	extensionMax = 4
)

// Decode fills p from the IP packet b. If it returns anything but OK, p must
// not be used, except that Src and Dst are valid for Fragment,
// UnknownProtocol, TooManyHeaders and SourceRoute.
func Decode(b []byte, p *Packet) Reason {
	if len(b) == 0 {
		return Truncated
	}
	p.First, p.Flags, p.Kind, p.SrcPort, p.DstPort = false, 0, NotICMP, 0, 0
	var why Reason
	switch b[0] >> 4 {
	case 4:
		why = p.decode4(b)
	case 6:
		why = p.decode6(b)
	default:
		return BadVersion
	}
	if why != OK {
		return why
	}
	return p.decodeL4()
}

func (p *Packet) decode4(b []byte) Reason {
	if len(b) < len4 {
		return Truncated
	}
	ihl := int(b[0]&15) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case ihl < len4:
		return BadHeaderLength
	case total < ihl || total > len(b):
		return BadTotalLength
	}
	p.B, p.V6, p.l4, p.Proto = b[:total], false, ihl, b[9]
	p.Src, p.Dst = addr4(b[12:]), addr4(b[16:])
	if ihl > len4 && sourceRouted(b[len4:ihl]) {
		return SourceRoute
	}
	frag := binary.BigEndian.Uint16(b[6:])
	if frag&0x1fff != 0 {
		return Fragment
	}
	p.First = frag&0x2000 != 0
	return OK
}

// sourceRouted reports whether the options of an IPv4 header hold a loose or
// strict source route (RFC 791), which would carry the packet past what was
// judged: its destination is not where it ends.
func sourceRouted(opts []byte) bool {
	for len(opts) > 0 && opts[0] != 0 {
		if opts[0] == 131 || opts[0] == 137 {
			return true
		}
		n := 1
		if opts[0] != 1 {
			if len(opts) < 2 || opts[1] < 2 {
				return false
			}
			n = int(opts[1])
		}
		if n > len(opts) {
			return false
		}
		opts = opts[n:]
	}
	return false
}

func (p *Packet) decode6(b []byte) Reason {
	if len(b) < len6 {
		return Truncated
	}
	total := len6 + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) || total == len6 { // 0 would be a jumbogram (RFC 2675), or nothing
		return BadTotalLength
	}
	p.B, p.V6 = b[:total], true
	p.Src, p.Dst = addr6(b[8:]), addr6(b[24:])
	if p.Src.Is4In6() || p.Dst.Is4In6() {
		return BadAddress // would be taken for the IPv4 address in some table
	}
	x, why := walk6(p.B)
	p.Proto, p.l4, p.First = x.proto, x.l4, x.first
	return why
}

// upper is where layer 4 of an IPv6 packet was found.
type upper struct {
	proto uint8
	l4    int
	first bool
}

// walk6 goes over the extension headers of b (RFC 8200, section 4), which
// holds at least the fixed header.
func walk6(b []byte) (upper, Reason) {
	u := upper{proto: b[6], l4: len6}
	for n := 0; ; n++ {
		switch u.proto {
		case 0, 43, 44, 60: // hop-by-hop, routing, fragment, destination options
		default:
			return u, OK
		}
		if n == extensionMax || u.proto == 0 && n > 0 {
			return u, TooManyHeaders
		}
		if len(b) < u.l4+8 {
			return u, Truncated
		}
		h := b[u.l4:]
		size := (int(h[1]) + 1) * 8
		switch u.proto {
		case 43:
			if h[3] != 0 { // segments left: the destination is not the last one
				return u, SourceRoute
			}
		case 44:
			size = 8
			frag := binary.BigEndian.Uint16(h[2:])
			if frag&^7 != 0 {
				return u, Fragment
			}
			u.first = u.first || frag&1 != 0
		}
		u.proto, u.l4 = h[0], u.l4+size
	}
}

func (p *Packet) decodeL4() Reason {
	need := lenL4
	switch p.Proto {
	case TCP:
		need = lenTCP
	case UDP:
	case ICMP, ICMPv6:
		if p.V6 != (p.Proto == ICMPv6) {
			return UnknownProtocol
		}
	default:
		return UnknownProtocol
	}
	if len(p.B) < p.l4+need {
		return Truncated
	}
	h := p.B[p.l4:]
	switch p.Proto {
	case TCP:
		off := int(h[12]>>4) * 4
		if off < lenTCP {
			return BadHeaderLength
		}
		if off > len(h) {
			return Truncated
		}
		p.Flags = h[13]
	case ICMP, ICMPv6:
		p.Kind = kind(p.V6, h[0])
	}
	p.SrcPort, p.DstPort = ports(p.Proto, p.Kind, h)
	return OK
}

// ports returns what stands for the ports in the layer 4 header h, of which
// eight bytes are there.
func ports(proto uint8, k Kind, h []byte) (src, dst uint16) {
	switch {
	case proto == TCP || proto == UDP:
		return binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:])
	case k == EchoRequest:
		return binary.BigEndian.Uint16(h[4:]), 0
	case k == EchoReply:
		return 0, binary.BigEndian.Uint16(h[4:])
	}
	return 0, 0
}

// kind sorts ICMP types (RFC 792, RFC 4443). Source quench is dead (RFC 6633)
// and a redirect is no business of somebody behind a tunnel.
func kind(v6 bool, typ uint8) Kind {
	if v6 {
		switch {
		case typ == 128:
			return EchoRequest
		case typ == 129:
			return EchoReply
		case typ >= 1 && typ <= 4:
			return Error
		}
		return Other
	}
	switch typ {
	case 8:
		return EchoRequest
	case 0:
		return EchoReply
	case 3, 11, 12:
		return Error
	}
	return Other
}

// Addrs returns the addresses of a packet of which nothing else is needed.
func Addrs(b []byte) (src, dst netip.Addr, ok bool) {
	switch {
	case len(b) >= len4 && b[0]>>4 == 4:
		return addr4(b[12:]), addr4(b[16:]), true
	case len(b) >= len6 && b[0]>>4 == 6:
		return addr6(b[8:]), addr6(b[24:]), true
	}
	return netip.Addr{}, netip.Addr{}, false
}

func addr4(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }
func addr6(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)) }

// TTL returns the time to live or hop limit.
func (p *Packet) TTL() uint8 {
	if p.V6 {
		return p.B[7]
	}
	return p.B[8]
}

// DontFragment reports whether routers may not fragment the packet, which for
// IPv6 is always so.
func (p *Packet) DontFragment() bool { return p.V6 || p.B[6]&0x40 != 0 }

// Seq returns the sequence number of a TCP segment.
func (p *Packet) Seq() uint32 { return binary.BigEndian.Uint32(p.B[p.l4+4:]) }

// Ack returns the acknowledgement number of a TCP segment with the flag ACK.
func (p *Packet) Ack() uint32 { return binary.BigEndian.Uint32(p.B[p.l4+8:]) }

// SegLen returns how much of the sequence space a TCP segment takes:
// its payload, and one each for SYN and FIN (RFC 9293, section 3.4).
func (p *Packet) SegLen() uint32 {
	n := uint32(len(p.B) - p.l4 - int(p.B[p.l4+12]>>4)*4)
	if p.Flags&SYN != 0 {
		n++
	}
	if p.Flags&FIN != 0 {
		n++
	}
	return n
}
