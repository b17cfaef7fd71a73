package resolver

import "net/netip"

// Ranges of IPv6 whose packets go to the IPv4 address that is written in theirs.
var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052 section 2.1
	sixToFour  = netip.MustParsePrefix("2002::/16")    // RFC 3056 section 2
	compatible = netip.MustParsePrefix("::/96")        // RFC 4291 section 2.5.5.1
)

// carried returns the IPv4 address that an IPv6 address carries; the zero one if it
// carries none. Addresses in the form of IPv4-mapped ones are IPv4's already.
func carried(a netip.Addr) netip.Addr {
	if !a.Is6() {
		return netip.Addr{}
	}
	b := a.As16()
	switch {
	case nat64.Contains(a), compatible.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:]))
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return netip.Addr{}
}
