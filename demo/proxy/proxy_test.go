package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	virtual4 = netip.MustParseAddr("198.19.0.1")
	virtual6 = netip.MustParseAddr("2001:2:0:1000::1")
)

// start serves a proxy whose virtual addresses all lead to the listener of
// origin, and returns its address.
func start(t *testing.T, p *Proxy, origin string) string {
	t.Helper()
	if p.Dial == nil {
		p.Dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", origin)
		}
	}
	p.Virtual = func(a netip.Addr) bool { return a == virtual4 || a == virtual6 }
	if p.Resolve == nil {
		p.Resolve = names
	}
	ln := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	return ln.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// names is a small world of DNS.
func names(_ context.Context, name string) ([]netip.Addr, error) {
	switch name {
	case "steered.test", "127.0.0.1.steered.test":
		return []netip.Addr{virtual4, virtual6}, nil
	case "direct.test":
		return []netip.Addr{netip.MustParseAddr("10.1.2.3")}, nil
	case "empty.test":
		return nil, nil
	case "denied.test":
		return nil, errors.New("denied.test: REFUSED: disk encryption is off (EDE 18 Prohibited)")
	}
	return nil, fmt.Errorf("%s: NXDOMAIN", name)
}

// through returns a web client that uses the proxy, by scheme http or socks5h.
func through(t *testing.T, scheme, proxy string) *http.Client {
	tr := &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: scheme, Host: proxy}),
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestCarries(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "page of %s", r.Host) })
	plain, secure := httptest.NewServer(page), httptest.NewTLSServer(page)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	for _, way := range []struct {
		name, proxy, url string
		origin           *httptest.Server
	}{
		{"plain HTTP", "http", "http://steered.test/", plain},
		{"plain HTTP, port", "http", "http://steered.test:8080/", plain},
		{"plain HTTP, address", "http", "http://198.19.0.1/", plain},
		{"plain HTTP, IPv6 address", "http", "http://[2001:2:0:1000::1]/", plain},
		{"CONNECT", "http", "https://steered.test/", secure},
		{"CONNECT, IPv6 address", "http", "https://[2001:2:0:1000::1]/", secure},
		{"SOCKS5, name", "socks5h", "http://steered.test/", plain},
		{"SOCKS5, address", "socks5", "https://198.19.0.1/", secure},
		{"SOCKS5, IPv6 address", "socks5", "http://[2001:2:0:1000::1]/", plain},
	} {
		t.Run(way.name, func(t *testing.T) {
			proxy := start(t, &Proxy{}, way.origin.Listener.Addr().String())
			u, _ := url.Parse(way.url)
			c := through(t, way.proxy, proxy)
			for range 2 { // the second request may reuse the connection to the proxy
				if code, body := get(t, c, way.url); code != 200 || body != "page of "+u.Host {
					t.Errorf("%d %q", code, body)
				}
			}
			c.CloseIdleConnections()
		})
	}
}

func TestRefusesWithReason(t *testing.T) {
	proxy := start(t, &Proxy{}, "")
	c := through(t, "http", proxy)
	for url, want := range map[string]string{
		"http://denied.test/":   "denied.test: REFUSED: disk encryption is off (EDE 18 Prohibited)",
		"http://nobody.test/":   "nobody.test: NXDOMAIN",
		"http://direct.test/":   "10.1.2.3 is no virtual address: this proxy only carries steered names",
		"http://192.0.2.1:99/":  "192.0.2.1 is no virtual address",
		"http://empty.test/":    `"empty.test" has no address`,
		"http://[fe80::1%250]/": "is no virtual address",
	} {
		if code, body := get(t, c, url); code != http.StatusBadGateway || !strings.Contains(body, want) {
			t.Errorf("%s: %d %q, want 502 and %q", url, code, body, want)
		}
	}
	res := raw(t, proxy, "CONNECT direct.test:443 HTTP/1.1\r\nHost: direct.test:443\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(res, "HTTP/1.1 502 ") || !strings.Contains(res, "10.1.2.3 is no virtual address") {
		t.Errorf("CONNECT: %q", res)
	}
	for _, bad := range []string{"GET / HTTP/1.1", "GET https://steered.test/ HTTP/1.1", "CONNECT steered.test HTTP/1.1", "CONNECT steered.test:0 HTTP/1.1", "\x16\x03\x01 HTTP/1.1"} {
		res := raw(t, proxy, bad+"\r\nHost: steered.test\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(res, "HTTP/1.1 400 ") {
			t.Errorf("%q: %q, want 400", bad, res)
		}
	}
}

// raw sends bytes and returns all that comes back.
func raw(t *testing.T, proxy, send string) string {
	t.Helper()
	c := dial(t, proxy)
	io.WriteString(c, send)
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.TCPConn)
}

func TestHeadersOfOneHopStay(t *testing.T) {
	seen := make(chan http.Header, 1)
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("X-Origin", r.URL.RawQuery)
	}))
	t.Cleanup(origin.Close)
	proxy := start(t, &Proxy{}, origin.Listener.Addr().String())
	res := raw(t, proxy, "GET http://steered.test/?a;b&c HTTP/1.1\r\nHost: wrong.test\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n"+
		"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nX-Forwarded-For: 192.0.2.9\r\nX-End: 1\r\n\r\n")
	h := <-seen
	for _, gone := range []string{"X-Hop", "Proxy-Connection", "Proxy-Authorization", "User-Agent"} {
		if h.Get(gone) != "" {
			t.Errorf("the origin got %s: %s", gone, h.Get(gone))
		}
	}
	if h.Get("X-End") != "1" || h.Get("X-Forwarded-For") != "192.0.2.9" || h.Get("Via") != via {
		t.Errorf("the origin got %v", h)
	}
	if !strings.Contains(res, "X-Origin: a;b&c\r\n") || !strings.Contains(res, "Via: "+via) || strings.Contains(res, "Keep-Alive") {
		t.Errorf("the client got %q", res)
	}
}

// Bodies flow in both directions before either has ended.
func TestBodiesStream(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		rc.Flush()
		b := make([]byte, 4)
		for {
			if _, err := io.ReadFull(r.Body, b); err != nil {
				return
			}
			w.Write(b)
			rc.Flush()
		}
	}))
	t.Cleanup(origin.Close)
	for _, scheme := range []string{"http", "socks5h"} {
		proxy := start(t, &Proxy{}, origin.Listener.Addr().String())
		up, w := io.Pipe()
		res, err := through(t, scheme, proxy).Post("http://steered.test/", "text/plain", up)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			want := fmt.Sprintf("msg%d", i)
			io.WriteString(w, want)
			got := make([]byte, 4)
			if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != want {
				t.Fatalf("%s: read %q, %v, want %q", scheme, got, err, want)
			}
		}
		w.Close()
		if b, err := io.ReadAll(res.Body); err != nil || len(b) != 0 {
			t.Errorf("%s: the end is %q, %v", scheme, b, err)
		}
		res.Body.Close()
	}
}

// server that breaks off or ends after some bytes, without ever having said how many come.
func breakingOrigin(t *testing.T, reset bool, cut <-chan struct{}) string {
	t.Helper()
	ln := listen(t)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 4096))
			io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")
			<-cut
			if reset {
				c.(*net.TCPConn).SetLinger(0)
			}
			c.Close()
		}
	}()
	return ln.Addr().String()
}

func TestResetIsPassedOn(t *testing.T) {
	const request = "GET http://steered.test/ HTTP/1.0\r\nHost: steered.test\r\n\r\n"
	const tunnel = "CONNECT steered.test:80 HTTP/1.1\r\nHost: steered.test:80\r\n\r\n" + request
	const socks = "\x05\x01\x00" + "\x05\x01\x00\x03\x0csteered.test\x00\x50" + request
	for name, hello := range map[string]string{"plain": request, "CONNECT": tunnel, "SOCKS5": socks} {
		for _, reset := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, reset %t", name, reset), func(t *testing.T) {
				cut := make(chan struct{})
				proxy := start(t, &Proxy{}, breakingOrigin(t, reset, cut))
				c := dial(t, proxy)
				io.WriteString(c, hello)
				readUntil(t, c, "half")
				close(cut)
				_, err := io.ReadAll(c)
				if reset && !errors.Is(err, syscall.ECONNRESET) || !reset && err != nil {
					t.Errorf("the client reads %v", err)
				}
			})
		}
	}
}

func readUntil(t *testing.T, r io.Reader, want string) {
	t.Helper()
	var got []byte
	for !strings.Contains(string(got), want) {
		b := make([]byte, 1)
		if _, err := r.Read(b); err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		got = append(got, b...)
	}
}

// A breakingConn tells of a reset aside from what is read.
type breakingConn struct {
	net.Conn
	broken chan struct{}
}

func (c breakingConn) Broken() <-chan struct{} { return c.broken }

// A client that reads slowly, or not at all, is cut off as well, whatever is
// still on the way to it.
func TestResetReachesStalledClient(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	}))
	t.Cleanup(origin.Close)
	for _, hello := range []string{
		"GET http://steered.test/ HTTP/1.1\r\nHost: steered.test\r\n\r\n",
		"CONNECT steered.test:80 HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nHost: steered.test\r\n\r\n",
	} {
		broken := make(chan struct{})
		p := &Proxy{Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", origin.Listener.Addr().String())
			return breakingConn{c, broken}, err
		}}
		c := dial(t, start(t, p, ""))
		io.WriteString(c, hello)
		readUntil(t, c, "\x00\x00\x00\x00")
		close(broken)
		n, err := io.Copy(io.Discard, c)
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after %d bytes the client reads %v", n, err)
		}
	}
}

func TestEndOfOneDirection(t *testing.T) {
	ln := listen(t)
	t.Cleanup(func() { ln.Close() })
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c) // until the client's end
		fmt.Fprintf(c, "got %q", b)
	}()
	c := dial(t, start(t, &Proxy{}, ln.Addr().String()))
	io.WriteString(c, "CONNECT steered.test:7 HTTP/1.1\r\n\r\nearly") // before the answer is there
	readUntil(t, c, "\r\n\r\n")
	c.CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != `got "early"` {
		t.Errorf("%q, %v", b, err)
	}
}

func TestBoundedClients(t *testing.T) {
	origin := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(origin.Close)
	proxy := start(t, &Proxy{Conns: 1}, origin.Listener.Addr().String())
	first, second := dial(t, proxy), dial(t, proxy)
	ask := "GET http://steered.test/ HTTP/1.1\r\nHost: steered.test\r\n\r\n"
	io.WriteString(first, ask)
	readUntil(t, first, "404") // the first is served, and kept
	io.WriteString(second, ask)
	second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := second.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Errorf("the second client read %d bytes, %v", n, err)
	}
	first.Close()
	second.SetReadDeadline(time.Now().Add(10 * time.Second))
	readUntil(t, second, "404")
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

func TestFamilies(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }))
	t.Cleanup(origin.Close)
	for name, six := range map[string]func(context.Context) error{
		"IPv6 is refused": func(context.Context) error { return syscall.ECONNREFUSED },
		"IPv6 is silent":  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			p := &Proxy{Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
				if to.Addr().Is6() {
					return nil, six(ctx)
				}
				return new(net.Dialer).DialContext(ctx, "tcp", origin.Listener.Addr().String())
			}}
			if code, body := get(t, through(t, "http", start(t, p, "")), "http://steered.test/"); code != 200 {
				t.Errorf("%d %s", code, body)
			}
		})
	}
	t.Run("both refused", func(t *testing.T) {
		p := &Proxy{Dial: func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, syscall.ECONNREFUSED }}
		if code, body := get(t, through(t, "http", start(t, p, "")), "http://steered.test/"); code != 502 || !strings.Contains(body, "refused") {
			t.Errorf("%d %s", code, body)
		}
	})
}
