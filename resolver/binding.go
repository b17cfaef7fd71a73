package resolver

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy"
)

// Numbers of protocols, as policies have them.
const (
	tcp = 6
	udp = 17
)

// hints returns the addresses that a service binding holds.
func hints(rr dns.RR) []netip.Addr {
	var addrs []netip.Addr
	for _, v := range parameters(rr) {
		var ips []net.IP
		switch v := v.(type) {
		case *dns.SVCBIPv4Hint:
			ips = v.Hint
		case *dns.SVCBIPv6Hint:
			ips = v.Hint
		}
		for _, ip := range ips {
			if a, ok := netip.AddrFromSlice(ip); ok {
				addrs = append(addrs, a.Unmap())
			}
		}
	}
	return addrs
}

func parameters(rr dns.RR) []dns.SVCBKeyValue {
	if s := service(rr); s != nil {
		return s.Value
	}
	return nil
}

// service returns the binding in a record of type SVCB or HTTPS, nil for
// others.
func service(rr dns.RR) *dns.SVCB {
	switch rr := rr.(type) {
	case *dns.SVCB:
		return rr
	case *dns.HTTPS:
		return &rr.SVCB
	}
	return nil
}

// binding rewrites a service binding (RFC 9460) of a steered name in place, or
// returns nil where there is nothing left to say. What would lead a client
// past the tunnel goes: aliases and other targets, the origin's addresses,
// ports that the policy does not admit, HTTP/3 where UDP is not admitted. ECH
// goes too. The name's own leases come in as hints.
func (a *asking) binding(rr dns.RR) dns.RR {
	s := service(rr)
	if s.Priority == 0 || s.Target != "." && !sameName(s.Target, a.Name) && !strings.EqualFold(s.Target, s.Hdr.Name) {
		return nil
	}
	s.Target = "."
	port := uint16(443)
	for _, v := range s.Value {
		if p, ok := v.(*dns.SVCBPort); ok {
			port = p.Port
		}
	}
	quic := a.admits(udp, port)
	if !a.admits(tcp, port) && !quic {
		return nil
	}
	kept := slices.DeleteFunc(s.Value, func(v dns.SVCBKeyValue) bool { return leaks(v) || emptied(v, quic) })
	if !slices.ContainsFunc(kept, isAlpn) && slices.ContainsFunc(kept, isNoDefault) {
		return nil // all that it offered is gone, and it says there is nothing else
	}
	s.Value = remaining(append(kept, a.hints()...))
	return rr
}

// leaks tells the parameters that a steered name must not have.
func leaks(v dns.SVCBKeyValue) bool {
	switch v.Key() {
	case dns.SVCB_ECHCONFIG, dns.SVCB_IPV4HINT, dns.SVCB_IPV6HINT:
		return true
	}
	return false
}

// emptied takes HTTP/3 out of a list of protocols if QUIC is not admitted, and
// reports whether that was all of it.
func emptied(v dns.SVCBKeyValue, quic bool) bool {
	p, ok := v.(*dns.SVCBAlpn)
	if !ok || quic {
		return false
	}
	p.Alpn = slices.DeleteFunc(p.Alpn, func(id string) bool { return id == "h3" || strings.HasPrefix(id, "h3-") })
	return len(p.Alpn) == 0
}

func isAlpn(v dns.SVCBKeyValue) bool      { return v.Key() == dns.SVCB_ALPN }
func isNoDefault(v dns.SVCBKeyValue) bool { return v.Key() == dns.SVCB_NO_DEFAULT_ALPN }

// remaining takes from the list of mandatory parameters those that are gone:
// a client would have to ignore the record (RFC 9460 section 8).
func remaining(values []dns.SVCBKeyValue) []dns.SVCBKeyValue {
	return slices.DeleteFunc(values, func(v dns.SVCBKeyValue) bool {
		m, ok := v.(*dns.SVCBMandatory)
		if !ok {
			return false
		}
		m.Code = slices.DeleteFunc(m.Code, func(k dns.SVCBKey) bool {
			return !slices.ContainsFunc(values, func(v dns.SVCBKeyValue) bool { return v.Key() == k })
		})
		return len(m.Code) == 0
	})
}

// hints returns the leases that the name has, as parameters.
func (a *asking) hints() []dns.SVCBKeyValue {
	var values []dns.SVCBKeyValue
	if a.g.Peek == nil {
		return nil
	}
	if addr, ok := a.g.Peek(a.Name, false); ok {
		values = append(values, &dns.SVCBIPv4Hint{Hint: []net.IP{addr.AsSlice()}})
	}
	if addr, ok := a.g.Peek(a.Name, true); ok {
		values = append(values, &dns.SVCBIPv6Hint{Hint: []net.IP{addr.AsSlice()}})
	}
	return values
}

// admits reports whether the policy that steers lets a port pass.
func (a *asking) admits(proto uint8, port uint16) bool {
	ports := a.decision.Then.Ports
	return len(ports) == 0 || slices.ContainsFunc(ports, func(p policy.Port) bool {
		return p.Proto == proto && p.From <= port && port <= p.To
	})
}
