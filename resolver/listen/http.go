package listen

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// HTTP says how questions over HTTP are taken.
type HTTP struct {
	Path    string         // of the service, empty: /dns-query; what follows it after a slash is [Client.Token]
	Trusted []netip.Prefix // of reverse proxies, whose word on who asks is taken; not with TLS
}

// The bounds of HTTP.
const (
	httpStreams = 250              // at once over a connection, more than the 100 of RFC 9113 section 6.5.2
	httpHeaders = 32 << 10         // bytes, which the longest question that anybody sends as GET fits in
	httpWindow  = 64 << 10         // bytes that may wait for being read, of a connection and of a stream
	httpFrame   = 16 << 10         // bytes of a frame, and so of a connection's buffer
	httpRead    = 10 * time.Second // for a request to come in
	httpWrite   = 20 * time.Second // for its answer to be made and taken
	httpGrace   = time.Second      // for requests in work when the server ends
	httpIdle    = 90 * time.Second // for proxies, which would rather end idle connections themselves: a POST may just be on the way
)

// ServeHTTPS answers the questions that come over HTTPS to l (RFC 8484), over
// HTTP/2 and HTTP/1.1, until ctx is done, which is no error, or the listener
// fails. It closes l and the connections, and waits for its questions in work.
// Server names are taken as [Server.ServeTLS] takes them.
func (s *Server) ServeHTTPS(ctx context.Context, l net.Listener, certs *Certificates, h HTTP, name string) error {
	h.Trusted = nil
	config := certs.config("h2", "http/1.1")
	config.DynamicRecordSizingDisabled = true
	return s.serveHTTP(ctx, l, h, name, func(l net.Listener) net.Listener { return tls.NewListener(l, config) })
}

// ServeHTTP does as [Server.ServeHTTPS] without TLS, for reverse proxies that
// take it off. Who asks is then the last address of X-Forwarded-For or
// Forwarded (RFC 7239) that is not a trusted proxy's. Connections of others are
// answered with 403.
func (s *Server) ServeHTTP(ctx context.Context, l net.Listener, h HTTP, name string) error {
	return s.serveHTTP(ctx, l, h, name, func(l net.Listener) net.Listener { return l })
}

func (s *Server) serveHTTP(ctx context.Context, l net.Listener, h HTTP, name string, wrap func(net.Listener) net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	g := &gate{Listener: l, Server: s, door: newDoor(s.Limits), trusted: h.Trusted, name: name}
	d := newDoH(s, h, g.door)
	srv := s.httpServer(d.handler(ctx))
	if len(h.Trusted) > 0 {
		srv.IdleTimeout = max(srv.IdleTimeout, httpIdle)
	}
	said := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(said)
		grace, cancel := context.WithTimeout(context.Background(), httpGrace)
		defer cancel()
		srv.Shutdown(grace) // who does not go is shown the door below
	})
	err := ended(ctx, name, srv.Serve(wrap(g)))
	cancel()
	<-said
	srv.Close()
	d.serving.Lock() // for good
	g.open.Wait()
	return err
}

func (s *Server) httpServer(h http.Handler) *http.Server {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           h,
		Protocols:         p,
		ReadHeaderTimeout: handshakeTime, // of the handshake too
		ReadTimeout:       httpRead,
		WriteTimeout:      httpWrite,
		IdleTimeout:       or(s.Limits.Idle, 10*time.Second),
		MaxHeaderBytes:    httpHeaders,
		ErrorLog:          slog.NewLogLogger(s.log().Handler(), slog.LevelDebug), // only what clients do wrong
		ConnContext:       withVisit,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          httpStreams,
			MaxReadFrameSize:              httpFrame,
			MaxReceiveBufferPerConnection: httpWindow,
			MaxReceiveBufferPerStream:     httpWindow,
			WriteByteTimeout:              or(s.Limits.Write, 5*time.Second),
		},
	}
}

// A gate is a listener that lets connections in as far as the limits allow.
type gate struct {
	net.Listener
	*Server
	door    *door
	trusted []netip.Prefix
	name    string
	open    sync.WaitGroup // connections
}

// A visit is a connection that came through a gate.
type visit struct {
	net.Conn
	gate    *gate
	from    netip.AddrPort
	trusted bool                   // it is a proxy's
	client  atomic.Pointer[Client] // who asked last
	close   sync.Once
	armed   atomic.Int64 // the deadline of writes, Unix nanoseconds
}

// Accept waits for the next connection that is let in. Proxies are not limited
// as clients are: they come for many.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := addrPort(conn.RemoteAddr())
		v := &visit{Conn: conn, gate: g, from: from, trusted: contains(g.trusted, from.Addr())}
		if g.door.admit(from.Addr(), !v.trusted) {
			g.open.Add(1)
			return v, nil
		}
		g.dropped(g.name, Busy)
		conn.Close()
	}
}

func (v *visit) Close() error {
	err := v.Conn.Close()
	v.close.Do(func() {
		v.gate.door.leave(v.from.Addr(), !v.trusted)
		v.gate.open.Done()
	})
	return err
}

// SetWriteDeadline is called before each write. A deadline that came a bit
// before stays, because moving it costs as much as a short answer.
func (v *visit) SetWriteDeadline(t time.Time) error {
	const bit = time.Second
	if old := v.armed.Load(); !t.IsZero() && old > t.Add(-bit).UnixNano() && old <= t.UnixNano() {
		return nil
	}
	if t.IsZero() {
		v.armed.Store(0)
	} else {
		v.armed.Store(t.UnixNano())
	}
	return v.Conn.SetWriteDeadline(t)
}

// SetDeadline sets the deadlines of reads and of writes.
func (v *visit) SetDeadline(t time.Time) error {
	v.armed.Store(0)
	return v.Conn.SetDeadline(t)
}

type visitKey struct{}

// withVisit puts the visit that a connection is into its context.
func withVisit(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return context.WithValue(ctx, visitKey{}, c)
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
