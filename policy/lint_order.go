package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxRivals bounds the policies that are tried together in the place of one.
const maxRivals = 32

// shadowed finds a policy that others above decide in the place of, whenever it
// is true.
func (l *linter) shadowed(i int) {
	r := &l.policy.rules[i]
	rivals, reached := l.rivals(i)
	if reached {
		return
	}
	by := l.covering(r, rivals.rules)
	if by == nil {
		by = l.covering(r, l.over(i))
	}
	if by == nil {
		return
	}
	for range by { // each shows one more
		if !slices.ContainsFunc(by, func(above *Rule) bool { return rivals.shown[above] == nil }) {
			break
		}
		q, ok := l.search(append([]*Rule{r}, by...), func(q *Query, d *Decision) bool {
			return slices.Contains(by, d.Rule) && rivals.shown[d.Rule] == nil && r.condition().truthFor(l.policy, q) == Yes
		})
		if !ok {
			break
		}
		d := l.policy.Decide(q)
		rivals.shown[d.Rule] = q
	}
	l.tellShadowed(r, by, rivals.shown)
}

func (l *linter) tellShadowed(r *Rule, by []*Rule, shown map[*Rule]*Query) {
	var first *Query
	var names, lines, examples []string
	for _, above := range by {
		names = append(names, above.Name)
		lines = append(lines, fmt.Sprintf("%s in line %d", above.Name, above.At.Line))
		if q := shown[above]; q != nil {
			first = cmp.Or(first, q)
			examples = append(examples, l.show(r, q))
		}
	}
	if first == nil {
		return
	}
	example := strings.Join(examples, "\n    example: ")
	if len(by) == 1 {
		l.find(r, Shadowed, first, example, "put it above "+names[0]+", or leave it out",
			"never decides: %s above it, in line %d, is true of all that it is true of", names[0], by[0].At.Line)
	} else {
		l.find(r, Shadowed, first, example, "put it above them, or leave it out",
			"never decides: of all that it is true of one of these above it is true: %s", strings.Join(lines, ", "))
	}
	l.found[len(l.found)-1].By = names
}

// rivals are policies that decide questions which another one is true of, each
// with such a question.
type rivals struct {
	rules []*Rule
	shown map[*Rule]*Query
}

// rivals returns those of a policy, and whether it decides a question itself.
func (l *linter) rivals(i int) (found rivals, reached bool) {
	r := &l.policy.rules[i]
	found.shown = map[*Rule]*Query{}
	done := false
	for range 3 { // with each that is found questions come that it speaks of
		before := len(found.rules)
		l.search(append([]*Rule{r}, found.rules...), func(q *Query, d *Decision) bool {
			reached = d.Rule == r
			if !reached && found.shown[d.Rule] == nil && len(found.rules) < maxRivals &&
				l.isOver(d.Rule, r) && r.condition().truthFor(l.policy, q) == Yes {
				found.rules, found.shown[d.Rule] = append(found.rules, d.Rule), q
				done = l.covers(r, found.rules)
			}
			return reached || done
		})
		if reached || done || len(found.rules) == before {
			break
		}
	}
	return found, reached
}

// isOver reports whether a policy is above r and looked at wherever r is: those in
// shadow are passed over, and those with "cname: ignore" are looked at for the
// first name of the chain only.
func (l *linter) isOver(above, r *Rule) bool {
	place, ok := l.order[above]
	return ok && place < l.order[r] && !above.shadow && (!above.own || r.own || r.ends)
}

// over returns the policies that are over the one in a place; nil where they are
// too many to be tried.
func (l *linter) over(i int) (out []*Rule) {
	for k := range l.policy.rules[:i] {
		if above := &l.policy.rules[k]; l.isOver(above, &l.policy.rules[i]) {
			if out = append(out, above); len(out) > maxRivals {
				return nil
			}
		}
	}
	return out
}

// covering returns the fewest of the policies of which it is proven that one is
// true wherever r is, in their order; nil if that is not proven.
func (l *linter) covering(r *Rule, of []*Rule) []*Rule {
	if len(of) == 0 || !l.covers(r, of) {
		return nil
	}
	of = slices.Clone(of)
	for i := len(of) - 1; i >= 0; i-- {
		if fewer := slices.Delete(slices.Clone(of), i, i+1); len(fewer) > 0 && l.covers(r, fewer) {
			of = fewer
		}
	}
	slices.SortFunc(of, func(a, b *Rule) int { return a.At.Line - b.At.Line })
	return of
}

// covers reports whether it is proven that one of the policies is true wherever
// r is.
func (l *linter) covers(r *Rule, by []*Rule) bool {
	wants := []want{{r.condition(), Yes}}
	for _, above := range by {
		wants = append(wants, want{above.condition(), No | Unknown})
	}
	return l.never(wants...)
}

// condition returns the condition of the policy, also where it has none.
func (r *Rule) condition() *cond {
	if r.when == nil {
		return &cond{op: opAll}
	}
	return r.when
}

// belowAnswer finds a policy that decides by the name alone, and for which the
// question goes upstream all the same, since one above looks at the answer.
func (l *linter) belowAnswer(i int) {
	r := &l.policy.rules[i]
	if l.asking >= i {
		return
	}
	if on := r.when.sees(); on&atName == 0 || on&atAnswer != 0 || r.Then.Action == Allow {
		return
	}
	var above *Rule
	q, ok := l.search([]*Rule{r}, func(q *Query, d *Decision) bool {
		if d.Rule != r || d.Denied != "" || len(q.Answer[0].Addrs) > 0 {
			return false
		}
		ask := q.unanswered()
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
	ask := q.unanswered()
	decided := l.policy.Decide(q)
	example := l.show(r, &ask) + "; with an answer of no address: " + decided.told()
	l.find(r, BelowAnswer, &ask, example, "put it above "+above.Name+" if nothing is to be asked upstream for these names",
		"the question goes upstream before it decides by the name: %s above it, in line %d, looks at the answer", above.Name, above.At.Line)
}
