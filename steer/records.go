package steer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/starferry/starferry/policy"
)

// The records of a journal, each a letter and fields. Numbers are varints,
// strings and addresses have their length before them. Leases are named by the
// serial number of their allocation.
const (
	recJournal = 'J' // version, id: the first record of the file, and in no other place
	recAlloc   = 'A' // serial, address, time, name
	recEnd     = 'E' // serial: its address is free
	recUse     = 'U' // serial, time, whether it carried a packet
	recLore    = 'L' // serial, next labels, facts: as they now are
)

const formatVersion = 1

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendAddr(b []byte, a netip.Addr) []byte {
	raw := a.WithZone("").AsSlice()
	return append(append(b, byte(len(raw))), raw...)
}

func appendJournal(b []byte, id uint64) []byte {
	b = append(b, recJournal, formatVersion)
	return binary.BigEndian.AppendUint64(b, id)
}

func appendAlloc(b []byte, l *Lease) []byte {
	b = binary.AppendUvarint(append(b, recAlloc), l.serial)
	b = appendAddr(b, l.addr)
	b = binary.AppendVarint(b, l.use.Load())
	return appendString(b, l.name)
}

func appendEnd(b []byte, l *Lease) []byte {
	return binary.AppendUvarint(append(b, recEnd), l.serial)
}

func appendUse(b []byte, l *Lease, s savedTime) []byte {
	b = binary.AppendUvarint(append(b, recUse), l.serial)
	b = binary.AppendVarint(b, s.use)
	if s.carried {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendLore(b []byte, l *Lease) []byte {
	k := l.lore()
	b = binary.AppendUvarint(append(b, recLore), l.serial)
	b = binary.AppendUvarint(b, uint64(len(k.nexts)))
	for _, n := range k.nexts {
		b = appendAddr(appendString(b, n.node), n.Addr)
		b = binary.BigEndian.AppendUint64(b, n.Journal)
		b = binary.AppendVarint(b, n.Asked.UnixNano())
	}
	b = binary.AppendUvarint(b, uint64(len(k.facts)))
	for _, h := range k.facts {
		b = appendString(b, h.Name)
		b = binary.AppendUvarint(b, uint64(len(h.Addrs)))
		for _, a := range h.Addrs {
			b = appendAddr(b, a)
		}
	}
	return b
}

// A record is one record, read.
type record struct {
	kind    byte
	id      uint64 // of the journal
	serial  uint64
	addr    netip.Addr
	at      int64
	carried bool
	name    string
	lore    lore
}

var errShort = errors.New("a record breaks off")

// A decoder reads fields until one is missing; then err is set and all others are zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) take(n uint64) []byte {
	if d.err == nil && n > uint64(len(d.b)) {
		d.err = errShort
	}
	if d.err != nil {
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) fixed() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.err == nil && n <= 0 {
		d.err = errShort
	}
	if d.err != nil {
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	u := d.uvarint() // zigzag, as binary.AppendVarint writes it
	return int64(u>>1) ^ -int64(u&1)
}

func (d *decoder) string() string { return string(d.take(d.uvarint())) }

func (d *decoder) addr() netip.Addr {
	raw := d.take(uint64(d.byte()))
	if d.err != nil || len(raw) == 0 {
		return netip.Addr{}
	}
	a, ok := netip.AddrFromSlice(raw)
	if !ok {
		d.err = fmt.Errorf("an address of %d bytes", len(raw))
	}
	return a
}

// count reads how many things follow, each of at least one byte.
func (d *decoder) count() int {
	n := d.uvarint()
	if d.err == nil && n > uint64(len(d.b)) {
		d.err = errShort
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

func (d *decoder) lore() lore {
	var k lore
	for range d.count() {
		n := nodeNext{node: d.string(), Next: Next{Addr: d.addr(), Journal: d.fixed(), Asked: time.Unix(0, d.varint())}}
		k.nexts = append(k.nexts, n)
	}
	for range d.count() {
		h := policy.Hop{Name: d.string()}
		for range d.count() {
			h.Addrs = append(h.Addrs, d.addr())
		}
		k.facts = append(k.facts, h)
	}
	return k
}

// record reads one record.
func (d *decoder) record() (r record, err error) {
	r.kind = d.byte()
	switch r.kind {
	case recJournal:
		if v := d.byte(); d.err == nil && v != formatVersion {
			d.err = fmt.Errorf("it is of format %d, of which this program knows nothing: a newer one wrote it", v)
		}
		r.id = d.fixed()
	case recAlloc:
		r.serial, r.addr, r.at, r.name = d.uvarint(), d.addr(), d.varint(), d.string()
	case recEnd:
		r.serial = d.uvarint()
	case recUse:
		r.serial, r.at, r.carried = d.uvarint(), d.varint(), d.byte() != 0
	case recLore:
		r.serial, r.lore = d.uvarint(), d.lore()
	default:
		d.err = fmt.Errorf("no record begins with %#x", r.kind)
	}
	return r, d.err
}
