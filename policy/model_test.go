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
	demands []modelCond // group, identity, posture, schedule, approval leaves
	own     bool        // cname: ignore
	shadow  bool        // mode: shadow
	window  string      // not_before and not_after
	then    string      // allow, block, steer, or a group of servers to resolve by
}

type modelPolicy struct {
	rules    []modelRule
	defaults []modelDefault
	allow    bool // the default for all
}

type modelDefault struct {
	cond  modelCond // group or listener
	allow bool
	learn bool
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

		"regexp":    {`"[ab]\\.(.*\\.)?test"`, `".*\\.jd\\.com"`, `"a"`},
		"category":  {"watched"},
		"continent": {"AS", "NA"},
		"asn":       {"4134", "AS64512"},
		"cname":     {"{suffix: a.test}", "d.test"},
		"mx":        {"{suffix: mail.test}", "{list: phishing}"},
		"txt":       {`{regexp: "v=spf1.*"}`},
		"user":      {"alice", "bob"},
		"platform":  {"macos", "windows"},
		"listener":  {"link", "192.0.2.1:53"},
		"transport": {"udp", "[dot, doh]"},
		"schedule":  {"office", "night", "[office, night]", "{zone: America/New_York, days: [sat-mon, wed], hours: [\"00:30-02:30\", \"23:00-01:15\"]}"},
		"flow":      {"{protocol: tcp}", "{port: [80, 8000-8100]}", "{protocol: icmp}", "{protocol: [udp, tcp], port: 443}", "{route: there}", "{route: elsewhere}"},
	}
	modelWindows = []string{"not_before: 2026-05-04", "not_after: 2026-05-04", "not_before: 2026-03-29T01:30:00Z", "not_after: 2026-10-25T02:00:00+01:00", "not_before: 2026-05-05, not_after: 2026-05-06"}
	// Around these moments clocks are set, or windows begin and end.
	modelMoments = []time.Time{noon, noon, time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC), time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC), time.Date(2026, 11, 1, 6, 0, 0, 0, time.UTC)}
	modelOps     = sortedKeys(modelLeaves)
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
	asks := []string{"group", "device", "identity", "posture", "network", "type", "user", "platform", "listener", "transport", "schedule", "flow"}
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
		for _, op := range []string{"group", "identity", "posture", "schedule"} {
			if r.IntN(6) == 0 {
				rule.demands = append(rule.demands, leaf(r, []string{op}))
			}
		}
		if r.IntN(12) == 0 {
			rule.demands = append(rule.demands, modelCond{op: "approval", val: pick(r, []string{"2026-05-04", "2026-10-25T02:30:00+01:00"})})
		}
		rule.shadow = r.IntN(6) == 0
		if r.IntN(8) == 0 {
			rule.window = pick(r, modelWindows)
		}
		p.rules = append(p.rules, rule)
	}
	for range r.IntN(3) {
		p.defaults = append(p.defaults, modelDefault{leaf(r, []string{"group", "listener"}), r.IntN(2) == 0, r.IntN(2) == 0})
	}
	return p
}

func queryAt(r *rand.Rand, now time.Time) *policy.Query {
	q := &policy.Query{Name: pick(r, modelNames), Type: pick(r, []uint16{1, 28, 16}), Now: now}
	q.Asker.Kind = device.Kind(r.IntN(int(device.ByWireGuard) + 1))
	q.Asker.Source = pick(r, []netip.Addr{{}, netip.MustParseAddr("100.72.1.1"), netip.MustParseAddr("192.168.1.1")})
	if r.IntN(5) > 0 {
		q.Asker.Device = &device.Device{ID: pick(r, []device.ID{"u1", "u2", "u3"}), Groups: pick(r, [][]string{nil, {"staff"}, {"lab", "staff"}}),
			User: pick(r, []string{"", "alice", "bob"}), Platform: pick(r, []string{"", "macOS", "windows"})}
	}
	if r.IntN(4) > 0 {
		q.Asker.Verdicts = posture.Verdicts{"laptop": {Result: posture.Result(r.IntN(3)), Expires: now.Add(time.Duration(r.IntN(5)-1) * time.Minute)}}
	}
	if r.IntN(3) == 0 {
		q.Flow = &policy.Service{Proto: pick(r, []uint8{1, 6, 17, 58}), Port: pick(r, []uint16{0, 80, 443})}
	} else {
		q.Asker.Listener, q.Asker.Transport = pick(r, []string{"", "link", "192.0.2.1:53"}), pick(r, []string{"", "udp", "tcp", "doh"})
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
			for range r.IntN(3) {
				h.Values = append(h.Values, pick(r, []policy.Value{{Type: 15, Text: "a.mail.test"}, {Type: 15, Text: "bad.example"}, {Type: 16, Text: "v=spf1 -all"}, {Type: 16, Text: "x"}, {Type: 2, Text: "bad.example"}}))
			}
			q.Answer = append(q.Answer, h)
		}
	}
	return q
}

// yaml writes the policy as an operator would.
func (p modelPolicy) yaml() string {
	var b strings.Builder
	b.WriteString(head + more + "policies:\n")
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
		if r.shadow {
			b.WriteString("    mode: shadow\n")
		}
		for _, w := range strings.Split(r.window, ", ") {
			b.WriteString("    " + w + "\n")
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
	b.WriteString("defaults:\n")
	for _, d := range p.defaults {
		fmt.Fprintf(&b, "  - {%s: %s, then: %s, learn: %v}\n", d.cond.op, d.cond.val, map[bool]string{true: "allow", false: "block"}[d.allow], d.learn)
	}
	if len(p.defaults) == 0 {
		b.WriteString("  []\n")
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
	case "exact", "suffix", "pattern", "list", "regexp", "category":
		return fmt.Sprintf("{name: {%s: %s}}", c.op, c.val)
	case "country", "continent", "asn", "cname", "mx", "txt":
		return fmt.Sprintf("{answer: {%s: %s}}", c.op, c.val)
	case "answers":
		return fmt.Sprintf("{answer: {network: %s}}", c.val)
	case "posture":
		return fmt.Sprintf("{posture: {laptop: %s}}", c.val)
	}
	return fmt.Sprintf("{%s: %s}", c.op, c.val)
}

func (c *modelCond) demand() string {
	switch c.op {
	case "posture":
		return "posture: laptop"
	case "approval":
		return "approval: {by: alice, until: " + c.val + "}"
	}
	return c.op + ": " + c.val
}

var onAnswers = []string{"country", "answers", "continent", "asn", "cname", "mx", "txt"}

// onAnswer and onName tell what a condition looks at.
func (c *modelCond) onAnswer() bool {
	return slices.Contains(onAnswers, c.op) || slices.ContainsFunc(c.kids, func(k modelCond) bool { return k.onAnswer() })
}

func (c *modelCond) onName() bool {
	return slices.Contains([]string{"exact", "suffix", "pattern", "list", "regexp", "category"}, c.op) || slices.ContainsFunc(c.kids, func(k modelCond) bool { return k.onName() })
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

func (c *modelCond) evalAnswer(h modelHop) truth {
	switch c.op {
	case "cname":
		return among(h.alias, func(n string) bool { return n == c.val || c.val == "{suffix: a.test}" && under(n, "a.test") })
	case "mx":
		return among(values(h.Hop, 15), func(n string) bool {
			return under(n, map[bool]string{true: "mail.test", false: "bad.example"}[c.val == "{suffix: mail.test}"])
		})
	case "txt":
		return among(values(h.Hop, 16), func(s string) bool { return strings.HasPrefix(s, "v=spf1") })
	}
	best := isFalse
	if len(h.Addrs) == 0 {
		return isUnknown
	}
	for _, a := range h.Addrs {
		best = max(best, c.evalAddress(a.String()))
	}
	return best
}

// among is true if one of the values is so, and unknown if there is none.
func among(values []string, is func(string) bool) truth {
	if len(values) == 0 {
		return isUnknown
	}
	return yes(slices.ContainsFunc(values, is))
}

func values(h policy.Hop, typ uint16) (out []string) {
	for _, v := range h.Values {
		if v.Type == typ {
			out = append(out, v.Text)
		}
	}
	return out
}

func (c *modelCond) evalAddress(a string) truth {
	country := map[string]string{"203.0.113.9": "CN", "192.0.2.1": "US", "2001:db8:c::1": "CN"}[a]
	continent := map[string]string{"CN": "AS", "US": "NA"}[country]
	system := map[string]string{"203.0.113.9": "4134", "10.0.0.1": "AS64512"}[a]
	fact := map[string]string{"country": country, "continent": continent, "asn": system}
	switch {
	case c.op == "answers" && c.val == "china-networks":
		return yes(country == "CN")
	case c.op == "answers" && c.val == "203.0.113.0/24":
		return yes(a == "203.0.113.9")
	case c.op == "answers":
		return yes(a == c.val)
	case fact[c.op] == "":
		return isUnknown
	}
	return yes(fact[c.op] == c.val)
}

func under(n, d string) bool { return n == d || strings.HasSuffix(n, "."+d) }

func (c *modelCond) evalLeaf(q *policy.Query, h modelHop) truth {
	val := strings.Trim(c.val, `"`)
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
	case "category":
		return yes(under(h.Name, "taobao.com") || under(h.Name, "jd.com") || under(h.Name, "phish.example") || under(h.Name, "bad.example"))
	case "regexp":
		switch val {
		case "a":
			return yes(h.Name == "a")
		case `.*\\.jd\\.com`:
			return yes(strings.HasSuffix(h.Name, ".jd.com"))
		}
		return yes((strings.HasPrefix(h.Name, "a.") || strings.HasPrefix(h.Name, "b.")) && strings.HasSuffix(h.Name, ".test"))
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
	return c.evalMore(q, val)
}

func (c *modelCond) evalMore(q *policy.Query, val string) truth {
	dev := q.Asker.Device
	switch c.op {
	case "user":
		return yes(dev != nil && dev.User == val)
	case "platform":
		if dev == nil || dev.Platform == "" {
			return isUnknown
		}
		return yes(strings.ToLower(dev.Platform) == val)
	case "listener":
		return yes(q.Asker.Listener == val)
	case "transport":
		return yes(q.Asker.Transport != "" && strings.Contains(val, q.Asker.Transport))
	case "flow":
		return evalFlow(q, val)
	case "schedule":
		return yes(strings.Contains(val, "office") && inOffice(q.Now) || strings.Contains(val, "night") && inNight(q.Now) || strings.Contains(val, "New_York") && inSmallHours(q.Now))
	case "approval":
		end := map[string]time.Time{"2026-05-04": time.Date(2026, 5, 5, 0, 0, 0, 0, time.UTC), "2026-10-25T02:30:00+01:00": time.Date(2026, 10, 25, 1, 30, 0, 0, time.UTC)}[val]
		return yes(q.Now.Before(end))
	}
	return evalPosture(q, val)
}

func evalFlow(q *policy.Query, val string) truth {
	f := q.Flow
	switch {
	case f == nil:
		return isFalse
	case strings.HasPrefix(val, "{route:"):
		return isUnknown
	}
	return yes(map[string]bool{
		"{protocol: tcp}":                   f.Proto == 6,
		"{port: [80, 8000-8100]}":           f.Port == 80 || f.Port >= 8000 && f.Port <= 8100,
		"{protocol: icmp}":                  f.Proto == 1 || f.Proto == 58,
		"{protocol: [udp, tcp], port: 443}": (f.Proto == 6 || f.Proto == 17) && f.Port == 443,
		"go there, is there":                true,
	}[val])
}

// zones are those of the schedules above.
var zones = func() map[string]*time.Location {
	out := map[string]*time.Location{}
	for _, name := range []string{"Europe/Berlin", "Asia/Shanghai", "America/New_York"} {
		z, err := time.LoadLocation(name)
		if err != nil {
			panic(err) // they are in the program
		}
		out[name] = z
	}
	return out
}()

// wall returns what the clock of a zone shows.
func wall(now time.Time, zone string) (weekday time.Weekday, clock string) {
	t := now.In(zones[zone])
	return t.Weekday(), t.Format("15:04:05")
}

func inOffice(now time.Time) bool {
	d, c := wall(now, "Europe/Berlin")
	return d >= time.Monday && d <= time.Friday && (c >= "08:00" && c < "12:00" || c >= "13:00" && c < "18:00")
}

func inNight(now time.Time) bool {
	_, c := wall(now, "Asia/Shanghai")
	return c >= "22:30" || c < "06:00"
}

// inSmallHours is {days: [sat-mon, wed], hours: ["00:30-02:30", "23:00-01:15"]}.
func inSmallHours(now time.Time) bool {
	d, c := wall(now, "America/New_York")
	on := func(d time.Weekday) bool {
		return d == time.Saturday || d == time.Sunday || d == time.Monday || d == time.Wednesday
	}
	return on(d) && (c >= "00:30" && c < "02:30" || c >= "23:00") || on((d+6)%7) && c < "01:15"
}

// inWindow tells whether a policy counts.
func (r *modelRule) inWindow(now time.Time) bool {
	at := func(s string) time.Time {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			panic(err) // the moments of these tests are well written
		}
		return t
	}
	switch r.window {
	case "not_before: 2026-05-04":
		return !now.Before(at("2026-05-04T00:00:00Z"))
	case "not_after: 2026-05-04":
		return now.Before(at("2026-05-05T00:00:00Z"))
	case "not_before: 2026-03-29T01:30:00Z":
		return !now.Before(at("2026-03-29T01:30:00Z"))
	case "not_after: 2026-10-25T02:00:00+01:00":
		return now.Before(at("2026-10-25T01:00:00Z"))
	case "not_before: 2026-05-05, not_after: 2026-05-06":
		return !now.Before(at("2026-05-05T00:00:00Z")) && now.Before(at("2026-05-07T00:00:00Z"))
	}
	return true
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
		_, byDefault, _ := p.standing(q)
		allows := end == nil && byDefault || end != nil && end.allows() && end.met(q)
		switch {
		case !waits && !(allows && looksAtNames):
			return p.act(q, end)
		case allows && end != nil && end.upstream() != "":
			return "ask upstream " + end.upstream()
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
func (p modelPolicy) standing(q *policy.Query) (by string, allow, learn bool) {
	for _, d := range p.defaults {
		if d.cond.evalLeaf(q, modelHop{}) == isTrue {
			return "default", d.allow, d.learn
		}
	}
	return "default", p.allow, false
}

func (p modelPolicy) act(q *policy.Query, r *modelRule) string {
	by, allow, learn := p.standing(q)
	then := map[bool]string{true: "allow", false: "block"}[allow]
	if r != nil {
		by, then, learn = r.name, r.then, false
	}
	switch {
	case r != nil && !r.met(q):
		return "deny refused by " + by
	case q.Flow != nil && (then != "steer" && then != "block" || then == "steer" && q.Flow.Proto != 1 && q.Flow.Proto != 58 && *q.Flow != (policy.Service{Proto: 6, Port: 443})):
		then = "block"
	}
	what := map[string]string{"allow": "allow", "block": "block refused", "steer": "steer there"}[then]
	if what == "" {
		what = "resolve " + then
	}
	if learn {
		by += " learned"
	}
	return what + " by " + by
}

func short(d *policy.Decision) string {
	switch {
	case d.NeedAnswer:
		return d.String()
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
	return d.String() + " by " + by
}

func checkAgainstModel(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	m := randomPolicy(r)
	p := parse(t, m.yaml())
	for range 100 {
		q := queryAt(r, pick(r, modelMoments).Add(time.Duration(r.Int64N(int64(4*time.Hour)))-2*time.Hour))
		d, trace := p.Explain(q)
		if got, want := short(&d), m.decide(q); got != want {
			t.Fatalf("seed %d: %+v\n%+v\n got %s\nwant %s\n%s\n%v", seed, q, q.Asker.Device, got, want, m.yaml(), trace)
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
