// Package geo says in which country, on which continent and in whose network an
// address is, by a database in MaxMind's format (mmdb).
//
// It tells "elsewhere" from "not known": an address that the database has no
// record of, whose record names no country, or whose whole family the database
// lacks (many hold IPv4 only) has no known country, and a policy must not take
// that for a country other than the one that it asks about. The same goes for
// continents and autonomous systems.
package geo

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/oschwald/maxminddb-golang/v2"
)

// maxCodes bounds how many records' codes are remembered. A country database
// has a few hundred different records; one of cities, which can be used as
// well, has many more, and those beyond the bound are read each time.
const maxCodes = 4096

// A DB is an open database, safe for concurrent use. It is read from memory
// and never changes; for a newer one open that and swap.
type DB struct {
	reader *maxminddb.Reader
	size   int                                // in bytes
	codes  atomic.Pointer[map[uintptr]string] // by the record's offset; replaced, never changed

	numbers, continents memory
}

// Open opens a database that is held in memory. The bytes must not be changed
// while it is in use.
func Open(b []byte) (*DB, error) {
	r, err := maxminddb.OpenBytes(b)
	if err != nil {
		return nil, fmt.Errorf("opening country database: %w", err)
	}
	db := &DB{reader: r, size: len(b)}
	db.codes.Store(&map[uintptr]string{})
	return db, nil
}

// Type returns what the database calls itself, such as GeoLite2-Country.
func (db *DB) Type() string { return db.reader.Metadata.DatabaseType }

// Country returns the country code of an address (ISO 3166-1 alpha-2, upper
// case), and whether it is known. A nil database knows none.
func (db *DB) Country(a netip.Addr) (code string, known bool) {
	res, found := db.lookup(a)
	if !found {
		return "", false
	}
	codes := *db.codes.Load()
	code, seen := codes[res.Offset()]
	if !seen {
		code = read(res)
		db.remember(res.Offset(), code)
	}
	return code, code != ""
}

// lookup returns the record of an address, if there is one.
func (db *DB) lookup(a netip.Addr) (res maxminddb.Result, found bool) {
	if db == nil || !a.IsValid() {
		return res, false
	}
	a = a.Unmap()
	if a.Is6() && db.reader.Metadata.IPVersion == 4 {
		return res, false
	}
	res = db.reader.Lookup(a)
	return res, res.Err() == nil && res.Found()
}

func (db *DB) remember(offset uintptr, code string) {
	for {
		old := db.codes.Load()
		if len(*old) >= maxCodes {
			return
		}
		next := maps.Clone(*old)
		next[offset] = code
		if db.codes.CompareAndSwap(old, &next) {
			return
		}
	}
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
