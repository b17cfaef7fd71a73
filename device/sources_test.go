package device

import (
	"net/netip"
	"slices"
	"testing"
)

func TestSources(t *testing.T) {
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	unmapped := append(prefixes("100.72.8.0/30"), netip.Prefix{})
	for _, c := range []struct {
		d     Device
		v6    bool
		first string // none: empty
		count int
	}{
		{Device{}, false, "", 0},
		{Device{Overlay: prefixes("100.72.1.10/32", "fd00::10/128")}, false, "100.72.1.10", 1},
		{Device{Overlay: prefixes("100.72.1.10/32", "fd00::10/128")}, true, "fd00::10", 1},
		{Device{Overlay: prefixes("100.72.1.10/32")}, true, "", 0},
		{Device{LAN: prefixes("192.168.1.0/24"), Overlay: prefixes("100.72.8.0/24")}, false, "192.168.1.1", 255},
		{Device{LAN: prefixes("192.168.1.0/24")}, false, "", 0},
		{Device{LAN: prefixes("192.168.1.0/30", "10.0.0.0/8"), Overlay: unmapped}, false, "192.168.1.1", 3},
		{Device{LAN: prefixes("192.168.1.0/24"), Overlay: prefixes("100.72.8.0/25")}, false, "", 0},
		{Device{LAN: prefixes("10.0.0.0/8", "fd01::/64"), Overlay: prefixes("100.0.0.0/8", "fd00::/64")}, true, "fd01::1", 256},
		{Device{Kind: ByNetwork, Overlay: prefixes("100.72.8.0/30")}, false, "100.72.8.1", 3}, // as an egress has it
	} {
		all := slices.Collect(c.d.Sources(c.v6))
		if len(all) != c.count || c.count > 0 && all[0].String() != c.first {
			t.Errorf("%+v, v6 %v: %d from %v, want %d from %s", c.d, c.v6, len(all), all[:min(1, len(all))], c.count, c.first)
		}
	}
}

// Where half a range is another's, there are addresses in the other half.
func TestSourcesLieApart(t *testing.T) {
	d := Device{Overlay: []netip.Prefix{netip.MustParsePrefix("100.72.16.0/20")}}
	for _, half := range []string{"100.72.16.0/21", "100.72.24.0/21", "100.72.31.0/24"} {
		if !slices.ContainsFunc(slices.Collect(d.Sources(false)), netip.MustParsePrefix(half).Contains) {
			t.Errorf("none in %s", half)
		}
	}
}
