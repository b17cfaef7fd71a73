package policy_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/starferry/starferry/policy"
)

// narrowPolicy is a random policy that looks at few things, so that its policies
// often stand in one another's way.
func narrowPolicy(r *rand.Rand) modelPolicy {
	p := modelPolicy{allow: r.IntN(2) == 0}
	ops := []string{pick(r, modelOps), pick(r, modelOps), pick(r, modelOps)}
	for i := range 2 + r.IntN(5) {
		rule := modelRule{name: fmt.Sprintf("r%d", i), then: pick(r, []string{"allow", "refused", "steer"}), deny: "refused"}
		if r.IntN(10) > 0 {
			c := randomCond(r, 1+r.IntN(2), ops)
			rule.cond = &c
		}
		rule.own = rule.chained() && r.IntN(6) == 0
		rule.shadow = r.IntN(8) == 0
		if r.IntN(8) == 0 {
			rule.window = pick(r, modelWindows)
		}
		if r.IntN(6) == 0 {
			rule.demands = append(rule.demands, leaf(r, []string{pick(r, []string{"group", "identity", "posture", "schedule"})}))
		}
		p.rules = append(p.rules, rule)
	}
	return p
}

// What lint says of all questions holds for random policies and questions, and
// what it shows as an example is so.
func TestLintHolds(t *testing.T) {
	rounds := uint64(600)
	if testing.Short() {
		rounds = 200
	}
	seen := map[policy.Flaw]int{}
	for seed := range rounds {
		checkLint(t, seed, seen)
	}
	t.Log(seen)
	for _, flaw := range []policy.Flaw{policy.NeverTrue, policy.Shadowed, policy.BelowAnswer, "shadowed by several"} {
		if seen[flaw] == 0 {
			t.Errorf("no policy was %s", flaw)
		}
	}
}

func FuzzLint(f *testing.F) {
	f.Add(uint64(7))
	f.Fuzz(func(t *testing.T, seed uint64) { checkLint(t, seed, map[policy.Flaw]int{}) })
}

func checkLint(t *testing.T, seed uint64, seen map[policy.Flaw]int) {
	r := rand.New(rand.NewPCG(seed, 11))
	m := narrowPolicy(r)
	if seed%4 == 0 {
		m = randomPolicy(r)
	}
	src := m.yaml()
	p := parse(t, src)
	never := map[string]bool{}
	for _, f := range p.Lint(open) {
		seen[f.Flaw]++
		if len(f.By) > 1 {
			seen["shadowed by several"]++
		}
		checkExample(t, p, &f, src)
		never[f.Policy] = never[f.Policy] || f.Flaw == policy.Shadowed
	}
	can := map[string]policy.Truth{}
	for i := range p.Rules() {
		rule := &p.Rules()[i]
		can[rule.Name] = policy.No | policy.Unknown | policy.Yes
		if possible, ok := p.Possible(rule); ok {
			can[rule.Name] = possible
		}
	}
	for range 200 {
		q := queryAt(r, pick(r, modelMoments))
		d, trace := p.Explain(q)
		if d.Rule != nil && never[d.Rule.Name] || d.Shadow != nil && never[d.Shadow.Name] {
			t.Fatalf("seed %d: %v of %+v, by one that is said to be shadowed\n%s", seed, trace, q, src)
		}
		for _, s := range trace.Steps {
			if s.Rule != nil && s.Matched&can[s.Rule.Name] == 0 {
				t.Fatalf("seed %d: %s is %v for %+v, and only %d is possible\n%s", seed, s.Rule.Name, s.Matched, q, can[s.Rule.Name], src)
			}
		}
	}
}

// checkExample holds that the question of a finding shows what the finding says.
func checkExample(t *testing.T, p *policy.Policy, f *policy.Finding, src string) {
	t.Helper()
	if f.Example == "" || f.Query.Name == "" {
		t.Fatalf("no example: %v\n%s", f, src)
	}
	p = p.Linted(open)
	d := p.Decide(&f.Query)
	by := "default"
	if d.Rule != nil {
		by = d.Rule.Name
	}
	truth := p.TruthOf(f.Policy, &f.Query)
	ok := true
	switch f.Flaw {
	case policy.Shadowed:
		ok = truth == policy.Yes && slices.Contains(f.By, by)
	case policy.BelowAnswer:
		ok = d.NeedAnswer
	case policy.Unasked:
		ok = by == f.Policy && truth == policy.Yes && f.Query.Flow != nil
	case policy.NeverTrue:
		ok = by != f.Policy || truth == policy.Yes
	case policy.AnyNegations:
		ok = by == f.Policy
	}
	if !ok {
		t.Fatalf("%v\nis decided by %s, and %s is %v\n%s", f, by, f.Policy, truth, src)
	}
}
