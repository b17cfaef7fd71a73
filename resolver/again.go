package resolver

import (
	"context"
	"errors"
)

// Facts asks upstream for what a policy would judge a question by, as Handle
// does; for those who explain.
func (g *Gateway) Facts(ctx context.Context, q Question) Facts {
	a := &asking{inbound: &inbound{Question: q}, g: g, known: &known{}, now: g.now()}
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
