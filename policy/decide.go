package policy

import (
	"fmt"
	"time"

	"github.com/starferry/starferry/policy/match"
)

// Decide decides a query in the order that the package comment tells. A
// decision that denies nothing allocates nothing.
func (p *Policy) Decide(q *Query) Decision { return p.decide(q, nil) }

// Explain decides like [Policy.Decide] and also says how it got there.
func (p *Policy) Explain(q *Query) (Decision, *Trace) {
	var t Trace
	d := p.decide(q, &t)
	t.Decision = d.String()
	return d, &t
}

func (p *Policy) decide(q *Query, t *Trace) Decision {
	var at Hop
	var until time.Time
	var hashes match.Hashes
	s := scene{q: q, at: &at, until: &until, trace: t, filter: p.filter, hashes: &hashes}
	if q.Flow == nil && !q.Answered {
		s.answer = before
	}
	end := len(p.rules) // the place that ends the list; there the default stands
	for i := range q.hops() {
		s.turn(q.hop(i))
		k, truth := p.first(&s, end, i > 0)
		switch {
		case k == end:
		case truth != Yes:
			return p.wait(&s)
		case !p.rules[k].ends:
			return s.chosen(&p.rules[k])
		default:
			end = k
		}
	}
	s.turn(Hop{Name: q.Name})
	return p.ended(&s, end)
}

// first returns the first policy above end that is true for the name of the
// scene, or may still become so; end if there is none. Policies that end the
// list were looked at for the first name.
func (p *Policy) first(s *scene, end int, later bool) (int, Truth) {
	for k := range p.rules[:end] {
		r := &p.rules[k]
		if later && r.ends {
			continue
		}
		if t := r.matches(s); t&Yes != 0 {
			return k, t
		}
	}
	return end, No
}

func (r *Rule) matches(s *scene) Truth {
	t := Yes
	from := s.trace.mark()
	if r.when != nil {
		t = r.when.eval(s)
	}
	s.trace.step(r, s.at.Name, t, from)
	return t
}

// ended decides by what stands at the end of the list.
func (p *Policy) ended(s *scene, end int) Decision {
	var r *Rule
	then := &p.fallback
	if end < len(p.rules) {
		r = &p.rules[end]
		then = &r.Then
	} else {
		s.trace.step(nil, s.at.Name, Yes, s.trace.mark())
	}
	if s.answer == before && then.Action == Allow && p.chained[end] && (r == nil || r.demands.met(s)) {
		return p.wait(s)
	}
	if r != nil {
		return s.chosen(r)
	}
	return s.admitted(Decision{Then: *then, Hop: s.at.Name, Until: *s.until})
}

// wait leaves the decision until the answer is there.
func (p *Policy) wait(s *scene) Decision {
	return Decision{NeedAnswer: true, Hop: s.at.Name, Until: *s.until}
}

// chosen judges the demands of the policy that was chosen.
func (s *scene) chosen(r *Rule) Decision {
	from := s.trace.mark()
	denied := r.demands.judge(s)
	d := Decision{Then: r.Then, Rule: r, Hop: s.at.Name, Denied: denied, Until: *s.until}
	s.trace.judged(r, denied, from)
	if denied != "" {
		d.Then = r.deny
		return d
	}
	return s.admitted(d)
}

// admitted holds a flow to what a steer admits.
func (s *scene) admitted(d Decision) Decision {
	f := s.q.Flow
	switch {
	case f == nil, d.Then.Action == Block:
		return d
	case d.Then.Action != Steer:
		d.Then = Then{Action: Block, EDE: EDEBlocked, Reason: fmt.Sprintf("%v admits no traffic, only a steer does", d.Then.Action)}
	case !d.Then.admits(f):
		d.Then = Then{Action: Block, EDE: EDEBlocked, Reason: fmt.Sprintf("%s is not among its ports", f.String())}
	}
	return d
}

// String names a service as policies do: tcp/443.
func (s Service) String() string {
	switch s.Proto {
	case protoTCP:
		return fmt.Sprintf("tcp/%d", s.Port)
	case protoUDP:
		return fmt.Sprintf("udp/%d", s.Port)
	case protoICMP, protoICMPv6:
		return "icmp"
	default:
		return fmt.Sprintf("protocol %d", s.Proto)
	}
}
