package policy

import (
	"slices"

	"github.com/starferry/starferry/policy/match"
)

// namePoints are those of names: the names that are written, one and two labels
// more, and any other. Those of short lists count as written. A longer list that
// is known at such a point has the name; else it may have it, but not where
// another has it that shares none with it.
func namePoints(l *linter, leaves []*cond) (out [][]Truth) {
	written := make([]bool, len(leaves))
	names := []string{}
	for i, c := range leaves {
		short := l.short(c)
		written[i] = c.entries != nil || short != nil
		names = append(names, short...)
		for _, e := range c.entries {
			names = append(names, e.name)
		}
	}
	regions := regionsOf(set(names))
	if len(regions)*len(leaves) > maxTried {
		return nil
	}
	for _, n := range regions {
		points := n.points(l, leaves, written)
		if points == nil {
			return nil
		}
		out = append(out, points...)
	}
	return out
}

// A region is a set of names that no name that is written tells apart: one name,
// or with more labels than one that is written.
type region struct {
	name  string // one of it
	alone bool   // the only one
}

// The labels of names that nobody has written.
const someLabel, otherLabel = "zz--example", "yy--example"

func regionsOf(names []string) []region {
	out := []region{{name: someLabel + "." + otherLabel}} // any other; no list has a name above it
	for _, name := range names {
		out = append(out, region{name, true}, region{someLabel + "." + name, false}, region{someLabel + "." + otherLabel + "." + name, false})
	}
	return out
}

// points returns what the conditions can be for names of the region; nil if that
// is too much. All names of some are written.
func (n *region) points(l *linter, leaves []*cond, written []bool) (out [][]Truth) {
	at := make([]Truth, len(leaves))
	var free []*cond // the first of those that are the same
	first := make([]int, len(leaves))
	for i, c := range leaves {
		if at[i] = c.hasAll(n, written[i]); at[i] != open {
			continue
		}
		if first[i] = slices.IndexFunc(free, c.sameNames); first[i] < 0 {
			first[i] = len(free)
			free = append(free, c)
		}
	}
	if len(free) > most {
		return nil
	}
	for mask := range 1 << len(free) {
		p := slices.Clone(at)
		for i := range p {
			if p[i] == open {
				p[i] = truth(mask>>first[i]&1 == 1)
			}
		}
		if l.canBe(leaves, p) {
			out = append(out, p)
		}
	}
	return out
}

// sameNames reports whether two conditions are true of the same names.
func (c *cond) sameNames(d *cond) bool {
	return c.op == d.op && c.names == d.names && (c.op != opRegexp || c.text == d.text)
}

// hasAll returns whether a condition is true of all names of a region: open if
// it may be of some.
func (c *cond) hasAll(n *region, written bool) Truth {
	switch {
	case c.op == opRegexp && n.alone:
		return truth(c.re.MatchString(n.name))
	case c.op == opRegexp || c.names == nil:
		return open
	}
	m, ok := c.names.Lookup(n.name)
	switch {
	case n.alone || written:
		return truth(ok)
	case ok && c.names.Plain() && m.Name != n.name && m.Kind&(match.Under|match.One) != 0:
		return Yes
	}
	return open
}

// canBe reports whether a point of names can be: lists that share no name do not
// both have one, and what is in a list is in one that holds all of it.
func (l *linter) canBe(leaves []*cond, at []Truth) bool {
	for i, c := range leaves {
		for k, d := range leaves {
			switch {
			case at[i] != Yes:
			case at[k] == Yes && k < i && l.disjoint(c, d), at[k] == No && l.within(c, d):
				return false
			}
		}
	}
	return true
}

// disjoint reports whether it is proven that no name is in both lists: of two
// names that are each in one of the lists, and cover one name, one is under the
// other or both cover what is one label below the same name.
func (l *linter) disjoint(c, d *cond) bool {
	if c.op != opName || d.op != opName || c.names == d.names || !l.wholly(c) || !l.wholly(d) {
		return false
	}
	return proven(l.apart, c, d, l.proveApart)
}

// within reports whether it is proven that all names of a list are in another.
func (l *linter) within(c, d *cond) bool {
	if c.op != opName || d.op != opName || c.names == d.names || !l.wholly(c) || d.names == nil {
		return false
	}
	return proven(l.inside, c, d, l.proveWithin)
}

// proven returns what is known of a pair of lists, or else what prove says of it.
func proven(known map[[2]*match.Names]bool, c, d *cond, prove func(c, d *cond) bool) bool {
	pair := [2]*match.Names{c.names, d.names}
	is, ok := known[pair]
	if !ok {
		is = prove(c, d)
		known[pair] = is
	}
	return is
}

// maxShort is how many names a list has at most that counts as written.
const maxShort = 100

// short returns the names of a short list; nil of others, and where not all are known.
func (l *linter) short(c *cond) []string {
	if c.op != opName || !l.wholly(c) || l.lists[c.list()].info.Entries > maxShort {
		return nil
	}
	names, _, ok := l.all(c.list())
	if !ok {
		return nil
	}
	return sorted(names)
}

// wholly reports whether a condition looks into all that is sampled of a list.
func (l *linter) wholly(c *cond) bool {
	s := l.lists[c.list()]
	return s != nil && s.set == c.names
}

// maxCompared bounds how many names are looked for in other lists.
const maxCompared = 10_000_000

// proveWithin looks for each name of a list in the other one, and for what is one
// label and two labels below it where that is in the list: what has these from an entry
// that is no longer has all that stand to the name as they do.
func (l *linter) proveWithin(c, d *cond) bool {
	names, in, ok := l.all(c.list())
	if !ok {
		return false
	}
	return l.each(names, func(n, s string) bool {
		if _, ok := in.Lookup(s); !ok {
			return true
		}
		m, ok := d.names.Lookup(s)
		return ok && (s == n || d.names.Plain() && len(m.Name) <= len(n))
	})
}

// each reports whether something holds for each of the names and for what is one
// label and two labels below it. It gives up, and reports false, where that would
// take too long.
func (l *linter) each(names map[string]bool, holds func(name, below string) bool) bool {
	for n := range names {
		if l.compared++; l.compared > maxCompared {
			return false
		}
		for _, s := range []string{n, someLabel + "." + n, someLabel + "." + otherLabel + "." + n} {
			if !holds(n, s) {
				return false
			}
		}
	}
	return true
}

func (l *linter) proveApart(c, d *cond) bool {
	a, inA, okA := l.all(c.list())
	b, inB, okB := l.all(d.list())
	if !okA || !okB {
		return false
	}
	apart := func(names map[string]bool, in *match.Names) bool {
		return l.each(names, func(_, s string) bool {
			_, ok := in.Lookup(s)
			return !ok
		})
	}
	return apart(a, inB) && apart(b, inA)
}
