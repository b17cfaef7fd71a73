package policy

import (
	"fmt"

	"github.com/starferry/starferry/internal/yamlpos"
)

// A fallback is a default for some askers.
type fallback struct {
	when  cond
	then  Then
	learn bool
	text  string // whose it is
}

// standing returns what the default for this asker does, and whether what is
// asked is to be recorded.
func (p *Policy) standing(s *scene) (then *Then, learn bool) {
	then, text := &p.fallback, "no policy decides"
	from := s.trace.mark()
	for i := range p.defaults {
		if f := &p.defaults[i]; f.when.eval(s) == Yes {
			then, learn, text = &f.then, f.learn, f.text
			break
		}
	}
	if s.trace != nil {
		s.trace.take(from)
		s.trace.step(nil, s.at.Name, Yes, from)
		s.trace.Steps[len(s.trace.Steps)-1].Text = text
	}
	return then, learn
}

// readFallback reads a default for some:
//
//	{group: iot, then: block, learn: true}
func (c *compiler) readFallback(m *yamlpos.Map) fallback {
	m.Require("then")
	f := fallback{when: cond{op: opAll}, learn: yamlpos.Read(m, "learn", false, yamlpos.Bool)}
	for _, key := range []string{"group", "groups", "listener"} {
		if n := m.Node(key); n != nil {
			f.when.kids = append(f.when.kids, c.readCondition(key, n))
			f.text += fmt.Sprintf(", %s %s", map[bool]string{true: "listener", false: "group"}[key == "listener"], some(f.when.kids[len(f.when.kids)-1].words))
		}
	}
	if len(f.when.kids) == 0 {
		m.Errorf("the one for all is default:", "a default for nobody in particular: want group or listener")
	}
	f.when = f.when.tidy()
	f.text = "no policy decides: default for" + f.text[min(1, len(f.text)):]
	if n := m.Node("then"); n != nil {
		f.then = readDefaultAction(n)
	}
	if f.then.Action == Block {
		f.then.Reason = f.text
	}
	m.Done()
	return f
}

// readDefaultAction reads allow, block, or {block: FORM}.
func readDefaultAction(n *yamlpos.Node) Then {
	if n.Kind != yamlpos.Mapping {
		if yamlpos.Value(n, "block", yamlpos.OneOf("allow", "block")) == "allow" {
			return Then{Action: Allow}
		}
		return Then{Action: Block, EDE: EDEBlocked}
	}
	m := n.AsMap()
	m.Require("block")
	then := Then{Action: Block, EDE: EDEBlocked}
	if v := m.Node("block"); v != nil {
		then = readBlock(v)
	}
	m.Done()
	return then
}

// readWindow reads the time in which a policy counts, and adds it to its
// conditions.
func readWindow(m *yamlpos.Map, when *cond) *cond {
	if !m.Has("not_before") && !m.Has("not_after") {
		return when
	}
	var w window
	w.from = yamlpos.Read(m, "not_before", w.from, firstMoment)
	w.to = yamlpos.Read(m, "not_after", w.to, lastMoment)
	if !w.from.IsZero() && !w.to.IsZero() && !w.from.Before(w.to) {
		m.KeyErrorf("not_after", "", "not_after is before not_before: the policy would never count")
	}
	all := cond{op: opAll, kids: []cond{{op: opWindow, words: []string{w.String()}, rare: &rare{window: w}}}}
	if when != nil {
		all.kids = append(all.kids, *when)
	}
	all = all.tidy()
	return &all
}

// Learning returns the groups that a default learns about.
func (p *Policy) Learning() (groups []string) {
	for i := range p.defaults {
		if f := &p.defaults[i]; f.learn {
			groups = append(groups, f.when.groups()...)
		}
	}
	return groups
}

func (c *cond) groups() []string {
	var out []string
	if c.op == opGroup {
		out = append(out, c.words...)
	}
	for i := range c.kids {
		out = append(out, c.kids[i].groups()...)
	}
	return out
}
