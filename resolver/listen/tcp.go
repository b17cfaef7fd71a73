package listen

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// ServeTCP answers the questions that come over connections to l until ctx is
// done, which is no error, or the listener fails. It closes l and the
// connections, and waits for its questions in work. The name is the
// listener's.
func (s *Server) ServeTCP(ctx context.Context, l net.Listener, name string) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	free := make(chan struct{}, or(s.Limits.Conns, 1024))
	var clients shares
	for failures := 0; ; {
		conn, err := l.Accept()
		if err != nil {
			if !pause(ctx, err, failures) {
				return ended(ctx, name, err)
			}
			failures++
			continue
		}
		failures = 0
		from := addrPort(conn.RemoteAddr())
		if !s.admit(free, &clients, from) {
			s.dropped(name, Busy)
			conn.Close()
			continue
		}
		work.Go(func() {
			defer func() { clients.give(from.Addr()); <-free }()
			s.serveConn(ctx, conn, from, name)
		})
	}
}

// admit takes a place for a connection of a client, or reports that there is
// none.
func (s *Server) admit(free chan struct{}, clients *shares, from netip.AddrPort) bool {
	select {
	case free <- struct{}{}:
	default:
		return false
	}
	if clients.take(from.Addr(), or(s.Limits.ConnsPerClient, 32)) {
		return true
	}
	<-free
	return false
}

// A stream is one connection. Its questions are in work side by side and
// answered in the order in which they are done, RFC 7766 section 6.2.1.1.
type stream struct {
	*Server
	conn   net.Conn
	from   netip.AddrPort
	name   string
	work   sync.WaitGroup
	places chan struct{} // as many as questions may be in work

	mu sync.Mutex // held while an answer is written
}

func (s *Server) serveConn(ctx context.Context, conn net.Conn, from netip.AddrPort, name string) {
	c := &stream{Server: s, conn: conn, from: from, name: name, places: make(chan struct{}, or(s.Limits.Pipeline, 64))}
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(past) })
	defer stop()
	defer conn.Close()
	defer c.work.Wait() // an asker that closed its side may still wait for answers
	for ctx.Err() == nil {
		select {
		case c.places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		req, err := c.read(ctx)
		if err != nil {
			return
		}
		c.work.Go(func() {
			c.reply(ctx, req)
			<-c.places
		})
	}
}

// past is a deadline that ends reads at once.
var past = time.Unix(1, 0)

var errLength = errors.New("a question of an unlikely length")

// read reads the next question. A connection may be silent for as long as
// questions of it are in work, and after that for the idle time.
func (c *stream) read(ctx context.Context) ([]byte, error) {
	idle := or(c.Limits.Idle, 10*time.Second)
	var length [2]byte
	for {
		c.conn.SetReadDeadline(time.Now().Add(idle))
		if ctx.Err() != nil {
			return nil, ctx.Err() // the deadline of the end may just have been overwritten
		}
		n, err := io.ReadFull(c.conn, length[:])
		if err == nil {
			break
		}
		inWork := len(c.places) > 1 // one place is that of the question to come
		if n > 0 || !inWork || !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return nil, err
		}
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n < headerLen || n > or(c.Limits.Message, 16384) {
		c.dropped(c.name, Malformed)
		return nil, errLength
	}
	req := make([]byte, n)
	_, err := io.ReadFull(c.conn, req)
	return req, err
}

// reply answers a question. A connection that does not take its answers is
// closed, which ends the reading too.
func (c *stream) reply(ctx context.Context, req []byte) {
	resp := c.answer(ctx, &Client{Addr: c.from, Listener: c.name, Transport: TCP}, req)
	if resp == nil || len(resp) > 65535 {
		return
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(resp)), uint16(len(resp)))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn.SetWriteDeadline(time.Now().Add(or(c.Limits.Write, 5*time.Second)))
	if _, err := c.conn.Write(append(b, resp...)); err != nil { // one write, one segment: RFC 7766 section 8
		c.dropped(c.name, Unsent)
		c.log().Debug("sending an answer failed", "listener", c.name, "client", c.from, "id", id(req), "err", err)
		c.conn.Close()
	}
}
