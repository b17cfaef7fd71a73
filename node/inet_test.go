package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// An inet is a host's IP with UDP alone: the [Services] of a node under a fake
// clock. Nobody can be dialed by TCP, and nobody dials.
type inet struct {
	addrs []netip.Addr
	out   func(pkt []byte)
	other func(b []byte) // takes what is not for a socket; nil: nobody

	mu      sync.Mutex
	sockets map[netip.AddrPort]*socket
	port    uint16
}

func newInet(addrs []netip.Addr, out func(pkt []byte)) *inet {
	return &inet{addrs: addrs, out: out, sockets: map[netip.AddrPort]*socket{}, port: 49152}
}

// Inject takes a packet from the network.
func (n *inet) Inject(b []byte) {
	p := readPkt(b)
	n.mu.Lock()
	s := n.sockets[p.dst]
	n.mu.Unlock()
	switch {
	case p.proto == protoUDP && s != nil:
		select {
		case s.in <- p:
		default: // full
		}
	case n.other != nil:
		n.other(b)
	}
}

func (n *inet) open(at netip.AddrPort) (*socket, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if at.Port() == 0 {
		n.port++
		at = netip.AddrPortFrom(at.Addr(), n.port)
	}
	if n.sockets[at] != nil {
		return nil, fmt.Errorf("%v is in use", at)
	}
	s := &socket{net: n, at: at, in: make(chan pkt, 64), closed: make(chan struct{}), due: make(chan struct{})}
	n.sockets[at] = s
	return s, nil
}

// ListenUDP implements Services.
func (n *inet) ListenUDP(at netip.AddrPort) (net.PacketConn, error) { return n.open(at) }

// ListenTCP returns a listener to which nobody comes.
func (n *inet) ListenTCP(at netip.AddrPort) (net.Listener, error) {
	return &lonely{at, make(chan struct{}), sync.Once{}}, nil
}

// DialContext implements Services.
func (n *inet) DialContext(_ context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	if network != "udp" {
		return nil, errors.New("there is no TCP here")
	}
	for _, a := range n.addrs {
		if a.Is4() == to.Addr().Is4() {
			s, err := n.open(netip.AddrPortFrom(a, 0))
			if err != nil {
				return nil, err
			}
			s.to = to
			return s, nil
		}
	}
	return nil, fmt.Errorf("no address of the family of %v", to)
}

// Close closes all sockets.
func (n *inet) Close() {
	n.mu.Lock()
	sockets := n.sockets
	n.sockets = map[netip.AddrPort]*socket{}
	n.mu.Unlock()
	for _, s := range sockets {
		s.Close()
	}
}

// A socket is of UDP, connected if it has somebody to send to.
type socket struct {
	net    *inet
	at, to netip.AddrPort
	in     chan pkt
	closed chan struct{}
	close  sync.Once

	mu    sync.Mutex
	due   chan struct{} // is closed when reads are to end
	timer *time.Timer   // which closes due
}

func (s *socket) ReadFrom(b []byte) (int, net.Addr, error) {
	s.mu.Lock()
	due := s.due
	s.mu.Unlock()
	select {
	case p := <-s.in:
		return copy(b, p.data), net.UDPAddrFromAddrPort(p.src), nil
	case <-s.closed:
		return 0, nil, net.ErrClosed
	case <-due:
		return 0, nil, os.ErrDeadlineExceeded
	}
}

func (s *socket) WriteTo(b []byte, to net.Addr) (int, error) {
	s.net.out(pkt{src: s.at, dst: to.(*net.UDPAddr).AddrPort(), proto: protoUDP, data: b}.bytes())
	return len(b), nil
}

func (s *socket) Read(b []byte) (int, error) {
	n, _, err := s.ReadFrom(b)
	return n, err
}

func (s *socket) Write(b []byte) (int, error) { return s.WriteTo(b, s.RemoteAddr()) }

func (s *socket) Close() error {
	s.close.Do(func() {
		close(s.closed)
		s.net.mu.Lock()
		delete(s.net.sockets, s.at)
		s.net.mu.Unlock()
	})
	return s.SetReadDeadline(time.Time{})
}

func (s *socket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil && !s.timer.Stop() {
		<-s.due // it is closing, or closed
	}
	s.timer = nil
	select {
	case <-s.due:
		s.due = make(chan struct{})
	default:
	}
	if !t.IsZero() {
		due := s.due
		s.timer = time.AfterFunc(time.Until(t), func() { close(due) })
	}
	return nil
}

func (s *socket) SetDeadline(t time.Time) error    { return s.SetReadDeadline(t) }
func (s *socket) SetWriteDeadline(time.Time) error { return nil }
func (s *socket) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(s.at) }
func (s *socket) RemoteAddr() net.Addr             { return net.UDPAddrFromAddrPort(s.to) }

// A lonely listener waits.
type lonely struct {
	at     netip.AddrPort
	closed chan struct{}
	once   sync.Once
}

func (l *lonely) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

func (l *lonely) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *lonely) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

// The flags of TCP.
const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
)

// A pkt is a packet of UDP or TCP, or an ICMP error, of which only its kind is kept.
type pkt struct {
	src, dst netip.AddrPort
	proto    uint8
	flags    uint8
	seq, ack uint32
	ttl      uint8 // 0 means 64
	icmp     [2]uint8
	data     []byte
}

func (p pkt) String() string {
	switch p.proto {
	case protoTCP:
		return fmt.Sprintf("%v>%v flags %05b seq %d ack %d data %d ttl %d", p.src, p.dst, p.flags, p.seq, p.ack, len(p.data), p.ttl)
	case protoUDP:
		return fmt.Sprintf("%v>%v udp data %d ttl %d", p.src, p.dst, len(p.data), p.ttl)
	}
	return fmt.Sprintf("%v>%v icmp %v", p.src.Addr(), p.dst.Addr(), p.icmp)
}

func (p pkt) bytes() []byte {
	h := binary.BigEndian.AppendUint16(nil, p.src.Port())
	h = binary.BigEndian.AppendUint16(h, p.dst.Port())
	sum := 6
	if p.proto == protoTCP {
		h = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(h, p.seq), p.ack)
		h = append(h, 0x50, p.flags, 0xff, 0xff, 0, 0, 0, 0)
		sum = 16
	} else {
		h = append(binary.BigEndian.AppendUint16(h, uint16(8+len(p.data))), 0, 0)
	}
	h = append(h, p.data...)
	src, dst := p.src.Addr(), p.dst.Addr()
	binary.BigEndian.PutUint16(h[sum:], checksum(pseudo(src, dst, p.proto, len(h)), h))
	if p.ttl == 0 {
		p.ttl = 64
	}
	if src.Is6() {
		b := []byte{0x60, 0, 0, 0, byte(len(h) >> 8), byte(len(h)), p.proto, p.ttl}
		return append(append(append(b, src.AsSlice()...), dst.AsSlice()...), h...)
	}
	b := []byte{0x45, 0, byte((20 + len(h)) >> 8), byte(20 + len(h)), 0, 0, 0x40, 0, p.ttl, p.proto, 0, 0}
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, h...)
}

func pseudo(src, dst netip.Addr, proto uint8, n int) []byte {
	return append(append(src.AsSlice(), dst.AsSlice()...), byte(n>>8), byte(n), 0, proto)
}

func checksum(parts ...[]byte) uint16 {
	var s uint32
	for _, p := range parts {
		for i, c := range p {
			s += uint32(c) << (8 * (1 - i&1))
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// readPkt takes a packet apart. Wrong checksums are a bug wherever they come from.
func readPkt(b []byte) pkt {
	var p pkt
	var src, dst netip.Addr
	h := b[min(40, len(b)):]
	if b[0]>>4 == 4 {
		h, p.ttl, p.proto = b[20:], b[8], b[9]
		src, dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		if checksum(b[:20]) != 0 {
			panic(fmt.Sprintf("wrong checksum of IPv4: % x", b))
		}
	} else {
		p.ttl, p.proto = b[7], b[6]
		src, dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	}
	p.src, p.dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	if p.proto != protoTCP && p.proto != protoUDP {
		p.icmp = [2]uint8{h[0], h[1]}
		return p
	}
	if checksum(pseudo(src, dst, p.proto, len(h)), h) != 0 {
		panic(fmt.Sprintf("wrong checksum: % x", b))
	}
	p.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(h))
	p.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(h[2:]))
	p.data = append([]byte(nil), h[8:]...)
	if p.proto == protoTCP {
		p.seq, p.ack, p.flags = binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:]), h[13]
		p.data = append([]byte(nil), h[h[12]>>4*4:]...)
	}
	return p
}
