// Package geo says in which country and on which continent an address is, and
// which autonomous system announces it, by databases in MaxMind's format (mmdb).
//
// It tells "elsewhere" from "not known": an address that the database has no
// record of, whose record names no country, or whose whole family the database
// lacks (many hold IPv4 only) has no known country, and a policy must not take
// that for a country other than the one that it asks about. It is the same with
// continents and autonomous systems.
package geo

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/oschwald/maxminddb-golang/v2"
)

// slots is how many records are remembered. A country database has a few
// hundred different ones; those of cities and of autonomous systems have many
// more, of which those that were asked for lately are kept.
const slots = 4096

// A DB is an open database, safe for concurrent use. It is read from memory
// and never changes; for a newer one open that and swap.
type DB struct {
	reader *maxminddb.Reader
	size   int // in bytes
	known  *[slots]atomic.Pointer[record]
}

// A record is what is read of one. It is constant.
type record struct {
	offset             uintptr // in the database
	country, continent string  // empty: not known
	asn                uint32  // 0: not known (RFC 7607)
}

// Open opens a database that is held in memory. The bytes must not be changed
// while it is in use.
func Open(b []byte) (*DB, error) {
	r, err := maxminddb.OpenBytes(b)
	if err != nil {
		return nil, fmt.Errorf("opening country database: %w", err)
	}
	return &DB{reader: r, size: len(b), known: new([slots]atomic.Pointer[record])}, nil
}

// Type returns what the database calls itself, such as GeoLite2-Country.
func (db *DB) Type() string { return db.reader.Metadata.DatabaseType }

// Country returns the country code of an address (ISO 3166-1 alpha-2, upper
// case), and whether it is known. A nil database knows none.
func (db *DB) Country(a netip.Addr) (code string, known bool) {
	r := db.record(a)
	return r.country, r.country != ""
}

// Continent returns the code of the continent of an address (AF, AN, AS, EU,
// NA, OC, SA), and whether it is known: from the record or, where it does not
// say, by the country.
func (db *DB) Continent(a netip.Addr) (code string, known bool) {
	r := db.record(a)
	return r.continent, r.continent != ""
}

// ASN returns the number of the autonomous system that an address belongs to,
// and whether it is known.
func (db *DB) ASN(a netip.Addr) (n uint32, known bool) {
	r := db.record(a)
	return r.asn, r.asn != 0
}

// nowhere is the record of addresses that have none.
var nowhere record

func (db *DB) record(a netip.Addr) *record {
	if db == nil || !a.IsValid() {
		return &nowhere
	}
	a = a.Unmap()
	if a.Is6() && db.reader.Metadata.IPVersion == 4 {
		return &nowhere
	}
	res := db.reader.Lookup(a)
	if res.Err() != nil || !res.Found() {
		return &nowhere
	}
	slot := &db.known[res.Offset()%slots]
	r := slot.Load()
	if r == nil || r.offset != res.Offset() {
		r = &record{offset: res.Offset(), country: read(res), asn: readASN(res)}
		r.continent = readContinent(res, r.country)
		slot.Store(r)
	}
	return r
}

// read returns the country code that a record holds, in whichever of the
// shapes in use: MaxMind, DB-IP and chnroutes write country.iso_code, with
// registered_country where the former is missing; IPinfo writes country_code or
// a country that is the code itself; sing-geoip the bare code, and others a
// list of tags whose first is the code. Anything else gives "".
func read(res maxminddb.Result) string {
	for _, field := range []string{"country", "registered_country"} {
		var s string
		if err := res.DecodePath(&s, field, "iso_code"); err == nil && isCode(s) {
			return strings.ToUpper(s)
		}
	}
	var record any
	if err := res.Decode(&record); err != nil {
		return ""
	}
	switch v := record.(type) {
	case string:
		return code(v)
	case []any:
		if len(v) > 0 {
			return code(v[0])
		}
	case map[string]any:
		if c := code(v["country_code"]); c != "" {
			return c
		}
		return code(v["country"])
	}
	return ""
}

// readContinent returns the continent that a record says, as MaxMind, DB-IP and
// IPinfo write it, or that of the country.
func readContinent(res maxminddb.Result, country string) string {
	for _, path := range [][]any{{"continent", "code"}, {"continent_code"}, {"continent"}} {
		var s string
		if err := res.DecodePath(&s, path...); err == nil && continents[strings.ToUpper(s)] != "" {
			return strings.ToUpper(s)
		}
	}
	return ContinentOf(country)
}

// readASN returns the number of an autonomous system: MaxMind and DB-IP write
// autonomous_system_number, IPinfo asn: "AS4134". 0 is none (RFC 7607).
func readASN(res maxminddb.Result) uint32 {
	var n uint32
	if err := res.DecodePath(&n, "autonomous_system_number"); err == nil && n != 0 {
		return n
	}
	var s string
	if err := res.DecodePath(&s, "asn"); err == nil {
		n, _ := ParseASN(s) // what is none counts as not known
		return n
	}
	if err := res.DecodePath(&n, "asn"); err == nil {
		return n
	}
	return 0
}

func code(v any) string {
	if s, ok := v.(string); ok && isCode(s) {
		return strings.ToUpper(s)
	}
	return ""
}

func isCode(s string) bool {
	letter := func(c byte) bool { c |= 0x20; return c >= 'a' && c <= 'z' }
	return len(s) == 2 && letter(s[0]) && letter(s[1])
}
