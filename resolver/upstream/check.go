package upstream

import (
	"encoding/binary"
	"errors"

	"github.com/miekg/dns"
)

var (
	// errMismatch: an answer to another question than the one asked.
	errMismatch = errors.New("an answer to another question")
	// errCase: the right question, but its letters in another case.
	errCase = errors.New("an answer that does not keep the case of letters")
	// errTruncated: the rest has to be asked for over TCP.
	errTruncated = errors.New("a truncated answer")
	errBroken    = errors.New("an answer that cannot be read")
	// errUnreadable: an answer whose frame is right, with a record that cannot be
	// read. That is the work of who has the name, not of the server.
	errUnreadable = errors.New("an answer with a record that cannot be read")
)

// check reports whether msg answers q, which was sent as sent, and returns it
// without what may follow its last record. The letters of the question, and of
// owners that repeat it, are put in q's case; otherwise msg is left as it is.
//
// What passes can be unpacked by package dns: the few types that nearly all
// answers consist of are looked at here, and for all others it is asked.
// Records that it cannot read make the whole answer unusable, for nobody could
// judge them; another server is asked then.
func check(msg, sent []byte, q *Question, mixed bool) ([]byte, error) {
	if !isReply(msg, sent) {
		return nil, errMismatch
	}
	if binary.BigEndian.Uint16(msg[4:]) == 0 {
		return bare(msg, q)
	}
	end, err := checkQuestion(msg, sent, q, mixed)
	if err != nil {
		return nil, err
	}
	if msg[2]&0x02 != 0 {
		return nil, errTruncated
	}
	copy(msg[headerLen:], q.Name)
	r := reader{msg: msg, q: q, plain: true}
	end, ok := r.records(end)
	if r.foreign {
		return nil, errMismatch
	}
	if !ok {
		return nil, errBroken
	}
	if !r.plain && new(dns.Msg).Unpack(msg[:end]) != nil {
		return nil, errUnreadable
	}
	return msg[:end], nil
}

// isReply reports whether msg has a header that answers the one sent: id, QR
// and opcode.
func isReply(msg, sent []byte) bool {
	return len(msg) >= headerLen && msg[0] == sent[0] && msg[1] == sent[1] && msg[2]&0xf8 == 0x80
}

// bare returns the answer of a server that refuses without repeating the
// question, which only they may leave out (so do those that could not read it,
// RFC 6891 section 7), with the question.
func bare(msg []byte, q *Question) ([]byte, error) {
	if !failed(msg) || binary.BigEndian.Uint16(msg[6:]) != 0 {
		return nil, errMismatch
	}
	r := appendQuery(make([]byte, 0, maxQuery), q, binary.BigEndian.Uint16(msg), manner{})
	r[2], r[3] = msg[2]&^0x02, msg[3]
	return r, nil
}

// checkQuestion returns where the question section of msg ends.
func checkQuestion(msg, sent []byte, q *Question, mixed bool) (end int, err error) {
	nameEnd := headerLen + len(q.Name)
	end = nameEnd + 4
	if binary.BigEndian.Uint16(msg[4:]) != 1 || len(msg) < end || string(msg[nameEnd:end]) != string(sent[nameEnd:end]) {
		return 0, errMismatch
	}
	if string(msg[headerLen:nameEnd]) == string(sent[headerLen:nameEnd]) {
		return end, nil
	}
	if !equalFold(msg[headerLen:nameEnd], q.Name) {
		return 0, errMismatch
	}
	if mixed {
		return 0, errCase
	}
	return end, nil
}

// equalFold compares names in wire form, of equal length, but for the case of
// ASCII letters (RFC 4343).
func equalFold(a []byte, b string) bool {
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c |= 0x20
	}
	return c
}

// failed reports whether a message carries a failure: a response code other
// than NOERROR and NXDOMAIN. (Extended ones end on zero too: BADVERS is 16.)
func failed(msg []byte) bool {
	code := msg[3] & 0x0f
	return code != dns.RcodeSuccess && code != dns.RcodeNameError || extended(msg)
}

// refusesEDNS reports whether msg is what servers say that do not know EDNS
// (RFC 6891 section 7): FORMERR or NOTIMP, and no OPT record.
func refusesEDNS(msg []byte) bool {
	code := msg[3] & 0x0f
	return (code == dns.RcodeFormatError || code == dns.RcodeNotImplemented) && binary.BigEndian.Uint16(msg[10:]) == 0
}

// extended reports whether an answer without records in other sections has an
// OPT record with an extended response code. (Those that mean something here
// come with nothing else.)
func extended(msg []byte) bool {
	if string(msg[6:11]) != "\x00\x00\x00\x00\x00" || msg[11] != 1 {
		return false
	}
	off, ok := skipName(msg, headerLen)
	off += 4
	return ok && off+11 <= len(msg) && msg[off] == 0 && msg[off+2] == typeOPT && msg[off+1] == 0 && msg[off+5] != 0
}
