package policy

import (
	"fmt"

	"github.com/starferry/starferry/policy/match"
)

// Decide decides a query in the order that the package comment tells. A
// decision that denies nothing allocates nothing.
func (p *Policy) Decide(q *Query) Decision { return p.all.decide(q, nil) }

// Explain decides like [Policy.Decide] and also says how it got there.
func (p *Policy) Explain(q *Query) (Decision, *Trace) {
	var t Trace
	d := p.all.decide(q, &t)
	t.Decision = d.String()
	return d, &t
}

func (v *Scoped) decide(q *Query, t *Trace) Decision {
	if !v.policy.shadows {
		return v.decideAs(q, t, false)
	}
	d := v.decideAs(q, t, false)
	if !d.NeedAnswer {
		v.compare(q, t, &d)
	}
	return d
}

// compare keeps what would be decided if all policies were enforced.
func (v *Scoped) compare(q *Query, t *Trace, d *Decision) {
	would := v.decideAs(q, nil, true)
	if !would.Until.IsZero() && (d.Until.IsZero() || would.Until.Before(d.Until)) {
		d.Until = would.Until
	}
	if would.NeedAnswer || would.Rule == d.Rule {
		return
	}
	d.Shadow, d.wouldDeny = would.Rule, would.Denied != ""
	if t != nil {
		t.Shadow = d.Would() + " by " + d.Shadow.Name
	}
}

// decideAs decides as if policies in mode shadow were not there, or as if they
// were enforced. The route of a flow is itself decided: where conditions look at
// it, that is found out first, with these unknown, and then decided once more.
func (v *Scoped) decideAs(q *Query, t *Trace, shadows bool) Decision {
	if q.Flow == nil || len(v.policy.flowRoutes) == 0 {
		return v.decideBy(q, t, shadows, "")
	}
	first := v.decideBy(q, nil, shadows, "")
	if t != nil {
		t.Route = first.route()
	}
	d := v.decideBy(q, t, shadows, first.Then.Route)
	if !first.Until.IsZero() && (d.Until.IsZero() || first.Until.Before(d.Until)) {
		d.Until = first.Until
	}
	return d
}

// route says by which route a flow goes that nothing is known of but this, and why.
func (d *Decision) route() string {
	if d.Then.Route == "" {
		return "none, since nothing that looks at no route admits it"
	}
	return d.Then.Route + " by policy " + d.policy()
}

// decideBy decides with what is known of the route.
func (v *Scoped) decideBy(q *Query, t *Trace, shadows bool, route string) Decision {
	var at spot
	until := v.until
	p := v.policy
	var hashes match.Hashes
	s := scene{q: q, at: &at, until: &until, trace: t, shadows: shadows, route: route, filter: v.policy.filter, hashes: &hashes}
	if q.Flow == nil && !q.Answered {
		s.open = atAnswer
	}
	end := len(p.rules) // the place that ends the list; there the default stands
	for i := range q.hops() {
		at = spot{q.hop(i), q.alias(i)}
		w := v.walk(&s, end, i > 0)
		k, truth := w.first(&s)
		switch {
		case k == end:
		case truth != Yes:
			return s.wait(w.asks(&s))
		case !p.rules[k].ends:
			return s.chosen(&p.rules[k])
		default:
			end = k
		}
	}
	at = spot{Hop: Hop{Name: q.Name}}
	return p.ended(&s, end)
}

// asks says how the question goes upstream while the decision is open: as it
// would by the policy that decides if none of those that are open comes true.
func (w *walk) asks(s *scene) Forward {
	if !w.policy.forwards {
		return Forward{}
	}
	s.trace = nil
	k, t := w.first(s)
	for k < w.end && t != Yes {
		k, t = w.first(s)
	}
	if k < w.end {
		if r := &w.policy.rules[k]; r.demands.met(s) {
			return r.Then.Forward
		}
	}
	return Forward{}
}

func (r *Rule) matches(s *scene) Truth {
	if s.trace == nil {
		return r.truth(s)
	}
	from := s.trace.mark()
	t := r.truth(s)
	s.trace.step(r, s.at.Name, t, from)
	return t
}

func (r *Rule) truth(s *scene) Truth {
	if r.when == nil {
		return Yes
	}
	return r.when.eval(s)
}

// ended decides by what stands at the end of the list.
func (p *Policy) ended(s *scene, end int) Decision {
	if end < len(p.rules) {
		r := &p.rules[end]
		if s.open != 0 && r.Then.Action == Allow && p.chained[end].in(s) && r.demands.met(s) {
			return s.wait(r.Then.Forward)
		}
		return s.chosen(r)
	}
	then, learn := p.standing(s)
	if s.open != 0 && then.Action == Allow && p.chained[end].in(s) {
		return s.wait(then.Forward)
	}
	d := s.admitted(Decision{Then: *then, Hop: s.at.Name, Until: *s.until})
	d.Learned = learn
	return d
}

// wait leaves the decision until the answer is there.
func (s *scene) wait(f Forward) Decision {
	return Decision{NeedAnswer: true, Then: Then{Forward: f}, Hop: s.at.Name, Until: *s.until}
}

// chosen judges the demands of the policy that was chosen.
func (s *scene) chosen(r *Rule) Decision {
	from := s.trace.mark()
	denied := r.demands.judge(s)
	d := Decision{Then: r.Then, Rule: r, Hop: s.at.Name, Denied: denied, Until: *s.until}
	s.trace.judged(r, denied, from)
	if denied != "" {
		d.Then = r.deny
		return d
	}
	if d.Then.zone != nil {
		d.Then.fill(d.Hop)
	}
	return s.admitted(d)
}

// admitted holds a flow to what a steer admits.
func (s *scene) admitted(d Decision) Decision {
	f := s.q.Flow
	switch {
	case f == nil, d.Then.Action == Block:
		return d
	case d.Then.Action != Steer:
		d.Then = Then{Action: Block, EDE: EDEBlocked, Reason: fmt.Sprintf("%v admits no traffic, only a steer does", d.Then.String())}
	case !d.Then.admits(f):
		d.Then = Then{Action: Block, EDE: EDEBlocked, Reason: fmt.Sprintf("%s is not among its ports", f.String())}
	}
	return d
}
