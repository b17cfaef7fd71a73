// Package geomake writes small databases of countries and autonomous systems in MaxMind's format, for the
// demonstration and for tests. What is written is read by package geo.
package geomake

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// Make returns a database in which each prefix has the given country code. A
// longer prefix overrides a shorter one around it; an empty code makes a record
// that names no country. Without an IPv6 prefix the database is one of IPv4
// only, as many of those in use are.
func Make(entries map[netip.Prefix]string) ([]byte, error) {
	places := map[netip.Prefix]Place{}
	for p, code := range entries {
		places[p] = Place{Country: code}
	}
	return MakePlaces(places)
}

// A Place is what a record of a database of countries says: codes, "" for what
// it does not say.
type Place struct{ Country, Continent string }

// MakePlaces does what [Make] does for records that may name a continent too.
func MakePlaces(entries map[netip.Prefix]Place) ([]byte, error) {
	return write("Starferry-Country", entries, func(p Place) mmdbtype.Map {
		record := mmdbtype.Map{}
		if p.Country != "" {
			record["country"] = mmdbtype.Map{"iso_code": mmdbtype.String(p.Country)}
		}
		if p.Continent != "" {
			record["continent"] = mmdbtype.Map{"code": mmdbtype.String(p.Continent)}
		}
		return record
	})
}

// MakeASN does what [Make] does for the numbers of autonomous systems.
func MakeASN(entries map[netip.Prefix]uint32) ([]byte, error) {
	return write("Starferry-ASN", entries, func(n uint32) mmdbtype.Map {
		return mmdbtype.Map{"autonomous_system_number": mmdbtype.Uint32(n)}
	})
}

func write[T any](kind string, entries map[netip.Prefix]T, record func(T) mmdbtype.Map) ([]byte, error) {
	version := 4
	for p := range entries {
		if p.Addr().Is6() {
			version = 6
		}
	}
	tree, err := mmdbwriter.New(mmdbwriter.Options{
		DatabaseType:            kind,
		Description:             map[string]string{"en": "a few networks"},
		IPVersion:               version,
		IncludeReservedNetworks: true,
		DisableIPv4Aliasing:     true,
	})
	if err != nil {
		return nil, fmt.Errorf("making %s database: %w", kind, err)
	}
	shortFirst := func(a, b netip.Prefix) int { return cmp.Or(a.Bits()-b.Bits(), a.Addr().Compare(b.Addr())) }
	for _, p := range slices.SortedFunc(maps.Keys(entries), shortFirst) {
		if err := insert(tree, p.Masked(), record(entries[p])); err != nil {
			return nil, fmt.Errorf("making %s database: %s: %w", kind, p, err)
		}
	}
	var out bytes.Buffer
	if _, err := tree.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("making %s database: %w", kind, err)
	}
	return out.Bytes(), nil
}

func insert(tree *mmdbwriter.Tree, p netip.Prefix, record mmdbtype.Map) error {
	if !p.IsValid() {
		return fmt.Errorf("no prefix")
	}
	n := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	return tree.Insert(n, record)
}
