package resolver

import (
	"context"
	"errors"

	"github.com/starferry/starferry/policy"
)

// Facts asks upstream for what the policy needs to judge an asker's question, where
// it has that asked, as Handle does; for those who explain.
func (g *Gateway) Facts(ctx context.Context, q Question, who policy.Asker, undecided *policy.Decision) Facts {
	a := &asking{inbound: &inbound{Question: q}, g: g, known: &known{asker: who, policy: g.Policy()}, now: g.now(), decision: *undecided}
	return a.facts(ctx, q)
}

// Refresh asks for the origins of a name again and leases them anew, as Handle
// does; for flows to a label whose origins are too old.
func (c *Connector) Refresh(ctx context.Context, q Question) error {
	o := c.answer(ctx, &inbound{Question: q})
	switch {
	case o.addr.IsValid():
		return nil
	case o.text != "":
		return errors.New(o.text)
	}
	return errors.New("the name has no address any more")
}
