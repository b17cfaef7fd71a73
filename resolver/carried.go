package resolver

import "net/netip"

// Ranges of IPv6 whose packets go to the IPv4 address that is written in theirs.
var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052 section 2.1
	ownNAT64   = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056 section 2
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380 section 4
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291 section 2.5.5.1
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765 section 2.1
)

// carried returns the IPv4 addresses that an IPv6 address carries; zero ones in
// their place where there are fewer. Addresses in the form of IPv4-mapped ones are
// IPv4's already.
//
// How long the prefixes are that a network takes of 64:ff9b:1::/48 it alone knows.
// Those in use have 64 or 96 bits (RFC 8215 section 3), and both are looked for.
func carried(a netip.Addr) (within [2]netip.Addr) {
	if !a.Is6() {
		return within
	}
	b := a.As16()
	switch {
	case nat64.Contains(a), compatible.Contains(a), translated.Contains(a):
		within[0] = netip.AddrFrom4([4]byte(b[12:]))
	case ownNAT64.Contains(a): // the u octet lies before what follows 64 bits (RFC 6052 section 2.2)
		within = [2]netip.Addr{host(b[9:13]), host(b[12:16])}
	case sixToFour.Contains(a):
		within[0] = netip.AddrFrom4([4]byte(b[2:6]))
	case teredo.Contains(a): // its server, and the client, all of whose bits are turned over
		within = [2]netip.Addr{netip.AddrFrom4([4]byte(b[4:8])), netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})}
	}
	return within
}

// host is the address in four bytes, unless no host can have it: that is what an
// address looks like which is written with a prefix of another length.
func host(b []byte) netip.Addr {
	if b[0] == 0 || b[1]|b[2]|b[3] == 0 {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(b))
}
