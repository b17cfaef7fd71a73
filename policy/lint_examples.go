package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy/match"
	"github.com/starferry/starferry/steer/geo"
)

// maxSearch bounds how many questions are tried for an example, and maxWork what
// is looked at for all of them, in policies: what is not found by then is not said.
// A decision costs as much as some policies before it looks at any, and so does
// an expression.
const (
	maxSearch    = 20_000
	maxWork      = 100_000_000
	decisionCost = 50
	regexpCost   = 25
)

// A choice is one thing in which questions can differ: set makes the i-th of so
// many of a question.
type choice struct {
	of  int
	set func(q *Query, i int)
}

// choose makes a choice of values.
func choose[T any](values []T, set func(*Query, T)) choice {
	return choice{len(values), func(q *Query, i int) { set(q, values[i]) }}
}

// search returns the first question made of what policies speak of that is
// accepted, with the answer known. Where there are more of them than are tried,
// half of those that are, are taken at random.
func (l *linter) search(rules []*Rule, accept func(*Query, *Decision) bool) (*Query, bool) {
	choices := l.choices(rules)
	all := 1
	for _, c := range choices {
		all = min(all*c.of, maxSearch+1)
	}
	random := rand.New(rand.NewPCG(1, 1)) // the same each time
	for n := range min(all, maxSearch) {
		if l.work += l.cost; l.work > maxWork {
			break
		}
		q := &Query{Answered: true, Answer: []Hop{{}}, Asker: Asker{Device: &device.Device{}, Verdicts: posture.Verdicts{}}}
		in := n
		if all > maxSearch {
			in /= 2
		}
		for _, c := range slices.Backward(choices) {
			if all > maxSearch && n%2 == 1 {
				c.set(q, random.IntN(c.of))
				continue
			}
			c.set(q, in%c.of)
			in /= c.of
		}
		if q.Asker.Device.ID == "" {
			q.Asker.Device, q.Asker.Kind, q.Asker.Verdicts = nil, device.Unidentified, nil
		}
		if d := l.policy.Decide(q); accept(q, &d) {
			return q, true
		}
	}
	return nil, false
}

// choices are those between values that conditions of the policies speak of, and
// others: the plainest first, and what varies first last.
func (l *linter) choices(rules []*Rule) []choice {
	var leaves []*cond
	demanded := demands{}
	for _, r := range rules {
		r.condition().each(func(c *cond) { leaves = append(leaves, c) })
		if d := r.demands; d != nil {
			demanded.groups = append(demanded.groups, d.groups...)
			demanded.devices = append(demanded.devices, d.devices...)
			demanded.profiles = append(demanded.profiles, d.profiles...)
			demanded.schedules = append(demanded.schedules, d.schedules...)
		}
	}
	out := []choice{
		choose(l.times(leaves, demanded.schedules), func(q *Query, t time.Time) { q.Now = t }),
		choose(manners(leaves), func(q *Query, m manner) {
			q.Type, q.Flow = m.rrtype, m.flow // the route follows
			q.Asker.Listener, q.Asker.Transport = m.listener, m.transport
		}),
		choose(l.names(leaves), func(q *Query, name string) { q.Name, q.Answer[0].Name = name, name }),
		choose(l.answers(leaves), func(q *Query, a []netip.Addr) { q.Answer[0].Addrs = a }),
	}
	return append(out, l.askers(leaves, &demanded)...)
}

// askers are the choices between those who ask.
func (l *linter) askers(leaves []*cond, demanded *demands) []choice {
	words := map[op][]string{opGroup: demanded.groups, opDevice: demanded.devices}
	profiles := slices.Clone(demanded.profiles)
	askedBy := []device.Kind{device.ByWireGuard, device.ByNetwork, device.ByToken, device.Unidentified}
	sources := []netip.Addr{{}}
	for _, c := range leaves {
		switch c.op {
		case opGroup, opDevice, opUser, opPlatform:
			words[c.op] = append(words[c.op], c.words...)
		case opKind:
			askedBy = append(askedBy, c.kinds...)
		case opPosture:
			profiles = append(profiles, c.profile)
		case opSource:
			sources = append(sources, edges([]*cond{c})[2:]...)
			if s := l.lists[c.list()]; s != nil {
				sources = append(sources, s.addrs...)
			}
		}
	}
	one := func(o op, first ...string) []string { return once(append(first, words[o]...)) }
	out := []choice{
		choose(once(askedBy), func(q *Query, k device.Kind) { q.Asker.Kind = k }),
		choose(groupings(one(opGroup)), func(q *Query, groups []string) { q.Asker.Device.Groups = groups }),
		choose(append(one(opDevice, "somebody"), ""), func(q *Query, id string) { q.Asker.Device.ID = device.ID(id) }),
		choose(one(opUser, ""), func(q *Query, user string) { q.Asker.Device.User = user }),
		choose(append(one(opPlatform, ""), otherPlatform), func(q *Query, p string) { q.Asker.Device.Platform = p }),
		choose(once(sources), func(q *Query, src netip.Addr) { q.Asker.Source = src }),
	}
	if len(words[opPlatform]) == 0 {
		out[4].of = 1
	}
	for _, name := range once(profiles) {
		results := []posture.Result{posture.Passed, posture.Failed, posture.Unknown}
		out = append(out, choose(results, func(q *Query, r posture.Result) { q.Asker.Verdicts[name] = assumedVerdict(r) }))
	}
	return out
}

// otherPlatform is one that no policy speaks of.
const otherPlatform = "plan9"

// groupings are all groups at once, each alone, and none.
func groupings(groups []string) [][]string {
	if len(groups) == 0 {
		return [][]string{nil}
	}
	out := [][]string{groups}
	for _, g := range groups {
		if len(groups) > 1 {
			out = append(out, []string{g})
		}
	}
	return append(out, nil)
}

// times are now, and moments at which schedules and windows are on, and off.
func (l *linter) times(leaves []*cond, demanded []*schedule) []time.Time {
	out := []time.Time{l.now}
	for _, c := range leaves {
		switch c.op {
		case opSchedule:
			demanded = append(demanded, c.schedules...)
		case opWindow:
			for _, end := range []time.Time{c.window.from, c.window.to} {
				if !end.IsZero() {
					out = append(out, end, end.Add(-time.Minute))
				}
			}
		}
	}
	for _, s := range once(demanded) {
		for next, turns := l.now, 0; turns < 4; turns++ { // of a week with two spans, all of them
			if _, next = s.at(next); next.IsZero() {
				break
			}
			out = append(out, next)
		}
	}
	return once(out)
}

// names are some that conditions are true of.
func (l *linter) names(leaves []*cond) []string {
	out := []string{"www.example.com"}
	for _, c := range leaves {
		out = append(out, l.namesOf(c)...)
	}
	return once(out)
}

// namesOf returns names that a condition is true of.
func (l *linter) namesOf(c *cond) (out []string) {
	for _, e := range c.entries {
		if e.kind&match.Exact != 0 {
			out = append(out, e.name)
		}
		if e.kind&(match.One|match.Under) != 0 {
			out = append(out, "www."+e.name)
		}
		if e.kind&match.Under != 0 {
			out = append(out, "www.a."+e.name)
		}
	}
	if s := l.lists[c.list()]; s != nil && c.op == opName {
		out = append(out, s.names...)
	}
	if expr := c.regexp(); expr != "" {
		out = append(append(out, matched(expr)...), meant(expr)...)
	}
	return out
}

// answers are none, addresses that conditions are true of, one at a time, and
// one that is nowhere.
func (l *linter) answers(leaves []*cond) [][]netip.Addr {
	var addrs []netip.Addr
	for _, c := range leaves {
		addrs = append(addrs, l.addrsOf(c)...)
	}
	out := [][]netip.Addr{nil}
	for _, a := range once(addrs) {
		out = append(out, []netip.Addr{a})
	}
	return append(out, []netip.Addr{elsewhere})
}

// addrsOf returns addresses that a condition is true of.
func (l *linter) addrsOf(c *cond) (out []netip.Addr) {
	if c.op == opNetwork {
		for _, w := range c.words {
			if p, err := netip.ParsePrefix(w); err == nil {
				out = append(out, p.Addr())
			}
		}
		if s := l.lists[c.list()]; s != nil {
			out = append(out, s.addrs...)
		}
	}
	for a, of := range l.places {
		if (c.op == opCountry || c.op == opContinent || c.op == opASN) && of.is(c) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// elsewhere is an address of nobody's list (RFC 5737).
var elsewhere = netip.MustParseAddr("192.0.2.1")

// truthFor is the truth of a condition at the asked name.
func (c *cond) truthFor(p *Policy, q *Query) Truth {
	at := spot{q.hop(0), q.alias(0)}
	s := scene{q: q, at: &at, until: new(time.Time), filter: p.filter, hashes: new(match.Hashes)}
	if !q.Answered && q.Flow == nil {
		s.open = atAnswer
	}
	return c.eval(&s)
}

// prepare draws samples of the lists, and makes the policy decide by invented
// addresses of each place that it speaks of.
func (l *linter) prepare(p *Policy) {
	for i := range p.lists {
		l.sample(p, &p.lists[i])
	}
	var of []place
	given := []netip.Addr{elsewhere}
	p.leaves(func(c *cond) {
		for _, w := range c.words {
			switch c.op {
			case opCountry:
				of = append(of, place{Country: w})
			case opContinent:
				of = append(of, place{Country: countryOn(w)})
			case opASN:
				n, _ := strconv.ParseUint(w[len("AS"):], 10, 32) // as the condition writes it
				of = append(of, place{ASN: uint32(n)})
			}
		}
		if c.op == opNetwork {
			given = append(given, l.addrsOf(c)...)
		}
	})
	assumed := map[netip.Addr]place{}
	for i, pl := range once(of) {
		assumed[invented(i)] = pl
	}
	l.places = assumed
	var err error
	if l.policy, err = p.assuming(assumed, given); err != nil {
		l.policy = p
	}
	l.survey()
}

// survey notes what is wanted of the policies again and again.
func (l *linter) survey() {
	rules := l.policy.rules
	l.order = make(map[*Rule]int, len(rules))
	l.asking = len(rules)
	for i := range rules {
		r := &rules[i]
		l.order[r] = i
		if l.asking > i && r.condition().sees()&atAnswer != 0 {
			l.asking = i
		}
	}
	l.cost = decisionCost
	for _, i := range l.policy.all.open { // the index finds the others
		rules[i].condition().each(func(c *cond) {
			if l.cost++; c.op == opRegexp {
				l.cost += regexpCost
			}
		})
	}
}

// countryOn returns a country of a continent.
func countryOn(continent string) string {
	for a := 'A'; a <= 'Z'; a++ {
		for b := 'A'; b <= 'Z'; b++ {
			if code := string([]rune{a, b}); geo.ContinentOf(code) == continent {
				return code
			}
		}
	}
	return ""
}
