package main

import (
	"bufio"
	"encoding/binary"
	"io"
	"net/netip"
)

const (
	headerSize = 12 // RFC 1035, section 4.1.1
	typeA      = 1
	classIN    = 1
	typeOPT    = 41
)

// An answer is the resource record that all questions of type A get: it points
// at the question's name, which always begins right after the header.
type answer []byte

func record(a netip.Addr, ttl uint32) answer {
	b := []byte{0xc0, headerSize, 0, typeA, 0, classIN}
	b = binary.BigEndian.AppendUint32(b, ttl)
	b = append(b, 0, 4)
	return append(b, a.AsSlice()...)
}

// reply appends the reply to query to b. It is false for what is no question
// of one name in its plain form; such is not answered.
func (a answer) reply(b, query []byte) ([]byte, bool) {
	end := questionEnd(query)
	if end < 0 || query[2]&0xf8 != 0 || binary.BigEndian.Uint16(query[4:]) != 1 {
		return nil, false
	}
	b = append(b, query[:end]...)
	b[2] = 0x84 | query[2]&1 // QR, AA, RD as it came
	b[3] = 0x80              // RA, NOERROR
	clear(b[6:headerSize])
	if binary.BigEndian.Uint32(query[end-4:]) == typeA<<16|classIN {
		b[7] = 1
		b = append(b, a...)
	}
	if binary.BigEndian.Uint16(query[10:]) > 0 {
		b[11] = 1
		b = append(b, 0, 0, typeOPT, 1232>>8, 1232&0xff, 0, 0, 0, 0, 0, 0) // RFC 6891, section 6.1.2
	}
	return b, true
}

// questionEnd returns where the first question ends, or -1.
func questionEnd(m []byte) int {
	if len(m) < headerSize {
		return -1
	}
	for i := headerSize; i < len(m); {
		n := int(m[i])
		if n > 63 {
			return -1
		}
		i += 1 + n
		if n == 0 && i+4 <= len(m) {
			return i + 4
		}
		if n == 0 {
			return -1
		}
	}
	return -1
}

// converse answers what comes over a stream (RFC 1035, section 4.2.2) until it
// ends, or holds what is not answered.
func (a answer) converse(c io.ReadWriter) error {
	in := bufio.NewReader(c)
	var b [2 + 65535]byte
	var reply, out []byte
	for {
		if _, err := io.ReadFull(in, b[:2]); err != nil {
			return err
		}
		query := b[2 : 2+binary.BigEndian.Uint16(b[:])]
		if _, err := io.ReadFull(in, query); err != nil {
			return err
		}
		var ok bool
		if reply, ok = a.reply(reply[:0], query); !ok {
			return nil
		}
		out = binary.BigEndian.AppendUint16(out[:0], uint16(len(reply)))
		out = append(out, reply...)
		if _, err := c.Write(out); err != nil {
			return err
		}
	}
}
