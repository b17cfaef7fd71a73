package resolver

import (
	"context"
	"fmt"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/cache"
	"github.com/starferry/starferry/resolver/local"
	"github.com/starferry/starferry/resolver/wire"
)

// here answers what is known here as if upstream had said it, so that the policy
// judges it as it does that. Where the policy wants a group to be asked, it is. A
// chain that leads out of here goes on upstream.
func (a *asking) here(ctx context.Context, q Question) (r cache.Reply, ok bool, err error) {
	if a.g.Local == nil || a.decision.Then.Upstream != "" {
		return r, false, nil
	}
	said, ok := a.g.Local(q.Name, q.Type)
	if !ok {
		return r, false, nil
	}
	m := q.message()
	m.Extra, m.Response, m.Rcode, m.Compress = nil, true, said.Rcode, true
	m.Answer, m.Ns = said.Answer, said.Ns
	if said.Target != "" {
		if err := a.beyond(ctx, q, said, m); err != nil {
			return r, true, err
		}
	} else {
		a.local = true
	}
	b, err := m.Pack()
	if err != nil {
		return r, true, fmt.Errorf("packing what %s says of %s: %w", said.Source, q.Name, err)
	}
	ans, ok := wire.ReadAnswer(b)
	if !ok {
		return r, true, fmt.Errorf("what %s says of %s makes no answer", said.Source, q.Name)
	}
	return cache.Reply{Answer: &ans, Life: ans.Least(uint32(blockTTL / time.Second)), Kept: true}, true, nil
}

// beyond adds to an answer what upstream has at the end of its chain.
func (a *asking) beyond(ctx context.Context, q Question, said local.Answer, m *dns.Msg) error {
	q.Name = said.Target
	u, err := q.upstream()
	if err != nil {
		return err
	}
	r, err := a.g.Upstream(ctx, "", u)
	if err != nil {
		return err
	}
	rest := r.Msg()
	m.Rcode, m.Answer, m.Ns = rest.Rcode, append(m.Answer, rest.Answer...), rest.Ns
	return nil
}
