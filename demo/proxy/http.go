package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
)

const via = "1.1 starferry" // RFC 9110, section 7.6.3: a proxy must say that it was there

type clientKey struct{}

// httpServer returns the server for the clients that speak HTTP. Their
// requests end with ctx.
func (s *server) httpServer(ctx context.Context) *http.Server {
	var discard = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	return &http.Server{
		Handler:           http.HandlerFunc(s.answer),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, clientKey{}, c) },
		ReadHeaderTimeout: helloTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          discard, // what clients do wrong; they are told
	}
}

func (s *server) answer(w http.ResponseWriter, r *http.Request) {
	s.tasks.Add(1) // while the server still counts this connection as its own
	defer s.tasks.Done()
	host, port, err := destination(r)
	if err != nil {
		http.Error(w, "starferry: "+err.Error(), http.StatusBadRequest)
		return
	}
	if r.Method == http.MethodConnect {
		s.connect(w, r, host, port)
	} else {
		s.forward(w, r, host, port)
	}
}

// destination returns where a request wants to go.
func destination(r *http.Request) (host string, port uint16, err error) {
	switch {
	case r.Method == http.MethodConnect:
		return hostPort(r.Host, "")
	case !r.URL.IsAbs():
		return "", 0, errors.New("this is a proxy: ask it for whole URLs, as curl --proxy does")
	case r.URL.Scheme != "http":
		return "", 0, fmt.Errorf("scheme %q is not carried in the clear: use CONNECT", r.URL.Scheme)
	case r.URL.Port() == "":
		return hostPort(r.URL.Hostname(), "80")
	default:
		return hostPort(r.URL.Host, "")
	}
}

// hostPort splits host:port, or takes port as given and all of s as the host.
func hostPort(s, port string) (string, uint16, error) {
	host := s
	if port == "" {
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return "", 0, fmt.Errorf("%q is not host:port", s)
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" {
		return "", 0, fmt.Errorf("%q is not host:port", s)
	}
	return host, uint16(n), nil
}

// connect opens a tunnel for the client (RFC 9110, section 9.3.6).
func (s *server) connect(w http.ResponseWriter, r *http.Request, host string, port uint16) {
	far, err := s.open(r.Context(), host, port)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		abort(far)
		return
	}
	defer c.Close()
	early, _ := rw.Reader.Peek(rw.Reader.Buffered()) // sent before our answer, as TLS clients may
	if _, err = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err == nil {
		_, err = far.Write(early)
	}
	if err != nil {
		abort(far)
		return
	}
	err = relay(c, far)
	s.log("proxy: tunnel ended", c, r.Host, err)
}

// forward passes one plain request on. Each has a connection of its own: a
// kept one would be asked about at its next packet only, and the client would
// read of a reset where it can read the reason.
func (s *server) forward(w http.ResponseWriter, r *http.Request, host string, port uint16) {
	c, _ := r.Context().Value(clientKey{}).(net.Conn)
	far, err := s.open(r.Context(), host, port)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer far.Close()
	// Otherwise the server reads the whole request before it lets an answer out.
	http.NewResponseController(w).EnableFullDuplex()
	defer watch(far, c)()
	t := &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return far, nil },
	}
	rp := httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      t,
		FlushInterval:  -1,
		ModifyResponse: func(res *http.Response) error { res.Header.Add("Via", via); return nil },
		ErrorHandler:   s.fail,
		ErrorLog:       slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	defer func() {
		// ReverseProxy panics so when the far side broke off within the body.
		// Without a length or chunks only a reset tells the client.
		if v := recover(); v != nil {
			abort(c)
			s.log("proxy: request cut", c, r.URL.Host, errors.New("the far side broke off"))
			panic(v)
		}
	}()
	rp.ServeHTTP(w, r)
}

// rewrite keeps what [httputil.ReverseProxy] would drop or add as the gateway
// of a site, which this is not.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v, ok := r.In.Header[h]; ok {
			r.Out.Header[h] = v
		}
	}
	r.Out.Header.Add("Via", via)
}

// fail answers 502 with the reason.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if c, ok := r.Context().Value(clientKey{}).(net.Conn); ok {
		s.log("proxy: request refused", c, r.URL.Host, err)
	}
	http.Error(w, "starferry: "+err.Error(), http.StatusBadGateway)
}
