package wire

import "encoding/binary"

// UDPSize is what we offer to take over UDP, and the most that we send: no
// fragments (DNS flag day 2020).
const UDPSize = 1232

// A Span bounds the TTLs of an answer that is given to somebody.
type Span struct {
	Age         uint32 // seconds that have passed since the answer was had
	Least, Most uint32 // of what is left; a Most of zero bounds nothing
}

func (s Span) of(ttl uint32) uint32 {
	ttl = max(ttl-min(ttl, s.Age), s.Least)
	if s.Most > 0 {
		ttl = min(ttl, s.Most)
	}
	return ttl
}

// Append appends the reply to q that has the answer's records: q's question as
// it came, letter case and all, so that the asker finds its own (0x20), and the
// records with their TTLs as the span says. The OPT record is missing yet:
// see [AppendOPT].
func (a *Answer) Append(out []byte, q *Question, s Span) []byte {
	start := len(out)
	out = append(out, q.Req[:q.End]...)
	out = append(out, a.Msg[a.Body:]...)
	msg := out[start:]
	q.answer(msg, a.Rcode, a.AD)
	for i, n := range a.Count {
		binary.BigEndian.PutUint16(msg[6+2*i:], n)
	}
	for i := range a.TTLs.Len() {
		at := a.TTLs.At(i)
		ttl := msg[at : at+4]
		binary.BigEndian.PutUint32(ttl, s.of(binary.BigEndian.Uint32(ttl)))
	}
	return out
}

// answer makes the header of q's reply of its request's. AD is said to those
// who ask for it (RFC 6840 section 5.8).
func (q *Question) answer(msg []byte, rcode int, ad bool) {
	msg[2] = msg[2]&0x01 | 0x80
	msg[3] = msg[3]&0x10 | 0x80 | byte(rcode&15)
	if ad && (q.DO || q.AD) {
		msg[3] |= 0x20
	}
	clear(msg[4:HeaderLen])
	msg[5] = 1
}

// AppendShort appends a reply of nothing but the question.
func (q *Question) AppendShort(out []byte, rcode int, truncated bool) []byte {
	start := len(out)
	out = append(out, q.Req[:q.End]...)
	q.answer(out[start:], rcode, false)
	if truncated {
		out[start+2] |= 2
	}
	return out
}

// Refusal is the answer of who does not look into a question: the header of the
// request and its first question, with a response code, and an OPT record if it has
// one, be it with options that cannot be read (RFC 6891 section 6.1.1). That is what q
// is of then. Of another version than ours nothing else is said than that (section
// 6.1.3).
func Refusal(req []byte, rcode int) (resp []byte, q Question) {
	end, asks := QuestionEnd(req)
	if !asks {
		end = HeaderLen
	}
	q, _ = OPT(req)
	if q.Version != 0 {
		rcode = badVersion
	}
	resp = append(make([]byte, 0, end+optFixed), req[:end]...)
	resp[2] = resp[2]&0x79 | 0x80 // keep opcode and RD
	resp[3] = byte(rcode & 15)
	if resp[2]&0x78 == 0 { // a query
		resp[3] |= req[3]&0x10 | 0x80 // CD, and RA
	}
	clear(resp[4:HeaderLen])
	if asks {
		resp[5] = 1
	}
	return AppendOPT(resp, 0, &q, rcode, &Explanation{}), q
}

// badVersion is the response code BADVERS.
const badVersion = 16

// An Explanation is an extended error (RFC 8914); the zero value is none.
type Explanation struct {
	Given bool
	Code  uint16
	Text  string
}

// AppendOPT appends to the reply that begins at start its OPT record, the last
// of its records, if q has one. rcode is the extended response code.
func AppendOPT(out []byte, start int, q *Question, rcode int, e *Explanation) []byte {
	if !q.EDNS {
		return out
	}
	n := 0
	if e.Given {
		n = 6 + len(e.Text)
	}
	var do byte
	if q.DO {
		do = 0x80
	}
	out = append(out, 0, 0, typeOPT, UDPSize>>8, UDPSize&0xff, byte(rcode>>4), 0, do, 0, byte(n>>8), byte(n))
	if e.Given {
		out = append(out, 0, optEDE, byte((n-4)>>8), byte(n-4), byte(e.Code>>8), byte(e.Code))
		out = append(out, e.Text...)
	}
	count := out[start+10 : start+12]
	binary.BigEndian.PutUint16(count, binary.BigEndian.Uint16(count)+1)
	return out
}

// AppendOption appends options, each with its code and length, to the OPT record
// that ends the reply which begins at start. A reply without one stays as it is.
func AppendOption(out []byte, start int, options []byte) []byte {
	if len(options) == 0 {
		return out
	}
	at := optAt(out[start:])
	if at == 0 {
		return out
	}
	length := out[start+at+9 : start+at+11]
	n := int(binary.BigEndian.Uint16(length)) + len(options)
	if n > 65535 {
		return out
	}
	binary.BigEndian.PutUint16(length, uint16(n))
	return append(out, options...)
}

// optAt returns where the OPT record that ends a message begins, 0 if there is
// none whose owner is the root, written as such (RFC 6891 section 6.1.2).
func optAt(msg []byte) int {
	at, ok := body(msg)
	if !ok {
		return 0
	}
	var r records
	r.begin(msg, at)
	last := Record{}
	for rr, ok := r.next(); ok; rr, ok = r.next() {
		last = rr
	}
	if r.bad || last.Type != typeOPT || last.Section != 2 || last.End != len(msg) || last.At != last.Name+5 {
		return 0
	}
	return last.Name
}
