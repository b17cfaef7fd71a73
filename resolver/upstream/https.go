package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

const (
	dnsMessage = "application/dns-message" // RFC 8484 section 6
	maxMessage = 65535
)

// https asks one server over HTTPS (RFC 8484).
type https struct {
	url       string
	transport *http.Transport
	life      *life

	mu    sync.Mutex
	conns map[*trackedConn]bool
}

func newHTTPS(s *Server, conf *tls.Config, timeout time.Duration, dial func(context.Context) (net.Conn, error), l *life) *https {
	host := s.certName()
	if s.Addr.Port() != transports[HTTPS].port || s.Name == "" {
		host = s.authority()
	}
	h := &https{url: "https://" + host + s.Path, life: l, conns: make(map[*trackedConn]bool)}
	h.transport = &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return h.track(dial(ctx)) },
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    timeout,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxConnsPerHost:        maxStreams,
		MaxIdleConnsPerHost:    maxStreams,
		IdleConnTimeout:        streamIdle,
		MaxResponseHeaderBytes: 16 << 10,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 2 * time.Second},
	}
	return h
}

// authority is the host of the URL, with the port if it is not the usual one.
func (s *Server) authority() string {
	name := s.certName()
	if s.Addr.Port() == transports[HTTPS].port {
		if s.Host == "" && s.Name == "" && s.Addr.Addr().Is6() {
			return "[" + name + "]"
		}
		return name
	}
	return net.JoinHostPort(name, fmt.Sprint(s.Addr.Port()))
}

// ask asks with the id 0 (RFC 8484 section 4.1). If a connection that was used
// before fails, another is taken, once.
func (h *https) ask(ctx context.Context, q *Question, how manner) ([]byte, error) {
	msg := appendQuery(make([]byte, 0, maxQuery+padding), q, 0, how)
	for again := false; ; again = true {
		reply, reused, err := h.post(ctx, msg)
		if err == nil {
			return checkStream(reply, msg, q)
		}
		if again || !reused || ctx.Err() != nil {
			return nil, inTime(ctx, err)
		}
		h.transport.CloseIdleConnections()
	}
}

func (h *https) post(ctx context.Context, msg []byte) (reply []byte, reused bool, err error) {
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodPost, h.url, bytes.NewReader(msg))
	if err != nil {
		return nil, false, err
	}
	req.Header.Set("Content-Type", dnsMessage)
	req.Header.Set("Accept", dnsMessage)
	req.Header["User-Agent"] = nil // who asks is nobody's business (RFC 8484 section 8.2)
	// RoundTrip follows no redirects and keeps no cookies.
	resp, err := h.transport.RoundTrip(req)
	if err != nil {
		return nil, reused, err
	}
	if !h.life.on.Load() {
		defer h.transport.CloseIdleConnections() // when the body is closed
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, false, fmt.Errorf("HTTP status %q", resp.Status)
	}
	if t := resp.Header.Get("Content-Type"); t != dnsMessage {
		return nil, false, fmt.Errorf("an answer of the type %q", t)
	}
	reply, err = io.ReadAll(io.LimitReader(resp.Body, maxMessage+1))
	if err == nil && len(reply) > maxMessage {
		err = errors.New("an answer that is longer than messages are")
	}
	return reply, reused, err
}

// A trackedConn is a connection that can be closed from outside.
type trackedConn struct {
	net.Conn
	of *https
}

func (h *https) track(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	c := &trackedConn{conn, h}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns[c] = true
	return c, nil
}

// Close closes the connection, as net.Conn says.
func (c *trackedConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// closeAll closes all connections, also those in use.
func (h *https) closeAll() {
	h.transport.CloseIdleConnections()
	h.mu.Lock()
	var all []*trackedConn
	for c := range h.conns {
		all = append(all, c)
	}
	h.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
}
