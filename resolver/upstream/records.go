package upstream

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// A reader walks through the records of an answer.
type reader struct {
	msg []byte
	q   *Question

	plain   bool // so far there were only records whose data was looked at here
	opt     bool // there was an OPT record
	foreign bool // it is about another client subnet than the one asked for
}

// records reads all records from off on and returns where they end.
func (r *reader) records(off int) (end int, ok bool) {
	for section := range 3 {
		for range binary.BigEndian.Uint16(r.msg[6+2*section:]) {
			if off, ok = r.record(off, section == 2); !ok {
				return 0, false
			}
		}
	}
	return off, true
}

// record reads the record at off. It is about its frame (RFC 1035 section
// 3.2.1); what is odd in its data makes the answer not plain.
func (r *reader) record(off int, additional bool) (end int, ok bool) {
	owner := off
	if off, ok = r.owner(off); !ok || off+10 > len(r.msg) {
		return 0, false
	}
	typ := binary.BigEndian.Uint16(r.msg[off:])
	data := off + 10
	end = data + int(binary.BigEndian.Uint16(r.msg[off+8:]))
	if end > len(r.msg) {
		return 0, false
	}
	if typ == typeOPT {
		if !additional || r.opt || r.msg[owner] != 0 {
			return 0, false // RFC 6891 section 6.1.1
		}
		r.opt = true
	}
	r.plain = r.plain && r.readable(typ, data, end)
	return end, true
}

// owner reads the name of a record. One that repeats the name asked for in
// full, rather than pointing to it, gets the question's case too.
func (r *reader) owner(off int) (end int, ok bool) {
	if off+1 < len(r.msg) && r.msg[off] == 0xc0 && r.msg[off+1] == headerLen {
		return off + 2, true // nearly all
	}
	end, ok = skipName(r.msg, off)
	if ok && end-off == len(r.q.Name) && equalFold(r.msg[off:end], r.q.Name) {
		copy(r.msg[off:end], r.q.Name)
	}
	return end, ok
}

// readable reports whether the data of a record is known to be well-formed.
// False is no judgement.
func (r *reader) readable(typ uint16, off, end int) bool {
	switch n := end - off; typ {
	case dns.TypeA:
		return n == 4
	case dns.TypeAAAA:
		return n == 16
	case dns.TypeCNAME, dns.TypeNS, dns.TypePTR:
		return r.nameTo(off, end)
	case dns.TypeMX:
		return r.nameTo(off+2, end)
	case dns.TypeSRV:
		return r.nameTo(off+6, end)
	case dns.TypeSOA:
		return r.soa(off, end)
	case dns.TypeTXT:
		return r.strings(off, end)
	case dns.TypeDS:
		return n > 4
	case dns.TypeRRSIG:
		off, ok := skipName(r.msg, off+18)
		return ok && off < end
	case typeOPT:
		return r.options(off, end)
	}
	return false
}

func (r *reader) nameTo(off, end int) bool {
	off, ok := skipName(r.msg, off)
	return ok && off == end
}

func (r *reader) soa(off, end int) bool {
	off, ok := skipName(r.msg, off)
	if !ok {
		return false
	}
	off, ok = skipName(r.msg, off)
	return ok && off+20 == end
}

func (r *reader) strings(off, end int) bool {
	if off == end {
		return false
	}
	for off < end {
		off += 1 + int(r.msg[off])
	}
	return off == end
}

// options reports whether there are no others than padding.
func (r *reader) options(off, end int) bool {
	plain := true
	for off+4 <= end {
		code, data := binary.BigEndian.Uint16(r.msg[off:]), off+4
		off = data + int(binary.BigEndian.Uint16(r.msg[off+2:]))
		if code == optionECS && r.q.ECS.IsValid() && off <= end {
			r.foreign = !sameSubnet(r.msg[data:off], r.q)
		}
		plain = plain && code == optionPadding
	}
	return plain && off == end
}

// sameSubnet reports whether the data of an ECS option repeats what was asked:
// answers that do not must be dropped (RFC 7871 section 7.3).
func sameSubnet(data []byte, q *Question) bool {
	var buf [24]byte
	sent := appendECS(buf[:0], q.ECS)[4:]
	return len(data) == len(sent) && string(data[:3]) == string(sent[:3]) && string(data[4:]) == string(sent[4:])
}

// skipName returns where the name at off ends. Pointers may only lead back, to
// before the labels that were read last, so that there are no loops (RFC 1035
// section 4.1.4), and not into the header.
func skipName(msg []byte, off int) (end int, ok bool) {
	length, limit := 1, off
	for hops := 0; off < len(msg) && hops < maxLabel; {
		c := int(msg[off])
		switch {
		case c == 0:
			if end == 0 {
				end = off + 1
			}
			return end, length <= maxName
		case c <= maxLabel:
			length += c + 1
			off += c + 1
		case c < 0xc0 || off+1 >= len(msg):
			return 0, false
		default:
			if end == 0 {
				end = off + 2
			}
			off = (c&0x3f)<<8 | int(msg[off+1])
			if off >= limit || off < headerLen {
				return 0, false
			}
			limit = off
			hops++
		}
	}
	return 0, false
}
