package packet

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
)

// Everything here computes checksums from nothing, in the dullest way, so that
// what the package adjusts can be compared with it.

func plainSum(parts ...[]byte) uint16 {
	var s uint32
	for _, p := range parts {
		for i := range p {
			if i&1 == 0 {
				s += uint32(p[i]) << 8
			} else {
				s += uint32(p[i])
			}
			for s > 0xffff {
				s = s>>16 + s&0xffff
			}
		}
	}
	return ^uint16(s)
}

// upperOf finds layer 4 of a well-formed packet.
func upperOf(p []byte) (proto byte, at int) {
	if p[0]>>4 == 4 {
		return p[9], int(p[0]&15) * 4
	}
	proto, at = p[6], 40
	for proto == 0 || proto == 43 || proto == 44 || proto == 60 {
		n := (int(p[at+1]) + 1) * 8
		if proto == 44 {
			n = 8
		}
		proto, at = p[at], at+n
	}
	return proto, at
}

// fill computes all checksums of a whole packet.
func fill(p []byte) {
	proto, at := upperOf(p)
	if p[0]>>4 == 4 {
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], plainSum(p[:at]))
	}
	field, ok := map[byte]int{TCP: 16, UDP: 6, ICMP: 2, ICMPv6: 2}[proto]
	if !ok {
		return
	}
	field += at
	p[field], p[field+1] = 0, 0
	c := l4Sum(p)
	if proto == UDP && c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(p[field:], c)
}

// l4Sum is what the checksum over layer 4 comes to; 0 for one that is right.
func l4Sum(p []byte) uint16 {
	proto, at := upperOf(p)
	var pseudo []byte
	if p[0]>>4 == 6 {
		pseudo = append(pseudo, p[8:40]...)
		pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(p)-at))
		pseudo = append(pseudo, 0, 0, 0, proto)
	} else if proto != ICMP {
		pseudo = append(pseudo, p[12:20]...)
		pseudo = append(pseudo, 0, proto)
		pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(p)-at))
	}
	return plainSum(pseudo, p[at:])
}

// right reports whether all checksums of a whole packet are right.
func right(p []byte) bool {
	_, at := upperOf(p)
	return (p[0]>>4 == 6 || plainSum(p[:at]) == 0) && l4Sum(p) == 0
}

var edges = []uint16{0, 0xffff, 1, 0xfffe, 0x8000, 0xff00}

func randomAddr(r *rand.Rand, v6 bool) netip.Addr {
	var b [16]byte
	for i := 0; i < 16; i += 2 {
		w := uint16(r.Uint32())
		if r.IntN(6) == 0 {
			w = edges[r.IntN(len(edges))]
		}
		binary.BigEndian.PutUint16(b[i:], w)
	}
	if !v6 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	b[0] = 0x20 // never IPv4-mapped
	return netip.AddrFrom16(b)
}

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// randomPacket makes a packet with options or extension headers and right
// checksums. kind is for ICMP.
func randomPacket(r *rand.Rand, v6 bool, proto byte, payload int) []byte {
	src, dst := randomAddr(r, v6), randomAddr(r, v6)
	return makePacket(src, dst, proto, r.IntN(4), randomL4(r, proto, payload))
}

func randomL4(r *rand.Rand, proto byte, payload int) []byte {
	switch proto {
	case TCP:
		l4 := random(r, 20+4*r.IntN(6)+payload)
		l4[12] = byte(5+min(5, (len(l4)-20)/4)) << 4
		return l4
	case ICMP:
		l4 := random(r, 8+payload)
		l4[0], l4[1] = []byte{0, 8}[r.IntN(2)], 0
		return l4
	case ICMPv6:
		l4 := random(r, 8+payload)
		l4[0], l4[1] = []byte{128, 129}[r.IntN(2)], 0
		return l4
	}
	return random(r, 8+payload)
}

// makePacket puts l4 behind a header with some options or extension headers.
func makePacket(src, dst netip.Addr, proto byte, extra int, l4 []byte) []byte {
	var p []byte
	if src.Is4() {
		p = append(p, 0x45+byte(extra), 0, 0, 0, 1, 2, 0x40, 0, 64, proto, 0, 0)
		p = append(append(p, src.AsSlice()...), dst.AsSlice()...)
		for range extra {
			p = append(p, 1, 1, 1, 1) // no operation
		}
		p = append(p, l4...)
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	} else {
		chain := []byte{0, 60, 43, 44}[:extra]
		next := func(i int) byte {
			if i < len(chain) {
				return chain[i]
			}
			return proto
		}
		p = append(p, 0x60, 1, 2, 3, 0, 0, next(0), 64)
		p = append(append(p, src.AsSlice()...), dst.AsSlice()...)
		for i := range chain {
			p = append(p, next(i+1), 0, 0, 0, 0, 0, 0, 0) // 44 so is an atomic fragment
		}
		p = append(p, l4...)
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	}
	fill(p)
	return p
}

// makeError makes an ICMP error that quotes the first n bytes of quoted.
func makeError(src, dst netip.Addr, quoted []byte, n int) []byte {
	l4 := append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, quoted[:min(n, len(quoted))]...)
	proto := byte(ICMP)
	if src.Is6() {
		proto, l4[0] = ICMPv6, 1
	}
	return makePacket(src, dst, proto, 0, l4)
}
