package policy

import (
	"slices"

	"github.com/starferry/starferry/policy/match"
)

// A Naming is the names that a policy can decide, as far as it says them.
type Naming struct {
	Names []match.Match // that stand in the policy itself
	Lists []ListInfo    // whose names it can decide
	More  bool          // and names that it does not say: by the answer, by who asks, or by what a name is not
}

// Naming returns the names that one of the rules can decide. There may be too
// many, for what it demands of a name besides is not looked at.
func (p *Policy) Naming(r *Rule) Naming {
	if r.when == nil {
		return Naming{More: true}
	}
	return p.naming(r.when)
}

func (p *Policy) naming(c *cond) (n Naming) {
	switch c.op {
	case opName:
		for _, e := range c.entries {
			n.Names = append(n.Names, match.Match{Name: e.name, Kind: e.kind})
		}
		for _, l := range p.lists {
			if slices.Contains(c.words, l.Name) {
				if c.rare != nil && c.rare.zone {
					l.Source.Select = []string{"local", "cname"}
				}
				n.Lists = append(n.Lists, l)
			}
		}
		return n
	case opAny:
		for i := range c.kids {
			n.add(p.naming(&c.kids[i]))
		}
		return n
	case opAll:
		for i := range c.kids {
			kid := p.naming(&c.kids[i])
			if !kid.More { // all names are among these
				return kid
			}
			n.add(kid)
		}
	}
	n.More = true
	return n
}

func (n *Naming) add(m Naming) {
	n.Names = append(n.Names, m.Names...)
	for _, l := range m.Lists {
		if !slices.ContainsFunc(n.Lists, func(has ListInfo) bool { return has.Name == l.Name && slices.Equal(has.Source.Select, l.Source.Select) }) {
			n.Lists = append(n.Lists, l)
		}
	}
	n.More = n.More || m.More
}
