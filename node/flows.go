package node

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/state"
	"github.com/starferry/starferry/steer"
	"github.com/starferry/starferry/tunnel"
)

// stamp marks where a counter stands. It has to be taken before the facts are
// read that the counter speaks for: a change in between is then seen as one.
func stamp(c *atomic.Uint64) tunnel.Stamp { return tunnel.Stamp{Counter: c, Value: c.Load()} }

// stamps marks what a decision depends on: the node's policy and links, and the
// device as the directory has it.
func stamps(moved *atomic.Uint64, e *state.Entry) [2]tunnel.Stamp {
	return [2]tunnel.Stamp{stamp(moved), {Counter: e.Generation, Value: e.Stamp}}
}

// FlowQuery is the question that a flow to a steered name puts to the policy: as
// A or AAAA by family, with the facts of the DNS decision. A ping is one of the family.
func FlowQuery(name string, v6 bool, facts []policy.Hop, from policy.Asker, to policy.Service, now time.Time) *policy.Query {
	if v6 && to.Proto == protoICMP {
		to.Proto = protoICMPv6
	}
	q := &policy.Query{Name: name, Type: typeOf(v6), Asker: from, Flow: &to, Answered: true, Answer: facts, Now: now}
	if len(q.Answer) == 0 {
		q.Answer = []policy.Hop{{Name: name}}
	}
	return q
}

// typeOf is the DNS type of the addresses of a family.
func typeOf(v6 bool) uint16 {
	if v6 {
		return dns.TypeAAAA
	}
	return dns.TypeA
}

// askerFrom is a device that asks, or sends flows, from a source.
func askerFrom(e *state.Entry, src netip.Addr) policy.Asker {
	return policy.Asker{Device: e.Device, Kind: e.Device.Kind, Source: src, Verdicts: e.Verdicts}
}

// verdictText says in a few words why a flow was decided as it was.
func verdictText(d policy.Decision) string {
	switch {
	case d.Denied != "":
		return d.Denied
	case d.Then.Reason != "":
		return d.Then.Reason
	case d.Then.Action == policy.Steer:
		return "steered by " + d.Then.Route
	default:
		return "the policy does not steer this flow"
	}
}

// keeps reports whether a flow that is judged again may go on where it goes: it
// stays with the node that it began with, as long as that one is of the route
// and its label is the same.
func keeps(f *tunnel.First, lease *steer.Lease, via []string) bool {
	if f.Path == nil || f.Meta == nil || !slices.Contains(via, f.Meta.Far) {
		return false
	}
	n, ok := lease.Next(f.Meta.Far)
	return ok && n.Addr == f.Path.NewDst
}
