package tunnel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/starferry/starferry/tunnel/packet"
)

// A pkt is a packet as tests speak of it. Packets are built and read here by
// the dullest code, so that the Switch is not checked against itself.
type pkt struct {
	src, dst netip.AddrPort // ICMP: the identifier as in First
	proto    uint8
	flags    uint8
	seq, ack uint32
	data     int
	ttl      uint8 // 0 means 64
	mss      uint16
	quote    *pkt // makes it an ICMP error
	typ      [2]uint8
	df       bool
}

func (p pkt) String() string {
	s := fmt.Sprintf("%v>%v proto %d ttl %d", p.src, p.dst, p.proto, p.ttl)
	if p.proto == packet.TCP {
		s += fmt.Sprintf(" flags %02x seq %d ack %d", p.flags, p.seq, p.ack)
	}
	if p.quote != nil {
		s += fmt.Sprintf(" icmp %d/%d about {%v}", p.typ[0], p.typ[1], *p.quote)
	}
	return fmt.Sprintf("%s data %d", s, p.data)
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
func ip(s string) netip.Addr     { return netip.MustParseAddr(s) }

func tcp(src, dst string, flags uint8, seq, ack uint32, data int) pkt {
	return pkt{src: ap(src), dst: ap(dst), proto: packet.TCP, flags: flags, seq: seq, ack: ack, data: data, ttl: 64}
}

func udp(src, dst string, data int) pkt {
	return pkt{src: ap(src), dst: ap(dst), proto: packet.UDP, data: data, ttl: 64}
}

// echo makes a request if the source has the identifier, else a reply.
func echo(src, dst string) pkt {
	p := pkt{src: ap(src), dst: ap(dst), proto: packet.ICMP, ttl: 64}
	if p.src.Addr().Is6() {
		p.proto = packet.ICMPv6
	}
	return p
}

// failed makes an ICMP error about q.
func failed(src, dst string, typ, code uint8, q pkt) pkt {
	p := echo(src+":0", dst+":0")
	p.quote, p.typ = &q, [2]uint8{typ, code}
	return p
}

func (p pkt) l4() []byte {
	switch {
	case p.proto == packet.TCP:
		b := make([]byte, 20, 24+p.data)
		binary.BigEndian.PutUint16(b, p.src.Port())
		binary.BigEndian.PutUint16(b[2:], p.dst.Port())
		binary.BigEndian.PutUint32(b[4:], p.seq)
		binary.BigEndian.PutUint32(b[8:], p.ack)
		b[12], b[13] = 0x50, p.flags
		if p.mss != 0 {
			b[12] = 0x60
			b = append(b, 2, 4, byte(p.mss>>8), byte(p.mss))
		}
		return append(b, make([]byte, p.data)...)
	case p.proto == packet.UDP:
		b := make([]byte, 8+p.data)
		binary.BigEndian.PutUint16(b, p.src.Port())
		binary.BigEndian.PutUint16(b[2:], p.dst.Port())
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
		return b
	case p.quote != nil:
		return append([]byte{p.typ[0], p.typ[1], 0, 0, 0, 0, 0, 0}, p.quote.bytes()...)
	}
	b := make([]byte, 8+p.data)
	reply := p.src.Port() == 0
	if b[0] = 8; p.proto == packet.ICMPv6 {
		b[0] = 128
	}
	if reply && b[0] == 8 {
		b[0] = 0
	} else if reply {
		b[0] = 129
	}
	binary.BigEndian.PutUint16(b[4:], p.src.Port()|p.dst.Port())
	return b
}

func (p pkt) bytes() []byte {
	l4, src, dst := p.l4(), p.src.Addr(), p.dst.Addr()
	ttl := p.ttl
	if ttl == 0 {
		ttl = 64
	}
	var b []byte
	if src.Is4() {
		b = append(b, 0x45, 0, 0, 0, 0, 0, 0, 0, ttl, p.proto, 0, 0)
		b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(l4)))
		if p.df {
			b[6] = 0x40
		}
		binary.BigEndian.PutUint16(b[10:], plainSum(b))
	} else {
		b = append(b, 0x60, 0, 0, 0, byte(len(l4)>>8), byte(len(l4)), p.proto, ttl)
		b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	}
	at := map[uint8]int{packet.TCP: 16, packet.UDP: 6, packet.ICMP: 2, packet.ICMPv6: 2}[p.proto]
	binary.BigEndian.PutUint16(l4[at:], plainSum(pseudo(src, dst, p.proto, len(l4)), l4))
	return append(b, l4...)
}

func pseudo(src, dst netip.Addr, proto uint8, n int) []byte {
	if proto == packet.ICMP {
		return nil
	}
	b := append(src.AsSlice(), dst.AsSlice()...)
	return append(b, byte(n>>8), byte(n), 0, proto)
}

func plainSum(parts ...[]byte) uint16 {
	var s uint32
	for _, p := range parts {
		for i, c := range p {
			if i&1 == 0 {
				s += uint32(c) << 8
			} else {
				s += uint32(c)
			}
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// read takes a packet apart again, and insists on right checksums, except in
// what an error quotes.
func read(t testing.TB, b []byte, quoted bool) pkt {
	t.Helper()
	var p pkt
	at := 20
	if b[0]>>4 == 4 {
		p.ttl, p.proto, p.df = b[8], b[9], b[6]&0x40 != 0
		if plainSum(b[:20]) != 0 {
			t.Fatalf("IPv4 header checksum is wrong: % x", b)
		}
	} else {
		p.ttl, p.proto, at = b[7], b[6], 40
	}
	src, dst, _ := packet.Addrs(b)
	h := b[at:]
	if !quoted && plainSum(pseudo(src, dst, p.proto, len(h)), h) != 0 {
		t.Fatalf("layer 4 checksum is wrong: % x", b)
	}
	sport, dport := binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:])
	switch p.proto {
	case packet.TCP:
		p.seq = binary.BigEndian.Uint32(h[4:])
		if len(h) >= 20 {
			p.ack, p.flags, p.data = binary.BigEndian.Uint32(h[8:]), h[13], len(h)-int(h[12]>>4)*4
			if h[12] == 0x60 {
				p.mss = binary.BigEndian.Uint16(h[22:])
			}
		}
	case packet.UDP:
		p.data = len(h) - 8
	default:
		sport, dport = 0, 0
		switch id := binary.BigEndian.Uint16(h[4:]); h[0] {
		case 8, 128:
			sport, p.data = id, len(h)-8
		case 0, 129:
			dport, p.data = id, len(h)-8
		default:
			q := read(t, h[8:], true)
			p.quote, p.typ = &q, [2]uint8{h[0], h[1]}
		}
	}
	p.src, p.dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return p
}
