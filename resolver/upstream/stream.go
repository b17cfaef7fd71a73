package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxStreams is how many connections there are to a server, and maxPipelined
	// how many questions wait on one. A second is opened when so many wait on
	// the first as is busy.
	maxStreams   = 8
	maxPipelined = 256
	busyStream   = 32

	// streamIdle is how long a connection is kept that nothing comes from (RFC
	// 7766 section 6.2.3 leaves it to us).
	streamIdle = 30 * time.Second
	// stalled is how long a connection may be silent while questions wait on
	// it until others are asked on another: it may be dead.
	stalled = 500 * time.Millisecond
)

var (
	errClosed = errors.New("the connection was closed")
	errReused = errors.New("the connection was in use before") // and so may have been dead already
)

// A stream is a connection that questions go over one after the other and
// answers come in any order (RFC 7766 section 6.2.1.1).
type stream struct {
	ready chan struct{} // closed when conn is set, or it failed
	users atomic.Int32  // questions that wait, also for ready

	mu      sync.Mutex
	conn    net.Conn
	err     error // it is over
	waiting map[uint16]chan<- []byte
	since   time.Time // something came, or waiting was empty
	heard   bool      // something came ever

	write sync.Mutex
}

// streams are the connections to one server, over TCP or TLS.
type streams struct {
	connect func(context.Context) (net.Conn, error)
	life    *life
	counts  *counts
	timeout time.Duration

	mu  sync.Mutex
	all []*stream
}

// ask asks on a connection that is there, else on a new one. If one that was
// used before fails, another is taken, once: servers close them without notice.
func (p *streams) ask(ctx context.Context, q *Question, how manner) ([]byte, error) {
	msg := make([]byte, 2, 2+maxQuery+padding)
	msg = appendQuery(msg, q, uint16(rand.Uint32()), how)
	binary.BigEndian.PutUint16(msg, uint16(len(msg)-2))
	for again := false; ; again = true {
		reply, err := p.once(ctx, msg)
		if err == nil {
			return checkStream(reply, msg[2:], q)
		}
		if again || ctx.Err() != nil || !errors.Is(err, errReused) {
			return nil, inTime(ctx, err)
		}
	}
}

// checkStream checks an answer that nobody else can have sent.
func checkStream(reply, sent []byte, q *Question) ([]byte, error) {
	reply, err := check(reply, sent, q, false)
	if err == errTruncated {
		err = errors.New("a truncated answer over TCP")
	}
	return reply, err
}

// inTime says of an error that came of our deadline just that.
func inTime(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errSilent
	}
	return err
}

func (p *streams) once(ctx context.Context, msg []byte) ([]byte, error) {
	st, err := p.take()
	if err != nil {
		return nil, err
	}
	if st == nil {
		return p.alone(ctx, msg)
	}
	defer st.users.Add(-1)
	select {
	case <-st.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return st.ask(ctx, msg)
}

// alone asks on a connection of its own.
func (p *streams) alone(ctx context.Context, msg []byte) ([]byte, error) {
	conn, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	p.counts.opened.Add(1)
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(msg); err != nil {
		return nil, err
	}
	return readMessage(conn)
}

// readMessage reads a message with its length (RFC 1035 section 4.2.2).
func readMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

// take returns the connection that the fewest questions wait on, or begins
// another one. It returns nil while the group does not run: then questions go
// alone.
func (p *streams) take() (*stream, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *stream
	least := maxPipelined
	for _, st := range p.all {
		if n := st.load(); n < least {
			best, least = st, n
		}
	}
	full := len(p.all) >= maxStreams
	if best == nil && full {
		return nil, errBusy
	}
	if best == nil || least >= busyStream && !full {
		best = &stream{ready: make(chan struct{}), waiting: make(map[uint16]chan<- []byte)}
		if !p.life.run(p.timeout, func(ctx context.Context) { p.serve(ctx, best) }) {
			return nil, nil
		}
		p.all = append(p.all, best)
	}
	best.users.Add(1)
	return best, nil
}

// load returns how many questions wait: more than there may be if the stream is
// over, and as many as make it busy at least if it is silent.
func (st *stream) load() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	n := int(st.users.Load())
	switch {
	case st.err != nil:
		return maxPipelined
	case st.silent():
		return max(n, busyStream)
	}
	return n
}

// silent reports whether questions wait and nothing comes.
func (st *stream) silent() bool {
	return len(st.waiting) > 0 && time.Since(st.since) >= stalled
}

// serve is the life of a stream: it connects and reads.
func (p *streams) serve(ctx context.Context, st *stream) {
	conn, err := p.connect(ctx)
	st.mu.Lock()
	st.conn, st.since = conn, time.Now()
	st.mu.Unlock()
	if err == nil {
		p.counts.opened.Add(1)
		if !p.life.on.Load() { // it ended meanwhile, and has not seen the connection
			conn.Close()
		}
		conn.SetReadDeadline(time.Now().Add(streamIdle))
		close(st.ready)
		err = st.read(conn)
		conn.Close()
	}
	p.remove(st)
	st.end(err)
	if conn == nil {
		close(st.ready)
	}
}

func (p *streams) remove(st *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.all {
		if p.all[i] == st {
			p.all = append(p.all[:i], p.all[i+1:]...)
			return
		}
	}
}

// end tells all who wait that the stream is over.
func (st *stream) end(err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.heard || err == nil {
		err = fmt.Errorf("%w: %w", errReused, errClosed)
	}
	if st.err == nil {
		st.err = err
	}
	for id, c := range st.waiting {
		delete(st.waiting, id)
		close(c)
	}
}

// read hands the answers to who waits for them.
func (st *stream) read(conn net.Conn) error {
	r := bufio.NewReaderSize(conn, 4096)
	for {
		msg, err := readMessage(r)
		if err != nil || len(msg) < headerLen {
			return errors.Join(err, errClosed)
		}
		now := time.Now()
		conn.SetReadDeadline(now.Add(streamIdle))
		st.mu.Lock()
		st.since, st.heard = now, true
		c := st.waiting[id(msg)] // a late answer: nobody waits
		delete(st.waiting, id(msg))
		st.mu.Unlock()
		if c != nil {
			c <- msg
		}
	}
}

// ask asks and waits for the answer. It gives msg its id.
func (st *stream) ask(ctx context.Context, msg []byte) ([]byte, error) {
	c := make(chan []byte, 1)
	id, err := st.enter(c)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint16(msg[2:], id)
	if err := st.send(ctx, msg); err != nil {
		st.leave(id)
		return nil, err
	}
	select {
	case reply, ok := <-c:
		if !ok {
			return nil, st.over()
		}
		return reply, nil
	case <-ctx.Done():
		st.leave(id)
		return nil, ctx.Err()
	}
}

func (st *stream) over() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.err
}

// enter finds an id that nobody uses.
func (st *stream) enter(c chan<- []byte) (uint16, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err != nil {
		return 0, st.err
	}
	if len(st.waiting) == 0 {
		st.since = time.Now()
	}
	for {
		id := uint16(rand.Uint32())
		if _, used := st.waiting[id]; !used {
			st.waiting[id] = c
			return id, nil
		}
	}
}

// leave gives up. If nothing came for long, so does the stream: else a dead one
// would stand in the way of others until the kernel finds out.
func (st *stream) leave(id uint16) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.silent() {
		st.conn.Close()
	}
	delete(st.waiting, id)
}

// send writes a message. A connection that takes none until the question's
// end is over: what was written of it cannot be taken back.
func (st *stream) send(ctx context.Context, msg []byte) error {
	st.write.Lock()
	defer st.write.Unlock()
	if until, ok := ctx.Deadline(); ok {
		st.conn.SetWriteDeadline(until)
	}
	_, err := st.conn.Write(msg)
	if err != nil {
		st.conn.Close()
		return fmt.Errorf("%w: %w", errReused, err)
	}
	return nil
}

// closeAll closes all connections.
func (p *streams) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, st := range p.all {
		st.mu.Lock()
		if st.conn != nil {
			st.conn.Close()
		}
		st.mu.Unlock()
	}
}

// overTLS makes a connection one over TLS.
func overTLS(ctx context.Context, conn net.Conn, conf *tls.Config) (net.Conn, error) {
	t := tls.Client(conn, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("setting up TLS: %w", err)
	}
	return t, nil
}
