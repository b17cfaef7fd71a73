package listen

import (
	"encoding/binary"

	"github.com/miekg/dns"
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
	end, ok := question(b)
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

// question returns the end of the message's first question.
func question(b []byte) (end int, ok bool) {
	if count(b, 0) == 0 {
		return headerLen, false
	}
	n, ok := skipName(b, headerLen)
	if !ok || n+4 > len(b) {
		return headerLen, false
	}
	return n + 4, true
}

// skipName returns where the name at off ends. Compressed names are not
// taken: the first name of a message has nothing to point to.
func skipName(b []byte, off int) (int, bool) {
	for start := off; off < len(b) && off-start < 255; {
		n := int(b[off])
		off += 1 + n
		switch {
		case n == 0:
			return off, true
		case n > 63:
			return 0, false
		}
	}
	return 0, false
}

// offered returns the size of the answer that the asker can take over UDP
// (RFC 6891 section 6.2.3): 512 without EDNS.
func offered(b []byte) int {
	const fixed = 11 // root name, type, class, TTL, length
	off, ok := question(b)
	for n := count(b, 3); ok && n > 0 && off+fixed <= len(b); n-- {
		if b[off] == 0 && binary.BigEndian.Uint16(b[off+1:]) == dns.TypeOPT {
			return max(dns.MinMsgSize, int(binary.BigEndian.Uint16(b[off+3:])))
		}
		if off, ok = skipName(b, off); !ok || off+fixed-1 > len(b) {
			break
		}
		off += fixed - 1 + int(binary.BigEndian.Uint16(b[off+8:]))
	}
	return dns.MinMsgSize
}

// refusal is the answer of a server that does not look into a question: its
// header and itself, with a response code.
func refusal(req []byte, end, rcode int) []byte {
	b := append([]byte(nil), req[:end]...)
	b[2] = b[2]&0x79 | 0x80 // keep opcode and RD
	b[3] = byte(rcode)
	clear(b[4:headerLen])
	if end > headerLen {
		b[5] = 1
	}
	return b
}
