package policy

import (
	"time"

	"github.com/starferry/starferry/policy/match"
)

// CouldSteer reports whether there is an asker whom the policy would steer to
// this name by this route. Nothing is known of who asks, so that conditions on
// it may be anything. facts are the names and addresses by which the asking
// node judged; conditions on the answer must be true of them, or may be
// anything if there are none. (Where conditions depend on one another it may
// be too generous: flows are decided with all that is known.)
func (p *Policy) CouldSteer(name string, facts []Hop, route string, now time.Time) bool {
	q := Query{Name: name, Answered: len(facts) > 0, Answer: facts, Now: now}
	var at spot
	s := scene{q: &q, at: &at, until: new(time.Time), open: atScope | atType | atFlow, filter: p.filter, hashes: new(match.Hashes)}
	if !q.Answered {
		s.open |= atAnswer
	}
	end := len(p.rules)
	for i := range q.hops() {
		at = spot{q.hop(i), q.alias(i)}
		w := p.all.walk(&s, end, i > 0)
		found, next := w.steers(&s, route)
		if found || next < 0 {
			return found
		}
		end = next
	}
	return false
}

// steers looks for a steer by the route at one name. It also returns where the
// list ends for the next name, -1 if nobody gets to that.
func (w *walk) steers(s *scene, route string) (found bool, next int) {
	ends := -1 // the last policy that ends the list for some
	for k := w.next(); k < w.end; k = w.next() {
		r := &w.policy.rules[k]
		if w.later && r.own || r.shadow {
			continue
		}
		t := r.matches(s)
		switch {
		case t&Yes == 0:
		case r.Then.Action == Steer && r.Then.Route == route:
			return true, 0
		case t == Yes && r.ends:
			return false, k
		case t == Yes: // it decides for all but those whose list ends above it
			return false, ends
		case r.ends:
			ends = k
		}
	}
	return false, w.end
}
