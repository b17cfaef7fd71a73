package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// readLen is the longest question taken over UDP: what fits into a datagram
// with the most that nodes put in their private options, rounded up.
const readLen = 8192

// udpLen is the longest answer over UDP where nothing else is said: no fragments
// (DNS flag day 2020).
const udpLen = 1232

// oobLen is room for where a datagram was sent to. On a socket of both families
// the kernel says that twice.
const oobLen = 96

// A packet is a question with the way back to its asker.
type packet struct {
	buf  []byte
	at   time.Time // when it was read
	oob  [oobLen]byte
	oobn int
	addr netip.AddrPort // of the asker, as the socket writes it
	peer net.Addr       // the same on a socket that is not the kernel's
	raw  rawAddr        // the same, of one that came in a batch

	waited bool    // for a place
	next   *packet // of the same client that waits
}

var packets = sync.Pool{New: func() any { return new(packet) }}

func newPacket() *packet {
	p := packets.Get().(*packet)
	p.oobn, p.raw, p.waited = 0, rawAddr{}, false
	return p
}

// A socket is a kernel's UDP socket, which can say to which of the host's
// addresses a question came, or any other.
type socket struct {
	conn     net.PacketConn
	kernel   *net.UDPConn // nil: conn is something else
	wildcard bool         // the kernel's socket listens on all addresses

	file *os.File        // of one that is apart from Go's poller; then kernel is closed
	raw  syscall.RawConn // the same
}

func (s socket) close() {
	if s.file != nil {
		s.file.Close()
	}
	s.conn.Close()
}

// control returns what calls to a kernel's socket are made by.
func (s socket) control() (syscall.RawConn, error) {
	if s.raw != nil {
		return s.raw, nil
	}
	return s.kernel.SyscallConn()
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
	return socket{conn: c, kernel: c, wildcard: true}, nil
}

// read reads a datagram to b, and the way back to its sender to p.
func (s socket) read(p *packet, b []byte) (n int, err error) {
	switch {
	case s.wildcard:
		n, p.oobn, _, p.addr, err = s.kernel.ReadMsgUDPAddrPort(b, p.oob[:])
	case s.kernel != nil:
		n, p.addr, err = s.kernel.ReadFromUDPAddrPort(b)
	default:
		n, p.peer, err = s.conn.ReadFrom(b)
		p.addr = addrPort(p.peer)
	}
	return n, err
}

func (s socket) write(p *packet, b []byte) (err error) {
	switch {
	case s.raw != nil:
		err = s.writeRaw(p, b)
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
// no error, or the socket fails. It takes pc over (on Linux it goes on when somebody
// else closes that), closes it, and waits for its questions in work. The name is
// the listener's.
func (s *Server) ServeUDP(ctx context.Context, pc net.PacketConn, name string) error {
	sock, err := open(pc)
	if err == nil {
		sock, err = sock.apart()
	}
	if err != nil {
		pc.Close()
		return fmt.Errorf("listener %s: %w", name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	w := newWorkers(ctx, s, sock, name)
	defer w.work.Wait()
	defer w.close()
	defer cancel()
	stop := context.AfterFunc(ctx, sock.close)
	defer stop()
	defer sock.close()
	later := func(p *packet) { w.take(ctx, p) }
	for failures := 0; ; failures++ {
		var err error
		if b := newBatch(s, sock, name); b != nil {
			err = b.serve(ctx, later)
		} else {
			err = s.serveEach(ctx, sock, name, later)
		}
		if !pause(ctx, err, failures) {
			return ended(ctx, name, err)
		}
	}
}

// serveEach answers datagrams one after the other; it returns when the socket
// fails.
func (s *Server) serveEach(ctx context.Context, sock socket, name string, later func(p *packet)) error {
	in, out := make([]byte, readLen), make([]byte, 0, 2*udpLen)
	p := newPacket()
	defer func() { packets.Put(p) }()
	for {
		n, err := sock.read(p, in)
		if err != nil {
			return err
		}
		req := in[:n]
		if n < headerLen || req[2]&0x80 != 0 {
			s.dropped(name, Malformed)
			continue
		}
		p.at = time.Now()
		resp, ok := s.quick(p.asker(name), req, out, or(s.Limits.UDPSize, udpLen))
		if !ok {
			p.buf = append(p.buf[:0], req...)
			later(p)
			p = newPacket()
		} else if len(resp) > 0 {
			s.send(ctx, sock, name, p, resp)
		}
	}
}

func (s *Server) send(ctx context.Context, sock socket, name string, p *packet, resp []byte) {
	if err := sock.write(p, resp); err != nil && ctx.Err() == nil {
		s.dropped(name, Unsent)
		s.log().Debug("sending an answer failed", "listener", name, "client", p.addr, "id", id(resp), "err", err)
	}
}

// ended makes of the error that ended a server what its caller shall see.
func ended(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("listener %s: %w", name, err)
}
