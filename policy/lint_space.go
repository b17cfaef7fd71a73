package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy/match"
)

// maxSpace bounds the combinations of values that a proof goes through.
const maxSpace = 1 << 16

// An axis is one thing that conditions look at, such as the type of the
// question: the conditions that look at it, and what they can be together. It
// may hold more than can be, and holds all that can: so what holds for all
// points holds for all questions.
type axis struct {
	leaves []*cond
	points [][]Truth // of the leaves
}

// possibilities returns the values that the condition can have; false if there
// is too much to try.
func possibilities(l *linter, c *cond) (possible Truth, ok bool) {
	ok = overAll(l, []*cond{c}, func(at map[*cond]Truth) bool {
		possible |= c.under(at)
		return possible != open
	})
	return possible, ok
}

// implies reports whether it is proven that wherever c is true d is too.
func implies(l *linter, c, d *cond) bool {
	proven := true
	ok := overAll(l, []*cond{c, d}, func(at map[*cond]Truth) bool {
		proven = c.under(at) != Yes || d.under(at) == Yes
		return proven
	})
	return ok && proven
}

// under is the truth of the condition by that of its leaves.
func (c *cond) under(at map[*cond]Truth) Truth {
	switch c.op {
	case opNot:
		return c.kids[0].under(at).not()
	case opAll, opAny:
	default:
		return at[c]
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

// overAll calls f with all that the leaves of the conditions can be together,
// until it returns false. It returns false if these are too many.
func overAll(l *linter, conds []*cond, f func(map[*cond]Truth) bool) bool {
	axes, size := axesOf(l, conds), 1
	for i := range axes {
		if size *= len(axes[i].points); size > maxSpace || size == 0 {
			return false
		}
	}
	at := map[*cond]Truth{}
	for n := range size {
		for i := range axes {
			a := &axes[i]
			for k, t := range a.points[n%len(a.points)] {
				at[a.leaves[k]] = t
			}
			n /= len(a.points)
		}
		if !f(at) {
			return true
		}
	}
	return true
}

// axesOf sorts the leaves of the conditions by what they look at. A leaf of
// which nothing better is known can be anything, whatever the others are.
func axesOf(l *linter, conds []*cond) (out []axis) {
	by := map[string][]*cond{}
	var keys []string
	for _, c := range conds {
		c.each(func(leaf *cond) {
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
		a := axis{leaves: by[key]}
		a.points = unique(pointsOf(l, a.leaves))
		out = append(out, a)
	}
	return out
}

func (c *cond) axisKey() string {
	switch c.op {
	case opName:
		return "name"
	case opCountry, opNetwork:
		return "answer"
	case opIdentity, opKind:
		return "kind"
	case opDevice:
		return "device"
	case opGroup:
		return "group"
	case opPosture:
		return "posture " + c.profile
	case opSource:
		return "source"
	case opType:
		return "type"
	}
	return fmt.Sprintf("%p", c)
}

func pointsOf(l *linter, leaves []*cond) [][]Truth {
	switch leaves[0].op {
	case opName:
		return namePoints(l, leaves)
	case opCountry, opNetwork:
		return answerPoints(leaves)
	case opIdentity, opKind:
		return kindPoints(leaves)
	case opDevice:
		return wordPoints(leaves, false)
	case opGroup:
		return wordPoints(leaves, true)
	case opPosture:
		return posturePoints(leaves)
	case opSource:
		return sourcePoints(leaves)
	case opType:
		return typePoints(leaves)
	}
	return [][]Truth{{No}, {Unknown}, {Yes}}
}

// unique drops points that are there already.
func unique(points [][]Truth) (out [][]Truth) {
	seen := map[string]bool{}
	for _, p := range points {
		key := fmt.Sprint(p)
		if !seen[key] {
			seen[key] = true
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

func kindPoints(leaves []*cond) (out [][]Truth) {
	for _, k := range kinds {
		out = append(out, pointOf(leaves, func(c *cond) Truth {
			if c.op == opKind {
				return truth(slices.Contains(c.kinds, k))
			}
			return truth(k.Strength() >= c.strength)
		}))
	}
	return out
}

// most is how many independent words or lists are told apart.
const most = 8

// wordPoints are those of conditions on names of devices, of which one is had,
// or of groups, of which any number.
func wordPoints(leaves []*cond, several bool) (out [][]Truth) {
	var words []string
	for _, c := range leaves {
		words = append(words, c.words...)
	}
	words = set(words)
	has := func(of func(i int) bool) []Truth {
		return pointOf(leaves, func(c *cond) Truth {
			return truth(slices.ContainsFunc(c.words, func(w string) bool { return of(slices.Index(words, w)) }))
		})
	}
	out = append(out, has(func(int) bool { return false }))
	if !several {
		for k := range words {
			out = append(out, has(func(i int) bool { return i == k }))
		}
		return out
	}
	if len(words) > most {
		return nil
	}
	for mask := range 1 << len(words) {
		out = append(out, has(func(i int) bool { return mask>>i&1 == 1 }))
	}
	return out
}

func posturePoints(leaves []*cond) (out [][]Truth) {
	for _, r := range []posture.Result{posture.Unknown, posture.Failed, posture.Passed} {
		out = append(out, pointOf(leaves, func(c *cond) Truth {
			if r == posture.Unknown && c.result != posture.Unknown {
				return Unknown
			}
			return truth(r == c.result)
		}))
	}
	return out
}

func typePoints(leaves []*cond) (out [][]Truth) {
	types := []uint16{0}
	for _, c := range leaves {
		types = append(types, c.types...)
	}
	for _, t := range types {
		out = append(out, pointOf(leaves, func(c *cond) Truth { return truth(slices.Contains(c.types, t)) }))
	}
	return out
}

// edges are addresses one of which lies in each part into which the networks
// cut all addresses.
func edges(leaves []*cond) []netip.Addr {
	out := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	for _, c := range leaves {
		for _, w := range c.words {
			p, err := netip.ParsePrefix(w)
			if err != nil || c.op == opCountry {
				continue
			}
			out = append(out, p.Addr())
			if next := lastOf(p).Next(); next.IsValid() {
				out = append(out, next)
			}
		}
	}
	return out
}

// lastOf is the highest address of a network.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b) // the length comes from an address
	return a
}

func sourcePoints(leaves []*cond) [][]Truth {
	out := [][]Truth{pointOf(leaves, func(*cond) Truth { return Unknown })}
	for _, a := range edges(leaves) {
		out = append(out, pointOf(leaves, func(c *cond) Truth { return truth(c.nets.Contains(a)) }))
	}
	return out
}

// answerPoints are those of names with no, one or several addresses. Lists of
// networks may hold any address, and any address may be in any country or none.
func answerPoints(leaves []*cond) [][]Truth {
	codes := []string{"", "-"} // not known, and none that is written
	var free []*cond
	for _, c := range leaves {
		if c.op == opCountry {
			codes = append(codes, c.words...)
		} else if len(c.words) == 0 {
			free = append(free, c)
		}
	}
	if len(free) > most {
		return nil
	}
	var single [][]Truth
	for _, a := range edges(leaves) {
		for _, code := range set(codes) {
			for mask := range 1 << len(free) {
				single = append(single, pointOf(leaves, func(c *cond) Truth { return answerAt(c, a, code, free, mask) }))
			}
		}
		if single = unique(single); len(single) > maxSpace>>8 {
			return nil
		}
	}
	out := united(single)
	if out == nil {
		return nil
	}
	return append(out, pointOf(leaves, func(*cond) Truth { return Unknown }))
}

func answerAt(c *cond, a netip.Addr, code string, free []*cond, mask int) Truth {
	if i := slices.Index(free, c); i >= 0 {
		return truth(mask>>i&1 == 1)
	}
	if c.op == opCountry {
		if code == "" {
			return Unknown
		}
		return truth(slices.Contains(c.words, code))
	}
	return truth(c.nets.Contains(a))
}

// united adds the points of names with several addresses, each of which may be
// what makes a condition true; nil if these are too many.
func united(single [][]Truth) [][]Truth {
	out := single
	for {
		before := len(out)
		for _, a := range out[:before] {
			for _, b := range single {
				sum := make([]Truth, len(a))
				for i := range a {
					sum[i] = a[i].or(b[i])
				}
				out = append(out, sum)
			}
		}
		if out = unique(out); len(out) == before {
			return out
		} else if len(out) > maxSpace>>6 {
			return nil
		}
	}
}

// namePoints are those of names: the names that are written, one and two labels
// more, and any other. A list that is known at such a point has the name; else
// it may have it, but not where another has it that shares none with it.
func namePoints(l *linter, leaves []*cond) (out [][]Truth) {
	var lists []*cond
	for _, c := range leaves {
		if c.entries == nil {
			lists = append(lists, c)
		}
	}
	for _, n := range regions(leaves) {
		var free []*cond
		fixed := map[*cond]Truth{}
		for _, c := range lists {
			if t := c.hasAll(n); t == open {
				free = append(free, c)
			} else {
				fixed[c] = t
			}
		}
		if len(free) > most {
			return nil
		}
		for mask := range 1 << len(free) {
			at := pointOf(leaves, func(c *cond) Truth {
				if i := slices.Index(free, c); i >= 0 {
					return truth(mask>>i&1 == 1)
				}
				if t, ok := fixed[c]; ok {
					return t
				}
				_, ok := c.names.Lookup(n.name)
				return truth(ok)
			})
			if l.canBe(leaves, at) {
				out = append(out, at)
			}
		}
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

func regions(leaves []*cond) []region {
	out := []region{{name: someLabel + "." + otherLabel}} // any other; no list has a name above it
	for _, c := range leaves {
		for _, e := range c.entries {
			out = append(out, region{e.name, true}, region{someLabel + "." + e.name, false}, region{someLabel + "." + otherLabel + "." + e.name, false})
		}
	}
	return out
}

// hasAll returns whether a list has all names of a region: open if it may have some.
func (c *cond) hasAll(n region) Truth {
	if c.names == nil {
		return open
	}
	m, ok := c.names.Lookup(n.name)
	switch {
	case n.alone:
		return truth(ok)
	case ok && m.Name != n.name && m.Kind&(match.Under|match.One) != 0:
		return Yes
	}
	return open
}

// canBe reports whether a point of names can be: the same list is the same
// everywhere, and lists that share no name do not both have one.
func (l *linter) canBe(leaves []*cond, at []Truth) bool {
	for i, c := range leaves {
		for k := range i {
			d := leaves[k]
			if c.entries != nil || d.entries != nil || c.names == nil || d.names == nil {
				continue
			}
			if c.names == d.names && at[i] != at[k] {
				return false
			}
			if c.names != d.names && at[i] == Yes && at[k] == Yes && l.disjoint(c, d) {
				return false
			}
		}
	}
	return true
}
