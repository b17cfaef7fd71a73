package resolver

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy"
)

// why says which policy decided and what for. Text is what the decision says
// of itself; more comes behind it.
func (a *asking) why(more string) string {
	s := a.decision.Text()
	if s == "" && a.decision.Rule != nil {
		s = "policy " + a.decision.Rule.Name
	}
	switch {
	case s == "":
		return more
	case more == "":
		return s
	}
	return s + ": " + more
}

// ttl returns the TTL of what a policy says itself: of overrides, where that of a
// zone may be 0, and steers.
func (a *asking) ttl(otherwise time.Duration) time.Duration {
	switch then := &a.decision.Then; then.Action {
	case policy.Override, policy.Steer:
		return then.TTL
	}
	return otherwise
}

// block answers what is blocked or denied, in the form that the policy chose.
func (a *asking) block() *outcome {
	then := &a.decision.Then
	o := &outcome{action: Blocked}
	o.explained(a.code(edeBlocked), a.why(""))
	if a.decision.Denied != "" {
		o.action, o.code = Denied, edeDenied
	}
	switch then.Block {
	case policy.Drop:
		o.sent = nothing
	case policy.Truncate:
		o.sent, o.ede = short, false
	case policy.NXDomain:
		o.rcode, o.ns = dns.RcodeNameError, []dns.RR{a.soa()}
	case policy.NoData:
		o.ns = []dns.RR{a.soa()}
	case policy.ZeroIP:
		a.instead(o, []netip.Addr{netip.IPv4Unspecified()}, []netip.Addr{netip.IPv6Unspecified()})
	case policy.Page:
		four, six := split(a.g.Page)
		a.instead(o, four, six)
	case policy.Address:
		a.instead(o, then.A, then.AAAA)
	default:
		o.rcode = dns.RcodeRefused
	}
	return o
}

// split divides addresses by their family.
func split(addrs []netip.Addr) (four, six []netip.Addr) {
	for _, a := range addrs {
		if a.Is4() {
			four = append(four, a)
		} else {
			six = append(six, a)
		}
	}
	return four, six
}

// code returns the code of the extended error that the policy chose.
func (a *asking) code(otherwise uint16) uint16 {
	if c := a.decision.Then.EDE; c != 0 {
		return c
	}
	return otherwise
}

// instead answers with other addresses than upstream would, and with NODATA
// where there are none.
func (a *asking) instead(o *outcome, four, six []netip.Addr) {
	addrs := map[uint16][]netip.Addr{dns.TypeA: four, dns.TypeAAAA: six}[a.Type]
	for _, addr := range addrs {
		o.answer = append(o.answer, a.address(addr, a.ttl(blockTTL)))
	}
	if len(o.answer) == 0 {
		o.ns = []dns.RR{a.soa()}
	}
}

// override answers what the policy says itself. Where it gives a CNAME, the
// target is resolved, and not judged again.
func (a *asking) override(ctx context.Context) *outcome {
	then := &a.decision.Then
	o := (&outcome{action: Overridden}).explained(a.code(edeForged), a.why(""))
	if then.CNAME != "" {
		return a.alias(ctx, o, then.CNAME)
	}
	a.instead(o, then.A, then.AAAA)
	for _, r := range then.Records {
		if rr := a.written(r); rr != nil {
			o.answer, o.ns = append(o.answer, rr), nil
		}
	}
	if bad, ok := a.forbidden(o.answer); ok {
		return a.failed(edeOther, "rebinding: the override holds "+bad.String()+", an address of this network")
	}
	return o
}

// written makes a record of what a policy says of the asked type; nil if it is
// of another.
func (a *asking) written(r policy.Record) dns.RR {
	if r.Type != a.Type {
		return nil
	}
	h := a.header(a.ttl(steeredTTL))
	if r.Type == dns.TypeTXT {
		t := a.texts([]string{r.Text}).(*dns.TXT)
		t.Hdr = h
		return t
	}
	rr, err := dns.NewRR(a.Name + ". IN " + dns.TypeToString[r.Type] + " " + r.Text)
	if err != nil || rr == nil { // the policy was read: its text makes a record
		return nil
	}
	*rr.Header() = h
	return rr
}

// alias answers with a CNAME and what its target has of the asked type. Who asks for
// the target itself, which a policy for all names below a domain may be for too, gets
// what that has.
func (a *asking) alias(ctx context.Context, o *outcome, target string) *outcome {
	h := a.header(a.ttl(steeredTTL))
	h.Rrtype = dns.TypeCNAME
	itself := target == a.Name
	if !itself {
		o.answer = []dns.RR{&dns.CNAME{Hdr: h, Target: target + "."}}
		if a.Type == dns.TypeCNAME {
			return o
		}
	}
	q := a.Question
	q.Name = target
	r, err := a.reply(ctx, q)
	if err != nil {
		return a.unanswered("upstream does not answer for "+target, err)
	}
	hops, _ := follow(target, r.Answer)
	p := a.passed(Overridden, hops, &r, false)
	switch {
	case p.action == Failed, itself:
		return p
	case owns(hops, a.Name):
		return a.failed(edeOther, a.why("the CNAME leads back to "+a.Name))
	}
	o.rcode, o.ns = p.rcode, p.ns
	o.answer = append(o.answer, p.answer...)
	return o
}

// pointer answers questions for the reverse name of a virtual address, none
// of which ever go upstream. The address has a name for those only who would
// be steered for it: who looks through the pool shall not learn where
// colleagues go.
func (a *asking) pointer(ctx context.Context, addr netip.Addr, name string, leased bool) *outcome {
	hidden := &outcome{action: Local, rcode: dns.RcodeNameError, ns: []dns.RR{a.soa()}}
	if !leased || !a.way {
		return hidden
	}
	q := Question{Name: name, Type: dns.TypeA, Class: dns.ClassINET}
	if addr.Is6() {
		q.Type = dns.TypeAAAA
	}
	a.judge(ctx, q)
	if a.decision.Then.Action != policy.Steer {
		return hidden
	}
	o := &outcome{action: Local}
	if a.Type != dns.TypePTR && a.Type != dns.TypeANY {
		o.ns = []dns.RR{a.soa()}
		return o
	}
	h := a.header(steeredTTL)
	h.Rrtype = dns.TypePTR
	o.answer = []dns.RR{&dns.PTR{Hdr: h, Ptr: name + "."}}
	return o
}

// reverse returns the address that a name under in-addr.arpa (RFC 1035 section
// 3.5) or ip6.arpa (RFC 3596 section 2.5) stands for, if it is a whole one.
func reverse(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		l := strings.Split(rest, ".")
		if len(l) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(l[3] + "." + l[2] + "." + l[1] + "." + l[0])
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		digit := strings.IndexByte("0123456789abcdef", rest[2*i])
		if digit < 0 || i < 31 && rest[2*i+1] != '.' {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(digit << (i % 2 * 4))
	}
	return netip.AddrFrom16(b), true
}
