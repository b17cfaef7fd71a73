package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/listen"
)

// A Connector answers the questions of egresses by asking a resolver near the
// origin. It judges nothing but whether the addresses can be true, and gives
// none of them away: its answers hold labels of its own. All fields but Record
// and Now must be there and be safe for concurrent use.
type Connector struct {
	Name    string
	Version string

	// Upstream says which egress an address is. Others are refused.
	Upstream func(from netip.Addr) (name string, ok bool)
	// Resolve asks the resolver.
	Resolve func(ctx context.Context, m *dns.Msg) (*dns.Msg, error)
	// Believe says why an address of an origin cannot be one: it is private,
	// loopback, or known to be a lie. Nil: it can.
	Believe func(netip.Addr) error
	// Lease returns the label of a name whose origin has these addresses for as
	// long as ttl. The text of an error reaches the egress.
	Lease func(q Question, origins []netip.Addr, ttl time.Duration) (netip.Addr, error)
	// HasIPv6 reports whether origins can be reached over IPv6 from here. Where
	// not, no name has an AAAA.
	HasIPv6 func() bool

	Journal func() uint64
	Record  func(*Record)
	Now     func() time.Time
}

// Handle answers one message; see [listen.Server].
func (c *Connector) Handle(ctx context.Context, from *listen.Client, req []byte) []byte {
	in, resp := parse(req)
	if in == nil {
		return resp
	}
	start := now(c.Now)
	node, ok := c.Upstream(from.Addr.Addr())
	o := refused("not an egress of this connector")
	if !ok {
		node = ""
	} else {
		o = signed(c.answer(ctx, in), c.Name, journal(c.Journal))
	}
	note(c.Record, in, o, Record{Time: start, Took: now(c.Now).Sub(start), Asker: node, Client: *from})
	return in.pack(o)
}

func (c *Connector) answer(ctx context.Context, in *inbound) *outcome {
	switch {
	case in.Class == dns.ClassCHAOS && in.Name == NodeName:
		return NodeInfo{c.Name, "connector", journal(c.Journal), c.Version}.outcome(in)
	case in.Class != dns.ClassINET || meta(in.Type) || in.Type == dns.TypeANY:
		return refused(c.Name + ": not a question for a connector")
	}
	m, err := c.Resolve(ctx, in.Question.message())
	switch {
	case err != nil:
		return unreachable(edeNoAnswer, c.Name+": "+err.Error())
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return unreachable(edeNoAnswer, c.Name+": the resolver says "+dns.RcodeToString[m.Rcode])
	case m.Rcode == dns.RcodeNameError:
		return &outcome{action: Steered, rcode: m.Rcode, ns: in.authority(m)}
	case !in.asksAddress():
		return &outcome{action: Steered, answer: m.Answer, ns: m.Ns}
	}
	return c.label(in, m)
}

// label leases a label for the addresses at the end of the answer's chain.
func (c *Connector) label(in *inbound, m *dns.Msg) *outcome {
	origins, ttl := ends(in.Question, m)
	if len(origins) == 0 || in.Type == dns.TypeAAAA && !c.HasIPv6() {
		return &outcome{action: Steered, ns: in.authority(m)}
	}
	believed, err := c.believed(origins)
	if err != nil {
		return c.failed(fmt.Errorf("not believed: %w", err))
	}
	addr, err := c.Lease(in.Question, believed, ttl)
	if err != nil {
		return c.failed(err)
	}
	o := &outcome{action: Steered, answer: []dns.RR{in.address(addr, min(ttl, steeredTTL))}}
	o.addr = addr
	return o
}

func (c *Connector) failed(err error) *outcome {
	return (&outcome{action: Failed, rcode: dns.RcodeServerFailure}).explained(edeOther, c.Name+": "+err.Error())
}

// believed returns the addresses that can be true, or why none of them can.
func (c *Connector) believed(origins []netip.Addr) (good []netip.Addr, why error) {
	for _, a := range origins {
		if err := c.Believe(a); err == nil {
			good = append(good, a)
		} else if why == nil {
			why = fmt.Errorf("%v: %w", a, err)
		}
	}
	if len(good) > 0 {
		return good, nil
	}
	return nil, why
}

// ends returns the addresses that the chain of an answer leads to, and how
// long that is good.
func ends(q Question, m *dns.Msg) (origins []netip.Addr, ttl time.Duration) {
	hops := chain(q.Name, m.Answer)
	for _, h := range hops {
		for _, a := range h.Addrs {
			if a.Is4() == (q.Type == dns.TypeA) {
				origins = append(origins, a)
			}
		}
	}
	ttl = 24 * time.Hour
	for _, rr := range inChain(m.Answer, hops) {
		ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
	}
	return origins, ttl
}
