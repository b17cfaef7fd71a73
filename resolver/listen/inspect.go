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

// inspect looks at a message no further than it has to, and returns where its
// question ends (for echoing it), headerLen if it has none that can be read.
func inspect(b []byte) (end int, v verdict) {
	if len(b) < headerLen || b[2]&0x80 != 0 {
		return 0, ignore // not a message, or an answer: an answer to it could loop
	}
	end, ok := wire.QuestionEnd(b)
	if !ok {
		end = headerLen
	}
	if op := b[2] >> 3 & 15; op != dns.OpcodeQuery {
		return end, dns.RcodeNotImplemented
	}
	// RFC 9619: a query has one question. RFC 1035: it has no answers; at most OPT
	// and one signature follow.
	if !ok || count(b, 0) != 1 || count(b, 1) != 0 || count(b, 2) != 0 || count(b, 3) > 2 {
		return end, dns.RcodeFormatError
	}
	return end, handle
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

// refusal is the answer of a server that does not look into a question: its
// header and itself, with a response code. If it has an OPT record that can be
// read there is one in the answer (RFC 6891 section 6.1.1), with the client's
// cookie.
func (s *Server) refusal(c *Client, req []byte, end, rcode int) []byte {
	b := append([]byte(nil), req[:end]...)
	b[2] = b[2]&0x79 | 0x80 // keep opcode and RD
	b[3] = byte(rcode & 15)
	if b[2]>>3&15 == dns.OpcodeQuery {
		b[3] |= req[3]&0x10 | 0x80 // CD, and RA
	}
	clear(b[4:headerLen])
	if end > headerLen {
		b[5] = 1
	}
	q, ok := wire.OPT(req)
	if !ok {
		return b
	}
	w := s.look(c, &q)
	return wire.AppendOption(wire.AppendOPT(b, 0, &q, rcode, &wire.Explanation{}), 0, w.option[:w.n])
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
