package local

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// A special is an entry of the special-use registries.
type special struct {
	name   string
	kind   kind
	source string
	ttl    uint32
	parent bool // DS of the name itself is the parent's to answer
}

// A kind is how a special name is answered.
type kind uint8

const (
	absent   kind = iota // no name is there, nor the special one: NXDOMAIN
	hollow               // an empty zone: its apex has SOA and NS, nothing is under it
	silent               // all names exist, without data
	loopback             // all names are this host
	pointer              // a reverse name of this host
)

// TTLs of special answers. For the reverse zones it is that of RFC 6303 section
// 3. Names that companies have taken before they knew better get a short one: an
// operator who claims one shall not wait for hours.
const (
	longTTL  = 10800
	shortTTL = 600
)

// SpecialUse returns the special-use names that are answered here, each with
// the document that asks for it. Not among them are those that caches shall not
// treat in a special way: example, example.com and their like (RFC 6761 section
// 6.5), and ipv4only.arpa, which has real records (RFC 7050; only DNS64 would
// have to know it). Names by which browsers ask what a network wants, as
// use-application-dns.net, are a matter of policy.
func SpecialUse() map[string]string {
	out := map[string]string{}
	for _, s := range specials() {
		out[s.name] = s.source
	}
	return out
}

// loopback4 is the reverse name of 127.0.0.1. It lies in an empty zone.
const loopback4 = "1.0.0.127.in-addr.arpa"

func specials() []*special {
	all := []*special{
		{"localhost", loopback, "RFC 6761 section 6.3", longTTL, false},
		{"invalid", absent, "RFC 6761 section 6.4", longTTL, false},
		{"test", absent, "RFC 6761 section 6.2", shortTTL, false},
		{"local", absent, "RFC 6762 section 22.1", shortTTL, false},
		{"onion", absent, "RFC 7686 section 2", shortTTL, false},
		// RFC 8375 section 4 has it as an empty zone, and DS of it forwarded.
		{"home.arpa", hollow, "RFC 8375 section 4", shortTTL, true},
		{"service.arpa", hollow, "RFC 9665", shortTTL, true},
		{"empty.as112.arpa", hollow, "RFC 7535", longTTL, true},
		// No data, not NXDOMAIN: that is how a resolver says that it designates none.
		{"resolver.arpa", silent, "RFC 9462 section 4", shortTTL, true},
		// These two have what every host says of itself (RFC 1912 section 4.1).
		{loopback4, pointer, "RFC 6303 section 4.2", longTTL, false},
		{reverse(netip.IPv6Loopback()), pointer, "RFC 6303 section 4.3", longTTL, true},
	}
	for source, names := range emptyReverse() {
		for _, n := range names {
			all = append(all, &special{n, hollow, source, longTTL, true})
		}
	}
	return all
}

// emptyReverse returns the reverse zones that are empty, by their source.
func emptyReverse() map[string][]string {
	private := []string{"10.in-addr.arpa", "168.192.in-addr.arpa"}
	for n := 16; n < 32; n++ {
		private = append(private, fmt.Sprintf("%d.172.in-addr.arpa", n))
	}
	var shared []string
	for n := 64; n < 128; n++ {
		shared = append(shared, fmt.Sprintf("%d.100.in-addr.arpa", n))
	}
	return map[string][]string{
		"RFC 6303 section 4.1": private,
		"RFC 6303 section 4.2": {
			"0.in-addr.arpa", "127.in-addr.arpa", "254.169.in-addr.arpa",
			"2.0.192.in-addr.arpa", "100.51.198.in-addr.arpa", "113.0.203.in-addr.arpa", "255.255.255.255.in-addr.arpa",
		},
		"RFC 6303 section 4.3": {reverse(netip.IPv6Unspecified())},
		"RFC 6303 section 4.4": {"d.f.ip6.arpa"},
		"RFC 6303 section 4.5": {"8.e.f.ip6.arpa", "9.e.f.ip6.arpa", "a.e.f.ip6.arpa", "b.e.f.ip6.arpa"},
		"RFC 6303 section 4.6": {"8.b.d.0.1.0.0.2.ip6.arpa"},
		"RFC 7793 section 3":   shared,
	}
}

// reverse returns the reverse name of an address.
func reverse(a netip.Addr) string {
	name, _ := dns.ReverseAddr(a.Unmap().WithZone("").String()) // an address is one
	return strings.TrimSuffix(name, ".")
}

// empty reports whether names under this one do not exist.
func (s *special) empty() bool { return s != nil && (s.kind == absent || s.kind == hollow) }

func (s *special) nothing(a *Answer, rcode int) { a.end(rcode, soa(s.name, s.ttl), s.source) }

func (s *special) answer(a *Answer, name string, qtype uint16) {
	if rr := s.record(name, qtype); rr != nil {
		a.add([]dns.RR{rr}, "", qtype, s.source)
		return
	}
	rcode := dns.RcodeSuccess
	if s.kind == absent || name != s.name && (s.kind == hollow || s.kind == pointer) {
		rcode = dns.RcodeNameError
	}
	s.nothing(a, rcode)
}

// record returns the record that there is of a type, nil if there is none.
func (s *special) record(name string, qtype uint16) dns.RR {
	if s.kind == absent {
		return nil
	}
	if name == s.name {
		switch qtype {
		case dns.TypeSOA:
			return soa(name, s.ttl)
		case dns.TypeNS:
			return &dns.NS{Hdr: header(name, qtype, s.ttl), Ns: name + "."}
		}
	}
	switch {
	case s.kind == loopback && qtype == dns.TypeA:
		return &dns.A{Hdr: header(name, qtype, s.ttl), A: netip.AddrFrom4([4]byte{127, 0, 0, 1}).AsSlice()}
	case s.kind == loopback && qtype == dns.TypeAAAA:
		return &dns.AAAA{Hdr: header(name, qtype, s.ttl), AAAA: netip.IPv6Loopback().AsSlice()}
	case s.kind == pointer && qtype == dns.TypePTR && name == s.name:
		return &dns.PTR{Hdr: header(name, qtype, s.ttl), Ptr: "localhost."}
	}
	return nil
}
