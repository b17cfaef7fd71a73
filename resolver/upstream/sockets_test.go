package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A peer is a server of package dns on the loopback interface, over UDP and
// TCP on one port and over TLS on another.
type peer struct {
	plain, secure string // addresses
	ca            *x509.CertPool

	mu    sync.Mutex
	from  map[string]int // questions by transport and source
	cases map[string]bool
	padded,
	oddly int // queries by their length
	answer func(network string, q *dns.Msg) []*dns.Msg
}

func (p *peer) handler(network string) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		p.mu.Lock()
		p.from[network+" "+w.RemoteAddr().String()]++
		p.cases[q.Question[0].Name] = true
		answer := p.answer
		if q.Len()%padding == 0 {
			p.padded++
		} else {
			p.oddly++
		}
		p.mu.Unlock()
		for _, r := range answer(network, q) {
			w.WriteMsg(r)
		}
	}
}

// sources counts the sources over a transport.
func (p *peer) sources(network string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.from {
		if strings.HasPrefix(s, network+" ") {
			n++
		}
	}
	return n
}

// newPeer starts a peer. Its certificate is for example.com and 127.0.0.1.
func newPeer(t *testing.T, answer func(string, *dns.Msg) []*dns.Msg) *peer {
	t.Helper()
	p := &peer{answer: answer, from: map[string]int{}, cases: map[string]bool{}}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Skip(err)
	}
	cert, ca := certificate()
	s, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	p.plain, p.secure, p.ca = pc.LocalAddr().String(), s.Addr().String(), ca
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	for _, srv := range []*dns.Server{
		{PacketConn: pc, Handler: p.handler("udp")}, {Listener: l, Handler: p.handler("tcp")}, {Listener: s, Handler: p.handler("tls")},
	} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { srv.ActivateAndServe() })
		<-started
		t.Cleanup(func() { srv.Shutdown() })
	}
	return p
}

// certificate borrows the one that package httptest has.
func certificate() (tls.Certificate, *x509.CertPool) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return s.TLS.Certificates[0], pool
}

func ask(t *testing.T, g *Group) {
	t.Helper()
	r, err := g.Resolve(t.Context(), new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA))
	if err != nil || len(r.Answer) != 1 || r.Question[0].Name != "www.example.com." || r.Answer[0].Header().Name != "www.example.com." {
		t.Fatalf("got %v, %v", r, err)
	}
}

func TestPortsAndLettersAreRandom(t *testing.T) {
	for _, run := range []bool{false, true} {
		p := newPeer(t, good)
		g := newGroup(t, Config{}, p.plain)
		if run {
			running(t, g)
		}
		for range 2 * ports {
			ask(t, g)
		}
		if n := p.sources("udp"); n < ports {
			t.Errorf("running %v: only %d source ports", run, n)
		}
		if n := g.Stats().Servers[0].Opened; run && n > ports+20 {
			t.Errorf("%d sockets opened: none was used again", n)
		}
		if len(p.cases) < ports {
			t.Errorf("only %d forms of the name", len(p.cases))
		}
		if open, idle := g.servers[0].sockets.open, len(g.servers[0].sockets.idle); !run && open != 0 || open != idle {
			t.Errorf("running %v: %d sockets open, %d idle", run, open, idle)
		}
	}
}

func TestTruncatedOverSockets(t *testing.T) {
	p := newPeer(t, long)
	g := running(t, newGroup(t, Config{}, p.plain))
	for range 5 {
		ask(t, g)
	}
	if u, c := p.sources("udp"), p.sources("tcp"); u != 5 || c != 1 {
		t.Errorf("%d sources over UDP and %d over TCP, want 5 and 1", u, c)
	}
	if s := g.Stats().Servers[0]; s.Truncated != 5 || s.Answered != 5 {
		t.Errorf("%+v", s)
	}
}

// Answers come in the reverse order of the questions, over one connection.
func TestPipelining(t *testing.T) {
	const n = 20
	cert, ca := certificate()
	for _, transport := range []string{"tcp", "tls"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if transport == "tls" {
			l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}})
		}
		defer l.Close()
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			var all [][]byte
			for range n {
				msg, err := readMessage(c)
				if err != nil {
					return
				}
				all = append(all, answered(msg))
			}
			for i := range all {
				msg := all[n-1-i]
				c.Write(append([]byte{0, byte(len(msg))}, msg...))
			}
			readMessage(c)
		}()
		g := running(t, withCA(t, &peer{ca: ca}, transport+"://"+l.Addr().String()))
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				q := www
				q.Type = uint16(1000 + i)
				if _, err := g.Exchange(t.Context(), q); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if s := g.Stats().Servers[0]; s.Opened != 1 || s.Answered != n {
			t.Errorf("over %s: %+v", transport, s)
		}
	}
}

func withCA(t *testing.T, p *peer, servers ...string) *Group {
	t.Helper()
	var c Config
	for _, name := range servers {
		s, err := ParseServer(name)
		if err != nil {
			t.Fatal(err)
		}
		s.CA = p.ca
		c.Servers = append(c.Servers, s)
	}
	return newGroup(t, c)
}

func TestTLS(t *testing.T) {
	p := newPeer(t, good)
	tests := []struct {
		server string
		err    string
	}{
		{"tls://example.com@" + p.secure, ""},
		{"tls://" + p.secure, ""}, // the address stands in the certificate
		{"tls://dns.example@" + p.secure, "certificate is valid for"},
		{"tls://dns.example:853", "bootstrap servers are needed"},
	}
	for _, tt := range tests {
		g := withCA(t, p, tt.server)
		for _, run := range []bool{false, true} {
			if run {
				running(t, g)
			}
			before := g.Stats().Servers[0].Opened
			for range 3 {
				if tt.err == "" {
					ask(t, g)
					continue
				}
				_, err := g.Exchange(t.Context(), www)
				if !errors.Is(err, ErrNoAnswer) || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("%s: %v", tt.server, err)
				}
			}
			if n := g.Stats().Servers[0].Opened - before; tt.err == "" && run && n != 1 {
				t.Errorf("%s: %d connections for three questions", tt.server, n)
			}
		}
	}
	if p.padded == 0 || p.oddly > 0 {
		t.Errorf("%d queries are padded, %d are not", p.padded, p.oddly)
	}
}

// A server may close connections at any time: the question goes over another.
func TestAConnectionThatDied(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			msg, err := readMessage(c)
			if err == nil {
				msg = answered(msg)
				c.Write(append([]byte{0, byte(len(msg))}, msg...))
			}
			if _, err = readMessage(c); err == nil { // the second is left without an answer
				c.Close()
			}
		}
	}()
	g := running(t, newGroup(t, Config{}, "tcp://"+l.Addr().String()))
	for range 4 {
		ask(t, g)
	}
	if s := g.Stats().Servers[0]; s.Opened != 4 || s.Failures != 0 {
		t.Errorf("%+v", s)
	}
}

// overHTTPS starts a server that answers as answer does.
func overHTTPS(t *testing.T, h http.HandlerFunc) (*httptest.Server, *x509.CertPool) {
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return s, pool
}

func TestHTTPS(t *testing.T) {
	answer := func(w http.ResponseWriter, r *http.Request) {
		msg, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != dnsMessage || r.ProtoMajor != 2 ||
			r.URL.Path != "/q" || len(msg)%padding != 0 || id(msg) != 0 || r.UserAgent() != "" {
			t.Errorf("%v %v: %d octets, %v", r.Proto, r.URL, len(msg), err)
		}
		w.Header().Set("Content-Type", dnsMessage)
		w.Write(answered(msg))
	}
	tests := []struct {
		what   string
		handle http.HandlerFunc
		err    string
	}{
		{"good", answer, ""},
		{"not found", http.NotFound, `HTTP status "404 Not Found"`},
		{"a page", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>log in") }, `the type "text/html`},
		{"elsewhere", http.RedirectHandler("/other", http.StatusFound).ServeHTTP, `HTTP status "302 Found"`},
		{"too long", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", dnsMessage)
			w.Write(make([]byte, maxMessage+2))
		}, "longer than messages are"},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			srv, ca := overHTTPS(t, tt.handle)
			g := withCA(t, &peer{ca: ca}, "https://example.com@"+srv.Listener.Addr().String()+"/q")
			running(t, g)
			for range 5 {
				_, err := g.Exchange(t.Context(), www)
				if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
					t.Errorf("%v, want %q", err, tt.err)
				}
			}
			if n := g.Stats().Servers[0].Opened; tt.err == "" && n != 1 {
				t.Errorf("%d connections", n)
			}
			srv.CloseClientConnections()
			if tt.err == "" {
				ask(t, g) // over another connection
			}
		})
	}
}

// Nothing that another port than the server's sends reaches us.
func TestTheWrongPort(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	other, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			right := answered(buf[:n])
			forged := append([]byte(nil), right...)
			forged[3] |= dns.RcodeNameError
			other.WriteTo(forged, from)
			pc.WriteTo(right, from)
		}
	}()
	g := running(t, newGroup(t, Config{}, pc.LocalAddr().String()))
	for range 20 {
		ask(t, g)
	}
}

// A server that is not there is known at once, by ICMP, and one that comes back
// is not held to have gone by errors that sockets still hold.
func TestRefused(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc.Close()
	g := running(t, newGroup(t, Config{}, pc.LocalAddr().String()))
	for range 3 {
		if _, err := g.Exchange(t.Context(), www); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("got %v", err)
		}
	}
	if s := g.Status()[0]; s.Up || s.Failures == 0 || s.Err == nil {
		t.Errorf("%+v", s)
	}
}

func TestRunLeavesNothingOpen(t *testing.T) {
	p := newPeer(t, long)
	srv, _ := overHTTPS(t, func(w http.ResponseWriter, r *http.Request) { // its certificate is the peer's
		msg, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", dnsMessage)
		w.Write(answered(msg))
	})
	g := withCA(t, p, p.plain, "tls://"+p.secure, "https://"+srv.Listener.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Run(ctx) }()
	for !g.life.on.Load() {
		g.rouse()
	}
	for _, s := range g.servers {
		if _, err := s.ask(ctx, &www, nil); err != nil && s.Transport != TLS {
			t.Error(err)
		}
	}
	if err := g.Run(ctx); err == nil {
		t.Error("it runs twice")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, s := range g.servers {
		if s.sockets.open != 0 || len(s.streams.all) != 0 {
			t.Errorf("%s: %d sockets and %d streams are open", s.label, s.sockets.open, len(s.streams.all))
		}
		if s.https != nil && len(s.https.conns) != 0 {
			t.Errorf("%s: %d connections are open", s.label, len(s.https.conns))
		}
	}
	ask(t, g) // still works
	h := g.servers[2].https
	if _, err := h.ask(t.Context(), &www, manner{edns: true, pad: true}); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(5 * time.Second); h.open() > 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("a connection over HTTPS is kept by a group that does not run")
		}
	}
}

func (h *https) open() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.conns)
}

// What an earlier question had the poller told ends no later one before its time,
// and who is called off waits no more, whatever the poller is told after it.
func TestSocketWaits(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	s, err := newSocket(t.Context(), nil, server.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	defer s.conn.Close()
	var in [64]byte
	if _, err := s.exchange([]byte("one"), in[:], time.Now()); !timedOut(err) {
		t.Fatalf("without time: %v", err)
	}
	go func() {
		for {
			n, from, err := server.ReadFromUDPAddrPort(in[32:])
			if err != nil {
				return
			}
			server.WriteToUDPAddrPort(in[32:32+n], from)
		}
	}()
	if n, err := s.exchange([]byte("two"), in[:32], time.Now().Add(time.Minute)); err != nil || string(in[:n]) != "two" {
		t.Errorf("with time: %q, %v", in[:n], err)
	}
	s.wake = time.Unix(1, 0)
	s.callOff()
	until := time.Now().Add(10 * time.Second)
	if n, err := s.exchange(nil, in[:32], until); !timedOut(err) || !time.Now().Before(until) {
		t.Errorf("called off: %q, %v", in[:n], err)
	}
}

// So it is with sockets that are not the kernel's.
func TestDialledSocketCalledOff(t *testing.T) {
	dial := func(context.Context, string, netip.AddrPort) (net.Conn, error) {
		near, far := net.Pipe()
		t.Cleanup(func() { far.Close() })
		return near, nil
	}
	s, err := newSocket(t.Context(), dial, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.conn.Close()
	s.callOff()
	until := time.Now().Add(10 * time.Second)
	if n, err := s.exchange(nil, make([]byte, 32), until); !timedOut(err) || !time.Now().Before(until) {
		t.Errorf("%d bytes, %v", n, err)
	}
}
