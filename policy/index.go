package policy

import (
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry/policy/match"
)

// An index finds the policies that can be true of a name without walking those
// that cannot: policies which are false unless one of the names that are
// written in them covers the name. A decision passes over the others, which
// changes nothing but its cost; a trace passes over none.
type index struct {
	entries map[string][]indexed // by the name that is written
	deep    int                  // labels of the longest of them
}

type indexed struct {
	kind match.Kind
	rule int32
}

// unnamed returns what the condition can be where no name that is written in
// it covers the one that is looked at.
func (c *cond) unnamed() Truth {
	switch {
	case c.op == opName && c.entries != nil:
		return No
	case c.op == opNot:
		return c.kids[0].unnamed().not()
	case c.op != opAll && c.op != opAny:
		return open
	}
	t := truth(c.op == opAll)
	for i := range c.kids {
		if k := c.kids[i].unnamed(); c.op == opAll {
			t = t.and(k)
		} else {
			t = t.or(k)
		}
	}
	return t
}

// add adds a policy under the names that are written in its conditions.
func (x *index) add(c *cond, rule int) {
	for _, e := range c.entries {
		x.entries[e.name] = append(x.entries[e.name], indexed{e.kind, int32(rule)})
		x.deep = max(x.deep, match.Labels(e.name))
	}
	for i := range c.kids {
		x.add(&c.kids[i], rule)
	}
}

// An arranged is what decisions go by, made from the rules.
type arranged struct {
	chained  []chained // what stands before this place; one more than rules
	every    []int32   // the places of all rules
	all      Scoped    // towards anybody
	index    index
	scoping  scoping
	forwards bool // some rule says how to go upstream
	shadows  bool // some rule is in mode shadow
}

// chained says whether any rule before a place looks at names or answers of the
// whole chain, and whether any does if rules in mode shadow count.
type chained struct{ enforced, any bool }

func (c chained) in(s *scene) bool { return c.enforced || c.any && s.shadows }

// arrange is the last step of making a policy.
func (p *Policy) arrange() {
	p.index.entries = map[string][]indexed{}
	p.all.policy = p
	var before chained
	for i := range p.rules {
		r := &p.rules[i]
		p.chained = append(p.chained, before)
		if !r.ends && !r.own {
			before.any = true
			before.enforced = before.enforced || !r.shadow
		}
		p.shadows = p.shadows || r.shadow
		p.forwards = p.forwards || r.Then.Forward != Forward{}
		p.every = append(p.every, int32(i))
		if r.when != nil && r.when.unnamed() == No {
			p.index.add(r.when, i)
		} else {
			p.all.open = append(p.all.open, int32(i))
		}
	}
	p.chained = append(p.chained, before)
	p.scoping = p.scopes()
}

// A Scoped is a policy as it stands towards the askers of one scope. It is
// immutable.
type Scoped struct {
	policy *Policy
	open   []int32 // the rules that can be true of them, but for those that the index finds
	until  time.Time
}

// For returns the policy as it stands towards all that have the scope which
// the asker has now: it decides like the policy, and sooner. A decision changes
// by the passing of time no later than the scope does.
func (p *Policy) For(a *Asker, now time.Time) *Scoped {
	q := Query{Asker: *a, Now: now}
	v := &Scoped{policy: p}
	s := scene{q: &q, at: &spot{}, until: &v.until, open: atName | atAnswer | atType | atFlow, filter: p.filter, hashes: new(match.Hashes)}
	for _, k := range p.all.open {
		if r := &p.rules[k]; r.when == nil || r.when.eval(&s)&Yes != 0 {
			v.open = append(v.open, k)
		}
	}
	_, v.until = p.Scope(nil, a, now)
	return v
}

// Decide decides a query of an asker of the scope like [Policy.Decide].
func (v *Scoped) Decide(q *Query) Decision {
	if q.Flow == nil && !v.policy.shadows { // nearly all, at once: decisions are large to be passed on
		return v.decideBy(q, nil, false, "")
	}
	return v.decide(q, nil)
}

// A walk goes through the rules that can be true of one name, from the top.
type walk struct {
	policy *Policy
	end    int // where the list ends
	later  bool
	open   []int32 // still to come of those that may be true of any name
	hits   [16]int32
	n, i   int // of hits: how many there are, the next one
}

// walk begins a walk for the name of the scene. At names after the first one
// policies are passed over that are not for them.
func (v *Scoped) walk(s *scene, end int, later bool) walk {
	s.turn()
	w := walk{policy: v.policy, end: end, later: later, open: v.open}
	if s.trace != nil || !w.find(s.at.Name) {
		w.open, w.n = v.policy.every, 0
	}
	return w
}

// find looks the name up; false if too many policies have it.
func (w *walk) find(name string) bool {
	x := &w.policy.index
	covers := match.Exact
	for skip := strings.Count(name, ".") + 1 - x.deep; ; skip-- {
		if skip <= 0 {
			for _, e := range x.entries[name] {
				if e.kind&covers != 0 && !w.add(e.rule) {
					return false
				}
			}
		}
		dot := strings.IndexByte(name, '.')
		if dot < 0 {
			return true
		}
		name = name[dot+1:]
		if covers == match.Exact {
			covers = match.One | match.Under
		} else {
			covers = match.Under
		}
	}
}

func (w *walk) add(rule int32) bool {
	i, have := slices.BinarySearch(w.hits[:w.n], rule)
	switch {
	case have:
		return true
	case w.n == len(w.hits):
		return false
	}
	copy(w.hits[i+1:], w.hits[i:w.n])
	w.hits[i] = rule
	w.n++
	return true
}

// next returns the place of the next rule, end if there is none.
func (w *walk) next() int {
	k := w.end
	if w.i < w.n {
		k = min(k, int(w.hits[w.i]))
	}
	switch {
	case len(w.open) > 0 && int(w.open[0]) < k:
		k, w.open = int(w.open[0]), w.open[1:]
	case k < w.end:
		w.i++
	}
	return k
}

// first returns the next policy that is true for the name of the scene, or may
// still become so; end if there is none. Policies that end the list were looked
// at for the first name, and those with "cname: ignore" are for that one only.
func (w *walk) first(s *scene) (int, Truth) {
	for k := w.next(); k < w.end; k = w.next() {
		r := &w.policy.rules[k]
		if w.later && (r.ends || r.own) {
			continue
		}
		if r.shadow && !s.shadows {
			r.shadowed(s)
			continue
		}
		if t := r.matches(s); t&Yes != 0 {
			return k, t
		}
	}
	return w.end, No
}
