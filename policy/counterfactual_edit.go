package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/starferry/starferry/internal/rrtype"
	"github.com/starferry/starferry/policy/match"
)

// approvalCauses are approvals that have expired, and could be renewed.
func (p *Policy) approvalCauses(q *Query) (out []cause) {
	for i := range p.rules {
		r := &p.rules[i]
		if r.demands == nil || r.demands.approval == nil || q.Now.Before(r.demands.approval.until) {
			continue
		}
		out = append(out, cause{text: fmt.Sprintf("the approval of policy %s by %s is renewed", r.Name, r.demands.approval.by), edit: func(e *Rule) {
			if e.Name == r.Name {
				d := *e.demands
				d.approval = nil
				e.demands = &d
			}
		}})
	}
	return out
}

// shadowCauses are policies in shadow, which could be enforced.
func (p *Policy) shadowCauses() (out []cause) {
	for i := range p.rules {
		if name := p.rules[i].Name; p.rules[i].shadow {
			out = append(out, cause{text: "policy " + name + " is enforced, not in shadow", edit: func(e *Rule) {
				if e.Name == name {
					e.shadow = false
				}
			}})
		}
	}
	return out
}

// A target is what a condition on names or answers wants. One that is a list is
// the same wherever it is looked into; what is written in a policy is its own.
type target struct {
	of   op
	list string
	rule string
	text string // as people say it
}

func targetOf(r *Rule, c *cond) target {
	if name := c.ofList(); name != "" {
		return target{of: c.op, list: name, text: "in list " + name}
	}
	t := target{of: c.op, text: c.text}
	if c.excepts() {
		t.text = "excepted from list " + c.words[0]
		return t
	}
	if c.op == opName || c.op == opRegexp {
		t.rule, t.text = r.Name, "among the names of policy "+r.Name+" ("+c.text+")"
	}
	return t
}

// A wanting is a target with the policy that wants it first, and all conditions
// of it: a list with rules of several kinds has one for each.
type wanting struct {
	target
	by    *Rule
	conds []*cond
}

// targets are those of conditions on names and answers.
func (p *Policy) targets() (out []wanting) {
	seen := map[target]int{}
	for i := range p.rules {
		r := &p.rules[i]
		r.condition().each(func(c *cond) {
			if sights[c.op]&(atName|atAnswer) == 0 {
				return
			}
			t := targetOf(r, c)
			at, ok := seen[t]
			if !ok {
				at, seen[t] = len(out), len(out)
				out = append(out, wanting{target: t, by: r})
			}
			out[at].conds = append(out[at].conds, c)
		})
	}
	return out
}

// changeTo makes an edit of all conditions of a target.
func (t target) changeTo(change func(*cond)) func(*Rule) {
	return func(r *Rule) {
		if r.when == nil {
			return
		}
		r.when.each(func(c *cond) {
			if sights[c.op]&(atName|atAnswer) != 0 && targetOf(r, c) == t {
				change(c)
			}
		})
	}
}

// outOf are lists, names, networks and places that names and addresses of the
// question are in, and could be taken out of.
func (p *Policy) outOf(q *Query) (out []cause) {
	for _, t := range p.targets() {
		in := t.trueOf(p, q)
		if in == nil {
			continue
		}
		what, c := strings.Join(in, " and "), t.conds[0]
		switch {
		case c.op == opRecord:
			what = rrtype.Name(c.rare.record) + " of " + what
		case sights[c.op] == atAnswer:
			what = "addresses of " + what
		}
		out = append(out, cause{text: what + " not " + t.text, edit: t.changeTo((*cond).empty)})
	}
	return out
}

// empty makes a condition false of all that there is.
func (c *cond) empty() {
	c.names, c.nets = nil, nil
	if c.rule() == nil { // of which the words tell the list
		c.words = nil
	}
	switch c.op {
	case opRegexp:
		c.op, c.entries = opName, []entry{}
	case opRecord:
		c.rare = &rare{record: c.rare.record}
	case opCountry, opContinent, opASN:
		c.op = opNetwork // in none, which no database can be made to say
	}
}

// trueOf returns the names of the question that one of the conditions is true of.
func (w *wanting) trueOf(p *Policy, q *Query) (in []string) {
	for i := range q.hops() {
		at := spot{q.hop(i), q.alias(i)}
		asked := Query{Name: at.Name, Answered: true, Answer: []Hop{at.Hop}, Now: q.Now}
		if at.alias != "" {
			asked.Answer = append(asked.Answer, Hop{Name: at.alias})
		}
		is := func(c *cond) bool { return c.truthFor(p, &asked) == Yes }
		if !slices.Contains(in, at.Name) && slices.ContainsFunc(w.conds, is) {
			in = append(in, at.Name)
		}
	}
	return in
}

// into are lists that no name of the question is in, and the asked one could be;
// and countries that its addresses could be in. Names that are written in a
// policy which allows or steers are such where nothing but who asks has decided:
// that is what those who may ask for little are told.
func (p *Policy) into(q *Query) (out []cause) {
	var b match.NamesBuilder
	if b.AddKind(match.Exact, q.Name) != nil {
		return nil
	}
	alone, d := b.Build(), p.Decide(q)
	anyName := d.Rule == nil || d.Rule.ends
	for _, t := range p.targets() {
		c := t.conds[0]
		switch {
		case t.trueOf(p, q) != nil:
		case t.rule != "" && (!anyName || t.by.Then.Action == Block || t.by.Then.Action == Override):
		case c.op == opName || c.op == opRegexp:
			out = append(out, cause{text: q.Name + " " + t.text, edit: t.changeTo(func(c *cond) {
				c.op, c.names, c.entries = opName, alone, nil
			})})
		case c.op == opCountry:
			out = append(out, p.moved(q, c.words[0])...)
		}
	}
	return out
}

// moved is the cause of addresses that are in a country; none if there are none.
func (p *Policy) moved(q *Query, country string) []cause {
	var b match.NetworksBuilder
	var of []string
	for i := range q.hops() {
		h := q.hop(i)
		for _, a := range h.Addrs {
			if b.Add(netip.PrefixFrom(a, a.BitLen())) == nil && !slices.Contains(of, h.Name) {
				of = append(of, h.Name)
			}
		}
	}
	if of == nil {
		return nil
	}
	all := b.Build()
	in := place{Country: country}
	return []cause{{text: "addresses of " + strings.Join(of, " and ") + " in " + country, field: "place", edit: func(r *Rule) {
		if r.when == nil {
			return
		}
		r.when.each(func(c *cond) {
			if c.op == opCountry || c.op == opContinent {
				yes := in.is(c)
				c.op, c.nets = opNetwork, nil
				if yes {
					c.nets = all
				}
			}
		})
	}}}
}
