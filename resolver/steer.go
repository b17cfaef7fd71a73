package resolver

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy"
)

// steer answers a name whose traffic goes through the fleet.
func (a *asking) steer(ctx context.Context) *outcome {
	then := &a.decision.Then
	if !a.way {
		const missing = "no_way: no way to send: ask over WireGuard or from a network that routes the pool"
		return a.unsteered(ctx, then.NoWay, NoWay, edeDenied, missing)
	}
	if a.waits = a.hurry; a.waits {
		return a.unanswered("", errWaits)
	}
	r, err := a.g.Ask(ctx, then.Route, a.Question, a.hops)
	if down, code, text := isDown(r, err); down {
		return a.unsteered(ctx, then.WhenDown, Down, code, "steered by "+then.Route+": "+text)
	}
	o := a.mirrored(r)
	o.route = then.Route
	return o
}

// isDown reports whether nobody along the route could answer, which is told
// apart from an answer that says no: by an error, or by the extended error
// with which a node says so of those behind it.
func isDown(r *NodeReply, err error) (down bool, code uint16, text string) {
	switch {
	case errors.Is(err, ErrLinkDown):
		return true, edeLinkDown, err.Error()
	case err != nil:
		return true, edeNoAnswer, err.Error()
	case r.Msg.Rcode != dns.RcodeServerFailure:
		return false, 0, ""
	}
	code, text, ok := extended(r.Msg)
	return ok && (code == edeLinkDown || code == edeNoAnswer), code, text
}

// unsteered answers a steered name that cannot be steered, as its policy wants
// it.
func (a *asking) unsteered(ctx context.Context, f policy.Fallback, as Action, code uint16, why string) *outcome {
	o := (&outcome{action: as, rcode: dns.RcodeRefused}).explained(code, a.why(why))
	switch f {
	case policy.FallDirect:
		o = a.forward(ctx, as)
	case policy.FallServfail:
		o.rcode = dns.RcodeServerFailure
	}
	o.route = a.decision.Then.Route
	return o
}

// mirrored answers as the chain did: what does not exist there does not exist
// here.
func (a *asking) mirrored(r *NodeReply) *outcome {
	switch r.Msg.Rcode {
	case dns.RcodeSuccess:
	case dns.RcodeNameError:
		return &outcome{action: Steered, rcode: dns.RcodeNameError, ns: a.authority(r.Msg)}
	default:
		return a.contradicted(r)
	}
	if !a.asksAddress() {
		return a.others(r)
	}
	if len(r.Addrs) == 0 {
		return &outcome{action: Steered, ns: a.authority(r.Msg)}
	}
	addr, err := a.g.Lease(a.Question, a.asker, a.hops, r)
	if err != nil {
		return a.failed(edeOther, err.Error())
	}
	if !addr.IsValid() || addr.Is4() != (a.Type == dns.TypeA) {
		return a.failed(edeOther, fmt.Sprintf("the lease %v is of the wrong family", addr))
	}
	o := &outcome{action: Steered, answer: []dns.RR{a.address(addr, a.ttl(steeredTTL))}}
	o.addr = addr
	return o.explained(a.code(edeForged), a.why("steered by "+a.decision.Then.Route))
}

// contradicted answers when a node along the route will not or cannot: it
// judges otherwise (REFUSED), or nothing of the answer there can be believed.
func (a *asking) contradicted(r *NodeReply) *outcome {
	code, text, ok := extended(r.Msg)
	if !ok {
		code, text = edeOther, "answered "+dns.RcodeToString[r.Msg.Rcode]
	}
	if node := r.Node; node != "" && !strings.Contains(text, node) {
		text = node + ": " + text
	}
	o := a.failed(code, a.why("steered by "+a.decision.Then.Route+": "+text))
	if r.Msg.Rcode == dns.RcodeRefused {
		o.action, o.rcode = Denied, dns.RcodeRefused
	}
	return o
}

// authority returns the SOA record of a negative answer, or one made here.
func (q Question) authority(m *dns.Msg) []dns.RR {
	for _, rr := range m.Ns {
		if rr.Header().Rrtype == dns.TypeSOA {
			return []dns.RR{rr}
		}
	}
	return []dns.RR{q.soa()}
}

// others answers types other than A and AAAA: as flat as addresses are, with
// the asked name as the owner. Nothing that the additional section held is
// passed on, it has the addresses of the origin. Records of DNSSEC are none of
// a name whose addresses are ours, and it has no CNAME.
func (a *asking) others(r *NodeReply) *outcome {
	o := &outcome{action: Steered}
	for _, rr := range r.Msg.Answer {
		if rr.Header().Rrtype != a.Type || a.Type == dns.TypeCNAME || a.Type == dns.TypeDNAME || signs(a.Type) {
			continue
		}
		rr = dns.Copy(rr)
		if a.Type == dns.TypeHTTPS || a.Type == dns.TypeSVCB {
			if rr = a.binding(rr); rr == nil {
				continue
			}
		}
		h := rr.Header()
		h.Name, h.Ttl = a.Name+".", min(h.Ttl, uint32(a.ttl(steeredTTL).Seconds()))
		o.answer = append(o.answer, rr)
	}
	if len(o.answer) == 0 {
		o.ns = a.authority(r.Msg)
		return o
	}
	return o.explained(a.code(edeForged), a.why("steered by "+a.decision.Then.Route))
}

// signs reports whether a type belongs to DNSSEC.
func signs(t uint16) bool {
	switch t {
	case dns.TypeRRSIG, dns.TypeSIG, dns.TypeDNSKEY, dns.TypeDS, dns.TypeNSEC, dns.TypeNSEC3,
		dns.TypeNSEC3PARAM, dns.TypeCDS, dns.TypeCDNSKEY, dns.TypeDLV, dns.TypeKEY:
		return true
	}
	return false
}
