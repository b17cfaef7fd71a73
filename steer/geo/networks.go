package geo

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/oschwald/maxminddb-golang/v2"
)

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
			rec = Record{read(res), readASN(res)}
			seen[res.Offset()] = rec
		}
		each(res.Prefix(), rec)
	}
	return nil
}
