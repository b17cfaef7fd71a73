package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
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
}

type modelRule struct {
	name    string
	cond    *modelCond
	demands []modelCond // group, identity, posture leaves
	own     bool        // cname: ignore
	then    string      // allow, block, steer, or a group of servers to resolve by
}

type modelPolicy struct {
	rules []modelRule
	allow bool // the default
}

var (
	modelNames  = []string{"a.test", "b.a.test", "c.b.a.test", "d.test", "taobao.com", "x.jd.com"}
	modelAddrs  = []string{"203.0.113.9", "192.0.2.1", "10.0.0.1", "2001:db8:c::1", "198.51.100.7"}
	modelLeaves = map[string][]string{
		"exact":    modelNames,
		"suffix":   {"test", "a.test", "b.a.test", "com"},
		"pattern":  {`"*.a.test"`, `"**.a.test"`, `"*.test"`},
		"list":     {"china-sites", "phishing"},
		"country":  {"CN", "US"},
		"answers":  {"203.0.113.0/24", "china-networks", "198.51.100.7"},
		"group":    {"staff", "lab"},
		"device":   {"u1", "u2"},
		"identity": {"weak", "medium", "strong"},
		"posture":  {"passed", "failed", "unknown"},
		"network":  {"100.64.0.0/10", "192.168.0.0/16"},
		"type":     {"A", "AAAA", "TXT"},
	}
	modelOps = sortedKeys(modelLeaves)
)

func sortedKeys(m map[string][]string) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func leaf(r *rand.Rand, ops []string) modelCond {
	op := pick(r, ops)
	return modelCond{op: op, val: pick(r, modelLeaves[op])}
}

func randomCond(r *rand.Rand, depth int, ops []string) modelCond {
	if depth == 0 || r.IntN(3) > 0 {
		return leaf(r, ops)
	}
	c := modelCond{op: pick(r, []string{"all", "any", "not"})}
	n := 1
	if c.op != "not" {
		n += r.IntN(3)
	}
	for range n {
		c.kids = append(c.kids, randomCond(r, depth-1, ops))
	}
	return c
}

func randomPolicy(r *rand.Rand) modelPolicy {
	p := modelPolicy{allow: r.IntN(3) == 0}
	asks := []string{"group", "device", "identity", "posture", "network", "type"}
	for i := range 1 + r.IntN(6) {
		rule := modelRule{name: fmt.Sprintf("r%d", i), then: pick(r, []string{"allow", "block", "steer", "allow", "block", "steer", "corp", "lab"})}
		switch r.IntN(8) {
		case 0: // always
		case 1, 2:
			c := randomCond(r, 2, asks)
			rule.cond = &c
		default:
			c := randomCond(r, 3, modelOps)
			rule.cond = &c
		}
		rule.own = rule.chained() && r.IntN(4) == 0
		for _, op := range []string{"group", "identity", "posture"} {
			if r.IntN(6) == 0 {
				rule.demands = append(rule.demands, leaf(r, []string{op}))
			}
		}
		p.rules = append(p.rules, rule)
	}
	return p
}

func randomQuery(r *rand.Rand) *policy.Query {
	q := &policy.Query{Name: pick(r, modelNames), Type: pick(r, []uint16{1, 28, 16}), Now: noon}
	q.Asker.Kind = device.Kind(r.IntN(int(device.ByWireGuard) + 1))
	q.Asker.Source = pick(r, []netip.Addr{{}, netip.MustParseAddr("100.72.1.1"), netip.MustParseAddr("192.168.1.1")})
	if r.IntN(5) > 0 {
		q.Asker.Device = &device.Device{ID: pick(r, []device.ID{"u1", "u2", "u3"}), Groups: pick(r, [][]string{nil, {"staff"}, {"lab", "staff"}})}
	}
	if r.IntN(4) > 0 {
		q.Asker.Verdicts = posture.Verdicts{"laptop": {Result: posture.Result(r.IntN(3)), Expires: noon.Add(time.Duration(r.IntN(5)-1) * time.Minute)}}
	}
	if r.IntN(3) == 0 {
		q.Flow = &policy.Service{Proto: pick(r, []uint8{1, 6, 17}), Port: pick(r, []uint16{0, 80, 443})}
	}
	if q.Answered = r.IntN(3) > 0; q.Answered {
		for i := range r.IntN(4) {
			h := policy.Hop{Name: pick(r, modelNames)}
			if i == 0 {
				h.Name = q.Name
			}
			for range r.IntN(3) {
				h.Addrs = append(h.Addrs, netip.MustParseAddr(pick(r, modelAddrs)))
			}
			q.Answer = append(q.Answer, h)
		}
	}
	return q
}

// yaml writes the policy as an operator would.
func (p modelPolicy) yaml() string {
	var b strings.Builder
	b.WriteString(head + "policies:\n")
	for _, r := range p.rules {
		fmt.Fprintf(&b, "  - name: %s\n", r.name)
		if r.cond != nil {
			fmt.Fprintf(&b, "    if: %s\n", r.cond.yaml())
		}
		if len(r.demands) > 0 {
			var d []string
			for _, c := range r.demands {
				d = append(d, strings.Replace(c.demand(), "group:", "groups:", 1))
			}
			fmt.Fprintf(&b, "    require: {%s}\n", strings.Join(d, ", "))
		}
		if r.own {
			b.WriteString("    cname: ignore\n")
		}
		then := r.then
		switch {
		case then == "steer":
			then = "{steer: there, ports: [tcp/443]}"
		case r.upstream() != "":
			then = fmt.Sprintf("{resolve: %s}", then)
		}
		fmt.Fprintf(&b, "    then: %s\n", then)
	}
	if p.allow {
		b.WriteString("default: allow\n")
	}
	return b.String()
}

func (c *modelCond) yaml() string {
	switch c.op {
	case "all", "any":
		var kids []string
		for i := range c.kids {
			kids = append(kids, c.kids[i].yaml())
		}
		return fmt.Sprintf("{%s: [%s]}", c.op, strings.Join(kids, ", "))
	case "not":
		return fmt.Sprintf("{not: %s}", c.kids[0].yaml())
	case "exact", "suffix", "pattern", "list":
		return fmt.Sprintf("{name: {%s: %s}}", c.op, c.val)
	case "country":
		return fmt.Sprintf("{answer: {country: %s}}", c.val)
	case "answers":
		return fmt.Sprintf("{answer: {network: %s}}", c.val)
	case "posture":
		return fmt.Sprintf("{posture: {laptop: %s}}", c.val)
	}
	return fmt.Sprintf("{%s: %s}", c.op, c.val)
}

func (c *modelCond) demand() string {
	if c.op == "posture" {
		return "posture: laptop"
	}
	return c.op + ": " + c.val
}

// onAnswer and onName tell what a condition looks at.
func (c *modelCond) onAnswer() bool {
	return c.op == "country" || c.op == "answers" || slices.ContainsFunc(c.kids, func(k modelCond) bool { return k.onAnswer() })
}

func (c *modelCond) onName() bool {
	return slices.Contains([]string{"exact", "suffix", "pattern", "list"}, c.op) || slices.ContainsFunc(c.kids, func(k modelCond) bool { return k.onName() })
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
	if c.op == "country" || c.op == "answers" {
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

// eval gives the truth for one name. assumed holds the truth of answer leaves
// where the answer is still to come.
func (c *modelCond) eval(q *policy.Query, h policy.Hop, assumed map[*modelCond]truth) truth {
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
	case "country", "answers":
		if t, ok := assumed[c]; ok {
			return t
		}
		return c.evalAnswer(h)
	}
	return c.evalLeaf(q, h)
}

func (c *modelCond) evalAnswer(h policy.Hop) truth {
	if len(h.Addrs) == 0 {
		return isUnknown
	}
	best := isFalse
	for _, a := range h.Addrs {
		var t truth
		switch country := map[string]string{"203.0.113.9": "CN", "192.0.2.1": "US", "2001:db8:c::1": "CN"}[a.String()]; {
		case c.op == "answers" && c.val == "china-networks":
			t = yes(country == "CN")
		case c.op == "answers" && c.val == "203.0.113.0/24":
			t = yes(a.String() == "203.0.113.9")
		case c.op == "answers":
			t = yes(a.String() == c.val)
		case country == "":
			t = isUnknown
		default:
			t = yes(country == c.val)
		}
		best = max(best, t)
	}
	return best
}

func (c *modelCond) evalLeaf(q *policy.Query, h policy.Hop) truth {
	val := strings.Trim(c.val, `"`)
	under := func(n, d string) bool { return n == d || strings.HasSuffix(n, "."+d) }
	dev := q.Asker.Device
	switch c.op {
	case "exact":
		return yes(h.Name == val)
	case "suffix":
		return yes(under(h.Name, val))
	case "pattern":
		labels, rest, _ := strings.Cut(val, ".")
		front, ok := strings.CutSuffix(h.Name, "."+rest)
		return yes(ok && (labels == "**" || !strings.Contains(front, ".")))
	case "list":
		if val == "china-sites" {
			return yes(under(h.Name, "taobao.com") || under(h.Name, "jd.com"))
		}
		return yes(under(h.Name, "phish.example") || under(h.Name, "bad.example"))
	case "group":
		return yes(dev != nil && slices.Contains(dev.Groups, val))
	case "device":
		return yes(dev != nil && string(dev.ID) == val)
	case "identity":
		want, _ := device.ParseStrength(val)
		return yes(q.Asker.Kind.Strength() >= want)
	case "network":
		if !q.Asker.Source.IsValid() {
			return isUnknown
		}
		return yes(netip.MustParsePrefix(val).Contains(q.Asker.Source))
	case "type":
		return yes(map[string]uint16{"A": 1, "AAAA": 28, "TXT": 16}[val] == q.Type)
	}
	return evalPosture(q, val)
}

func evalPosture(q *policy.Query, val string) truth {
	v, ok := q.Asker.Verdicts["laptop"]
	switch {
	case !ok || v.Result == posture.Unknown:
		if val == "unknown" {
			return isTrue
		}
		return isUnknown
	case v.Result == posture.Passed && q.Now.Before(v.Expires):
		return yes(val == "passed")
	default:
		return yes(val == "failed")
	}
}

// possible lists the values that a condition can have once the answer is
// there, by trying all.
func (c *modelCond) possible(q *policy.Query, h policy.Hop) map[truth]bool {
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
		if d.evalLeaf(q, policy.Hop{}) != isTrue {
			return false
		}
	}
	return true
}

// decide follows the prose.
func (p modelPolicy) decide(q *policy.Query) string {
	// The list ends at the first true policy that looks at neither name nor answer.
	var above []modelRule
	var end *modelRule
	looksAtNames := false
	for i := range p.rules {
		r := &p.rules[i]
		if !r.chained() {
			if r.cond == nil || r.cond.eval(q, policy.Hop{}, nil) == isTrue {
				end = r
				break
			}
			continue // false for every name
		}
		above = append(above, *r)
		looksAtNames = looksAtNames || !r.own
	}
	if q.Flow == nil && !q.Answered {
		waits := false // something is open above the one that is true
		for i := range above {
			can := above[i].cond.possible(q, policy.Hop{Name: q.Name})
			if can[isTrue] && len(can) == 1 {
				end = &above[i]
				looksAtNames = false
				break
			}
			waits = waits || can[isTrue]
		}
		allows := end == nil && p.allow || end != nil && end.allows() && end.met(q)
		switch {
		case !waits && !(allows && looksAtNames):
			return p.act(q, end)
		case allows && end != nil && end.upstream() != "":
			return "ask upstream " + end.upstream()
		}
		return "ask upstream"
	}
	hops := q.Answer
	if !q.Answered || len(hops) == 0 {
		hops = []policy.Hop{{Name: q.Name}}
	}
	for i, h := range hops {
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

func (p modelPolicy) act(q *policy.Query, r *modelRule) string {
	by, then := "default", "block"
	switch {
	case r != nil:
		by, then = r.name, r.then
	case p.allow:
		then = "allow"
	}
	switch {
	case r != nil && !r.met(q):
		return "deny refused by " + by
	case q.Flow != nil && (then != "steer" && then != "block" || then == "steer" && q.Flow.Proto != 1 && *q.Flow != (policy.Service{Proto: 6, Port: 443})):
		then = "block"
	}
	what := map[string]string{"allow": "allow", "block": "block refused", "steer": "steer there"}[then]
	if what == "" {
		what = "resolve " + then
	}
	return what + " by " + by
}

func short(d *policy.Decision) string {
	switch {
	case d.NeedAnswer:
		return d.String()
	case d.Rule == nil:
		return d.String() + " by default"
	}
	return d.String() + " by " + d.Rule.Name
}

func checkAgainstModel(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	m := randomPolicy(r)
	p := parse(t, m.yaml())
	for range 100 {
		q := randomQuery(r)
		d, trace := p.Explain(q)
		if got, want := short(&d), m.decide(q); got != want {
			t.Fatalf("seed %d: %+v\n%+v\n got %s\nwant %s\n%s\n%v", seed, q, q.Asker.Device, got, want, m.yaml(), trace)
		}
		if again := p.Decide(q); short(&again) != short(&d) || again.Denied != d.Denied || again.Until != d.Until {
			t.Fatalf("seed %d: Explain says %v, Decide %v", seed, &d, &again)
		}
		later := *q
		if later.Now = d.Until.Add(-1); d.Until.IsZero() {
			later.Now = noon.Add(1000 * time.Hour)
		}
		if then := p.Decide(&later); short(&then) != short(&d) {
			t.Fatalf("seed %d: until %v, but at %v %v becomes %v\n%s", seed, d.Until, later.Now, &d, &then, m.yaml())
		}
		if d.Then.Action == policy.Steer && d.Denied == "" && !p.CouldSteer(q.Name, q.Answer, "there", noon) {
			t.Fatalf("seed %d: steered, but CouldSteer is false: %+v\n%s\n%v", seed, q, m.yaml(), trace)
		}
	}
}

func TestAgainstModel(t *testing.T) {
	policies := uint64(10_000) // with a hundred questions each
	if testing.Short() {
		policies = 1000
	}
	for seed := range policies {
		checkAgainstModel(t, seed)
	}
}

func FuzzDecide(f *testing.F) {
	f.Add(uint64(7))
	f.Fuzz(func(t *testing.T, seed uint64) {
		checkAgainstModel(t, seed)
		checkScope(t, seed)
	})
}
