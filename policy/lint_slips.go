package policy

import "slices"

// slips finds "any" that means "all", and the other way round.
func (l *linter) slips(r *Rule) { l.slip(r, r.when) }

func (l *linter) slip(r *Rule, c *cond) {
	if c.ofRules() {
		return // nobody wrote what it is made of
	}
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

// anyNegations finds "not A or not B" of names and answers, or of one thing
// about the asker, which is true of what is in A. Of different things, such as
// who asks and how the device stands, it says what it is meant to.
func (l *linter) anyNegations(r *Rule, c *cond) {
	if c.sees()&^(atName|atAnswer) != 0 && !c.ofOneThing() {
		return
	}
	var excepted *cond
	q, ok := l.search([]*Rule{r}, func(q *Query, d *Decision) bool {
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
	l.find(r, AnyNegations, q, l.show(r, q), "to except what is in any of them write not: {any: [...]}, or one not: with a list of values; if it is meant so, not: {all: [...]} says it",
		"%s is true of what is in one of them and not in all: this one is %s, and the policy is true of it", c.phrase(), excepted.phrase())
}

// ofOneThing reports whether all that is looked at is the same: the asker's
// groups, the posture. Schedules are not: one may say the days and one the hours.
func (c *cond) ofOneThing() bool {
	seen := map[op]bool{}
	c.each(func(leaf *cond) {
		if len(leaf.kids) == 0 {
			seen[leaf.op] = true
		}
	})
	return len(seen) == 1 && !seen[opSchedule]
}

// allOfLists finds blocks of what is in all of several lists.
func (l *linter) allOfLists(r *Rule, c *cond) {
	lists := l.joinedLists(c)
	if len(lists) < 2 {
		return
	}
	var in *cond
	q, ok := l.search([]*Rule{r}, func(q *Query, d *Decision) bool {
		i := slices.IndexFunc(lists, func(c *cond) bool { return c.truthFor(l.policy, q) == Yes })
		if i >= 0 {
			in = lists[i]
		}
		return i >= 0 && d.Rule != r
	})
	if !ok {
		return
	}
	l.find(r, AllOfLists, q, l.show(r, q), "to block what is in any of them write any: [...], or list: [...] with all of them",
		"blocks only what is in all of its lists: this one is %s, and the policy is not true of it", in.phrase())
}

// joinedLists returns lists among the parts that hardly are for blocking what is
// in all of them: those that are marked for blocking, or else those that are all
// of names, or all of networks.
func (l *linter) joinedLists(c *cond) []*cond {
	var marked, names, networks []*cond
	for i := range c.kids {
		kid := &c.kids[i]
		switch use := l.use(kid); {
		case kid.list() == "" || use == useAllow || kid.op == opSource:
			continue // who asks is one thing, what for another
		case use == useBlock:
			marked = append(marked, kid)
		}
		if kid.op == opName {
			names = append(names, kid)
		} else {
			networks = append(networks, kid)
		}
	}
	switch {
	case len(marked) > 1:
		return marked
	case len(names) > 1:
		return names
	}
	return networks
}

// The uses of a list.
const (
	useAllow = "allow"
	useBlock = "block"
)

// use returns the use of the list that a condition looks into. To answer with a
// zone is no use against it.
func (l *linter) use(c *cond) string {
	if c.op == opName && c.rare != nil && c.rare.zone {
		return ""
	}
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
	q, ok := l.search([]*Rule{r}, func(q *Query, d *Decision) bool {
		return c.truthFor(l.policy, q) == Yes && (d.Rule == r) == !negated
	})
	if !ok {
		return
	}
	says := "is true of"
	if negated {
		says = "excepts"
	}
	l.find(r, UseContradicts, q, l.show(r, q), "name the list that is meant, or change its use",
		"list %s is for use: %s, and this policy, which does %v, %s what is in it", c.list(), use, r.Then.Action, says)
}
