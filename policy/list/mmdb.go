package list

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/starferry/starferry/steer/geo"
)

// maxDatabase bounds the size of a database of networks.
const maxDatabase = 1 << 30

// readDatabase takes the networks of a database (mmdb) whose country or
// autonomous system is selected: all that it has a record of if nothing is, as
// befits a database of one country.
func (s Source) readDatabase(r io.Reader, to *netCollector) error {
	var countries []string
	var numbers []uint32
	for _, word := range s.Select {
		if len(word) == 2 && !strings.ContainsAny(word, "0123456789") {
			countries = append(countries, strings.ToUpper(word))
			continue
		}
		n, err := geo.ParseASN(word)
		if err != nil {
			return fmt.Errorf("list %s: select: %w, and no country (two letters)", s.Name, err)
		}
		numbers = append(numbers, n)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxDatabase+1))
	if err != nil {
		return fmt.Errorf("reading list %s: %w", s.Name, err)
	}
	if len(b) > maxDatabase {
		return fmt.Errorf("list %s: a database of more than %d bytes", s.Name, maxDatabase)
	}
	db, err := geo.Open(b)
	if err != nil {
		return fmt.Errorf("list %s: %w", s.Name, err)
	}
	err = db.Networks(func(p netip.Prefix, rec geo.Record) {
		switch {
		case len(s.Select) > 0 && !slices.Contains(countries, rec.Country) && !slices.Contains(numbers, rec.ASN):
		case p.Bits() == 0:
			to.stats.Bad++
		default:
			_ = to.add(p) // which a database's prefixes are
		}
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", s.Name, err)
	}
	if to.stats.Entries == 0 {
		return fmt.Errorf("list %s: no network of %q in the database", s.Name, s.Select)
	}
	return nil
}
