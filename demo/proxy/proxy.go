// Package proxy is the local proxy of the demo's device: one TCP port that
// speaks HTTP (CONNECT and plain requests) and SOCKS5, told apart by the first
// byte, and carries steered names only.
//
// A name is looked up through the device's stub, so that policy is asked for
// every connection anew, and what is sent goes to virtual addresses alone.
// Anything else is refused with the reason: 502 with a text for HTTP, reply 2
// for SOCKS5. The two sides of a connection end in the same way: a clean end is
// passed on as a clean end, a reset as a reset, so that a download which was cut
// fails at the client instead of looking complete.
package proxy

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const (
	defaultConns = 256              // clients at once, idle ones included
	helloTime    = 30 * time.Second // for a client to say what it wants
	idleTime     = 2 * time.Minute  // between two requests of one client
	maxHeader    = 64 << 10         // bytes of a request's header
)

// A Proxy carries connections of local programs to virtual addresses. Its
// fields must not change while it serves.
type Proxy struct {
	// Resolve returns the addresses of a name, of both families. Its error
	// is what the client gets to read.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	// Virtual reports whether an address is one that the gateway steers.
	Virtual func(netip.Addr) bool
	// Dial opens a TCP connection over the link. If what it returns has a
	// method Broken() <-chan struct{}, a reset is noticed there even while the
	// client reads nothing.
	Dial func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	Log  *slog.Logger
	// Conns bounds the clients served at once; more of them wait to be
	// accepted. 256 if zero.
	Conns int
}

// Serve serves the clients that ln accepts until ctx is done, and closes ln.
func (p *Proxy) Serve(ctx context.Context, ln net.Listener) error {
	s := &server{Proxy: p, clients: map[*client]bool{}, web: make(chan net.Conn), addr: ln.Addr()}
	s.slots = make(chan struct{}, cmp.Or(p.Conns, defaultConns))
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	s.done = inner.Done()
	defer context.AfterFunc(inner, func() { ln.Close() })()
	srv := s.httpServer(inner)
	s.tasks.Go(func() { srv.Serve(webListener{s}) })
	err := s.accept(inner, ln)
	if ctx.Err() != nil {
		err = nil
	}
	cancel()
	ln.Close()
	s.closeAll()
	// Shutdown waits for the handlers that still hold a connection; those are
	// closed, so they end now. Handlers that took theirs over are tasks.
	srv.Shutdown(context.WithoutCancel(ctx))
	s.tasks.Wait()
	return err
}

// A server is one call of Serve.
type server struct {
	*Proxy
	done  <-chan struct{}
	addr  net.Addr
	slots chan struct{} // one for each client
	web   chan net.Conn // clients that speak HTTP
	tasks sync.WaitGroup

	mu      sync.Mutex
	clients map[*client]bool
	closed  bool
}

func (s *server) accept(ctx context.Context, ln net.Listener) error {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := ln.Accept()
		if err != nil {
			return fmt.Errorf("accepting proxy clients: %w", err)
		}
		cl := &client{Conn: c, gone: s.forget}
		if !s.remember(cl) {
			cl.Close()
			continue
		}
		s.tasks.Go(func() { s.greet(ctx, cl) })
	}
}

// greet reads the first byte, by which SOCKS5 and HTTP differ: the version
// number 5 (RFC 1928, section 3) is no character of a method.
func (s *server) greet(ctx context.Context, c *client) {
	c.SetDeadline(time.Now().Add(helloTime))
	var first [1]byte
	if _, err := c.Read(first[:]); err != nil {
		c.Close()
		return
	}
	if first[0] == socksVersion {
		defer c.Close()
		s.socks(ctx, c)
		return
	}
	c.head = first[:]
	c.SetDeadline(time.Time{})
	select {
	case s.web <- c:
	case <-ctx.Done():
		c.Close()
	}
}

func (s *server) remember(c *client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.clients[c] = true
	return true
}

func (s *server) forget(c *client) {
	s.mu.Lock()
	delete(s.clients, c)
	s.mu.Unlock()
	<-s.slots
}

func (s *server) closeAll() {
	s.mu.Lock()
	s.closed = true
	var all []*client
	for c := range s.clients {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
}

func (s *server) log(msg string, c net.Conn, to string, err error) {
	if s.Log == nil {
		return
	}
	s.Log.Debug(msg, "client", c.RemoteAddr().String(), "to", to, "error", err)
}

// A client is an accepted connection whose first bytes may have been read
// already, and that tells when it is closed.
type client struct {
	net.Conn
	head []byte
	once sync.Once
	gone func(*client)
}

func (c *client) Read(b []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

func (c *client) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { c.gone(c) })
	return err
}

// CloseWrite ends what the client receives, cleanly.
func (c *client) CloseWrite() error { return closeWrite(c.Conn) }

// SetLinger makes the next Close a reset if sec is zero.
func (c *client) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

// A webListener hands the clients that speak HTTP to an [http.Server].
type webListener struct{ *server }

func (l webListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.web:
		return c, nil
	case <-l.done:
		return nil, http.ErrServerClosed
	}
}

func (webListener) Close() error     { return nil }
func (l webListener) Addr() net.Addr { return l.addr }
