package policy

import (
	"slices"
	"strings"

	"github.com/starferry/starferry/policy/list"
	"github.com/starferry/starferry/policy/match"
)

// ruled makes the condition of being in a list of which some rules are only for
// certain questions, or for certain askers. It is made of the conditions that
// policies have for that, so that scopes, flows and all else take it for what it
// is; and since lists of other kinds stay one leaf, it costs them nothing.
func ruled(name string, set *list.Set) cond {
	var block, except, important, most []cond
	for i := range set.Rules {
		r := &set.Rules[i]
		to := &block
		switch {
		case r.Excepts && r.Important:
			to = &most
		case r.Important:
			to = &important
		case r.Excepts:
			to = &except
		}
		*to = append(*to, ruleCond(name, r))
	}
	in := without(either(block), except)
	if len(important) > 0 {
		in = cond{op: opAny, kids: append(important, in)}
	}
	in = without(in, most)
	if in.kids != nil {
		in.rare = &rare{made: true}
	}
	return in
}

// ofRules reports whether the condition is made of the rules of a list.
func (c *cond) ofRules() bool { return c.kids != nil && c.rare != nil && c.made }

func either(kids []cond) cond {
	if len(kids) == 1 {
		return kids[0]
	}
	return cond{op: opAny, kids: kids}
}

// without is true where c is and none of the others.
func without(c cond, others []cond) cond {
	if len(others) == 0 {
		return c
	}
	return cond{op: opAll, kids: []cond{c, {op: opNot, kids: []cond{either(others)}}}}
}

// ruleCond makes the condition that rules cover a name, for who asks. The name
// comes first: nearly none is covered.
func ruleCond(name string, r *list.Rules) cond {
	leaf := cond{op: opName, names: r.Names, words: []string{name}, text: "in rules of list " + name, rare: &rare{rules: r}}
	if r.Scope.Empty() {
		if !r.Excepts && !r.Important {
			leaf.text = "in list " + name
		}
		return leaf
	}
	all := cond{op: opAll, kids: []cond{leaf}}
	by := " as $" + r.TypeModifier() + " of list " + name
	if len(r.Types) > 0 {
		all.kids = append(all.kids, cond{op: opType, types: r.Types, text: some(typeNames(r.Types)) + by})
	}
	if len(r.NotTypes) > 0 {
		all.kids = append(all.kids, cond{op: opNot, kids: []cond{{op: opType, types: r.NotTypes, text: some(typeNames(r.NotTypes)) + by}}})
	}
	if !r.Clients.Empty() {
		all.kids = append(all.kids, clientCond(&r.Clients, unsaid(r, No)))
	}
	if !r.NotClients.Empty() {
		all.kids = append(all.kids, cond{op: opNot, kids: []cond{clientCond(&r.NotClients, unsaid(r, Yes))}})
	}
	return all
}

// unsaid is what a source is that is not known, among the clients of a rule. An
// exception that may be for somebody else does not except: else who hides where
// he asks from would get by what is blocked for all.
func unsaid(r *list.Rules, excludes Truth) *rare {
	if !r.Excepts {
		return nil
	}
	return &rare{unsaid: excludes}
}

// clientCond makes the condition of being one of the clients of a rule.
func clientCond(c *list.Clients, unsaid *rare) cond {
	one := cond{op: opAny}
	if len(c.Names) > 0 {
		names := set(c.Names)
		one.kids = append(one.kids, cond{op: opDevice, words: names, text: some(names)}, cond{op: opGroup, words: names, text: "in group " + some(names)})
	}
	if len(c.Nets) > 0 {
		var b match.NetworksBuilder
		var shown []string
		for _, p := range c.Nets {
			_ = b.Add(p) // which lists hold valid ones of
			shown = append(shown, p.String())
		}
		shown = set(shown)
		one.kids = append(one.kids, cond{op: opSource, nets: b.Build(), words: shown, text: "in " + some(shown), rare: unsaid})
	}
	return either(one.kids)
}

// clients are the names by which rules of a list name those who ask.
func clients(s *list.Set) (names []string) {
	for i := range s.Rules {
		names = slices.Concat(names, s.Rules[i].Clients.Names, s.Rules[i].NotClients.Names)
	}
	return set(names)
}

// rule returns the rules that the condition looks into, nil if it looks into
// what has none.
func (c *cond) rule() *list.Rules {
	if c.op != opName || c.rare == nil {
		return nil
	}
	return c.rules
}

// ofList returns the name of the list to which it adds what it looks into; ""
// if it adds to none.
func (c *cond) ofList() string {
	if c.rule() != nil && !c.excepts() {
		return c.words[0]
	}
	return c.list()
}

// excepts reports whether the condition looks into what is excepted from a list.
func (c *cond) excepts() bool {
	r := c.rule()
	return r != nil && r.Excepts
}

// sayName puts into words what a condition on names found. Of the rules of a
// list only those that cover the name are worth a word.
func (c *cond) sayName(s *scene, t Truth) string {
	r := c.rule()
	switch {
	case r == nil && t == No:
		return "name not " + c.text
	case r == nil:
		return "name " + c.text
	case t == Yes:
		m, _ := c.names.Lookup(s.at.Name)
		verb := "in"
		if r.Excepts {
			verb = "excepted from"
		}
		return "name " + verb + " list " + c.words[0] + " by " + r.String(m)
	case strings.HasPrefix(c.text, "in list "):
		return "name not " + c.text
	}
	return ""
}
