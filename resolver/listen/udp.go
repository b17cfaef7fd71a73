package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// readLen is the longest question taken over UDP: what fits into a datagram
// with the most that nodes put in their private options, rounded up.
const readLen = 8192

// A packet is a question with the way back to its asker.
type packet struct {
	buf  [readLen]byte
	n    int
	oob  [64]byte
	oobn int
	addr netip.AddrPort // of the asker, as the socket writes it
	peer net.Addr       // the same on a socket that is not the kernel's
}

var packets = sync.Pool{New: func() any { return new(packet) }}

// A socket is a kernel's UDP socket, which can say to which of the host's
// addresses a question came, or any other.
type socket struct {
	conn     net.PacketConn
	kernel   *net.UDPConn // nil: conn is something else
	wildcard bool         // the kernel's socket listens on all addresses
}

// open prepares a socket. On a wildcard socket the kernel would choose the
// source of answers by its routes, so that a client that asked another
// address of the host would drop them: there it is told to say the address.
func open(pc net.PacketConn) (socket, error) {
	c, ok := pc.(*net.UDPConn)
	if !ok || !addrPort(c.LocalAddr()).Addr().IsUnspecified() {
		return socket{conn: pc, kernel: c}, nil
	}
	err6 := ipv6.NewPacketConn(c).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	err4 := ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	if err4 != nil && err6 != nil { // one of them fails on a socket of one family
		return socket{}, fmt.Errorf("asking for the destination of packets: %w", errors.Join(err4, err6))
	}
	return socket{c, c, true}, nil
}

func (s socket) read(p *packet) (err error) {
	switch {
	case s.wildcard:
		p.n, p.oobn, _, p.addr, err = s.kernel.ReadMsgUDPAddrPort(p.buf[:], p.oob[:])
	case s.kernel != nil:
		p.n, p.addr, err = s.kernel.ReadFromUDPAddrPort(p.buf[:])
	default:
		p.n, p.peer, err = s.conn.ReadFrom(p.buf[:])
		p.addr = addrPort(p.peer)
	}
	return err
}

func (s socket) write(p *packet, b []byte) (err error) {
	switch {
	case s.wildcard:
		_, _, err = s.kernel.WriteMsgUDPAddrPort(b, back(p.oob[:p.oobn]), p.addr)
	case s.kernel != nil:
		_, err = s.kernel.WriteToUDPAddrPort(b, p.addr)
	default:
		_, err = s.conn.WriteTo(b, p.peer)
	}
	return err
}

// back turns the control message of a question into the one of its answer:
// from the address it was sent to. The interface is left to the routes, but
// for link-local addresses, which mean nothing without one.
func back(oob []byte) []byte {
	var six ipv6.ControlMessage
	if six.Parse(oob) == nil && six.Dst != nil && six.Dst.To4() == nil {
		cm := ipv6.ControlMessage{Src: six.Dst}
		if six.Dst.IsLinkLocalUnicast() {
			cm.IfIndex = six.IfIndex
		}
		return cm.Marshal()
	}
	dst := six.Dst // a wildcard socket of both families writes IPv4 so
	var four ipv4.ControlMessage
	if dst == nil && four.Parse(oob) == nil {
		dst = four.Dst
	}
	if dst == nil {
		return nil
	}
	return (&ipv4.ControlMessage{Src: dst}).Marshal()
}

// ServeUDP answers the questions that come to pc until ctx is done, which is
// no error, or the socket fails. It closes pc, and waits for its questions in
// work. The name is the listener's.
func (s *Server) ServeUDP(ctx context.Context, pc net.PacketConn, name string) error {
	sock, err := open(pc)
	if err != nil {
		pc.Close()
		return fmt.Errorf("listener %s: %w", name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { pc.Close() })
	defer stop()
	defer pc.Close()
	free := make(chan struct{}, or(s.Limits.Workers, 1024))
	var clients shares
	for failures := 0; ; {
		p := packets.Get().(*packet)
		if err := sock.read(p); err != nil {
			packets.Put(p)
			if !pause(ctx, err, failures) {
				return ended(ctx, name, err)
			}
			failures++
			continue
		}
		failures = 0
		if p.n < headerLen || p.buf[2]&0x80 != 0 || !clients.take(p.addr.Addr(), or(s.Limits.PerClient, 256)) {
			s.unserved(name, p)
			continue
		}
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		work.Go(func() {
			s.reply(ctx, sock, name, p)
			clients.give(p.addr.Addr())
			packets.Put(p)
			<-free
		})
	}
}

// unserved counts a packet that is not looked at.
func (s *Server) unserved(name string, p *packet) {
	why := Busy
	if p.n < headerLen || p.buf[2]&0x80 != 0 {
		why = Malformed
	}
	s.dropped(name, why)
	packets.Put(p)
}

func (s *Server) reply(ctx context.Context, sock socket, name string, p *packet) {
	from := netip.AddrPortFrom(p.addr.Addr().Unmap(), p.addr.Port())
	req := p.buf[:p.n]
	size := min(offered(req), or(s.Limits.UDPSize, 1232))
	resp := s.answer(ctx, &Client{Addr: from, Listener: name, Transport: UDP}, req)
	if resp == nil {
		return
	}
	if err := sock.write(p, truncated(resp, size)); err != nil && ctx.Err() == nil {
		s.dropped(name, Unsent)
		s.log().Debug("sending an answer failed", "listener", name, "client", from, "id", id(req), "err", err)
	}
}

// ended makes of the error that ended a server what its caller shall see.
func ended(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("listener %s: %w", name, err)
}
