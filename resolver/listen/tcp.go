package listen

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// maxAnswer is the longest answer that a length of two octets can announce.
const maxAnswer = 65535

// ServeTCP answers the questions that come over connections to l until ctx is
// done, which is no error, or the listener fails. It closes l and the
// connections, and waits for its questions in work. The name is the
// listener's.
func (s *Server) ServeTCP(ctx context.Context, l net.Listener, name string) error {
	return s.serveStreams(ctx, l, name, s.serveConn)
}

// serveStreams accepts connections, as many as the limits allow, and has each
// served until it ends.
func (s *Server) serveStreams(ctx context.Context, l net.Listener, name string, serve func(context.Context, *door, net.Conn, *Client)) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	d := newDoor(s.Limits)
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
		if !d.admit(from.Addr(), true) {
			s.dropped(name, Busy)
			conn.Close()
			continue
		}
		work.Go(func() {
			defer d.leave(from.Addr(), true)
			serve(ctx, d, conn, &Client{Addr: from, Listener: name, Transport: TCP})
		})
	}
}

// A stream is one connection. Questions that can be answered at once are
// answered where they are read, and all of them that came together with one
// write. The others are in work side by side and answered in the order in
// which they are done, RFC 7766 section 6.2.1.1.
type stream struct {
	*Server
	door   *door
	conn   net.Conn
	client *Client
	terms  terms
	mine   chan struct{} // as many as questions of this connection may be in work
	guest  chan struct{} // the same of all connections of the client
	work   sync.WaitGroup
	in     inbox
	last   atomic.Int64 // when the last answer that took its time was sent, Unix nanoseconds

	mu     sync.Mutex    // guards done
	done   []byte        // answers, each behind its length, that wait for being written
	writer chan struct{} // has one place: his who writes
	armed  time.Time     // the deadline of writes
}

func (s *Server) serveConn(ctx context.Context, d *door, conn net.Conn, client *Client) {
	idle := or(s.Limits.Idle, 10*time.Second)
	c := &stream{
		Server: s, door: d, conn: conn, client: client,
		terms: terms{keepalive: keepalive(idle), padding: client.Encrypted()},
		mine:  make(chan struct{}, or(s.Limits.Pipeline, 64)),
		guest: d.places(client.Addr.Addr()), writer: make(chan struct{}, 1),
		in: inbox{longest: or(s.Limits.Message, 16384), idle: idle},
	}
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(past) })
	defer stop()
	defer conn.Close()
	defer c.work.Wait() // an asker that closed its side may still wait for answers
	for err := error(nil); err == nil; err = c.fill(ctx) {
		if err = c.look(ctx); err != nil {
			return
		}
	}
}

// look answers or starts the work on all that has been read.
func (c *stream) look(ctx context.Context) error {
	batch := batches.Get().(*[]byte)
	defer batches.Put(batch)
	out, err := c.take(ctx, (*batch)[:0])
	if len(out) > 0 {
		c.write(out)
	}
	return err
}

// batchLen is how much is gathered before it is written: half of what a TLS
// record holds, so that one more answer of usual length fits into the record.
const batchLen = 8192

// batches are the buffers for answers of questions that are answered at once.
var batches = sync.Pool{New: func() any {
	b := make([]byte, 0, batchLen+2048)
	return &b
}}

// take looks at all questions that have been read. It answers to out, and
// starts the work on those that take time.
func (c *stream) take(ctx context.Context, out []byte) ([]byte, error) {
	for {
		req, err := c.in.next()
		if err != nil {
			c.dropped(c.client.Listener, Malformed)
		}
		if req == nil {
			return out, err
		}
		answered := false
		if out, answered = c.now(req, out); !answered {
			if out, err = c.start(ctx, req, out); err != nil {
				return out, err
			}
		}
		if len(out) > batchLen {
			c.write(out)
			out = out[:0]
		}
	}
}

// now appends the answer to a question behind its length, if there is one at
// once.
func (c *stream) now(req, out []byte) ([]byte, bool) {
	n := len(out)
	out = append(out, 0, 0)
	resp, ok := c.quick(c.client, req, out[n+2:], maxAnswer)
	if !ok {
		return out[:n], false
	}
	if resp = c.terms.finish(req, resp, maxAnswer); len(resp) == 0 || len(resp) > maxAnswer {
		return out[:n], true
	}
	binary.BigEndian.PutUint16(out[n:], uint16(len(resp)))
	return append(out, resp...), true // a copy to where it is already, but for long ones
}

// start begins the work on a question once there is a place for it. What can
// be told already is told before it waits.
func (c *stream) start(ctx context.Context, req, out []byte) ([]byte, error) {
	for _, places := range [...]chan struct{}{c.mine, c.guest, c.door.work} {
		select {
		case places <- struct{}{}:
			continue
		default:
		}
		if len(out) > 0 {
			c.write(out)
			out = out[:0]
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done(): // places that were taken end with the server
			return out, ctx.Err()
		}
	}
	own := append([]byte(nil), req...)
	c.work.Go(func() {
		c.reply(ctx, own)
		<-c.door.work
		<-c.guest
		<-c.mine
	})
	return out, nil
}

// reply answers a question that takes its time. Whoever comes to write takes
// along the answers of all who wait to.
func (c *stream) reply(ctx context.Context, req []byte) {
	resp := c.terms.finish(req, c.answer(ctx, c.client, req), maxAnswer)
	if len(resp) == 0 || len(resp) > maxAnswer {
		return
	}
	c.mu.Lock()
	c.done = binary.BigEndian.AppendUint16(c.done, uint16(len(resp)))
	c.done = append(c.done, resp...)
	c.mu.Unlock()
	c.writer <- struct{}{}
	defer func() { <-c.writer }()
	c.mu.Lock()
	out := c.done
	c.done = nil
	c.mu.Unlock()
	if len(out) > 0 {
		c.send(out)
		c.last.Store(time.Now().UnixNano())
	}
}

func (c *stream) write(out []byte) {
	c.writer <- struct{}{}
	defer func() { <-c.writer }()
	c.send(out)
}

// send writes answers with their lengths, as one segment where they fit (RFC
// 7766 section 8). A connection that does not take its answers is closed,
// which ends the reading too. The deadline is moved only when a quarter of
// its time is over: that costs as much as a short answer.
func (c *stream) send(out []byte) {
	limit := or(c.Limits.Write, 5*time.Second)
	if now := time.Now(); c.armed.Sub(now) < limit {
		c.armed = now.Add(limit + limit/4)
		c.conn.SetWriteDeadline(c.armed)
	}
	if _, err := c.conn.Write(out); err != nil {
		c.dropped(c.client.Listener, Unsent)
		c.log().Debug("sending answers failed", "listener", c.client.Listener, "client", c.client.Addr, "err", err)
		c.conn.Close()
	}
}

// past is a deadline that ends reads at once.
var past = time.Unix(1, 0)

// fill waits for more to read. A connection may be silent for as long as
// questions of it are in work, and after that for the idle time. A question
// that has begun must be there whole within the idle time.
func (c *stream) fill(ctx context.Context) error {
	until, move := c.in.deadline(time.Now())
	for {
		if move {
			c.conn.SetReadDeadline(until)
		}
		if ctx.Err() != nil {
			return ctx.Err() // the deadline of the end may just have been overwritten
		}
		err := c.in.read(c.conn)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil || c.in.begun {
			return err
		}
		if until, move = c.patience(time.Now()); !move {
			return err
		}
	}
}

// patience returns until when a connection that has been silent for long may
// go on to be.
func (c *stream) patience(now time.Time) (time.Time, bool) {
	since := now
	if len(c.mine) == 0 {
		since = time.Unix(0, c.last.Load())
	}
	c.in.armed = since.Add(c.in.idle)
	return c.in.armed, c.in.armed.After(now)
}

// An inbox is what has been read of a connection and not been looked at.
type inbox struct {
	buf      []byte
	from, to int // of buf
	longest  int // question that is taken
	idle     time.Duration
	armed    time.Time // the deadline of reads
	begun    bool      // the deadline is that of a question of which a part is here
}

// inboxLen is what one read takes at least: dozens of usual questions.
const inboxLen = 2048

var errLength = errors.New("a question of an unlikely length")

// next returns the next question, nil if there is none whole. It is the
// caller's until the next read.
func (b *inbox) next() ([]byte, error) {
	have := b.buf[b.from:b.to]
	if len(have) < 2 {
		return nil, nil
	}
	n := int(binary.BigEndian.Uint16(have))
	if n < headerLen || n > b.longest {
		return nil, errLength
	}
	if len(have) < 2+n {
		return nil, nil
	}
	b.from += 2 + n
	b.begun = false
	return have[2 : 2+n : 2+n], nil
}

// deadline returns until when to wait for more, and whether that has changed.
// It moves when it would come before the idle time is over, but not while a
// question dribbles in.
func (b *inbox) deadline(now time.Time) (time.Time, bool) {
	dribbles := b.begun
	b.begun = b.to > b.from
	if dribbles || b.armed.Sub(now) >= b.idle {
		return b.armed, false
	}
	b.armed = now.Add(b.idle + b.idle/8)
	return b.armed, true
}

// read reads once, with room for the whole of the question that has begun.
func (b *inbox) read(r io.Reader) error {
	need := inboxLen
	if have := b.buf[b.from:b.to]; len(have) >= 2 {
		need = max(need, 2+int(binary.BigEndian.Uint16(have)))
	}
	if len(b.buf) != need && (len(b.buf) < need || b.from == b.to) {
		buf := make([]byte, need)
		b.to = copy(buf, b.buf[b.from:b.to])
		b.buf, b.from = buf, 0
	} else if b.from > 0 {
		b.to = copy(b.buf, b.buf[b.from:b.to])
		b.from = 0
	}
	n, err := r.Read(b.buf[b.to:])
	b.to += n
	if n > 0 {
		return nil // an error comes again
	}
	return err
}
