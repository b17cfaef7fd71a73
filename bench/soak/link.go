package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
)

const (
	batch       = 32      // datagrams by system call
	longest     = 4096    // bytes of an answer
	socketBytes = 4 << 20 // of the receive buffer: what is lost shall not be lost here
)

// A packets is a link over UDP.
type packets struct {
	conn *ipv4.PacketConn
	out  []ipv4.Message
}

func dialPackets(from netip.Addr, to netip.AddrPort) (*packets, error) {
	c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(to))
	if err != nil {
		return nil, err
	}
	if err := c.SetReadBuffer(socketBytes); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &packets{conn: ipv4.NewPacketConn(c), out: make([]ipv4.Message, batch)}, nil
}

// send sends datagrams. What cannot be sent is as good as lost on the way: it is
// asked again.
func (p *packets) send(msgs [][]byte) {
	for len(msgs) > 0 {
		n := min(batch, len(msgs))
		for i := range n {
			p.out[i].Buffers = [][]byte{msgs[i]}
		}
		for part := p.out[:n]; len(part) > 0; {
			sent, err := p.conn.WriteBatch(part, 0)
			if err != nil {
				sent = 1 // an earlier one was refused, or this one: the next may do
			}
			part = part[sent:]
		}
		msgs = msgs[n:]
	}
}

// receive hands over what comes until the socket is closed.
func (p *packets) receive(to func([]byte)) {
	in := make([]ipv4.Message, batch)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, longest)}
	}
	for {
		n, err := p.conn.ReadBatch(in, 0)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		for i := range max(0, n) {
			to(in[i].Buffers[0][:in[i].N])
		}
	}
}

// A stream is a link over TCP (RFC 7766): a kept connection, which is made anew
// when it ends.
type stream struct {
	to    netip.AddrPort
	broke func() // is called when it ends before it is closed

	mu    sync.Mutex
	out   []byte        // framed
	ready chan struct{} // there is something in out
}

func newStream(to netip.AddrPort, broke func()) *stream {
	return &stream{to: to, broke: broke, ready: make(chan struct{}, 1)}
}

// send leaves the messages to the writer: a server that does not read holds
// back nothing but its own connection.
func (s *stream) send(msgs [][]byte) {
	s.mu.Lock()
	for _, m := range msgs {
		s.out = binary.BigEndian.AppendUint16(s.out, uint16(len(m)))
		s.out = append(s.out, m...)
	}
	s.mu.Unlock()
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *stream) take(spare []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.out
	s.out = spare[:0]
	return b
}

// run keeps a connection until ctx is done.
func (s *stream) run(ctx context.Context, to func([]byte)) {
	for ctx.Err() == nil {
		d := net.Dialer{Timeout: tryTime}
		if c, err := d.DialContext(ctx, "tcp4", s.to.String()); err == nil {
			s.converse(ctx, c, to)
		}
		if ctx.Err() == nil {
			s.broke()
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// converse uses a connection until it ends, or ctx.
func (s *stream) converse(ctx context.Context, c net.Conn, to func([]byte)) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		readFrames(c, to)
	})
	s.write(ctx, c)
	cancel()
	c.Close()
	wg.Wait()
}

func (s *stream) write(ctx context.Context, c net.Conn) {
	var spare []byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.ready:
		}
		spare = s.take(spare)
		if _, err := c.Write(spare); err != nil {
			return
		}
	}
}

func readFrames(c io.Reader, to func([]byte)) {
	in := bufio.NewReader(c)
	var b [2 + 65535]byte
	for {
		if _, err := io.ReadFull(in, b[:2]); err != nil {
			return
		}
		msg := b[2 : 2+binary.BigEndian.Uint16(b[:])]
		if _, err := io.ReadFull(in, msg); err != nil {
			return
		}
		to(msg)
	}
}
