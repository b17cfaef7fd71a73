// Package listen takes DNS questions from sockets and gives answers back:
// over UDP and TCP (RFC 1035, RFC 7766), TLS (RFC 7858) and HTTPS (RFC 8484), on sockets that somebody else
// opened, be they the kernel's or those of a network stack in the process.
//
// The contract with a [Handler] is small: it gets the bytes of a message that
// has exactly one question and is a standard query, and returns the bytes of
// the answer, or nil for silence. What does not deserve its attention never
// reaches it: answers (QR=1) are ignored, other opcodes get NOTIMP, messages
// that are not a query by RFC 9619 get FORMERR. Should it panic, the asker
// gets SERVFAIL and the log the reason.
//
// Nothing that a client sends takes more than a bounded share: the questions
// in work, the connections, and both for each client, have limits. A UDP
// answer is cut to the size that the asker offered, and never goes out from
// another address than the one that was asked, also on a wildcard socket.
package listen

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/cookie"
	"github.com/starferry/starferry/resolver/wire"
)

// A Handler answers one message. Its context ends with the server, not with
// the answer, so that it may leave work behind that outlives the question.
// The request is the handler's only until it returns.
type Handler func(ctx context.Context, c *Client, req []byte) []byte

// A Fast answers a plain question at once from what is known already, if it
// can: it appends the answer to out, which fits into q.Size bytes, and returns
// that, or out as it was for silence. If it reports false the question goes to the
// [Handler]. It neither blocks nor allocates, and keeps nothing of what it is given.
type Fast func(c *Client, q *wire.Question, out []byte) (resp []byte, ok bool)

// The transports that a question can come over.
const (
	UDP = "udp"
	TCP = "tcp"
	DoT = "dot" // RFC 7858
	DoH = "doh" // RFC 8484
)

// A Client is who asks, as far as the listener can tell. It is constant for a
// connection; over UDP it is the handler's only until it returns.
type Client struct {
	Addr       netip.AddrPort // IPv4 always in its short form
	Listener   string
	Transport  string
	ServerName string    // that the TLS handshake asked for, lower case; empty: none
	Token      string    // what follows the path of DoH; empty: nothing
	At         time.Time // when the question came
}

// Encrypted reports whether nobody between can read the question.
func (c *Client) Encrypted() bool { return c.Transport == DoT || c.Transport == DoH }

// Limits bound what clients can take. A field that is zero has the default
// that stands behind it.
type Limits struct {
	Workers   int // questions in work over one UDP socket or all connections of one listener, 1024; more wait over UDP, TCP and TLS, and are refused over HTTP
	PerClient int // of these from one address, 256; more fare likewise. Over UDP four times as many wait: others, and those whose turn comes after two seconds, are answered SERVFAIL
	UDPSize   int // bytes of the longest UDP answer, 1232 (DNS flag day 2020)

	Conns          int           // connections of one listener, 2048
	ConnsPerClient int           // of these from one address, 256; more are closed. A trusted proxy comes for many and has no limit of its own
	Pipeline       int           // questions in work over one connection, 64; more wait
	Message        int           // bytes of the longest question over TCP, 16384
	Idle           time.Duration // a connection without questions is closed after this time, 10 s
	Write          time.Duration // an answer that is not taken in this time closes the connection, 5 s
}

// Why a question or connection was not served. These are the words that
// [Server.Dropped] gets, and all of them.
const (
	Malformed = "malformed" // too short to be a message, too long, or an answer
	Busy      = "busy"      // the client has its share already, or all have theirs
	Limited   = "limited"   // the client asks too much, or its network got the same too often
	Panicked  = "panic"     // the handler failed
	Unsent    = "unsent"    // the answer could not be sent
)

// A Server answers the questions of any number of sockets. Its fields must
// not change while it serves.
type Server struct {
	Handle  Handler
	Fast    Fast                       // nil: there is no fast way
	Soon    Fast                       // for what Fast does not answer: it may take more, but waits for nobody either; nil: there is none
	Log     *slog.Logger               // nil: no log
	Dropped func(listener, why string) // nil: not counted
	Limits  Limits
	Guard   Guard

	mates sync.Map // of sockets, by their address
}

func or[T int | time.Duration](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

func (s *Server) dropped(listener, why string) {
	if s.Dropped != nil {
		s.Dropped(listener, why)
	}
}

var questions = sync.Pool{New: func() any { return new(wire.Question) }}

// quick appends the answer to one message to out, if there is one at once. size
// is what the asker's transport takes; over UDP what it offered counts too.
func (s *Server) quick(c *Client, req, out []byte, size int) (resp []byte, ok bool) {
	q := questions.Get().(*wire.Question) // whoever is asked by a function value might keep it, for all the compiler knows
	defer func() {
		questions.Put(q)
		if v := recover(); v != nil {
			s.panicked(c, v)
			resp, ok = out, false // the handler has its own try, and its own net
		}
	}()
	if *q, ok = wire.Parse(req); !ok {
		return out, false
	}
	w := s.look(c, q)
	if c.Transport == UDP {
		size = s.most(c, w.proven, len(req), min(size, q.Size))
	}
	if resp, refused := s.refuses(c, q, &w, out); refused {
		return resp, true
	}
	if s.Fast == nil {
		return out, false
	}
	q.Size = size - w.n
	if resp, ok = s.Fast(c, q, out); !ok {
		if resp, ok = s.soon(c, q, out); !ok {
			return out, false
		}
	}
	if w.n > 0 && len(resp) > len(out) {
		resp = wire.AppendOption(resp, len(out), w.option[:w.n])
	}
	if c.Transport == UDP {
		resp = s.limits(c, q, &w, resp, len(out))
	}
	return resp, true
}

// soon answers a question that has no answer yet, unless there is too much to do.
func (s *Server) soon(c *Client, q *wire.Question, out []byte) (resp []byte, ok bool) {
	if l := s.Guard.Load; s.Soon == nil || l != nil && l.Sheds() {
		return out, false
	}
	return s.Soon(c, q, out)
}

// answer returns the answer to one message that had none at once, nil for none.
func (s *Server) answer(ctx context.Context, c *Client, req []byte) []byte {
	q, plain := wire.Parse(req)
	if !plain {
		return s.answerOdd(ctx, c, req)
	}
	w := s.look(c, &q)
	return s.handled(ctx, c, req, &w)
}

// answerOdd is answer for a message that is not plain, or no question at all.
func (s *Server) answerOdd(ctx context.Context, c *Client, req []byte) []byte {
	v := inspect(req)
	if v == ignore {
		s.dropped(c.Listener, Malformed)
		return nil
	}
	if !s.admits(c.Addr.Addr(), c.Transport != UDP) {
		s.dropped(c.Listener, Limited)
		return nil
	}
	if v != handle {
		if rcode, ok := s.asksCookie(c, req); ok {
			v = verdict(rcode)
		}
		return s.refusal(c, req, int(v))
	}
	q, _ := wire.OPT(req)
	w := s.look(c, &q)
	return s.handled(ctx, c, req, &w)
}

// handled returns the handler's answer to a question.
func (s *Server) handled(ctx context.Context, c *Client, req []byte, w *seen) []byte {
	if w.state == cookie.Malformed { // RFC 7873 section 5.2.2
		return s.refusal(c, req, dns.RcodeFormatError)
	}
	if l := s.Guard.Load; l != nil {
		if !l.Enter() {
			s.dropped(c.Listener, Busy)
			return s.refusal(c, req, dns.RcodeServerFailure)
		}
		defer l.Leave()
	}
	resp := s.guarded(ctx, c, req)
	return wire.AppendOption(resp, 0, w.option[:w.n])
}

// guarded calls the handler and makes SERVFAIL of a panic.
func (s *Server) guarded(ctx context.Context, c *Client, req []byte) (resp []byte) {
	defer func() {
		if v := recover(); v != nil {
			s.panicked(c, v)
			resp = s.refusal(c, req, dns.RcodeServerFailure)
		}
	}()
	return s.Handle(ctx, c, req)
}

func (s *Server) panicked(c *Client, v any) {
	s.dropped(c.Listener, Panicked)
	s.log().Error("answering a question panicked", "listener", c.Listener, "client", c.Addr, "panic", v, "stack", string(debug.Stack()))
}

// truncated cuts an answer to what fits, and marks it so that the asker comes
// back over TCP. If the answer cannot be read, only its question is left.
func truncated(resp []byte, size int) []byte {
	if len(resp) <= size {
		return resp
	}
	var m dns.Msg
	if err := m.Unpack(resp); err == nil {
		m.Compress = true
		m.Truncate(size)
		if b, err := m.Pack(); err == nil && len(b) <= size {
			return b
		}
	}
	end, ok := wire.QuestionEnd(resp)
	if !ok {
		end = headerLen
	}
	b := append([]byte(nil), resp[:end]...)
	b[2] |= 2 // TC
	clear(b[4:12])
	if end > headerLen {
		b[5] = 1
	}
	return b
}

// shares counts what each client has in work.
type shares struct {
	mu sync.Mutex
	n  map[netip.Addr]int
}

// take takes one more for the client unless that were more than its limit.
func (s *shares) take(client netip.Addr, limit int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == nil {
		s.n = make(map[netip.Addr]int)
	}
	if s.n[client] >= limit {
		return false
	}
	s.n[client]++
	return true
}

func (s *shares) give(client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n[client]--; s.n[client] <= 0 {
		delete(s.n, client)
	}
}

// addrPort reads the address of a peer, IPv4 always in its short form.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	default:
		if a != nil {
			ap, _ = netip.ParseAddrPort(a.String())
		}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// pause waits before the next try after an error of a socket that may pass
// (no descriptors left, no buffers). It reports whether to go on: not when
// the server is done or the socket closed.
func pause(ctx context.Context, err error, failures int) bool {
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return false
	}
	t := time.NewTimer(min(time.Second, 5*time.Millisecond<<min(failures, 8)))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// id returns the message's id, for the log.
func id(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
