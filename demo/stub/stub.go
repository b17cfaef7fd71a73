// Package stub is the DNS of the demo's device: it listens where local
// programs ask, and passes their messages to the gateway over the device's
// link, byte for byte, in all classes, and without a cache.
//
// Each question has a connection of its own to the gateway, so that nothing
// but the gateway's answer to it can come back on it. A question that gets none
// in five seconds is answered SERVFAIL, with an Extended DNS Error 23 (network
// error, RFC 8914) that says so.
package stub

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/resolver/listen"
)

const patience = 5 * time.Second // for an answer; programs themselves ask again after this time

// A Stub passes questions on. Its fields must not change while it serves.
type Stub struct {
	// Dial opens a connection to the gateway's DNS; network is "udp" or "tcp".
	Dial func(ctx context.Context, network string) (net.Conn, error)
	Log  *slog.Logger
}

// Serve answers on the sockets, which it closes, until ctx is done.
func (s *Stub) Serve(ctx context.Context, pc net.PacketConn, ln net.Listener) error {
	// The longest UDP answer is for the gateway to choose, not for the stub.
	srv := &listen.Server{Handle: s.answer, Log: s.Log, Limits: listen.Limits{UDPSize: dns.MaxMsgSize}}
	return lifecycle.Run(ctx,
		lifecycle.Task{Name: "stub over UDP", Run: func(ctx context.Context) error { return srv.ServeUDP(ctx, pc, "stub") }},
		lifecycle.Task{Name: "stub over TCP", Run: func(ctx context.Context) error { return srv.ServeTCP(ctx, ln, "stub") }},
	)
}

func (s *Stub) answer(ctx context.Context, c *listen.Client, req []byte) []byte {
	resp, err := s.exchange(ctx, c.Transport, req, patience)
	if err != nil && ctx.Err() == nil {
		if s.Log != nil {
			s.Log.Debug("stub: the gateway did not answer", "error", err)
		}
		return failure(req, err)
	}
	return resp
}

// exchange sends a message to the gateway and returns the answer to it.
func (s *Stub) exchange(ctx context.Context, network string, req []byte, wait time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	c, err := s.Dial(ctx, network)
	if err != nil {
		return nil, fmt.Errorf("connecting to the gateway's DNS: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	resp, err := ask(c, network, req)
	if err != nil {
		return nil, fmt.Errorf("waiting for the gateway's DNS: %w", err)
	}
	return resp, nil
}

func ask(c net.Conn, network string, req []byte) ([]byte, error) {
	if network == "tcp" {
		return askStream(c, req)
	}
	if _, err := c.Write(req); err != nil {
		return nil, err
	}
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		if answers(buf[:n], req) {
			return buf[:n], nil
		}
	}
}

// askStream asks over TCP: each message has its length before it (RFC 1035,
// section 4.2.2).
func askStream(c net.Conn, req []byte) ([]byte, error) {
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(req))), req...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	resp := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, resp); err != nil {
		return nil, err
	}
	if !answers(resp, req) {
		return nil, errors.New("the answer belongs to another question")
	}
	return resp, nil
}

// answers reports whether resp is a response with the id of req.
func answers(resp, req []byte) bool {
	const header = 12
	return len(resp) >= header && resp[0] == req[0] && resp[1] == req[1] && resp[2]&0x80 != 0
}

// failure is the answer when there is none. It is nil if the question cannot
// be read.
func failure(req []byte, cause error) []byte {
	var q, m dns.Msg
	if q.Unpack(req) != nil {
		return nil
	}
	m.SetRcode(&q, dns.RcodeServerFailure)
	if q.IsEdns0() != nil { // without EDNS in the question there can be none in the answer
		m.SetEdns0(dns.DefaultMsgSize, false)
		opt := m.IsEdns0()
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeNetworkError, ExtraText: cause.Error()})
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}
