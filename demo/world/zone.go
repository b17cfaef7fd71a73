package world

import (
	"context"
	"fmt"
	"strings"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/listen"
)

// maxChain is how many CNAMEs a resolver follows.
const maxChain = 8

// A zone is all that a resolver of the demo knows of DNS.
type zone struct {
	sets map[string]map[uint16][]dns.RR // by name in lower case, then by type
}

// parseZone reads a master file (RFC 1035, section 5).
func parseZone(name, text string) (*zone, error) {
	z := &zone{sets: map[string]map[uint16][]dns.RR{}}
	p := dns.NewZoneParser(strings.NewReader(text), "test.", name)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		h := rr.Header()
		owner := strings.ToLower(h.Name)
		if z.sets[owner] == nil {
			z.sets[owner] = map[uint16][]dns.RR{}
		}
		z.sets[owner][h.Rrtype] = append(z.sets[owner][h.Rrtype], rr)
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return z, nil
}

// handle answers a message as a recursive resolver would.
func (z *zone) handle(_ context.Context, _ *listen.Client, req []byte) []byte {
	var q, m dns.Msg
	if q.Unpack(req) != nil || len(q.Question) != 1 {
		return nil
	}
	m.SetReply(&q)
	m.RecursionAvailable = true
	m.Compress = true
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(dns.DefaultMsgSize, opt.Do())
	}
	if q.Question[0].Qclass != dns.ClassINET {
		m.Rcode = dns.RcodeRefused
	} else {
		z.resolve(strings.ToLower(q.Question[0].Name), q.Question[0].Qtype, &m)
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// resolve follows the name to its records, or to the news that there are none
// (RFC 2308: with the SOA of the zone that says so).
func (z *zone) resolve(name string, qtype uint16, m *dns.Msg) {
	for range maxChain {
		set := z.sets[name]
		if rrs := set[qtype]; len(rrs) > 0 {
			m.Answer = append(m.Answer, rrs...)
			return
		}
		alias := set[dns.TypeCNAME]
		if len(alias) == 0 {
			z.nothing(name, m)
			return
		}
		m.Answer = append(m.Answer, alias[0])
		name = strings.ToLower(alias[0].(*dns.CNAME).Target)
	}
	m.Rcode = dns.RcodeServerFailure
}

// nothing says that the name has no such records, or does not exist.
func (z *zone) nothing(name string, m *dns.Msg) {
	if z.sets[name] == nil && !z.hasBelow(name) {
		m.Rcode = dns.RcodeNameError
	}
	for up := name; ; {
		if soa := z.sets[up][dns.TypeSOA]; len(soa) > 0 {
			m.Ns = append(m.Ns, soa[0])
			return
		}
		dot, end := dns.NextLabel(up, 0)
		if end {
			m.Rcode = dns.RcodeRefused // outside of all that it knows
			return
		}
		up = up[dot:]
	}
}

// hasBelow reports whether there are names under this one, which exists then
// without having records (RFC 8020).
func (z *zone) hasBelow(name string) bool {
	for owner := range z.sets {
		if dns.IsSubDomain(name, owner) {
			return true
		}
	}
	return false
}
