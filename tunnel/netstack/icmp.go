package netstack

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// pingWithin is how long an origin has to answer an echo request.
const pingWithin = 10 * time.Second

// takeEcho answers echo requests, which gVisor would answer itself for any
// address. It reports whether the packet was one.
func (f *Forwarder) takeEcho(pkt []byte) bool {
	dst, ok := echoRequest(pkt)
	if !ok {
		return false
	}
	if f.cfg.Ping == nil {
		f.sendError(pkt, prohibited)
		return true
	}
	select {
	case f.pings <- struct{}{}:
	default:
		f.count.flow("icmp", overLimit)
		return true
	}
	if !f.begin() {
		<-f.pings
		return true
	}
	pkt = slices.Clone(pkt)
	go func() {
		defer f.tasks.Done()
		defer func() { <-f.pings }()
		f.echo(pkt, dst)
	}()
	return true
}

func (f *Forwarder) echo(pkt []byte, dst netip.Addr) {
	ctx, cancel := f.pinging()
	defer cancel()
	err := f.cfg.Ping(ctx, dst)
	if err == nil {
		f.count.flow("icmp", opened)
		answerEcho(pkt)
		f.cfg.Out(pkt)
		return
	}
	f.count.flow("icmp", unreachable)
	if k, ok := errorKind(err); ok && ctx.Err() == nil {
		f.sendError(pkt, k)
	}
}

// echoRequest returns whom a whole, unfragmented echo request is for.
func echoRequest(pkt []byte) (dst netip.Addr, ok bool) {
	switch {
	case len(pkt) >= header.IPv4MinimumSize && pkt[0]>>4 == 4:
		ip := header.IPv4(pkt)
		if !ip.IsValid(len(pkt)) || ip.Protocol() != uint8(header.ICMPv4ProtocolNumber) || ip.More() || ip.FragmentOffset() != 0 {
			return dst, false
		}
		body := ip.Payload()
		return netip.AddrFrom4(ip.DestinationAddress().As4()),
			len(body) >= header.ICMPv4MinimumSize && header.ICMPv4(body).Type() == header.ICMPv4Echo
	case len(pkt) >= header.IPv6MinimumSize && pkt[0]>>4 == 6:
		ip := header.IPv6(pkt)
		if !ip.IsValid(len(pkt)) || ip.NextHeader() != uint8(header.ICMPv6ProtocolNumber) {
			return dst, false
		}
		body := ip.Payload()
		return netip.AddrFrom16(ip.DestinationAddress().As16()),
			len(body) >= header.ICMPv6EchoMinimumSize && header.ICMPv6(body).Type() == header.ICMPv6EchoRequest
	}
	return dst, false
}

// answerEcho makes a reply of a request. The ICMP checksum is adjusted and not
// computed, so that damage on the way shows at the end (RFC 1624).
func answerEcho(pkt []byte) {
	var body []byte
	var old, new header.ICMPv4Type
	if pkt[0]>>4 == 4 {
		ip := header.IPv4(pkt)
		src, dst := ip.SourceAddress(), ip.DestinationAddress()
		ip.SetSourceAddress(dst)
		ip.SetDestinationAddress(src)
		ip.SetTTL(64)
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		body, old, new = ip.Payload(), header.ICMPv4Echo, header.ICMPv4EchoReply
	} else {
		ip := header.IPv6(pkt)
		src, dst := ip.SourceAddress(), ip.DestinationAddress()
		ip.SetSourceAddress(dst)
		ip.SetDestinationAddress(src)
		ip.SetHopLimit(64)
		body = ip.Payload()
		old, new = header.ICMPv4Type(header.ICMPv6EchoRequest), header.ICMPv4Type(header.ICMPv6EchoReply)
	}
	body[0] = byte(new)
	sum := ^binary.BigEndian.Uint16(body[2:])
	sum = checksum.Combine(sum, ^(uint16(old) << 8))
	sum = checksum.Combine(sum, uint16(new)<<8)
	binary.BigEndian.PutUint16(body[2:], ^sum)
}

// A kind is what an ICMP "destination unreachable" says, with its codes in
// IPv4 (RFC 792, RFC 1812 section 5.2.7.1) and IPv6 (RFC 4443 section 3.1).
type kind struct{ v4, v6 byte }

var (
	prohibited = kind{13, 1}
	noHost     = kind{1, 3}
	noPort     = kind{3, 4}
)

// errorKind returns what an error of dialing or pinging means to the device.
func errorKind(err error) (kind, bool) {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return noPort, true
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return noHost, true
	case errors.Is(err, os.ErrPermission):
		return prohibited, true
	}
	return kind{}, false
}

// unreachable tells the device why its datagram got nowhere, where the error
// says so.
func (f *Forwarder) unreachable(src, dst netip.AddrPort, err error) {
	k, ok := errorKind(err)
	if !ok {
		return
	}
	udp := make([]byte, header.UDPMinimumSize)
	header.UDP(udp).Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: header.UDPMinimumSize})
	f.sendError(packet(src.Addr(), dst.Addr(), uint8(header.UDPProtocolNumber), udp), k)
}

// sendError answers a packet with an ICMP error that comes from its destination:
// the only address that the hops before this one can translate back.
func (f *Forwarder) sendError(pkt []byte, k kind) {
	if !f.errors.Allow() {
		return
	}
	f.cfg.Out(icmpError(pkt, k))
}

// quoted bounds an error to what every link carries.
const quoted = 576 - header.IPv4MinimumSize - header.ICMPv4MinimumSize

// icmpError builds the error for a packet that has a whole IP header.
func icmpError(pkt []byte, k kind) []byte {
	quote := pkt[:min(len(pkt), quoted)]
	body := append(make([]byte, 8, 8+len(quote)), quote...)
	if pkt[0]>>4 == 4 {
		ip := header.IPv4(pkt)
		body[0], body[1] = byte(header.ICMPv4DstUnreachable), k.v4
		header.ICMPv4(body).SetChecksum(^checksum.Checksum(body, 0))
		return packet(netip.AddrFrom4(ip.DestinationAddress().As4()), netip.AddrFrom4(ip.SourceAddress().As4()),
			uint8(header.ICMPv4ProtocolNumber), body)
	}
	ip := header.IPv6(pkt)
	body[0], body[1] = byte(header.ICMPv6DstUnreachable), k.v6
	header.ICMPv6(body).SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: body, Src: ip.DestinationAddress(), Dst: ip.SourceAddress(),
	}))
	return packet(netip.AddrFrom16(ip.DestinationAddress().As16()), netip.AddrFrom16(ip.SourceAddress().As16()),
		uint8(header.ICMPv6ProtocolNumber), body)
}

// packet puts an IP header before a body.
func packet(src, dst netip.Addr, proto uint8, body []byte) []byte {
	if src.Is4() {
		b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(body))
		ip := header.IPv4(b)
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(b) + len(body)), TTL: 64, Protocol: proto,
			SrcAddr: tcpip.AddrFrom4(src.As4()), DstAddr: tcpip.AddrFrom4(dst.As4()),
		})
		ip.SetChecksum(^ip.CalculateChecksum())
		return append(b, body...)
	}
	b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+len(body))
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(body)), TransportProtocol: tcpip.TransportProtocolNumber(proto), HopLimit: 64,
		SrcAddr: tcpip.AddrFrom16(src.As16()), DstAddr: tcpip.AddrFrom16(dst.As16()),
	})
	return append(b, body...)
}
