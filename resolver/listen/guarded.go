package listen

import (
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/cookie"
	"github.com/starferry/starferry/resolver/guard"
	"github.com/starferry/starferry/resolver/wire"
)

// A Guard keeps clients from taking more than their share, and the server from
// being turned on others. What is nil is not done.
type Guard struct {
	Clients   *guard.Clients
	Responses *guard.Responses
	Amplifier *guard.Amplifier
	Load      *guard.Load
	Cookies   *cookie.Server
	Clock     guard.Clock
}

// cookieLen is the longest COOKIE option that we answer with: code, length, a
// client's cookie and ours (RFC 9018 section 4).
const cookieLen = 4 + 8 + 16

// A seen is what the server knows of who asks before it answers.
type seen struct {
	proven bool // the client is where it says it is
	state  cookie.State
	option [cookieLen]byte
	n      int // of option
}

// look reads the question's cookie.
func (s *Server) look(c *Client, q *wire.Question) (w seen) {
	w.proven = c.Transport != UDP
	if s.Guard.Cookies == nil || len(q.Options) == 0 {
		return w
	}
	at := c.At
	if at.IsZero() {
		at = time.Now()
	}
	opt, state := s.Guard.Cookies.Append(w.option[:0], q.Option(cookie.Code), c.Addr.Addr(), at)
	w.n, w.state = len(opt), state
	w.proven = w.proven || state == cookie.Good
	return w
}

// admits counts a question of a client, and reports whether it is one too many.
func (s *Server) admits(a netip.Addr, proven bool) bool {
	switch l := s.Guard.Clients; {
	case l == nil:
		return true
	case proven:
		return l.TakeProven(a, s.Guard.Clock.Now())
	default:
		return l.Take(a, s.Guard.Clock.Now())
	}
}

// standing is what w says of the client's address.
func (w *seen) standing() guard.Standing {
	switch {
	case w.proven:
		return guard.Proven
	case w.n > 0:
		return guard.Cookies
	}
	return guard.Unproven
}

// refuses answers those whose question is not looked at: it asks too much, or
// its cookie cannot be one. Over UDP who asks too much hears nothing; but if
// somebody else may have asked too much in its name, it is told how to show that
// it is there, as often as its network may get errors.
func (s *Server) refuses(c *Client, q *wire.Question, w *seen, out []byte) (resp []byte, refused bool) {
	switch {
	case !s.admits(c.Addr.Addr(), w.proven):
	case w.state != cookie.Malformed:
		return out, false
	default: // RFC 7873 section 5.2.2
		resp = w.short(q, out, dns.RcodeFormatError, false)
		if c.Transport == UDP {
			resp = s.limits(c, q, w, resp, len(out))
		}
		return resp, true
	}
	s.dropped(c.Listener, Limited)
	switch {
	case c.Transport != UDP:
		return w.short(q, out, dns.RcodeRefused, false), true
	case w.proven || s.Guard.Responses == nil:
		return out, true
	}
	return w.instead(q, out, dns.RcodeSuccess, s.judge(c, w, guard.Error, nil)), true
}

// judge counts an answer over UDP by what the network of its client got already.
func (s *Server) judge(c *Client, w *seen, kind guard.Kind, name []byte) guard.Verdict {
	var buf [256]byte
	return s.Guard.Responses.Judge(c.Addr.Addr(), w.standing(), kind, wire.AppendLower(buf[:0], name), s.Guard.Clock.Now())
}

// limits judges an answer over UDP, which begins at start.
func (s *Server) limits(c *Client, q *wire.Question, w *seen, out []byte, start int) []byte {
	if s.Guard.Responses == nil || w.proven || len(out) == start {
		return out
	}
	kind, name := kindOf(out[start:], q.Name)
	v := s.judge(c, w, kind, name)
	if v == guard.Send {
		return out
	}
	s.dropped(c.Listener, Limited)
	return w.instead(q, out[:start], int(out[start+3]&15), v)
}

// limitsOdd is limits for an answer to a question that is not plain, which is
// given or not.
func (s *Server) limitsOdd(c *Client, resp []byte) []byte {
	if s.Guard.Responses == nil || len(resp) < headerLen {
		return resp
	}
	end, _ := wire.QuestionEnd(resp)
	kind, name := kindOf(resp, resp[headerLen:max(headerLen, end-4)])
	if s.judge(c, &seen{}, kind, name) == guard.Send {
		return resp
	}
	s.dropped(c.Listener, Limited)
	return nil
}

// instead answers what may go to one who did not ask: nothing, or little more
// than was asked, which leads one who did to a proof: BADCOOKIE brings it back
// with its cookie (RFC 7873 section 5.2.3), TC over TCP.
func (w *seen) instead(q *wire.Question, out []byte, rcode int, v guard.Verdict) []byte {
	switch {
	case v == guard.Drop:
		return out
	case w.standing() == guard.Cookies:
		return w.short(q, out, dns.RcodeBadCookie, false)
	}
	return w.short(q, out, rcode, true)
}

// short answers with nothing but a response code, and the asker's cookie.
func (w *seen) short(q *wire.Question, out []byte, rcode int, truncated bool) []byte {
	start := len(out)
	out = q.AppendShort(out, rcode, truncated)
	out = wire.AppendOPT(out, start, q, rcode, &wire.Explanation{})
	return wire.AppendOption(out, start, w.option[:w.n])
}

// kindOf says what an answer is, and by which name it is counted.
func kindOf(resp, name []byte) (guard.Kind, []byte) {
	switch rcode := resp[3] & 15; {
	case rcode == dns.RcodeNameError:
		return guard.NXDomain, guard.Zone(name)
	case rcode != dns.RcodeSuccess:
		return guard.Error, nil
	case resp[6]|resp[7] == 0:
		return guard.NoData, name
	}
	return guard.Answer, name
}

// most returns how many bytes an answer over UDP may have.
func (s *Server) most(c *Client, proven bool, question, size int) int {
	if s.Guard.Amplifier == nil {
		return size
	}
	return s.Guard.Amplifier.Size(c.Addr.Addr(), proven, question, size)
}
