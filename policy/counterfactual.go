package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy/match"
)

// A Remedy is a set of changes after which a question would be allowed; none of
// them can be left out.
type Remedy struct {
	Changes  []string `json:"changes"`  // "posture managed-laptop passes", "www.example.com not in list phishing"
	Decision string   `json:"decision"` // that would then be made, and by which policy
}

// The most that is tried: more changes than three at once are a different
// question, and more single ones are not read by anybody.
const (
	maxChanges  = 3
	maxCauses   = 24
	maxRemedies = 8
)

// A cause is one thing that could be otherwise: who asks, or what is in a list.
type cause struct {
	text  string
	who   func(*Query)
	lists func(*cond)
	field string // of two causes for one field only one can be
}

// Remedies says what would have to change for a question to be allowed, or a
// flow to be admitted: the smallest changes of who asks and of what is in which
// list, each tried and decided anew. It returns nothing for what is allowed
// already, for what waits for an answer, and where nothing of the kind helps.
func (p *Policy) Remedies(q *Query) (out []Remedy) {
	if d := p.Decide(q); d.NeedAnswer || allowed(q, &d) {
		return nil
	}
	t := trial{policy: p, query: q, causes: p.causes(q), edited: map[string]*Policy{}}
	var found [][]int
	for n := 1; n <= maxChanges; n++ {
		combine(len(t.causes), n, func(pick []int) bool {
			if t.clash(pick) || covered(found, pick) {
				return true
			}
			if d, ok := t.try(pick); ok {
				found = append(found, slices.Clone(pick))
				out = append(out, Remedy{Changes: t.texts(pick), Decision: d.told()})
			}
			return len(out) < maxRemedies
		})
	}
	return out
}

// allowed reports whether a question gets something to go to.
func allowed(q *Query, d *Decision) bool {
	switch {
	case d.Denied != "" || d.NeedAnswer:
		return false
	case q.Flow != nil:
		return d.Then.Action == Steer
	}
	return d.Then.Action != Block
}

// A trial is a question that is tried with changes.
type trial struct {
	policy *Policy
	query  *Query
	causes []cause
	edited map[string]*Policy // with other lists, by the changes
}

// try decides with some changes made. Where that takes an answer, it counts as
// one that nothing is known of.
func (t *trial) try(pick []int) (Decision, bool) {
	changed := *t.query
	changed.Asker.Verdicts = maps.Clone(changed.Asker.Verdicts)
	for _, i := range pick {
		if who := t.causes[i].who; who != nil {
			who(&changed)
		}
	}
	p := t.with(pick)
	d := p.Decide(&changed)
	if d.NeedAnswer {
		changed.Answered = true
		d = p.Decide(&changed)
	}
	return d, allowed(&changed, &d)
}

// with returns the policy as it would be after the changes, made once.
func (t *trial) with(pick []int) *Policy {
	var edits []int
	for _, i := range pick {
		if t.causes[i].lists != nil {
			edits = append(edits, i)
		}
	}
	if len(edits) == 0 {
		return t.policy
	}
	key := fmt.Sprint(edits)
	if t.edited[key] == nil {
		t.edited[key] = t.policy.with(func(c *cond) {
			for _, i := range edits {
				t.causes[i].lists(c)
			}
		})
	}
	return t.edited[key]
}

func (t *trial) texts(pick []int) (out []string) {
	for _, i := range pick {
		out = append(out, t.causes[i].text)
	}
	return out
}

func (t *trial) clash(pick []int) bool {
	for k, i := range pick {
		for _, j := range pick[:k] {
			if t.causes[i].field != "" && t.causes[i].field == t.causes[j].field {
				return true
			}
		}
	}
	return false
}

// combine calls f with each n of the numbers below size, in order, until it
// returns false.
func combine(size, n int, f func([]int) bool) {
	pick := make([]int, n)
	var from func(at, least int) bool
	from = func(at, least int) bool {
		if at == n {
			return f(pick)
		}
		for i := least; i < size; i++ {
			pick[at] = i
			if !from(at+1, i+1) {
				return false
			}
		}
		return true
	}
	from(0, 0)
}

// covered reports whether fewer changes than these have been found to do.
func covered(found [][]int, pick []int) bool {
	return slices.ContainsFunc(found, func(f []int) bool {
		return !slices.ContainsFunc(f, func(i int) bool { return !slices.Contains(pick, i) })
	})
}

// causes are what could be otherwise for a question, the likeliest first.
func (p *Policy) causes(q *Query) []cause {
	out := slices.Concat(p.postureCauses(q), p.groupCauses(q), identityCauses(q), p.outOfLists(q), p.intoLists(q), p.deviceCauses(q))
	return out[:min(len(out), maxCauses)]
}

func (p *Policy) postureCauses(q *Query) (out []cause) {
	for _, prof := range p.profiles {
		if q.Asker.Device == nil || q.Asker.Verdicts[prof.Name].At(q.Now).Result == posture.Passed {
			continue
		}
		out = append(out, cause{text: "posture " + prof.Name + " passes", who: func(q *Query) {
			if q.Asker.Verdicts == nil {
				q.Asker.Verdicts = posture.Verdicts{}
			}
			q.Asker.Verdicts[prof.Name] = assumedVerdict(posture.Passed)
		}})
	}
	return out
}

// groupCauses are groups to be in, and not to be in.
func (p *Policy) groupCauses(q *Query) (out []cause) {
	d := q.Asker.Device
	seen := map[string]bool{}
	for _, ref := range p.groups {
		g := ref.Name
		if seen[g] {
			continue
		}
		seen[g] = true
		if d != nil && d.InGroup(g) {
			out = append(out, cause{text: "not in group " + g, who: func(q *Query) {
				regroup(q, func(has []string) []string {
					return slices.DeleteFunc(has, func(h string) bool { return h == g })
				})
			}})
			continue
		}
		out = append(out, cause{text: "in group " + g, who: func(q *Query) {
			regroup(q, func(has []string) []string { return append(has, g) })
		}})
	}
	return out
}

// regroup changes the groups of who asks, in a copy of the device.
func regroup(q *Query, change func([]string) []string) {
	var d device.Device
	if q.Asker.Device != nil {
		d = *q.Asker.Device
	}
	d.Groups = change(slices.Clone(d.Groups))
	q.Asker.Device = &d
}

func identityCauses(q *Query) (out []cause) {
	for _, s := range []device.Strength{device.Weak, device.Medium, device.Strong} {
		if q.Asker.Kind.Strength() >= s {
			continue
		}
		out = append(out, cause{field: "identity", text: fmt.Sprintf("identity %v (%v)", s, byStrength[s]), who: func(q *Query) { q.Asker.Kind = byStrength[s] }})
	}
	return out
}

// deviceCauses are the devices that policies name.
func (p *Policy) deviceCauses(q *Query) (out []cause) {
	seen := map[string]bool{deviceName(q): true}
	for _, ref := range p.devices {
		if id := ref.Name; !seen[id] {
			seen[id] = true
			out = append(out, cause{field: "device", text: "asked by device " + id, who: func(q *Query) {
				regroup(q, func(has []string) []string { return has })
				q.Asker.Device.ID = device.ID(id)
			}})
		}
	}
	return out
}

// outOfLists are lists that names and addresses of the question are in, and
// could be taken out of; and countries that its addresses could be elsewhere
// than in.
func (p *Policy) outOfLists(q *Query) (out []cause) {
	seen := map[string]bool{}
	p.leaves(func(c *cond) {
		text := c.inList(p, q)
		if text == "" || seen[text] {
			return
		}
		seen[text] = true
		what, isOf, name := c.text, c.op, c.ofList()
		out = append(out, cause{text: text, lists: func(c *cond) {
			if c.op == isOf && c.ofList() == name && (name != "" || c.text == what) {
				c.names, c.nets = nil, nil
				if isOf == opCountry {
					c.op = opNetwork // in none, which no country database can be made to say
				}
			}
		}})
	})
	return out
}

// inList says which names or addresses of the question a list or country has;
// "" for none.
func (c *cond) inList(p *Policy, q *Query) string {
	text := "in list " + c.ofList()
	if c.op == opCountry {
		text = c.text
	} else if c.ofList() == "" {
		return ""
	}
	var in []string
	for i := range q.hops() {
		h := q.hop(i)
		at := Query{Name: h.Name, Answered: true, Answer: []Hop{h}, Now: q.Now}
		if c.truthFor(p, &at) == Yes && !slices.Contains(in, h.Name) {
			in = append(in, h.Name)
		}
	}
	switch {
	case in == nil:
		return ""
	case c.op == opName:
		return strings.Join(in, " and ") + " not " + text
	default:
		return "addresses of " + strings.Join(in, " and ") + " not " + text
	}
}

// intoLists are lists of names that no name of the question is in, and the asked
// one could be.
func (p *Policy) intoLists(q *Query) (out []cause) {
	var b match.NamesBuilder
	if b.AddKind(match.Exact, q.Name) != nil {
		return nil
	}
	alone := b.Build()
	seen := map[string]bool{}
	p.leaves(func(c *cond) {
		name := c.ofList()
		if c.op != opName || name == "" || seen[name] {
			return
		}
		seen[name] = true
		if c.inList(p, q) != "" {
			return
		}
		out = append(out, cause{text: q.Name + " in list " + name, lists: func(c *cond) {
			if c.op == opName && c.ofList() == name {
				c.names = alone
			}
		}})
	})
	return out
}
