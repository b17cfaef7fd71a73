package policy

import "slices"

// shadowed finds a policy that another one above decides in the place of,
// whenever it is true.
func (l *linter) shadowed(i int) {
	r := &l.policy.rules[i]
	var above *Rule
	var q *Query
	tried := map[*Rule]bool{}
	_, reached := l.search(r, func(try *Query, d *Decision) bool {
		if r.when.truthFor(l.policy, try) != Yes {
			return false
		}
		if d.Rule == r {
			return true
		}
		if by := d.Rule; above == nil && by != nil && !tried[by] {
			tried[by] = true
			if l.shadows(by, r) {
				above, q = by, try
			}
		}
		return false
	})
	if reached || above == nil {
		return
	}
	hint := "put it above " + above.Name + ", or leave it out"
	l.find(r, Shadowed, q, l.show(q), hint, "never decides: %s above it, in line %d, is true of all that it is true of", above.Name, above.At.Line)
}

// shadows reports whether it is proven that by, above r, is true at each name
// that r is true of.
func (l *linter) shadows(by, r *Rule) bool {
	above := func() bool {
		for i := range l.policy.rules {
			switch &l.policy.rules[i] {
			case by:
				return true
			case r:
				return false
			}
		}
		return false
	}
	return by.when != nil && above() && (!by.own || r.own) && implies(l, r.when, by.when)
}

// belowAnswer finds a policy that decides by the name alone, and for which the
// question goes upstream all the same, since one above looks at the answer.
func (l *linter) belowAnswer(i int) {
	r := &l.policy.rules[i]
	if !slices.ContainsFunc(l.policy.rules[:i], func(r Rule) bool { return r.when != nil && r.when.sees()&atAnswer != 0 }) {
		return
	}
	if on := r.when.sees(); on&atName == 0 || on&atAnswer != 0 || r.Then.Action == Allow {
		return
	}
	var above *Rule
	q, ok := l.search(r, func(q *Query, d *Decision) bool {
		if d.Rule != r || d.Denied != "" || len(q.Answer[0].Addrs) > 0 {
			return false
		}
		ask := *q
		ask.Answered, ask.Answer = false, nil
		first, trace := l.policy.Explain(&ask)
		if !first.NeedAnswer || len(trace.Steps) == 0 {
			return false
		}
		last := trace.Steps[len(trace.Steps)-1]
		if above = last.Rule; above == nil || last.Matched == Yes {
			return false
		}
		return true
	})
	if !ok {
		return
	}
	ask := *q
	ask.Answered, ask.Answer = false, nil
	decided := l.policy.Decide(q)
	example := l.show(&ask) + "; with an answer of no address: " + decided.told()
	l.find(r, BelowAnswer, &ask, example, "put it above "+above.Name+" if nothing is to be asked upstream for these names",
		"the question goes upstream before it decides by the name: %s above it, in line %d, looks at the answer", above.Name, above.At.Line)
}

// slips finds "any" that means "all", and the other way round.
func (l *linter) slips(r *Rule) { l.slip(r, r.when) }

func (l *linter) slip(r *Rule, c *cond) {
	if possible, ok := possibilities(l, c); ok && (possible&Yes == 0 || possible&No == 0) {
		return // said already
	}
	switch {
	case c.op == opAny && c.negations():
		l.anyNegations(r, c)
	case c.op == opAll && r.Then.Action == Block:
		l.allOfLists(r, c)
	}
	if c.op != opNot { // what is below a negation means the opposite
		for i := range c.kids {
			l.slip(r, &c.kids[i])
		}
	}
}

// anyNegations finds "not A or not B" of names and answers, which is true of
// what is in A.
func (l *linter) anyNegations(r *Rule, c *cond) {
	for i := range c.kids {
		if c.kids[i].sees()&^(atName|atAnswer) != 0 {
			return
		}
	}
	var excepted *cond
	q, ok := l.search(r, func(q *Query, d *Decision) bool {
		if d.Rule != r {
			return false
		}
		for i := range c.kids {
			if excepted = &c.kids[i].kids[0]; excepted.truthFor(l.policy, q) == Yes {
				return true
			}
		}
		return false
	})
	if !ok {
		return
	}
	l.find(r, AnyNegations, q, l.show(q), "to except what is in any of them write not: {any: [...]}, or one not: with a list of values",
		"%s is true of what is in one of them and not in all: this one is %s, and the policy is true of it", c.phrase(), excepted.phrase())
}

// allOfLists finds blocks of what is in all of several lists that are for blocking.
func (l *linter) allOfLists(r *Rule, c *cond) {
	var lists []*cond
	for i := range c.kids {
		if l.use(&c.kids[i]) == useBlock {
			lists = append(lists, &c.kids[i])
		}
	}
	if len(lists) < 2 {
		return
	}
	var in *cond
	q, ok := l.search(r, func(q *Query, d *Decision) bool {
		i := slices.IndexFunc(lists, func(c *cond) bool { return c.truthFor(l.policy, q) == Yes })
		if i >= 0 {
			in = lists[i]
		}
		return i >= 0 && d.Rule != r
	})
	if !ok {
		return
	}
	l.find(r, AllOfLists, q, l.show(q), "to block what is in any of them write any: [...], or list: [...] with all of them",
		"blocks only what is in all of its lists: this one is %s, and the policy is not true of it", in.phrase())
}

// The uses of a list.
const (
	useAllow = "allow"
	useBlock = "block"
)

func (l *linter) use(c *cond) string {
	if s := l.lists[c.list()]; s != nil {
		return s.info.Use
	}
	return ""
}

// uses finds lists that are used against what they are for.
func (l *linter) uses(r *Rule) { l.used(r, r.when, false) }

func (l *linter) used(r *Rule, c *cond, negated bool) {
	for i := range c.kids {
		l.used(r, &c.kids[i], negated != (c.op == opNot))
	}
	use := l.use(c)
	blocks := (r.Then.Action == Block) != negated
	if use == "" || (use == useBlock) == blocks {
		return
	}
	q, ok := l.search(r, func(q *Query, d *Decision) bool {
		return c.truthFor(l.policy, q) == Yes && (d.Rule == r) == !negated
	})
	if !ok {
		return
	}
	says := "is true of"
	if negated {
		says = "excepts"
	}
	l.find(r, UseContradicts, q, l.show(q), "name the list that is meant, or change its use",
		"list %s is for use: %s, and this policy, which does %v, %s what is in it", c.list(), use, r.Then.Action, says)
}
