// Package geomake writes small country databases in MaxMind's format, for the
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
	version := 4
	for p := range entries {
		if p.Addr().Is6() {
			version = 6
		}
	}
	tree, err := mmdbwriter.New(mmdbwriter.Options{
		DatabaseType:            "Starferry-Country",
		Description:             map[string]string{"en": "countries of a few networks"},
		IPVersion:               version,
		IncludeReservedNetworks: true,
		DisableIPv4Aliasing:     true,
	})
	if err != nil {
		return nil, fmt.Errorf("making country database: %w", err)
	}
	shortFirst := func(a, b netip.Prefix) int { return cmp.Or(a.Bits()-b.Bits(), a.Addr().Compare(b.Addr())) }
	for _, p := range slices.SortedFunc(maps.Keys(entries), shortFirst) {
		if err := insert(tree, p.Masked(), entries[p]); err != nil {
			return nil, fmt.Errorf("making country database: %s: %w", p, err)
		}
	}
	var out bytes.Buffer
	if _, err := tree.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("making country database: %w", err)
	}
	return out.Bytes(), nil
}

func insert(tree *mmdbwriter.Tree, p netip.Prefix, code string) error {
	if !p.IsValid() {
		return fmt.Errorf("no prefix")
	}
	record := mmdbtype.Map{}
	if code != "" {
		record["country"] = mmdbtype.Map{"iso_code": mmdbtype.String(code)}
	}
	n := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	return tree.Insert(n, record)
}
