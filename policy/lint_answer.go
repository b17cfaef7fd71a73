package policy

import (
	"fmt"
	"slices"
	"strings"
)

// The points of what conditions on the answer look at. Each kind of them is an
// axis of its own, as if a name could have addresses for one and none for
// another: that is more than can be.

// networkPoints are those of names with no, one or several addresses.
func networkPoints(leaves []*cond) [][]Truth {
	out := addressPoints(leaves)
	if out == nil {
		return nil
	}
	return orNothing(leaves, out)
}

// addressPoints are those of single addresses; none if they are too many. Lists
// of networks may hold any address.
func addressPoints(leaves []*cond) (out [][]Truth) {
	var free []*cond
	for _, c := range leaves {
		if len(c.words) == 0 {
			free = append(free, c)
		}
	}
	if len(free) > most {
		return nil
	}
	for _, a := range edges(leaves) {
		for mask := range 1 << len(free) {
			out = append(out, pointOf(leaves, func(c *cond) Truth {
				if i := slices.Index(free, c); i >= 0 {
					return truth(mask>>slices.IndexFunc(free, c.sameNets)&1 == 1)
				}
				return truth(c.nets.Contains(a))
			}))
		}
		if out = unique(out); len(out) > maxPoints {
			return nil
		}
	}
	return out
}

// sameNets reports whether two conditions look into the same list.
func (c *cond) sameNets(d *cond) bool { return c.nets == d.nets }

// placePoints are those of addresses in the places that are written, in others,
// and in none that is known.
func placePoints(leaves []*cond) [][]Truth {
	out := [][]Truth{pointOf(leaves, func(*cond) Truth { return Unknown })}
	for _, w := range append(wordsOf(leaves), "") {
		out = append(out, pointOf(leaves, func(c *cond) Truth { return truth(slices.Contains(c.words, w)) }))
	}
	return orNothing(leaves, out)
}

// recordPoints are those of names with no, one or several records of a type.
// What they hold may be anything; only the same condition twice is the same.
func recordPoints(leaves []*cond) (out [][]Truth) {
	var keys []string
	for _, c := range leaves {
		keys = append(keys, c.recordKey())
	}
	wanted := once(keys)
	if len(wanted) > most {
		return nil
	}
	for mask := range 1 << len(wanted) {
		var p []Truth
		for _, k := range keys {
			p = append(p, truth(mask>>slices.Index(wanted, k)&1 == 1))
		}
		out = append(out, p)
	}
	return orNothing(leaves, out)
}

// recordKey is the same for conditions that want the same of a record: by their
// words, where all of them are said.
func (c *cond) recordKey() string {
	if strings.HasSuffix(c.text, " more") {
		return fmt.Sprintf("%p", c)
	}
	return c.text
}

// orNothing adds the points of several addresses or records, each of which may
// be what makes a condition true, and of none; nil if these are too many.
func orNothing(leaves []*cond, single [][]Truth) [][]Truth {
	out := unique(single)
	for {
		before := len(out)
		for _, a := range out[:before] {
			for _, b := range single {
				out = append(out, plus(a, b))
			}
		}
		if out = unique(out); len(out) > maxPoints>>2 {
			return nil
		} else if len(out) == before {
			return append(out, pointOf(leaves, func(*cond) Truth { return Unknown }))
		}
	}
}
