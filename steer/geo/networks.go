package geo

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/oschwald/maxminddb-golang/v2"
)

// ASN returns the number of the autonomous system that announces an address,
// and whether it is known. A nil database knows none.
func (db *DB) ASN(a netip.Addr) (asn uint32, known bool) {
	res, found := db.lookup(a)
	if !found {
		return 0, false
	}
	asn = db.numbers.at(res, number)
	return asn, asn != 0
}

// A memory keeps what was made of records, by their offsets, so that they are
// not decoded again, which would allocate. Of records that fall into the same
// slot it has the last one.
type memory [4096]atomic.Uint64

// at returns what decode makes of the record.
func (m *memory) at(res maxminddb.Result, decode func(maxminddb.Result) uint32) uint32 {
	key := uint64(res.Offset()) + 1 // zero is an empty slot
	slot := &m[key%uint64(len(m))]
	if was := slot.Load(); was>>32 == key {
		return uint32(was)
	}
	v := decode(res)
	if key < 1<<32 {
		slot.Store(key<<32 | uint64(v))
	}
	return v
}

// number returns the autonomous system that a record names: MaxMind and DB-IP
// write autonomous_system_number, IPinfo asn: "AS4134". Zero stands for none
// (RFC 7607).
func number(res maxminddb.Result) uint32 {
	var n uint32
	if err := res.DecodePath(&n, "autonomous_system_number"); err == nil && n != 0 {
		return n
	}
	var s string
	if err := res.DecodePath(&s, "asn"); err == nil && s != "" {
		n, _ := ParseASN(s) // what is none counts as not known
		return n
	}
	if err := res.DecodePath(&n, "asn"); err == nil {
		return n
	}
	return 0
}

// ParseASN reads the number of an autonomous system, with or without AS before
// it (RFC 5396, asplain).
func ParseASN(text string) (uint32, error) {
	digits := text
	if len(text) > 2 && strings.EqualFold(text[:2], "AS") {
		digits = text[2:]
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no number of an autonomous system", text)
	}
	return uint32(n), nil
}

// Continent returns the code of the continent that an address is on (AF, AN,
// AS, EU, NA, OC or SA), and whether it is known. A nil database knows none.
func (db *DB) Continent(a netip.Addr) (code string, known bool) {
	res, found := db.lookup(a)
	if !found {
		return "", false
	}
	i := db.continents.at(res, continent)
	return continents[i], i != 0
}

var continents = [...]string{"", "AF", "AN", "AS", "EU", "NA", "OC", "SA"}

// continent returns the index of the continent that a record names, 0 for none:
// MaxMind and DB-IP write continent.code, IPinfo continent_code, or a continent
// that is the code itself.
func continent(res maxminddb.Result) uint32 {
	for _, path := range [...][]any{{"continent", "code"}, {"continent_code"}, {"continent"}} {
		var s string
		if err := res.DecodePath(&s, path...); err != nil || !isCode(s) {
			continue
		}
		if i := slices.Index(continents[:], strings.ToUpper(s)); i > 0 {
			return uint32(i)
		}
	}
	return 0
}

// A Record is what a database says of a network: "" and 0 where it is not known.
type Record struct {
	Country string
	ASN     uint32
}

// Networks passes to each all networks that the database has a record of, IPv4
// ones as such, without those that are the same ones written once more for IPv6
// (6to4, Teredo).
func (db *DB) Networks(each func(netip.Prefix, Record)) error {
	seen := map[uintptr]Record{}
	leaves := 0
	for res := range db.reader.Networks(maxminddb.IncludeNetworksWithoutData()) {
		if err := res.Err(); err != nil {
			return fmt.Errorf("reading database: %w", err)
		}
		// A tree of binary nodes has one leaf more than nodes, which take six
		// bytes at least; one that leads back into itself could be walked for ever.
		if leaves++; leaves > db.size/6+1 {
			return errors.New("reading database: its tree has loops")
		}
		if !res.Found() {
			continue
		}
		rec, have := seen[res.Offset()]
		if !have {
			rec = Record{read(res), number(res)}
			seen[res.Offset()] = rec
		}
		each(res.Prefix(), rec)
	}
	return nil
}
