package world

import (
	"encoding/binary"
	"net/netip"
	"sync"
)

// Numbers of RFC 792 and RFC 4443, and where things stand in a packet without
// IP options or extension headers.
const (
	protoICMP, protoICMPv6 = 1, 58

	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129

	ip4Len, ip6Len, icmpLen = 20, 40, 8
)

// A pingKey is what an answer has in common with its request.
type pingKey struct {
	from netip.Addr // who answers
	id   uint16
}

// pings are the echo requests that wait for their answer.
type pings struct {
	mu      sync.Mutex
	last    uint16
	waiting map[pingKey]chan struct{}
}

// begin makes a request. done is closed when it is answered; forget has to be
// called in the end.
func (p *pings) begin(from, to netip.Addr) (done <-chan struct{}, pkt []byte, forget func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == nil {
		p.waiting = map[pingKey]chan struct{}{}
	}
	p.last++
	key := pingKey{to, p.last}
	if p.waiting[key] != nil {
		return nil, nil, nil, errTooManyPings
	}
	answered := make(chan struct{})
	p.waiting[key] = answered
	forget = func() {
		p.mu.Lock()
		delete(p.waiting, key)
		p.mu.Unlock()
	}
	return answered, echoRequest(from, to, key.id), forget, nil
}

// answered reports whether the packet is the answer to a waiting request, and
// tells that one.
func (p *pings) answered(pkt []byte) bool {
	key, ok := echoReply(pkt)
	if !ok {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	done := p.waiting[key]
	if done == nil {
		return false
	}
	delete(p.waiting, key)
	close(done)
	return true
}

// echoRequest makes a packet without payload.
func echoRequest(from, to netip.Addr, id uint16) []byte {
	if to.Is6() {
		pkt := make([]byte, ip6Len+icmpLen)
		pkt[0] = 6 << 4
		binary.BigEndian.PutUint16(pkt[4:], icmpLen)
		pkt[6], pkt[7] = protoICMPv6, 64
		copy(pkt[8:], from.AsSlice())
		copy(pkt[24:], to.AsSlice())
		icmp := pkt[ip6Len:]
		icmp[0] = echoRequest6
		binary.BigEndian.PutUint16(icmp[4:], id)
		// With the pseudo-header of RFC 8200, section 8.1.
		binary.BigEndian.PutUint16(icmp[2:], checksum(pkt[8:ip6Len], icmp, []byte{0, icmpLen, 0, protoICMPv6}))
		return pkt
	}
	pkt := make([]byte, ip4Len+icmpLen)
	pkt[0] = 4<<4 | ip4Len/4
	binary.BigEndian.PutUint16(pkt[2:], ip4Len+icmpLen)
	pkt[8], pkt[9] = 64, protoICMP
	copy(pkt[12:], from.AsSlice())
	copy(pkt[16:], to.AsSlice())
	binary.BigEndian.PutUint16(pkt[10:], checksum(pkt[:ip4Len]))
	icmp := pkt[ip4Len:]
	icmp[0] = echoRequest4
	binary.BigEndian.PutUint16(icmp[4:], id)
	binary.BigEndian.PutUint16(icmp[2:], checksum(icmp))
	return pkt
}

// echoReply reads whose request a packet answers.
func echoReply(pkt []byte) (pingKey, bool) {
	switch {
	case len(pkt) >= ip4Len+icmpLen && pkt[0] == 4<<4|ip4Len/4 && pkt[9] == protoICMP && pkt[ip4Len] == echoReply4:
		return pingKey{netip.AddrFrom4([4]byte(pkt[12:])), binary.BigEndian.Uint16(pkt[ip4Len+4:])}, true
	case len(pkt) >= ip6Len+icmpLen && pkt[0]>>4 == 6 && pkt[6] == protoICMPv6 && pkt[ip6Len] == echoReply6:
		return pingKey{netip.AddrFrom16([16]byte(pkt[8:])), binary.BigEndian.Uint16(pkt[ip6Len+4:])}, true
	}
	return pingKey{}, false
}

// checksum is that of RFC 1071 over parts of even length.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
