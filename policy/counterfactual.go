package policy

import (
	"fmt"
	"maps"
	"slices"
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
	maxTries    = 1000
)

// A cause is one thing that could be otherwise: who asks, when or how, or what
// policies and their lists say.
type cause struct {
	text  string
	who   func(*Query)
	edit  func(*Rule)
	field string // of two causes for one field only one can be
}

// Remedies says what would have to change for a question to be allowed, or a
// flow to be admitted: the smallest changes of who asks, when and how, and of
// what policies and lists say, each tried and decided anew. It returns nothing for what is allowed
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
			if t.tries++; t.tries > maxTries {
				return false
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
	edited map[string]*Policy // with other policies and lists, by the changes
	tries  int
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
		if t.causes[i].edit != nil {
			edits = append(edits, i)
		}
	}
	if len(edits) == 0 {
		return t.policy
	}
	key := fmt.Sprint(edits)
	if t.edited[key] == nil {
		t.edited[key] = t.policy.with(func(r *Rule) {
			for _, i := range edits {
				t.causes[i].edit(r)
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
