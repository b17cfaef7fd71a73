package wire

import (
	"encoding/binary"
	"slices"
)

// HeaderLen is the length of a message's header (RFC 1035 section 4.1.1).
const HeaderLen = 12

// The types and classes that are looked at here.
const (
	typeOPT = 41
	classIN = 1

	// optFixed is the length of an OPT record without its options.
	optFixed = 11
)

// MinSize is what every asker can take over UDP (RFC 1035 section 4.2.1).
const MinSize = 512

// Parse reads a request that is as plain as nearly all are: a standard query
// with one question of class IN, a name without compression, and after it
// nothing or one OPT record of version 0 that is well-formed to its end. It
// reports false for all others, which are not wrong for that: somebody has to
// read them with more patience.
func Parse(req []byte) (q Question, ok bool) {
	if len(req) < HeaderLen+5 || req[2]&0xfa != 0 || req[3]&0x8f != 0 {
		// QR, an opcode, TC; RA or a response code. (AA and Z are ignored.)
		return q, false
	}
	if binary.BigEndian.Uint16(req[4:]) != 1 || req[6]|req[7]|req[8]|req[9]|req[10] != 0 || req[11] > 1 {
		return q, false
	}
	end, ok := nameEnd(req)
	if !ok || end+4 > len(req) {
		return q, false
	}
	q = Question{
		Req: req, Name: req[HeaderLen:end], Type: binary.BigEndian.Uint16(req[end:]),
		Class: binary.BigEndian.Uint16(req[end+2:]), End: end + 4, Size: MinSize,
		RD: req[2]&1 != 0, AD: req[3]&0x20 != 0, CD: req[3]&0x10 != 0,
	}
	if q.Class != classIN {
		return q, false
	}
	if req[11] == 0 {
		return q, q.End == len(req)
	}
	return q, q.readOPT(req[q.End:]) && q.Version == 0
}

// QuestionEnd returns where the first question of a message ends, if it has one
// that can be read. Its name is not compressed: there is nothing to point to.
func QuestionEnd(msg []byte) (end int, ok bool) {
	if len(msg) < HeaderLen || msg[4]|msg[5] == 0 {
		return 0, false
	}
	end, ok = nameEnd(msg)
	return end + 4, ok && end+4 <= len(msg)
}

// body returns where the records of a message begin.
func body(msg []byte) (at int, ok bool) {
	if len(msg) < HeaderLen {
		return 0, false
	}
	left := binary.BigEndian.Uint16(msg[4:])
	if left == 0 {
		return HeaderLen, true
	}
	at, ok = QuestionEnd(msg)
	for ; ok && left > 1; left-- {
		at, ok = further(msg, at)
	}
	return at, ok
}

// further returns where a question ends that is not the first. Its name may be
// compressed.
func further(msg []byte, off int) (end int, ok bool) {
	for off < len(msg) {
		switch c := int(msg[off]); {
		case c == 0:
			return off + 5, off+5 <= len(msg)
		case c >= 0xc0:
			return off + 6, off+6 <= len(msg)
		case c > 63:
			return 0, false
		default:
			off += 1 + c
		}
	}
	return 0, false
}

// OPT reads the OPT record of a request that [Parse] does not take: of another
// class, or with more questions or records. It reports false if there is none that
// can be read. Of one of another version than 0 it reads no options.
func OPT(req []byte) (q Question, ok bool) {
	for rr := range Records(req) {
		if rr.Type == typeOPT {
			ok = rr.Section == 2 && q.readOPT(req[rr.Name:rr.End])
			break
		}
	}
	return q, ok
}

// nameEnd returns where the first name of a message ends.
func nameEnd(req []byte) (int, bool) {
	for off := HeaderLen; off < len(req) && off-HeaderLen < 255; {
		n := int(req[off])
		off += 1 + n
		if n == 0 {
			return off, off-HeaderLen <= 255
		}
		if n > 63 {
			return 0, false
		}
	}
	return 0, false
}

// readOPT reads the OPT record that is all of b (RFC 6891 section 6.1.2).
func (q *Question) readOPT(b []byte) bool {
	if len(b) < optFixed || b[0] != 0 || binary.BigEndian.Uint16(b[1:]) != typeOPT || b[5] != 0 {
		return false
	}
	if int(binary.BigEndian.Uint16(b[9:])) != len(b)-optFixed {
		return false
	}
	q.EDNS, q.Version, q.DO = true, b[6], b[7]&0x80 != 0
	q.Size = max(MinSize, int(binary.BigEndian.Uint16(b[3:])))
	if q.Version != 0 {
		return true
	}
	q.Options = b[optFixed:]
	for rest := q.Options; len(rest) > 0; {
		_, _, next, ok := option(rest)
		if !ok {
			return false
		}
		rest = next
	}
	return true
}

// option splits the first of several options (RFC 6891 section 6.1.2).
func option(b []byte) (code uint16, data, rest []byte, ok bool) {
	if len(b) < 4 {
		return 0, nil, nil, false
	}
	n := 4 + int(binary.BigEndian.Uint16(b[2:]))
	if n > len(b) {
		return 0, nil, nil, false
	}
	return binary.BigEndian.Uint16(b), b[4:n], b[n:], true
}

// Option returns the data of the first option of a code, nil if there is none.
func (q *Question) Option(code uint16) []byte {
	for rest := q.Options; len(rest) > 0; {
		c, data, next, ok := option(rest)
		if !ok {
			return nil
		}
		if c == code {
			return data
		}
		rest = next
	}
	return nil
}

// ID returns the id of the request.
func (q *Question) ID() uint16 { return binary.BigEndian.Uint16(q.Req) }

// AppendLower appends the name in lower case, in wire form. (Lengths of labels
// are below 64 and so are no letters.)
func AppendLower(dst, name []byte) []byte {
	n := len(dst)
	dst = slices.Grow(dst, len(name))[:n+len(name)]
	to := dst[n:]
	if len(name) < 8 {
		for i, c := range name {
			if 'A' <= c && c <= 'Z' {
				c |= 0x20
			}
			to[i] = c
		}
		return dst
	}
	for i := 0; i < len(name)-8; i += 8 {
		binary.LittleEndian.PutUint64(to[i:], lower(binary.LittleEndian.Uint64(name[i:])))
	}
	end := len(name) - 8 // some of it for the second time
	binary.LittleEndian.PutUint64(to[end:], lower(binary.LittleEndian.Uint64(name[end:])))
	return dst
}

// lower is eight bytes in lower case: the highest bit of each, which is free, says
// whether it is at least A, and whether it is beyond Z.
func lower(w uint64) uint64 {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	seven := w &^ tops
	upper := (seven + (0x80-'A')*ones) &^ (seven + (0x7f-'Z')*ones) &^ w & tops
	return w | upper>>2
}
