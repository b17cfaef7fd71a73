package policy_test

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/policy"
)

// The model is the prose of the package comment as slow, plain code: policies
// are made at random in its own form, written as YAML, and decided by both.

type truth int

const (
	isFalse truth = iota
	isUnknown
	isTrue
)

// A modelCond is a condition: all, any, not, or a leaf with its value.
type modelCond struct {
	op   string
	val  string
	kids []modelCond

	filters []modelFilter // of the list "rules"
}

type modelRule struct {
	name    string
	cond    *modelCond
	demands []modelCond // group, device, identity, posture, schedule, approval leaves
	own     bool        // cname: ignore
	shadow  bool        // mode: shadow
	window  string      // not_before and not_after
	then    string      // allow, steer, override, a form of block, or a group of servers to resolve by
	deny    string      // the form of a denial
	ecs     bool        // a subnet goes upstream
}

type modelPolicy struct {
	rules    []modelRule
	defaults []modelDefault
	allow    bool          // the default for all
	filters  []modelFilter // of the list "rules"
}

type modelDefault struct {
	conds []modelCond // group, listener or both
	then  string      // allow, or a form of block
	learn bool
}

var (
	onAnswers = []string{"country", "answers", "continent", "asn", "cname", "mx", "ns", "ptr", "txt"}
	onNames   = []string{"exact", "suffix", "pattern", "list", "regexp", "category", "names"}
)

// onAnswer and onName tell what a condition looks at.
func (c *modelCond) onAnswer() bool {
	return slices.Contains(onAnswers, c.op) || slices.ContainsFunc(c.kids, func(k modelCond) bool { return k.onAnswer() })
}

func (c *modelCond) onName() bool {
	return slices.Contains(onNames, c.op) || slices.ContainsFunc(c.kids, func(k modelCond) bool { return k.onName() })
}

// chained tells whether a policy looks at names or answers.
func (r *modelRule) chained() bool {
	return r.cond != nil && (r.cond.onName() || r.cond.onAnswer())
}

// upstream is the group of servers that a policy resolves by.
func (r *modelRule) upstream() string {
	if r.then == "corp" || r.then == "lab" {
		return r.then
	}
	return ""
}

func (r *modelRule) allows() bool { return r.then == "allow" || r.upstream() != "" }

// answers lists the leaves that look at the answer.
func (c *modelCond) answers(out []*modelCond) []*modelCond {
	if slices.Contains(onAnswers, c.op) {
		out = append(out, c)
	}
	for i := range c.kids {
		out = c.kids[i].answers(out)
	}
	return out
}

func yes(b bool) truth {
	if b {
		return isTrue
	}
	return isFalse
}

// A modelHop is a hop with the name that it is an alias of, if any.
type modelHop struct {
	policy.Hop
	alias []string
}

// eval gives the truth for one name. assumed holds the truth of answer leaves
// where the answer is still to come.
func (c *modelCond) eval(q *policy.Query, h modelHop, assumed map[*modelCond]truth) truth {
	switch c.op {
	case "all", "any":
		var ts []truth
		for i := range c.kids {
			ts = append(ts, c.kids[i].eval(q, h, assumed))
		}
		if c.op == "all" {
			return slices.Min(ts)
		}
		return slices.Max(ts)
	case "not":
		return isTrue - c.kids[0].eval(q, h, assumed)
	}
	if slices.Contains(onAnswers, c.op) {
		if t, ok := assumed[c]; ok {
			return t
		}
		return c.evalAnswer(h)
	}
	return c.evalLeaf(q, h)
}

// possible lists the values that a condition can have once the answer is
// there, by trying all.
func (c *modelCond) possible(q *policy.Query, h modelHop) map[truth]bool {
	leaves := c.answers(nil)
	out := map[truth]bool{}
	var try func(i int, assumed map[*modelCond]truth)
	try = func(i int, assumed map[*modelCond]truth) {
		if i == len(leaves) {
			out[c.eval(q, h, assumed)] = true
			return
		}
		for _, t := range []truth{isFalse, isUnknown, isTrue} {
			assumed[leaves[i]] = t
			try(i+1, assumed)
		}
	}
	try(0, map[*modelCond]truth{})
	return out
}

func (r *modelRule) met(q *policy.Query) bool {
	for i := range r.demands {
		d := r.demands[i]
		if d.op == "posture" {
			d.val = "passed"
		}
		if d.evalLeaf(q, modelHop{}) != isTrue {
			return false
		}
	}
	return true
}

// decide follows the prose: once without the policies in shadow, once with them.
func (p modelPolicy) decide(q *policy.Query) string {
	enforced := p
	enforced.rules = nil
	for _, r := range p.rules {
		if !r.shadow {
			enforced.rules = append(enforced.rules, r)
		}
	}
	is, would := enforced.decideAll(q), p.decideAll(q)
	ask := func(s string) bool { return strings.HasPrefix(s, "ask") }
	by := func(s string) string { return s[strings.LastIndex(s, " by ")+4:] }
	if ask(is) || ask(would) || strings.TrimSuffix(by(is), " learned") == strings.TrimSuffix(by(would), " learned") {
		return is
	}
	return is + ", would " + by(would)
}

// decideAll decides as if there were no shadows. Of a flow the route is found out
// first, with conditions on it unknown; all routes of the model are one.
func (p modelPolicy) decideAll(q *policy.Query) string {
	is := p.decideOnce(q)
	if q.Flow == nil || !strings.HasPrefix(is, "steer there") {
		return is
	}
	known := p
	known.rules = slices.Clone(p.rules)
	for i := range known.rules {
		if c := known.rules[i].cond; c != nil {
			known.rules[i].cond = c.routed()
		}
	}
	return known.decideOnce(q)
}

// routed is the condition with those on the route replaced by what is true, or
// false, of a flow that goes there.
func (c *modelCond) routed() *modelCond {
	out := *c
	switch {
	case c.op == "flow" && c.val == "{route: there}":
		out.val = "go there, is there"
	case c.op == "flow" && c.val == "{route: elsewhere}":
		out.val = "go there, is elsewhere"
	}
	out.kids = nil
	for i := range c.kids {
		out.kids = append(out.kids, *c.kids[i].routed())
	}
	return &out
}

func (p modelPolicy) decideOnce(q *policy.Query) string {
	// The list ends at the first true policy that looks at neither name nor answer.
	var above []modelRule
	var end *modelRule
	looksAtNames := false
	for i := range p.rules {
		r := &p.rules[i]
		if !r.chained() {
			if r.inWindow(q.Now) && (r.cond == nil || r.cond.eval(q, modelHop{}, nil) == isTrue) {
				end = r
				break
			}
			continue // false for every name
		}
		looksAtNames = looksAtNames || !r.own
		if r.inWindow(q.Now) {
			above = append(above, *r)
		}
	}
	if q.Flow == nil && !q.Answered {
		waits := false // something is open above the one that is true
		for i := range above {
			can := above[i].cond.possible(q, modelHop{Hop: policy.Hop{Name: q.Name}})
			if can[isTrue] && len(can) == 1 {
				end = &above[i]
				looksAtNames = false
				break
			}
			waits = waits || can[isTrue]
		}
		byDefault, _ := p.standing(q)
		allows := end == nil && byDefault == "allow" || end != nil && end.allows() && end.met(q)
		switch {
		case !waits && !(allows && looksAtNames):
			return p.act(q, end)
		case allows && end != nil:
			return "ask upstream" + end.asks()
		}
		return "ask upstream"
	}
	for i, h := range modelHops(q) {
		for _, r := range above {
			if r.own && i > 0 {
				continue
			}
			if r.cond.eval(q, h, nil) == isTrue {
				return p.act(q, &r)
			}
		}
	}
	return p.act(q, end)
}

// modelHops lists the names to be looked at, the asked one first.
func modelHops(q *policy.Query) (out []modelHop) {
	if !q.Answered || len(q.Answer) == 0 || q.Answer[0].Name != q.Name {
		out = append(out, modelHop{Hop: policy.Hop{Name: q.Name}})
	}
	if q.Answered {
		for i, h := range q.Answer {
			m := modelHop{Hop: h}
			if i+1 < len(q.Answer) {
				m.alias = []string{q.Answer[i+1].Name}
			}
			out = append(out, m)
		}
	}
	return out
}

// standing is the default for this asker.
func (p modelPolicy) standing(q *policy.Query) (then string, learn bool) {
	for _, d := range p.defaults {
		if !slices.ContainsFunc(d.conds, func(c modelCond) bool { return c.evalLeaf(q, modelHop{}) != isTrue }) {
			return d.then, d.learn
		}
	}
	return map[bool]string{true: "allow", false: "refused"}[p.allow], false
}

func (p modelPolicy) act(q *policy.Query, r *modelRule) string {
	by, deny := "default", ""
	then, learn := p.standing(q)
	if r != nil {
		by, then, deny, learn = r.name, r.then, r.deny, false
	}
	steered := then == "steer" && (q.Flow == nil || q.Flow.Proto == 1 || q.Flow.Proto == 58 || *q.Flow == policy.Service{Proto: 6, Port: 443})
	var what string
	switch {
	case r != nil && !r.met(q):
		return "deny " + deny + " by " + by
	case slices.Contains(blockForms, then):
		what = "block " + then
	case steered:
		what = "steer there"
	case q.Flow != nil:
		what = "block refused"
	case then == "allow" || then == "override":
		what = then
	default:
		what = "resolve " + then
	}
	if what == "allow" || strings.HasPrefix(what, "resolve") {
		if r != nil && r.ecs {
			what += " ecs"
		}
	}
	if learn {
		by += " learned"
	}
	return what + " by " + by
}

// asks is how a question goes upstream by the policy.
func (r *modelRule) asks() (s string) {
	if r.upstream() != "" {
		s = " " + r.upstream()
	}
	if r.ecs {
		s += " ecs"
	}
	return s
}

func short(d *policy.Decision) string {
	what := d.String()
	if d.Then.ECS.Subnet.IsValid() {
		what += " ecs"
	}
	if d.NeedAnswer {
		return what
	}
	by := "default"
	if d.Rule != nil {
		by = d.Rule.Name
	}
	if d.Learned {
		by += " learned"
	}
	if d.Shadow != nil {
		by += ", would " + d.Shadow.Name
	}
	return what + " by " + by
}

func checkAgainstModel(t *testing.T, seed uint64, seen map[string]int) {
	r := rand.New(rand.NewPCG(seed, 0))
	m := randomPolicy(r)
	p := parse(t, m.yaml())
	for range asked {
		q := queryAt(r, pick(r, modelMoments).Add(time.Duration(r.Int64N(int64(4*time.Hour)))-2*time.Hour))
		d, trace := p.Explain(q)
		seen[strings.Fields(d.String())[0]]++
		if got, want := short(&d), m.decide(q); got != want {
			t.Fatalf("seed %d: %+v\n%+v\n got %s\nwant %s\n%s\n%v\n%v", seed, q, q.Asker.Device, got, want, m.yaml(), m.filters, trace)
		}
		if again := p.Decide(q); short(&again) != short(&d) || again.Denied != d.Denied || again.Until != d.Until {
			t.Fatalf("seed %d: Explain says %v, Decide %v", seed, &d, &again)
		}
		later := *q
		if later.Now = d.Until.Add(-1); d.Until.IsZero() {
			later.Now = q.Now.Add(1000 * time.Hour)
		}
		if then := p.Decide(&later); short(&then) != short(&d) {
			t.Fatalf("seed %d: until %v, but at %v %v becomes %v\n%s", seed, d.Until, later.Now, &d, &then, m.yaml())
		}
		if d.Then.Action == policy.Steer && d.Denied == "" && !p.CouldSteer(q.Name, q.Answer, "there", q.Now) {
			t.Fatalf("seed %d: steered, but CouldSteer is false: %+v\n%s\n%v", seed, q, m.yaml(), trace)
		}
	}
}

// asked is how many questions are put to each random policy.
const asked = 100

// Random policies, questions, postures and times: the decision, the policy and
// the question that goes upstream are those of the model. CASES says how many.
func TestAgainstModel(t *testing.T) {
	cases := 100_000
	if testing.Short() {
		cases = 20_000
	}
	if n := os.Getenv("CASES"); n != "" {
		var err error
		if cases, err = strconv.Atoi(n); err != nil {
			t.Fatalf("CASES: %v", err)
		}
	}
	seen := map[string]int{}
	for seed := range uint64(cases / asked) {
		checkAgainstModel(t, seed, seen)
	}
	t.Logf("%d cases are as the model has them: %v", cases/asked*asked, seen)
}

func FuzzDecide(f *testing.F) {
	f.Add(uint64(7))
	f.Fuzz(func(t *testing.T, seed uint64) {
		checkAgainstModel(t, seed, map[string]int{})
		checkScope(t, seed)
	})
}
