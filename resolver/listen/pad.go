package listen

import (
	"encoding/binary"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/wire"
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
	if keep && t.keepalive > 0 && len(resp)+6 <= size {
		resp = wire.AppendOption(resp, 0, []byte{0, dns.EDNS0TCPKEEPALIVE, 0, 2, byte(t.keepalive >> 8), byte(t.keepalive)})
	}
	if pad && t.padding && len(resp)+4 <= size {
		full := min((len(resp)+4+padBlock-1)/padBlock*padBlock, size)
		n := full - len(resp) - 4
		opt := [4 + padBlock]byte{0, dns.EDNS0PADDING, byte(n >> 8), byte(n)} // zeros, RFC 7830 section 3
		resp = wire.AppendOption(resp, 0, opt[:4+n])
	}
	return resp
}

// wishes reports which options of a transport are in the OPT record of a
// question.
func wishes(req []byte) (keep, pad bool) {
	for rr := range wire.Records(req) {
		if rr.Type == dns.TypeOPT {
			q := wire.Question{Options: rr.Data}
			keep, pad = keep || q.Option(dns.EDNS0TCPKEEPALIVE) != nil, pad || q.Option(dns.EDNS0PADDING) != nil
		}
	}
	return keep, pad
}

// freshness returns for how many seconds an answer stays true, RFC 8484
// section 5.1: the smallest TTL of its answers, and if it denies something
// what RFC 2308 section 5 says of that; no time for failures.
func freshness(resp []byte) uint32 {
	if rcode := resp[3] & 15; rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		return 0
	}
	least, seen, answers := uint32(1<<31-1), false, 0
	for rr := range wire.Records(resp) {
		ttl := rr.TTL
		switch {
		case rr.Section == 0:
			answers++
		case rr.Section == 1 && rr.Type == dns.TypeSOA:
			ttl = min(ttl, binary.BigEndian.Uint32(rr.Data[len(rr.Data)-4:]))
		default:
			continue // referrals and the like say nothing about the answer
		}
		if ttl > 1<<31-1 {
			ttl = 0 // RFC 2181 section 8
		}
		least, seen = min(least, ttl), true
	}
	if !seen || answers < count(resp, 1) {
		return 0
	}
	return least
}
