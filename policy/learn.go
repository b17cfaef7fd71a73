package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/starferry/starferry/policy/match"
)

// A Lesson is what a group has asked, from which a list of what it may ask is
// made.
type Lesson struct {
	Group    string
	Siblings int // how many names below one stand for all below it; 0 for none

	First, Last time.Time
	Questions   int
	Strange     int // questions for what is no host name
	names       map[string]int
	barred      map[string]bool
}

// Add adds a question.
func (l *Lesson) Add(name string, at time.Time) {
	clean, err := match.Clean(name)
	if err != nil {
		l.Strange++
		return
	}
	if l.names == nil {
		l.names = map[string]int{}
		l.First, l.Last = at, at
	}
	l.names[clean]++
	l.Questions++
	if at.Before(l.First) {
		l.First = at
	}
	if at.After(l.Last) {
		l.Last = at
	}
}

// Bar adds a name that is not to be learnt: no name above it stands for all below.
func (l *Lesson) Bar(name string) {
	if l.barred == nil {
		l.barred = map[string]bool{}
	}
	if clean, err := match.Clean(name); err == nil {
		l.barred[clean] = true
	}
}

// A learnt is an entry of the list that is proposed.
type learnt struct {
	name         string
	times, names int
}

// label is a place in the tree of names.
type label struct {
	times  int  // that this very name was asked for
	barred bool // this name, or one below
	below  map[string]*label
}

// lists returns the names to allow alone, and those to allow with all below
// them: never a name below which anybody can have one.
func (l *Lesson) lists() (exact, suffix []learnt) {
	own := map[string]*label{} // by the name that somebody has registered
	for _, name := range slices.Sorted(maps.Keys(l.names)) {
		top, err := publicsuffix.EffectiveTLDPlusOne(name)
		if err != nil {
			exact = append(exact, learnt{name, l.names[name], 1})
			continue
		}
		if own[top] == nil {
			own[top] = &label{}
		}
		way := own[top].way(name, top)
		way[len(way)-1].times += l.names[name]
	}
	for name := range l.barred {
		if top, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil && own[top] != nil {
			for _, at := range own[top].way(name, top) {
				at.barred = true
			}
		}
	}
	for _, top := range slices.Sorted(maps.Keys(own)) {
		own[top].collapse(top, l.Siblings, &exact, &suffix)
	}
	byName := func(a, b learnt) int { return strings.Compare(a.name, b.name) }
	slices.SortFunc(exact, byName)
	slices.SortFunc(suffix, byName)
	return exact, suffix
}

// way returns the places from one, whose name is top, down to a name below it.
func (n *label) way(name, top string) []*label {
	way := []*label{n}
	rest := strings.Split(strings.TrimSuffix(strings.TrimSuffix(name, top), "."), ".")
	for i := len(rest) - 1; i >= 0 && rest[i] != ""; i-- {
		n = n.child(rest[i])
		way = append(way, n)
	}
	return way
}

func (n *label) child(name string) *label {
	if n.below == nil {
		n.below = map[string]*label{}
	}
	if n.below[name] == nil {
		n.below[name] = &label{}
	}
	return n.below[name]
}

// collapse adds the name, or those below it where they are few.
func (n *label) collapse(name string, siblings int, exact, suffix *[]learnt) {
	if siblings > 0 && len(n.below) >= siblings && !n.barred {
		times, names := n.total()
		*suffix = append(*suffix, learnt{name, times, names})
		return
	}
	if n.times > 0 {
		*exact = append(*exact, learnt{name, n.times, 1})
	}
	for _, k := range slices.Sorted(maps.Keys(n.below)) {
		n.below[k].collapse(k+"."+name, siblings, exact, suffix)
	}
}

// total counts questions and names at and below a place.
func (n *label) total() (times, names int) {
	if n.times > 0 {
		times, names = n.times, 1
	}
	for _, b := range n.below {
		t, m := b.total()
		times, names = times+t, names+m
	}
	return times, names
}

// YAML returns the policies that let the group ask what it has asked and
// nothing else.
func (l *Lesson) YAML() string {
	exact, suffix := l.lists()
	var b strings.Builder
	fmt.Fprintf(&b, "# Learnt from %d questions of group %s, from %s to %s.\n", l.Questions, l.Group, l.First.UTC().Format(time.RFC3339), l.Last.UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "policies:\n  - name: %s-learnt\n    if:\n      group: %s\n      name:\n", l.Group, scalar(l.Group))
	for _, part := range []struct {
		key  string
		list []learnt
	}{{"exact", exact}, {"suffix", suffix}} {
		if len(part.list) == 0 {
			continue
		}
		fmt.Fprintf(&b, "        %s:\n", part.key)
		for _, e := range part.list {
			fmt.Fprintf(&b, "          - %s    # %s\n", scalar(e.name), e.counted())
		}
	}
	fmt.Fprintf(&b, "    then: allow\n  - name: %s-rest\n    if: {group: %s}\n    then: {block: refused, reason: Not among the names that were learnt of %s}\n", l.Group, scalar(l.Group), l.Group)
	return b.String()
}

// scalar writes a clean name as YAML. Things ask for names such as null, too.
func scalar(name string) string {
	if name == "null" || name == "-" {
		return `"` + name + `"`
	}
	return name
}

func (e *learnt) counted() string {
	s := fmt.Sprintf("%d times", e.times)
	if e.times == 1 {
		s = "once"
	}
	if e.names > 1 {
		s += fmt.Sprintf(", %d names", e.names)
	}
	return s
}

// Empty reports whether nothing was learnt.
func (l *Lesson) Empty() bool { return len(l.names) == 0 }
