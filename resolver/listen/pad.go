package listen

import (
	"encoding/binary"
	"time"

	"github.com/miekg/dns"
)

// padBlock is the length of which encrypted answers are a multiple, RFC 8467
// section 4.1.
const padBlock = 468

// terms are what a transport adds to the answers of those who ask for it.
//
// Answers are padded if the question is: RFC 7830 section 4 demands that, and
// only allows the rest. RFC 8467 section 4.1 recommends the block for these
// answers and nothing for the others, whose askers leave their questions,
// and so what they ask for, open to guessing by length anyhow.
type terms struct {
	keepalive uint16 // the idle time to tell, in units of 100 ms, RFC 7828; 0: none
	padding   bool
}

// keepalive returns an idle time in the unit of RFC 7828 section 3.1.
func keepalive(idle time.Duration) uint16 {
	return uint16(min(idle/(100*time.Millisecond), 0xffff))
}

// finish adds to an answer what its question asks of the transport. It changes
// nothing where the answer does not end with an OPT record, and makes no answer
// longer than size.
func (t terms) finish(req, resp []byte, size int) []byte {
	keep, pad := wishes(req)
	keep, pad = keep && t.keepalive > 0, pad && t.padding
	if !keep && !pad {
		return resp
	}
	opt, ok := lastOPT(resp)
	if !ok {
		return resp
	}
	if keep && len(resp)+6 <= size {
		resp = lengthen(resp, opt, 6)
		resp = append(resp, 0, dns.EDNS0TCPKEEPALIVE, 0, 2, byte(t.keepalive>>8), byte(t.keepalive))
	}
	if pad && len(resp)+4 <= size {
		full := min((len(resp)+4+padBlock-1)/padBlock*padBlock, size)
		n := full - len(resp) - 4
		resp = lengthen(resp, opt, 4+n)
		resp = append(resp, 0, dns.EDNS0PADDING, byte(n>>8), byte(n))
		resp = append(resp, zeros[:min(n, len(zeros))]...)
	}
	return resp
}

// zeros are what is padded with, RFC 7830 section 3.
var zeros [padBlock]byte

// lengthen adds to the length of the data of the record at opt.
func lengthen(b []byte, opt, n int) []byte {
	old := binary.BigEndian.Uint16(b[opt+9:])
	binary.BigEndian.PutUint16(b[opt+9:], old+uint16(n))
	return b
}

// wishes reports which options of a transport are in the OPT record of a
// question.
func wishes(req []byte) (keep, pad bool) {
	if len(req) < headerLen || count(req, 3) == 0 {
		return false, false
	}
	for w := readRecords(req); w.next(); {
		if w.typ != dns.TypeOPT {
			continue
		}
		for o := w.data; len(o) >= 4; {
			switch binary.BigEndian.Uint16(o) {
			case dns.EDNS0TCPKEEPALIVE:
				keep = true
			case dns.EDNS0PADDING:
				pad = true
			}
			o = o[min(len(o), 4+int(binary.BigEndian.Uint16(o[2:]))):]
		}
	}
	return keep, pad
}

// lastOPT returns where the OPT record is with which an answer ends.
func lastOPT(resp []byte) (at int, ok bool) {
	if len(resp) < headerLen {
		return 0, false
	}
	w := readRecords(resp)
	for w.next() {
		at, ok = w.at, w.typ == dns.TypeOPT && resp[w.at] == 0
	}
	return at, ok && w.left == 0 && w.end == len(resp)
}

// records walks over the records of a message: next fills in the fields of the
// next one, until there is none or none that can be read.
type records struct {
	msg     []byte
	left    int // records not walked over
	n       int // records walked over
	at, end int // of the record
	typ     uint16
	ttl     uint32
	data    []byte
}

// readRecords returns a walk over the records of a message with a header.
func readRecords(msg []byte) records {
	r := records{msg: msg, end: headerLen}
	for range count(msg, 0) {
		end, ok := passName(msg, r.end)
		if r.end = end + 4; !ok || r.end > len(msg) {
			return r
		}
	}
	r.left = count(msg, 1) + count(msg, 2) + count(msg, 3)
	return r
}

func (r *records) next() bool {
	const fixed = 10 // type, class, TTL, length
	if r.left == 0 {
		return false
	}
	off, ok := passName(r.msg, r.end)
	if !ok || off+fixed > len(r.msg) {
		return false
	}
	b := r.msg[off:]
	end := off + fixed + int(binary.BigEndian.Uint16(b[8:]))
	if end > len(r.msg) {
		return false
	}
	r.typ, r.ttl = binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[4:])
	r.at, r.end, r.data = r.end, end, r.msg[off+fixed:end]
	r.left--
	r.n++
	return true
}

// passName returns where the name at off ends; it may end with a pointer
// (RFC 1035 section 4.1.4), which is not followed.
func passName(b []byte, off int) (int, bool) {
	for off < len(b) {
		n := int(b[off])
		switch {
		case n == 0:
			return off + 1, true
		case n >= 0xc0:
			return off + 2, off+2 <= len(b)
		case n > 63:
			return 0, false
		}
		off += 1 + n
	}
	return 0, false
}

// freshness returns for how many seconds an answer stays true, RFC 8484
// section 5.1: the smallest TTL of its answers, and if it denies something
// what RFC 2308 section 5 says of that; no time for failures.
func freshness(resp []byte) uint32 {
	if rcode := resp[3] & 15; rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		return 0
	}
	least, seen := uint32(1<<31-1), false
	answers, w := count(resp, 1), readRecords(resp)
	for counted := answers + count(resp, 2); w.n < counted && w.next(); {
		ttl := w.ttl
		switch {
		case w.n <= answers:
		case w.typ == dns.TypeSOA && len(w.data) >= 20:
			ttl = min(ttl, binary.BigEndian.Uint32(w.data[len(w.data)-4:]))
		default:
			continue // referrals and the like say nothing about the answer
		}
		if ttl > 1<<31-1 {
			ttl = 0 // RFC 2181 section 8
		}
		least, seen = min(least, ttl), true
	}
	if !seen || w.n < answers {
		return 0
	}
	return least
}
