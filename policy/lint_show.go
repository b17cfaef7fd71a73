package policy

import (
	"fmt"
	"strings"

	"github.com/starferry/starferry/internal/rrtype"
)

// show tells a question and what becomes of it. The time is told where the
// policy, or the one that decides, looks at it.
func (l *linter) show(r *Rule, q *Query) string {
	d := l.policy.Decide(q)
	s := l.describe(q)
	if !q.Now.Equal(l.now) || r.timed() || d.Rule.timed() {
		s += ", at " + q.Now.UTC().Format("Mon 2006-01-02 15:04 MST")
	}
	return s + ": " + d.told()
}

// timed reports whether the policy looks at the time.
func (r *Rule) timed() (timed bool) {
	if r == nil {
		return false
	}
	r.condition().each(func(c *cond) { timed = timed || c.op == opSchedule || c.op == opWindow })
	return timed || r.demands != nil && (r.demands.schedules != nil || r.demands.approval != nil)
}

func (l *linter) describe(q *Query) string {
	s := q.Name + " " + rrtype.Name(q.Type)
	if q.Flow != nil {
		s = "a flow to " + q.Name + " " + q.Flow.String()
	}
	s += describeAsker(&q.Asker)
	for _, p := range l.policy.profiles {
		if v, ok := q.Asker.Verdicts[p.Name]; ok {
			s += fmt.Sprintf(", posture %s %v", p.Name, v.Result)
		}
	}
	for _, more := range []struct{ what, is string }{{"to listener", q.Asker.Listener}, {"over", q.Asker.Transport}} {
		if more.is != "" {
			s += ", " + more.what + " " + more.is
		}
	}
	for _, h := range q.Answer {
		for _, addr := range h.Addrs {
			if at, ok := l.places[addr]; ok {
				s += fmt.Sprintf(", answer in %v", at)
			} else {
				s += fmt.Sprintf(", answer %v", addr)
			}
		}
	}
	return s
}

func describeAsker(a *Asker) string {
	s := ", by nobody that is known"
	if d := a.Device; d != nil {
		s = ", by " + string(d.ID)
		if len(d.Groups) > 0 {
			s += " in group " + strings.Join(d.Groups, " and ")
		}
		if d.User != "" {
			s += " of user " + d.User
		}
		if d.Platform != "" {
			s += " on " + d.Platform
		}
	}
	s += fmt.Sprintf(" (%v)", a.Kind)
	if a.Source.IsValid() {
		s += fmt.Sprintf(", from %v", a.Source)
	}
	return s
}
