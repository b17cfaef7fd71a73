// Package rrtype knows the names of DNS types.
package rrtype

import (
	"fmt"
	"strconv"
	"strings"
)

// Numbers are the types that have a name here (IANA, DNS parameters). It must
// not be changed.
var Numbers = map[string]uint16{
	"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "HINFO": 13, "MX": 15, "TXT": 16, "AAAA": 28, "LOC": 29, "SRV": 33,
	"NAPTR": 35, "CERT": 37, "DNAME": 39, "DS": 43, "SSHFP": 44, "RRSIG": 46, "NSEC": 47, "DNSKEY": 48, "NSEC3": 50,
	"TLSA": 52, "SMIMEA": 53, "OPENPGPKEY": 61, "SVCB": 64, "HTTPS": 65, "SPF": 99, "AXFR": 252, "ANY": 255, "URI": 256, "CAA": 257,
}

// Parse reads the name of a type in any case, or TYPE123 (RFC 3597, section 5).
func Parse(s string) (uint16, error) {
	up := strings.ToUpper(s)
	if n, ok := Numbers[up]; ok {
		return n, nil
	}
	if num, ok := strings.CutPrefix(up, "TYPE"); ok {
		if n, err := strconv.ParseUint(num, 10, 16); err == nil {
			return uint16(n), nil
		}
	}
	return 0, fmt.Errorf("%q is no DNS type", s)
}

// Name returns the name of a type, TYPE123 if it has none here.
func Name(t uint16) string {
	for name, n := range Numbers {
		if n == t {
			return name
		}
	}
	return "TYPE" + strconv.Itoa(int(t))
}
