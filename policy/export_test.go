package policy

import "regexp/syntax"

// Possible returns the values that a policy's conditions are said to be able to
// have.
func (p *Policy) Possible(r *Rule) (Truth, bool) {
	if r == nil || r.when == nil {
		return 0, false
	}
	return possibilities(&linter{policy: p, lists: map[string]*sampled{}}, r.when)
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
	_, ok := strange(re)
	return ok
}
