package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A scoping is all that a policy looks at of who asks and when: those parts of
// its conditions that look at nothing else, each once, and its demands, each
// set once.
type scoping struct {
	parts   []*cond
	demands []*demands
}

// Scope appends to key the truth of all that the policy looks at of who asks
// and when, so that two askers with equal keys are decided alike for each name,
// type and answer, texts of denials excepted. It is the same for the same
// policy only. until is when it may change by the passing of time alone, zero
// for never. It allocates nothing but room for the key.
func (p *Policy) Scope(key []byte, a *Asker, now time.Time) (_ []byte, until time.Time) {
	q := Query{Asker: *a, Now: now}
	s := scene{q: &q, at: &spot{}, until: &until}
	var b packer
	for _, c := range p.scoping.parts {
		key = b.put(key, uint8(c.eval(&s)>>1), 2) // 0, 1, 2 for no, unknown, yes
	}
	for _, d := range p.scoping.demands {
		key = b.put(key, uint8(truth(d.met(&s))>>2), 1)
	}
	return key, until
}

// A packer puts bits into bytes.
type packer struct{ room uint8 } // bits left in the last byte

func (b *packer) put(to []byte, v, width uint8) []byte {
	if b.room < width { // the widest come first, so that no room is left then
		to, b.room = append(to, 0), 8
	}
	b.room -= width
	to[len(to)-1] |= v << b.room
	return to
}

// scopes collects what the rules look at of who asks and when. Nobody looks
// below one without conditions.
func (p *Policy) scopes() (s scoping) {
	seen := map[string]bool{}
	fresh := func(key string) bool {
		known := seen[key]
		seen[key] = true
		return !known
	}
	take := func(when *cond) {
		for _, c := range when.scoped(nil) {
			if fresh(c.key()) {
				s.parts = append(s.parts, c)
			}
		}
	}
	for i := range p.rules {
		r := &p.rules[i]
		if r.demands != nil && fresh(r.demands.key()) {
			s.demands = append(s.demands, r.demands)
		}
		switch {
		case r.when != nil:
			take(r.when)
		case !r.shadow:
			return s
		}
	}
	for i := range p.defaults {
		take(&p.defaults[i].when)
	}
	return s
}

// scoped appends the largest parts of the condition that look only at who asks
// and when.
func (c *cond) scoped(to []*cond) []*cond {
	if c.sees()&^atScope == 0 {
		return append(to, c)
	}
	for i := range c.kids {
		to = c.kids[i].scoped(to)
	}
	return to
}

// key is equal for conditions on who asks that look at the same. Of a time its
// words are not all.
func (c *cond) key() string {
	var kids []string
	for i := range c.kids {
		kids = append(kids, c.kids[i].key())
	}
	slices.Sort(kids)
	var r rare
	if c.rare != nil {
		r = *c.rare
	}
	return fmt.Sprintf("if %d %q %q %d %v %q %d %d %v {%s}", c.op, set(c.words), c.list(), c.strength, slices.Sorted(slices.Values(c.kinds)),
		c.profile, c.result, r.unsaid, r.window, strings.Join(kids, ","))
}

// key is equal for demands that demand the same.
func (d *demands) key() string {
	return fmt.Sprintf("require %q %q %d %q %q %v", set(d.groups), set(d.devices), d.identity, set(d.profiles), set(scheduleNames(d.schedules)), d.approval)
}

// set returns words sorted, each once.
func set(words []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(words)))
}
