package listen

import (
	"encoding/binary"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/cookie"
	"github.com/starferry/starferry/resolver/wire"
)

// headerLen is the length of a message's header, RFC 1035 section 4.1.1.
const headerLen = 12

// A verdict is what to do with a message: ignore it, handle it, or, if
// positive, answer with that response code.
type verdict int

const (
	ignore verdict = -1
	handle verdict = 0
)

// inspect looks at a message no further than it has to.
func inspect(b []byte) verdict {
	if len(b) < headerLen || b[2]&0x80 != 0 {
		return ignore // not a message, or an answer: an answer to it could loop
	}
	if op := b[2] >> 3 & 15; op != dns.OpcodeQuery {
		return dns.RcodeNotImplemented
	}
	// RFC 9619: a query has one question. RFC 1035: it has no answers; at most OPT
	// and one signature follow.
	if _, ok := wire.QuestionEnd(b); !ok || count(b, 0) != 1 || count(b, 1) != 0 || count(b, 2) != 0 || count(b, 3) > 2 {
		return dns.RcodeFormatError
	}
	return handle
}

// count returns one of the four counts of records in the header.
func count(b []byte, section int) int { return int(binary.BigEndian.Uint16(b[4+2*section:])) }

// offered returns the size of the answer that the asker can take over UDP
// (RFC 6891 section 6.2.3): 512 without EDNS.
func offered(b []byte) int {
	for rr := range wire.Records(b) {
		if rr.Type == dns.TypeOPT {
			return max(dns.MinMsgSize, int(rr.Class))
		}
	}
	return dns.MinMsgSize
}

// refusal is [wire.Refusal] with the client's cookie.
func (s *Server) refusal(c *Client, req []byte, rcode int) []byte {
	resp, q := wire.Refusal(req, rcode)
	w := s.look(c, &q)
	return wire.AppendOption(resp, 0, w.option[:w.n])
}

// asksCookie returns the response code for a message without a question that
// asks for nothing but a cookie (RFC 7873 section 5.4, RFC 9619 section 4).
func (s *Server) asksCookie(c *Client, req []byte) (rcode int, ok bool) {
	if count(req, 0) != 0 || count(req, 1) != 0 || count(req, 2) != 0 || count(req, 3) != 1 || req[2]>>3&15 != dns.OpcodeQuery {
		return 0, false
	}
	q, _ := wire.OPT(req)
	switch w := s.look(c, &q); w.state {
	case cookie.ClientOnly, cookie.Good:
		return dns.RcodeSuccess, true
	case cookie.Bad:
		return dns.RcodeBadCookie, true
	}
	return 0, false
}
