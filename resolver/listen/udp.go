package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/starferry/starferry/resolver/wire"
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
	buf  [readLen]byte
	n    int
	at   time.Time // when it was read
	oob  [oobLen]byte
	oobn int
	addr netip.AddrPort // of the asker, as the socket writes it
	peer net.Addr       // the same on a socket that is not the kernel's
	raw  rawAddr        // the same, of one that came in a batch
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
	w := &workers{s: s, sock: sock, name: name, free: make(chan struct{}, or(s.Limits.Workers, 1024)), next: make(chan *packet), out: newOutbox(sock)}
	ctx, cancel := context.WithCancel(ctx)
	w.finish = w.done
	defer w.work.Wait()
	defer close(w.next)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { pc.Close() })
	defer stop()
	defer pc.Close()
	later := func(p *packet) { w.take(ctx, p) }
	for failures := 0; ; failures++ {
		var err error
		if b := newBatch(s, sock, name); b != nil && sock.kernel != nil {
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
	out := make([]byte, 0, 2*udpLen)
	for {
		p := packets.Get().(*packet)
		if err := sock.read(p); err != nil {
			packets.Put(p)
			return err
		}
		if p.n < headerLen || p.buf[2]&0x80 != 0 {
			s.unserved(name, Malformed, p)
			continue
		}
		c := Client{Addr: netip.AddrPortFrom(p.addr.Addr().Unmap(), p.addr.Port()), Listener: name, Transport: UDP, At: time.Now()}
		resp, ok := s.quick(&c, p.buf[:p.n], out, or(s.Limits.UDPSize, udpLen))
		if !ok {
			p.at = c.At
			later(p)
			continue
		}
		if len(resp) > 0 {
			s.send(ctx, sock, name, p, resp)
		}
		packets.Put(p)
	}
}

// workers answer the questions of a socket that take longer. Some of them wait
// for the next question rather than end: a new goroutine has a small stack,
// and would pay for its growth with each.
type workers struct {
	s       *Server
	sock    socket
	name    string
	free    chan struct{} // as many as questions may be in work
	next    chan *packet  // to a worker who waits
	out     *outbox       // nil: there is none
	finish  func(*packet) // is done
	clients shares
	waiting atomic.Int32
	// Until then the workers are not waited for. Only the reader of the socket
	// looks at it.
	hopeless time.Time
	work     sync.WaitGroup
}

// maxWaiting bounds how many workers of a socket wait for work.
const maxWaiting = 256

// take has a question answered if there is a place for it. It does not wait for
// one: what can be answered at once shall not queue behind what cannot.
func (w *workers) take(ctx context.Context, p *packet) {
	for tries := 0; !w.place(p.addr.Addr().Unmap()); tries++ {
		if tries == patience {
			w.hopeless = time.Now().Add(hopelessFor)
		}
		if tries >= patience || time.Now().Before(w.hopeless) {
			w.s.unserved(w.name, Busy, p)
			return
		}
		runtime.Gosched()
	}
	select {
	case w.next <- p:
	default:
		w.work.Go(func() { w.run(ctx, p) })
	}
}

// patience is how often workers are let go first before a question is dropped:
// all that came in a burst, as after a reload, need little each, and only want to
// be run.
const patience = 8

// hopelessFor is for how long nobody is waited for once that was in vain: the
// workers wait for resolvers then, and what can be answered at once must not wait
// with them.
const hopelessFor = 50 * time.Millisecond

// place takes a place for a client's question, or reports that there is none.
func (w *workers) place(from netip.Addr) bool {
	if !w.clients.take(from, or(w.s.Limits.PerClient, 256)) {
		return false
	}
	select {
	case w.free <- struct{}{}:
		return true
	default:
		w.clients.give(from)
		return false
	}
}

// done gives back what a question held.
func (w *workers) done(p *packet) {
	w.clients.give(p.addr.Addr().Unmap())
	packets.Put(p)
	<-w.free
}

// run answers questions until there is nothing to do and nobody has to wait for
// more.
func (w *workers) run(ctx context.Context, p *packet) {
	for p != nil {
		if resp := w.s.reply(ctx, w.name, p); len(resp) == 0 {
			w.done(p)
		} else if w.out != nil && p.raw.len > 0 {
			w.out.put(w.s, w.name, answered{p, resp, w.finish})
		} else {
			w.s.send(ctx, w.sock, w.name, p, resp)
			w.done(p)
		}
		if w.waiting.Add(1) > maxWaiting {
			w.waiting.Add(-1)
			return
		}
		p = <-w.next // nil once the socket is closed
		w.waiting.Add(-1)
	}
}

// unserved counts a packet that is not looked at.
func (s *Server) unserved(name, why string, p *packet) {
	s.dropped(name, why)
	packets.Put(p)
}

func (s *Server) reply(ctx context.Context, name string, p *packet) []byte {
	c := &Client{Addr: netip.AddrPortFrom(p.addr.Addr().Unmap(), p.addr.Port()), Listener: name, Transport: UDP, At: p.at}
	req, most := p.buf[:p.n], or(s.Limits.UDPSize, udpLen)
	q, plain := wire.Parse(req)
	if !plain {
		resp := truncated(s.answerOdd(ctx, c, req), s.most(c, false, len(req), min(offered(req), most)))
		return s.limitsOdd(c, resp)
	}
	w := s.look(c, &q)
	resp := truncated(s.handled(ctx, c, req, q.End, &w), s.most(c, w.proven, len(req), min(q.Size, most)))
	return s.limits(c, &q, &w, resp, 0)
}

func (s *Server) send(ctx context.Context, sock socket, name string, p *packet, resp []byte) {
	if err := sock.write(p, resp); err != nil && ctx.Err() == nil {
		s.dropped(name, Unsent)
		s.log().Debug("sending an answer failed", "listener", name, "client", p.addr, "id", id(p.buf[:]), "err", err)
	}
}

// ended makes of the error that ended a server what its caller shall see.
func ended(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("listener %s: %w", name, err)
}
