package upstream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/miekg/dns"
)

// A Question is what is asked. Two that are equal get the same answer.
type Question struct {
	Name        string // in wire form with the root label, lower case
	Type, Class uint16
	DO, CD      bool
	ECS         netip.Prefix // of the asker, for RFC 7871; the zero prefix: none goes out
}

// QuestionOf returns the question in m. Of m only the question, the DO and the
// CD bit are looked at.
func QuestionOf(m *dns.Msg) (Question, error) {
	if len(m.Question) != 1 {
		return Question{}, fmt.Errorf("%d questions in one message", len(m.Question))
	}
	asked := m.Question[0]
	var buf [maxName]byte
	end, err := dns.PackDomainName(dns.CanonicalName(asked.Name), buf[:], 0, nil, false)
	if err != nil {
		return Question{}, fmt.Errorf("packing %q: %w", asked.Name, err)
	}
	q := Question{Name: string(buf[:end]), Type: asked.Qtype, Class: asked.Qclass, CD: m.CheckingDisabled}
	if o := m.IsEdns0(); o != nil {
		q.DO = o.Do()
	}
	return q, nil
}

// String returns the question as errors name it.
func (q Question) String() string {
	name, _, err := dns.UnpackDomainName([]byte(q.Name), 0)
	if err != nil {
		return fmt.Sprintf("%q %s", q.Name, dns.Type(q.Type))
	}
	return name + " " + dns.Type(q.Type).String()
}

var errName = errors.New("the name is not in wire form")

// valid says whether the name can be copied into a message as it is.
func (q *Question) valid() error {
	for off := 0; off < len(q.Name) && len(q.Name) <= maxName; {
		n := int(q.Name[off])
		off += 1 + n
		if n == 0 && off == len(q.Name) {
			return nil
		}
		if n == 0 || n > maxLabel {
			break
		}
	}
	return errName
}

// The bounds of names, RFC 1035 section 2.3.4.
const (
	maxName  = 255
	maxLabel = 63
)

const (
	headerLen = 12
	typeOPT   = 41

	// udpSize is the answer that we take over UDP: no fragments (DNS flag day
	// 2020).
	udpSize = 1232

	// maxQuery is the longest query: the header, a question, an OPT record and
	// the ECS option of an IPv6 address. Padding comes on top.
	maxQuery = headerLen + maxName + 4 + 11 + 24

	// padding is what queries over encrypted transports are filled up to a
	// multiple of (RFC 8467 section 4.1).
	padding = 128

	optionECS     = 8
	optionPadding = 12
)

// A manner is how a question is put.
type manner struct {
	edns bool
	// mixed: the letters of the name are in random case, which an answer has to
	// repeat (draft-vixie-dnsext-dns0x20-00): more for a forger to guess.
	mixed bool
	pad   bool
	ad    bool // the answer is to say whether it is authentic (RFC 6840 section 5.7)
}

// appendQuery appends the query for q.
func appendQuery(b []byte, q *Question, id uint16, how manner) []byte {
	start := len(b)
	const recursionDesired, authenticData, checkingDisabled = 0x01, 0x20, 0x10
	b = append(b, byte(id>>8), byte(id), recursionDesired, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	if q.CD {
		b[start+3] = checkingDisabled
	}
	if how.ad {
		b[start+3] |= authenticData
	}
	b = append(b, q.Name...)
	if how.mixed {
		mixCase(b[start+headerLen:])
	}
	b = append(b, byte(q.Type>>8), byte(q.Type), byte(q.Class>>8), byte(q.Class))
	if how.edns {
		b[start+11] = 1
		b = appendOPT(b, start, q, how.pad)
	}
	return b
}

// appendOPT appends the OPT record (RFC 6891 section 6.1.2). No option of the
// asker but a wanted ECS is ever in it.
func appendOPT(b []byte, start int, q *Question, pad bool) []byte {
	b = append(b, 0, 0, typeOPT, udpSize>>8, udpSize&0xff, 0, 0, 0, 0, 0, 0)
	options := len(b)
	if q.DO {
		b[options-4] = 0x80
	}
	if q.ECS.IsValid() {
		b = appendECS(b, q.ECS)
	}
	if pad {
		n := (padding - (len(b)-start+4)%padding) % padding
		b = append(b, 0, optionPadding, 0, byte(n))
		for range n {
			b = append(b, 0)
		}
	}
	binary.BigEndian.PutUint16(b[options-2:], uint16(len(b)-options))
	return b
}

// appendECS appends the client subnet option (RFC 7871 section 6): no more
// octets of the address than the prefix needs, bits beyond it zero.
func appendECS(b []byte, p netip.Prefix) []byte {
	p = p.Masked()
	family, addr := byte(1), p.Addr().AsSlice()
	if p.Addr().Is6() {
		family = 2
	}
	addr = addr[:(p.Bits()+7)/8]
	b = append(b, 0, optionECS, 0, byte(4+len(addr)), 0, family, byte(p.Bits()), 0)
	return append(b, addr...)
}

// mixCase gives the letters of a name random case. (Lengths of labels are
// below 64 and so are no letters.)
func mixCase(name []byte) {
	var bits uint64
	left := 0
	for i, c := range name {
		if c|0x20 < 'a' || 'z' < c|0x20 {
			continue
		}
		if left == 0 {
			bits, left = rand.Uint64(), 64
		}
		name[i] = c ^ byte(bits&1)<<5
		bits, left = bits>>1, left-1
	}
}
