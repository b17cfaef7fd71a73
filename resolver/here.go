package resolver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/cache"
	"github.com/starferry/starferry/resolver/wire"
)

// here answers what is known here as if upstream had said it, so that the policy
// judges it as it does that. Where the policy wants a group to be asked, it is. A
// chain that leads out of here is left open.
func (a *asking) here(q Question, group string) (r cache.Reply, ok bool, err error) {
	if a.g.Local == nil || group != "" {
		return r, false, nil
	}
	said, ok := a.g.Local(q.Name, q.Type)
	if !ok {
		return r, false, nil
	}
	m := q.message()
	m.Rcode, m.Answer, m.Ns = said.Rcode, said.Answer, said.Ns
	if r, err = replyOf(m); err != nil {
		return r, true, fmt.Errorf("what %s says of %s: %w", said.Source, q.Name, err)
	}
	a.local = said.Target == ""
	r.Kept = true
	return r, true, nil
}

// replyOf makes a reply of records.
func replyOf(m *dns.Msg) (cache.Reply, error) {
	m.Extra, m.Response, m.Compress = nil, true, true
	b, err := m.Pack()
	if err != nil {
		return cache.Reply{}, fmt.Errorf("packing: %w", err)
	}
	ans, ok := wire.ReadAnswer(b)
	if !ok {
		return cache.Reply{}, errors.New("it makes no answer")
	}
	return cache.Reply{Answer: &ans, Life: ans.Least(uint32(blockTTL / time.Second))}, nil
}

// open reports whether an answer ends in a CNAME and leaves it to who asks to go on.
// That is how servers answer that know only their own names.
func open(r *cache.Reply) bool {
	return r.Rcode == dns.RcodeSuccess && r.Count[0] > 0 && r.Count[1] == 0 && r.Negative()
}

// finished goes on where a chain was left open, with those whose names these are,
// so that all of it is judged, and who asks need not go on.
func (a *asking) finished(ctx context.Context, q Question, r cache.Reply) (cache.Reply, error) {
	if q.Type == dns.TypeANY {
		return r, nil
	}
	hops, _ := follow(q.Name, r.Answer)
	for known := 1; known < len(hops) && len(hops) < maxHops && open(&r) && aliases(&r) < len(hops); {
		known = len(hops)
		rest, err := a.onward(ctx, q, hops[known-1].Name)
		if err != nil {
			return r, err
		}
		longer, err := joined(&r, &rest)
		if err != nil {
			return r, fmt.Errorf("the answer for %s: %w", q.Name, err)
		}
		if hops, _ = follow(q.Name, longer.Answer); len(hops) > known || !open(&longer) {
			r = longer
		}
	}
	return r, nil
}

// aliases counts the CNAMEs of an answer: where there are as many as names in its
// chain the last one leads back into it.
func aliases(r *cache.Reply) (n int) {
	for rr := range r.Records {
		if rr.Section == 0 && rr.Type == wire.TypeCNAME {
			n++
		}
	}
	return n
}

// onward asks for what a chain leads to, where the policy has that asked. Even if it
// is known here, the asked name is not: a stranger's name shall not lead inside by a
// CNAME.
func (a *asking) onward(ctx context.Context, q Question, name string) (cache.Reply, error) {
	q.Name = name
	u, err := q.upstream()
	if err != nil {
		return cache.Reply{}, err
	}
	group := a.group(q)
	r, here, err := a.here(q, group)
	if a.local = false; here {
		return r, err
	}
	return a.outside(ctx, group, u)
}

// group returns the group of resolvers that the policy wants to be asked for a name in
// a chain; empty: it goes by the name. Where the policy has another answer for it, that
// of the asked name says: a resolver that filters is not passed by.
func (a *asking) group(q Question) string {
	var d policy.Decision
	if a.decide(&policy.Query{Name: q.Name, Type: q.Type, Asker: a.asker, Now: a.now}, &d); d.NeedAnswer || d.Then.Action == policy.Allow {
		return d.Then.Upstream
	}
	return a.decision.Then.Upstream
}

// joined is the answer of a chain and of where it leads. Their TTLs are counted down.
func joined(r, rest *cache.Reply) (cache.Reply, error) {
	m, more := r.Msg(), rest.Msg()
	m.Rcode, m.Answer, m.Ns = more.Rcode&15, append(m.Answer, more.Answer...), more.Ns
	out, err := replyOf(m)
	if err != nil {
		return out, err
	}
	if rest.Life == 0 || r.Life == 0 {
		out.Life = 0
	}
	out.Rcode, out.AD, out.Kept, out.Stale, out.Why = rest.Rcode, r.AD && rest.AD, r.Kept && rest.Kept, r.Stale || rest.Stale, rest.Why
	return out, nil
}
