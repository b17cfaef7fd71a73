package resolver

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/wire"
)

// The bounds of facts, as they are gathered and as they travel.
const (
	maxHops  = 16
	maxAddrs = 64
)

// chain follows the CNAMEs of an answer from a name on, and gives each
// address to the name that owns it. Records of names outside the chain are no
// part of the answer. The order of the records does not matter.
func chain(name string, rrs []dns.RR) Facts {
	hops := Facts{{Name: name}}
	for addrs := 0; ; {
		h := &hops[len(hops)-1]
		next := ""
		for _, rr := range rrs {
			if !sameName(rr.Header().Name, h.Name) {
				continue
			}
			if c, ok := rr.(*dns.CNAME); ok {
				next = strings.TrimSuffix(strings.ToLower(c.Target), ".")
			} else if a, ok := addressOf(rr); ok && addrs < maxAddrs {
				h.Addrs = append(h.Addrs, a)
				addrs++
			}
		}
		if next == "" || len(hops) == maxHops || owns(hops, next) {
			return hops
		}
		hops = append(hops, policy.Hop{Name: next})
	}
}

// follow is [chain] for an answer that was not unpacked. It also reports whether
// each address and CNAME in the answer section belongs to a hop.
func follow(name string, a *wire.Answer) (hops Facts, whole bool) {
	var buf [256]byte
	at := wire.AppendName(buf[:0], a.Msg, wire.HeaderLen)
	hops = Facts{{Name: name}}
	found, all := 0, 0
	for addrs := 0; ; {
		h := &hops[len(hops)-1]
		next := 0
		all = 0
		for rr := range a.Records {
			if rr.Section > 0 {
				break
			}
			if rr.Type != wire.TypeA && rr.Type != wire.TypeAAAA && rr.Type != wire.TypeCNAME {
				if v, ok := valueOf(a.Msg, &rr); ok && len(h.Values) < maxAddrs && wire.NameIs(a.Msg, rr.Name, at) {
					h.Values = append(h.Values, v)
				}
				if (rr.Type == wire.TypeHTTPS || rr.Type == wire.TypeSVCB) && wire.NameIs(a.Msg, rr.Name, at) {
					known := len(h.Addrs)
					h.Addrs = appendHints(h.Addrs, rr.Data, maxAddrs-addrs)
					addrs += len(h.Addrs) - known
				}
				continue
			}
			all++
			if !wire.NameIs(a.Msg, rr.Name, at) {
				continue
			}
			found++
			if rr.Type == wire.TypeCNAME {
				next = rr.At + 6
			} else if ip, ok := rr.Addr(); ok && addrs < maxAddrs {
				h.Addrs = append(h.Addrs, ip)
				addrs++
			}
		}
		if next == 0 || len(hops) == maxHops {
			return hops, found == all
		}
		at = wire.AppendName(at[:0], a.Msg, next)
		var text [4 * 256]byte
		to := string(wire.AppendText(text[:0], at))
		if owns(hops, to) {
			return hops, found == all
		}
		hops = append(hops, policy.Hop{Name: to})
	}
}

// appendHints appends the addresses that the data of a service binding holds, n at
// most: some clients connect to them and ask for no others (RFC 9460 section 7.3).
func appendHints(addrs []netip.Addr, data []byte, n int) []netip.Addr {
	at := 2
	for at < len(data) && data[at] != 0 && data[at] < 0xc0 {
		at += 1 + int(data[at])
	}
	if at++; at <= len(data) && data[at-1] != 0 { // compressed, which it must not be
		at++
	}
	for at+4 <= len(data) {
		key, value := binary.BigEndian.Uint16(data[at:]), data[at+4:]
		length := int(binary.BigEndian.Uint16(data[at+2:]))
		if length > len(value) {
			break
		}
		at += 4 + length
		size := 0
		switch dns.SVCBKey(key) {
		case dns.SVCB_IPV4HINT:
			size = 4
		case dns.SVCB_IPV6HINT:
			size = 16
		}
		for value = value[:length]; size > 0 && len(value) >= size && n > 0; n-- {
			a, _ := netip.AddrFromSlice(value[:size])
			addrs, value = append(addrs, a.Unmap()), value[size:]
		}
	}
	return addrs
}

// valueOf returns what a record holds that policies can look at.
func valueOf(msg []byte, rr *wire.Record) (v policy.Value, ok bool) {
	v.Type = rr.Type
	at := rr.At + 6
	switch rr.Type {
	case wire.TypeMX:
		at += 2
	case wire.TypeNS, wire.TypePTR:
	case dns.TypeTXT:
		for rest := rr.Data; len(rest) > 0 && int(rest[0]) < len(rest); rest = rest[1+rest[0]:] {
			v.Text += string(rest[1 : 1+rest[0]])
		}
		return v, true
	default:
		return v, false
	}
	var name [256]byte
	var text [4 * 256]byte
	v.Text = string(wire.AppendText(text[:0], wire.AppendName(name[:0], msg, at)))
	return v, true
}

// owns reports whether a name is one of the hops.
func owns(hops Facts, name string) bool {
	return slices.ContainsFunc(hops, func(h policy.Hop) bool { return h.Name == name })
}

// addressOf returns the address in a record of type A or AAAA.
func addressOf(rr dns.RR) (netip.Addr, bool) {
	var b []byte
	switch rr := rr.(type) {
	case *dns.A:
		b = rr.A.To4()
	case *dns.AAAA:
		b = rr.AAAA
	}
	a, ok := netip.AddrFromSlice(b)
	return a.Unmap(), ok
}

// merged joins the facts of two answers for one name, such as that for A with
// that for AAAA.
func merged(a, b Facts) Facts {
	for _, h := range b {
		i := slices.IndexFunc(a, func(x policy.Hop) bool { return x.Name == h.Name })
		if i < 0 {
			a = append(a, h)
			continue
		}
		a[i].Addrs = slices.Clip(a[i].Addrs)
		for _, addr := range h.Addrs { // hints say what is said besides
			if !slices.Contains(a[i].Addrs, addr) {
				a[i].Addrs = append(a[i].Addrs, addr)
			}
		}
	}
	return a
}

// inChain drops the addresses and CNAMEs of an answer that belong to no hop:
// nobody judged them, and not every client looks at the owner.
func inChain(rrs []dns.RR, hops Facts) []dns.RR {
	return slices.DeleteFunc(rrs, func(rr dns.RR) bool {
		switch rr.Header().Rrtype {
		case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME:
			owner := rr.Header().Name
			return !slices.ContainsFunc(hops, func(h policy.Hop) bool { return sameName(owner, h.Name) })
		}
		return false
	})
}

// appendFacts writes facts as they travel in option 65310: for each hop the
// length of its name in one byte and the name, the number of its addresses in
// one byte, and for each address its length in one byte and itself. What goes
// beyond the bounds is left out: missing facts match nothing.
func appendFacts(b []byte, facts Facts) []byte {
	left := maxAddrs
	for _, h := range facts[:min(len(facts), maxHops)] {
		if len(h.Name) > 253 {
			continue
		}
		addrs := h.Addrs[:min(len(h.Addrs), left)]
		left -= len(addrs)
		b = append(append(b, byte(len(h.Name))), h.Name...)
		b = append(b, byte(len(addrs)))
		for _, a := range addrs {
			raw := a.Unmap().AsSlice()
			b = append(append(b, byte(len(raw))), raw...)
		}
	}
	return b
}

// parseFacts reads what appendFacts wrote.
func parseFacts(b []byte) (Facts, error) {
	var facts Facts
	r := fields{b}
	for addrs := 0; len(r.b) > 0; {
		name, ok := r.next()
		n, ok2 := r.byte()
		if addrs += int(n); !ok || !ok2 || addrs > maxAddrs || len(facts) == maxHops {
			return nil, fmt.Errorf("judged addresses: hop %d is cut short or too much", len(facts))
		}
		h := policy.Hop{Name: string(name)}
		if len(name) > 253 || h.Name != strings.ToLower(h.Name) {
			return nil, fmt.Errorf("judged addresses: %q is not a name", h.Name)
		}
		for range n {
			raw, _ := r.next()
			a, ok := netip.AddrFromSlice(raw)
			if !ok || a.Is4In6() {
				return nil, fmt.Errorf("judged addresses: %x is not an address", raw)
			}
			h.Addrs = append(h.Addrs, a)
		}
		facts = append(facts, h)
	}
	return facts, nil
}

// fields are bytes read one by one or with their length before them.
type fields struct{ b []byte }

func (r *fields) byte() (byte, bool) {
	if len(r.b) == 0 {
		return 0, false
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c, true
}

func (r *fields) next() ([]byte, bool) {
	n, ok := r.byte()
	if !ok || len(r.b) < int(n) {
		r.b = nil
		return nil, false
	}
	f := r.b[:n]
	r.b = r.b[n:]
	return f, true
}
