package configs

import (
	"slices"

	"github.com/starferry/starferry/internal/yamlpos"
)

// names are what a policy file uses and other files define. They are read from
// the file and not asked of the compiled policy, so that they can be checked
// even if there are other mistakes and no compiled policy.
type names struct {
	groups, devices, routes []*yamlpos.Node
	upstreams               []*yamlpos.Node
	personal                []yamlpos.Pos // where users, platforms and devices are looked at
}

// personal are the conditions that an egress cannot judge.
var personal = []string{"user", "users", "platform", "platforms", "device", "devices"}

func namesUsed(root *yamlpos.Map) (used names) {
	policies := root.Node("policies")
	if policies == nil || policies.Kind != yamlpos.List {
		return used
	}
	for _, item := range policies.Items() {
		if item.Kind != yamlpos.Mapping {
			continue
		}
		m := item.AsMap()
		used.in(m.Node("if"))
		used.in(m.Node("require"))
		if then := m.Node("then"); then != nil && then.Kind == yamlpos.Mapping {
			m := then.AsMap()
			used.routes = append(used.routes, words(m.Node("steer"))...)
			used.upstreams = append(used.upstreams, words(m.Node("resolve"))...)
		}
	}
	return used
}

// in collects the names under an if or require, however deep they stand.
func (u *names) in(n *yamlpos.Node) {
	switch {
	case n == nil:
	case n.Kind == yamlpos.List:
		for _, item := range n.Items() {
			u.in(item)
		}
	case n.Kind == yamlpos.Mapping:
		m := n.AsMap()
		for _, key := range m.Keys() {
			u.under(m, key)
		}
	}
}

func (u *names) under(m *yamlpos.Map, key string) {
	if slices.Contains(personal, key) {
		u.personal = append(u.personal, m.KeyPos(key))
	}
	switch key {
	case "group", "groups":
		u.groups = append(u.groups, words(m.Node(key))...)
	case "device", "devices":
		u.devices = append(u.devices, words(m.Node(key))...)
	case "all", "any", "not":
		u.in(m.Node(key))
	}
}

// words returns the texts of a value or a list of them; what is no text is
// reported by package policy.
func words(n *yamlpos.Node) (out []*yamlpos.Node) {
	if n == nil {
		return nil
	}
	for _, item := range n.OneOrMore() {
		if item.Text() != "" {
			out = append(out, item)
		}
	}
	return out
}
