package policy

// unasked finds a policy that judges flows by the addresses of names, and a steer
// below it by the name, for which nothing is asked upstream: so their addresses
// are not known, and the first one is true of no flow to them.
func (l *linter) unasked(i int) {
	r := &l.policy.rules[i]
	if on := r.when.sees(); r.shadow || on&atFlow == 0 || on&atAnswer == 0 {
		return
	}
	for k := i + 1; k < len(l.policy.rules); k++ {
		s := &l.policy.rules[k]
		if s.Then.Action != Steer || s.shadow || s.condition().sees()&atAnswer != 0 {
			continue
		}
		var blind Decision // with no address known
		q, ok := l.search([]*Rule{r, s}, func(q *Query, d *Decision) bool {
			if q.Flow == nil || d.Rule != r {
				return false
			}
			ask, flow := q.unanswered(), *q
			ask.Flow = nil
			flow.Answer = []Hop{{Name: q.Name}}
			at := l.policy.Decide(&ask)
			blind = l.policy.Decide(&flow)
			return at.Rule == s && at.Then.Action == Steer && blind.Rule == s && blind.Then.Action == Steer
		})
		if ok {
			l.find(r, Unasked, q, l.show(r, q)+"; and as it is, with no address known: "+blind.told(),
				"put a policy on the answer above "+s.Name+" that steers such names with the ports they shall have",
				"is true of no flow to names that %s below it, in line %d, steers: it decides by the name, so that nothing is asked upstream and no address is known", s.Name, s.At.Line)
			return
		}
	}
}
