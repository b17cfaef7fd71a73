package wire

import (
	"encoding/binary"
	"net/netip"
)

// The types that are looked into.
const (
	TypeA     = 1
	TypeNS    = 2
	TypeCNAME = 5
	TypeSOA   = 6
	TypePTR   = 12
	TypeMX    = 15
	TypeAAAA  = 28
	TypeSRV   = 33
	TypeDNAME = 39
	TypeSVCB  = 64
	TypeHTTPS = 65
	typeNSEC  = 47
	typeNSEC3 = 50
	typeANY   = 255
)

// Response codes (RFC 1035 section 4.1.1) that decide how long an answer lives.
const (
	Success  = 0
	Servfail = 2
	NXDomain = 3
)

// An Answer is a message that answers a question, with what has to be known of
// it to keep it and to give it to others: its bytes are the header, the question
// and the records, but for the OPT record, which belongs to one exchange.
// Compression pointers count from the message's start, so the records fit
// behind each question whose name has the same length.
//
// Answers are immutable and shared.
type Answer struct {
	Msg   []byte
	Body  int       // where the records begin
	Count [3]uint16 // records of the answer, authority and additional section
	Rcode int       // the extended one (RFC 6891 section 6.1.3)
	AD    bool
	TTLs  Places // where the TTL of each record stands
	Why   Explanation

	typ uint16
}

// Places are offsets in a message, two bytes each.
type Places []byte

// Len returns how many there are.
func (p Places) Len() int { return len(p) / 2 }

// At returns the i-th.
func (p Places) At(i int) int { return int(binary.BigEndian.Uint16(p[2*i:])) }

// A Record is one record of a message.
type Record struct {
	Section     int // 0 answer, 1 authority, 2 additional
	Name        int // where the owner's name begins
	Type, Class uint16
	TTL         uint32
	At          int // where the TTL stands
	Data        []byte
	End         int
}

// ReadAnswer reads a message with one question and takes it apart. It reports
// false for what is no well-formed message, and for the rare one whose OPT
// record is not its last. The message is copied: its bytes without OPT are the
// answer's own.
func ReadAnswer(msg []byte) (Answer, bool) {
	var a Answer
	end, ok := nameEnd(msg)
	if len(msg) < HeaderLen || binary.BigEndian.Uint16(msg[4:]) != 1 || !ok || end+4 > len(msg) || len(msg) > 65535 {
		return a, false
	}
	a.Body, a.typ = end+4, binary.BigEndian.Uint16(msg[end:])
	a.Rcode, a.AD = int(msg[3]&15), msg[3]&0x20 != 0
	for i := range a.Count {
		a.Count[i] = binary.BigEndian.Uint16(msg[6+2*i:])
	}
	n := int(a.Count[0]) + int(a.Count[1]) + int(a.Count[2])
	if n > (len(msg)-a.Body)/11 { // a root name and the fixed fields
		return a, false
	}
	all := make([]byte, len(msg), len(msg)+2*n) // one piece of memory, of many that are kept
	copy(all, msg)
	places := all[len(msg):]
	var r records
	r.begin(all, a.Body)
	for {
		rr, more := r.next()
		if !more {
			break
		}
		if rr.Type == typeOPT {
			if !a.readOPT(all, &rr) {
				return a, false
			}
			continue
		}
		places = binary.BigEndian.AppendUint16(places, uint16(rr.At))
	}
	if r.bad || r.off != len(msg) {
		return a, false
	}
	a.Msg, a.TTLs = all, Places(places)
	if r.opt > 0 {
		a.Msg = all[:r.opt]
	}
	a.Msg = a.Msg[:len(a.Msg):len(a.Msg)]
	a.setCounts()
	return a, true
}

// readOPT takes what the OPT record says and the record out of the count. It
// has to be the last of the message, else what follows would move.
func (a *Answer) readOPT(msg []byte, rr *Record) bool {
	if rr.Section != 2 || rr.End != len(msg) || msg[rr.Name] != 0 {
		return false
	}
	a.Count[2]--
	a.Rcode |= int(rr.TTL>>24) << 4
	for rest := rr.Data; len(rest) > 0; {
		code, data, next, ok := option(rest)
		if !ok {
			return false
		}
		if code == optEDE && len(data) >= 2 && !a.Why.Given {
			a.Why = Explanation{true, binary.BigEndian.Uint16(data), string(data[2:])}
		}
		rest = next
	}
	return true
}

const optEDE = 15

// records walks the records of a message.
type records struct {
	msg  []byte
	off  int
	left [3]uint16
	opt  int  // where the OPT record begins; 0: there was none
	bad  bool // the message is not well-formed

	names names
}

// begin begins behind the questions, which end at body.
func (r *records) begin(msg []byte, body int) {
	r.msg, r.off = msg, body
	for i := range r.left {
		r.left[i] = binary.BigEndian.Uint16(msg[6+2*i:])
	}
	if msg[4] == 0 && msg[5] <= 1 { // the names of several questions are not looked at
		r.names.add(HeaderLen, body-5)
	}
}

// next returns the next record, and false at the end or where the message is
// not well-formed.
func (r *records) next() (rr Record, ok bool) {
	for rr.Section < 3 && r.left[rr.Section] == 0 {
		rr.Section++
	}
	if rr.Section == 3 || r.bad {
		return rr, false
	}
	r.left[rr.Section]--
	rr.Name = r.off
	at, ok := r.names.skip(r.msg, r.off, len(r.msg))
	if !ok || at+10 > len(r.msg) {
		r.bad = true
		return rr, false
	}
	rr.Type, rr.Class = binary.BigEndian.Uint16(r.msg[at:]), binary.BigEndian.Uint16(r.msg[at+2:])
	rr.At, rr.TTL = at+4, binary.BigEndian.Uint32(r.msg[at+4:])
	rr.End = at + 10 + int(binary.BigEndian.Uint16(r.msg[at+8:]))
	if rr.End > len(r.msg) || !r.wellFormed(&rr) {
		r.bad = true
		return rr, false
	}
	rr.Data = r.msg[at+10 : rr.End]
	if rr.Type == typeOPT && r.opt == 0 {
		r.opt = rr.Name
	}
	r.off = rr.End
	return rr, true
}

// wellFormed checks the data of types that hold names, which may be compressed
// (RFC 3597 section 4), and those whose length is fixed.
func (r *records) wellFormed(rr *Record) bool {
	at := rr.At + 6
	switch rr.Type {
	case TypeA:
		return rr.End-at == 4
	case TypeAAAA:
		return rr.End-at == 16
	case TypeNS, TypeCNAME, TypePTR, TypeDNAME:
		return r.ends(at, rr.End)
	case TypeMX:
		return r.ends(at+2, rr.End)
	case TypeSRV:
		return r.ends(at+6, rr.End)
	case TypeSOA:
		m, ok := r.names.skip(r.msg, at, rr.End)
		return ok && r.ends(m, rr.End-20)
	}
	return true
}

// ends reports whether the name at off ends at end.
func (r *records) ends(off, end int) bool {
	n, ok := r.names.skip(r.msg, off, end)
	return ok && n == end
}

// names are where the names of a message stand that were read so far: the
// labels before a pointer or the root, one after the other.
type names struct {
	n    int
	from [32]uint16
	to   [32]uint16
}

// skip returns where the name at off ends, which must not be beyond limit. It
// holds that the name can be read, and always as the same: a pointer leads to a
// label of a name before (RFC 1035 section 4.1.4: to a prior occurrence), not to
// bytes that mean something else, such as a TTL that counts down. Where more names
// than there is room for were read, those are not known.
func (k *names) skip(msg []byte, off, limit int) (end int, ok bool) {
	start := off
	for off < limit {
		c := int(msg[off])
		switch {
		case c == 0:
			k.add(start, off)
			return off + 1, off+1-start <= 255
		case c < 64:
			off += 1 + c
		case c >= 0xc0 && off+1 < limit:
			to := (c&0x3f)<<8 | int(msg[off+1])
			if !k.has(msg, to) || off-start+length(msg, to) > 255 {
				return 0, false
			}
			k.add(start, off)
			return off + 2, true
		default:
			return 0, false
		}
	}
	return 0, false
}

func (k *names) add(from, to int) {
	if from < to && k.n < len(k.from) {
		k.from[k.n], k.to[k.n] = uint16(from), uint16(to)
		k.n++
	}
}

// has reports whether a label of a name begins there.
func (k *names) has(msg []byte, at int) bool {
	for i := range k.n {
		if at < int(k.from[i]) || at >= int(k.to[i]) {
			continue
		}
		off := int(k.from[i])
		for off < at {
			off += 1 + int(msg[off])
		}
		return off == at
	}
	return false
}

// length returns how many bytes a name, which was read before, has without
// compression.
func length(msg []byte, off int) (n int) {
	for {
		c := int(msg[off])
		switch {
		case c == 0:
			return n + 1
		case c >= 0xc0:
			off = (c&0x3f)<<8 | int(msg[off+1])
		default:
			n, off = n+1+c, off+1+c
		}
	}
}

// Records calls yield for each record, in order, until it returns false.
func (a *Answer) Records(yield func(Record) bool) {
	var r records
	r.begin(a.Msg, a.Body)
	r.left = a.Count
	for {
		rr, ok := r.next()
		if !ok || !yield(rr) {
			return
		}
	}
}

// Records walks over the records of a message until one cannot be read, or the loop
// ends.
func Records(msg []byte) func(yield func(Record) bool) {
	return func(yield func(Record) bool) {
		at, ok := body(msg)
		if !ok {
			return
		}
		var r records
		r.begin(msg, at)
		for {
			rr, ok := r.next()
			if !ok || !yield(rr) {
				return
			}
		}
	}
}

// Trim leaves out what does not belong to the answer of the question: the
// additional section, and an authority section that proves nothing. Records in
// them may be of any name (RFC 5452 section 6), no policy judges them, and who
// needs one asks for it. What stays in the authority section is the SOA record of a
// negative answer and the NSEC and NSEC3 records of one that is signed. It belongs
// to whoever has just read the answer.
func (a *Answer) Trim() {
	if a.Count[1] == 0 && a.Count[2] == 0 {
		return
	}
	answer, authority, proves := a.Body, a.Body, false
	for rr := range a.Records {
		if rr.Section == 0 {
			answer, authority = rr.End, rr.End
		} else if rr.Section == 1 {
			authority = rr.End
			proves = proves || rr.Type == TypeSOA || rr.Type == typeNSEC || rr.Type == typeNSEC3
		}
	}
	if !proves {
		authority, a.Count[1] = answer, 0
	}
	a.Count[2] = 0
	a.TTLs = a.TTLs[:2*(a.Count[0]+a.Count[1])]
	if authority < len(a.Msg) {
		a.Msg = append(make([]byte, 0, authority), a.Msg[:authority]...)
	}
	a.setCounts()
}

func (a *Answer) setCounts() {
	for i, n := range a.Count {
		binary.BigEndian.PutUint16(a.Msg[6+2*i:], n)
	}
}

// Addr returns the address in a record of type A or AAAA. One that is an IPv4
// address in the form of IPv6 comes back as what it is.
func (rr *Record) Addr() (netip.Addr, bool) {
	if rr.Type != TypeA && rr.Type != TypeAAAA {
		return netip.Addr{}, false
	}
	a, ok := netip.AddrFromSlice(rr.Data)
	return a.Unmap(), ok
}

// AppendName appends the name at off in wire form, in lower case and without
// compression. The name was read before.
func AppendName(dst, msg []byte, off int) []byte {
	for {
		c := int(msg[off])
		switch {
		case c == 0:
			return append(dst, 0)
		case c >= 0xc0:
			off = (c&0x3f)<<8 | int(msg[off+1])
		default:
			dst = AppendLower(dst, msg[off:off+1+c])
			off += 1 + c
		}
	}
}

// AppendText appends a name in wire form as text: lower case, without the
// final dot, and with bytes that are not printable written as RFC 1035 section
// 5.1 has it.
func AppendText(dst, name []byte) []byte {
	for first := true; len(name) > 0 && name[0] != 0; first = false {
		if !first {
			dst = append(dst, '.')
		}
		for _, c := range name[1 : 1+name[0]] {
			dst = appendByte(dst, c)
		}
		name = name[1+name[0]:]
	}
	return dst
}

func appendByte(dst []byte, c byte) []byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return append(dst, c|0x20)
	case c == '.' || c == ' ' || c == '\'' || c == '@' || c == ';' || c == '(' || c == ')' || c == '"' || c == '\\':
		return append(dst, '\\', c)
	case c < ' ' || c > '~':
		return append(dst, '\\', '0'+c/100, '0'+c/10%10, '0'+c%10)
	}
	return append(dst, c)
}

// NameIs reports whether the name at off, which was read before, is the one
// given in wire form and lower case.
func NameIs(msg []byte, off int, lower []byte) bool {
	for {
		c := int(msg[off])
		if c >= 0xc0 {
			off = (c&0x3f)<<8 | int(msg[off+1])
			continue
		}
		if len(lower) <= c || int(lower[0]) != c {
			return false
		}
		for i := 1; i <= c; i++ {
			b := msg[off+i]
			if 'A' <= b && b <= 'Z' {
				b |= 0x20
			}
			if b != lower[i] {
				return false
			}
		}
		if c == 0 {
			return true
		}
		off, lower = off+1+c, lower[1+c:]
	}
}
