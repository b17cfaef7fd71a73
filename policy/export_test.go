package policy

import (
	"io"
	"regexp/syntax"
)

// Possible returns the values that a policy's conditions are said to be able to
// have.
func (p *Policy) Possible(r *Rule) (Truth, bool) {
	if r == nil || r.when == nil {
		return 0, false
	}
	l := newLinter(nil)
	l.policy = p
	return possibilities(l, r.when)
}

// DeadBranches returns why parts of an expression match no name.
func DeadBranches(expr string) (out []string) {
	for _, b := range deadBranches(expr) {
		out = append(out, b.why)
	}
	return out
}

// MatchedNames returns names that an expression matches.
func MatchedNames(expr string) []string { return matched(expr) }

// AllDead reports whether an expression is said to match no name.
func AllDead(expr string) bool {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return false
	}
	_, ok := lifeless(re, true, true)
	return ok
}

// Linted returns the policy as lint decides by it: with addresses that stand for
// places.
func (p *Policy) Linted(open func(string) (io.ReadCloser, error)) *Policy {
	l := newLinter(open)
	l.prepare(p)
	return l.policy
}

// TruthOf is the truth of a policy's conditions for the asked name.
func (p *Policy) TruthOf(name string, q *Query) Truth {
	for i := range p.rules {
		if p.rules[i].Name == name {
			return p.rules[i].condition().truthFor(p, q)
		}
	}
	return No
}

// LintProven is how many conditions the proofs of Lint look at.
func LintProven(p *Policy, open func(path string) (io.ReadCloser, error)) int {
	l := newLinter(open)
	l.prepare(p)
	for i := range l.policy.rules {
		if l.policy.rules[i].when != nil {
			l.look(i)
		}
	}
	return l.proven
}
