package policy

import (
	"fmt"
	"slices"

	"github.com/starferry/starferry/internal/rrtype"
)

// maxTried bounds the combinations of values that a proof goes through, and
// maxPoints those of one axis. maxProven bounds the conditions that all proofs
// look at: what is not proven by then is not said.
const (
	maxTried  = 1 << 17
	maxPoints = 1 << 12
	maxProven = 1 << 24
)

// An axis is one thing that conditions look at, such as the type of the
// question: the conditions that look at it, and what they can be together. It
// may hold more than can be, and holds all that can: so what holds for all
// points holds for all questions.
type axis struct {
	leaves []*cond
	points [][]Truth // of the leaves
}

// A want is a condition that is to be one of some values.
type want struct {
	when *cond
	is   Truth
}

// together reports whether conditions can be so at once. What cannot is proven;
// what can may be more than there is. It is not known where that would take too
// many tries.
func (l *linter) together(wants ...want) (can, known bool) {
	size := 0
	for _, w := range wants {
		w.when.each(func(*cond) { size++ })
	}
	most := min(maxTried, (maxProven-l.proven)/max(size, 1))
	if most <= 0 {
		return false, false
	}
	s := solver{axes: axesOf(l, wants), wants: wants, at: map[*cond]Truth{}, left: most}
	can = s.solve(0)
	l.proven += size * (most - s.left)
	return can, s.left >= 0
}

// never reports whether it is proven that conditions are not so at once.
func (l *linter) never(wants ...want) bool {
	can, known := l.together(wants...)
	return known && !can
}

// possibilities returns the values that the condition can have; false if there
// is too much to try.
func possibilities(l *linter, c *cond) (possible Truth, ok bool) {
	for _, t := range []Truth{No, Unknown, Yes} {
		can, known := l.together(want{c, t})
		switch {
		case !known:
			return 0, false
		case can:
			possible |= t
		}
	}
	return possible, true
}

// A solver looks for values of all axes by which conditions are as they are
// wanted. It takes one axis after the other and gives up where those that it
// has settle that they are not.
type solver struct {
	axes  []axis
	wants []want
	at    map[*cond]Truth
	left  int // tries; below zero there were too many
}

func (s *solver) solve(next int) bool {
	settled := true
	for _, w := range s.wants {
		t := w.when.under(s.at)
		if t&w.is == 0 {
			return false
		}
		settled = settled && t&^w.is == 0
	}
	if s.left--; settled || s.left < 0 {
		return true
	}
	a := &s.axes[next]
	for _, p := range a.points {
		for i, t := range p {
			s.at[a.leaves[i]] = t
		}
		if s.solve(next + 1) {
			return true
		}
	}
	for _, c := range a.leaves {
		delete(s.at, c)
	}
	return false
}

// under is the truth of the condition by that of its leaves; of one that is not
// among those, open.
func (c *cond) under(at map[*cond]Truth) Truth {
	switch c.op {
	case opNot:
		return c.kids[0].under(at).not()
	case opAll, opAny:
	default:
		if t, ok := at[c]; ok {
			return t
		}
		return open
	}
	t := truth(c.op == opAll)
	for i := range c.kids {
		if k := c.kids[i].under(at); c.op == opAll {
			t = t.and(k)
		} else {
			t = t.or(k)
		}
	}
	return t
}

// axesOf sorts the leaves of the conditions by what they look at. Where that
// has too many points, and for a leaf of which nothing better is known, each
// leaf can be anything, whatever the others are.
func axesOf(l *linter, wants []want) (out []axis) {
	by := map[string][]*cond{}
	var keys []string
	for _, w := range wants {
		w.when.each(func(leaf *cond) {
			if leaf.op == opAll || leaf.op == opAny || leaf.op == opNot {
				return
			}
			key := leaf.axisKey()
			if by[key] == nil {
				keys = append(keys, key)
			}
			if !slices.Contains(by[key], leaf) {
				by[key] = append(by[key], leaf)
			}
		})
	}
	for _, key := range keys {
		leaves := by[key]
		if points := unique(pointsOf(l, leaves)); len(points) > 0 {
			out = append(out, axis{leaves, points})
			continue
		}
		for _, leaf := range leaves {
			out = append(out, axis{[]*cond{leaf}, [][]Truth{{No}, {Unknown}, {Yes}}})
		}
	}
	return out
}

// axisKey is the same for what looks at one thing.
func (c *cond) axisKey() string {
	switch c.op {
	case opName, opRegexp:
		return "name"
	case opIdentity, opKind:
		return "kind"
	case opType, opListener, opTransport, opService, opRoute:
		return "question"
	case opPosture:
		return "posture " + c.profile
	case opRecord:
		return "record " + rrtype.Name(c.rare.record)
	case opCountry, opNetwork, opContinent, opASN, opDevice, opGroup, opUser, opPlatform, opSource, opSchedule, opWindow:
		return fmt.Sprint("op ", c.op)
	}
	return fmt.Sprintf("%p", c)
}

// pointsOf returns the points of an axis; none if they are too many.
func pointsOf(l *linter, leaves []*cond) [][]Truth {
	switch leaves[0].op {
	case opName, opRegexp:
		return namePoints(l, leaves)
	case opNetwork:
		return networkPoints(leaves)
	case opCountry, opContinent, opASN:
		return placePoints(leaves)
	case opRecord:
		return recordPoints(leaves)
	case opIdentity, opKind:
		return kindPoints(leaves)
	case opDevice, opUser:
		return wordPoints(leaves)
	case opPlatform:
		return platformPoints(leaves)
	case opGroup:
		return groupPoints(leaves)
	case opPosture:
		return posturePoints(leaves)
	case opSource:
		return sourcePoints(leaves)
	case opSchedule:
		return schedulePoints(leaves)
	case opWindow:
		return windowPoints(leaves)
	}
	return questionPoints(leaves)
}

// unique drops points that are there already.
func unique(points [][]Truth) (out [][]Truth) {
	seen := map[string]bool{}
	for _, p := range points {
		key := make([]byte, len(p))
		for i, t := range p {
			key[i] = byte(t)
		}
		if !seen[string(key)] {
			seen[string(key)] = true
			out = append(out, p)
		}
	}
	return out
}

// pointOf makes a point of what each leaf is.
func pointOf(leaves []*cond, is func(*cond) Truth) (out []Truth) {
	for _, c := range leaves {
		out = append(out, is(c))
	}
	return out
}

// wordsOf returns all words of the leaves.
func wordsOf(leaves []*cond) []string {
	var words []string
	for _, c := range leaves {
		words = append(words, c.words...)
	}
	return set(words)
}
