package configs

import (
	"github.com/starferry/starferry/internal/yamlpos"
)

// names are what the files of a policy use and other files define. They are read
// from the files and not asked of the compiled policy, so that they can be
// checked even if there are other mistakes and no compiled policy.
type names struct {
	groups, devices, users []*yamlpos.Node
	routes, upstreams      []*yamlpos.Node
	listeners, pages       []*yamlpos.Node
	foreign                []foreign
}

// A foreign key is one that an egress can do nothing about.
type foreign struct {
	in        *yamlpos.Map
	key       string
	why, hint string
}

// personal are the conditions that an egress cannot judge.
var personal = map[string]bool{"user": true, "users": true, "platform": true, "platforms": true, "device": true, "devices": true}

func namesUsed(ps parts) (used names) {
	for _, p := range ps {
		for _, m := range mappings(p.root, "policies") {
			used.in(m.Node("if"))
			used.in(m.Node("require"))
			used.then(m, "then")
			used.then(m, "deny")
			if n := m.Node("ecs"); n != nil && n.Text() != "off" {
				used.foreign = append(used.foreign, foreign{m, "ecs", "an egress asks no resolvers: ecs is for those of a gateway", "leave it out"})
			}
		}
	}
	for _, m := range mappings(ps[0].root, "defaults") {
		used.under(m, "group")
		used.under(m, "groups")
		used.under(m, "listener")
		used.then(m, "then")
	}
	return used
}

// then collects the names in an action, and what of it only gateways do.
func (u *names) then(of *yamlpos.Map, key string) {
	n := of.Node(key)
	if n == nil || n.Kind != yamlpos.Mapping {
		return
	}
	m := n.AsMap()
	u.routes = append(u.routes, words(m.Node("steer"))...)
	if groups := words(m.Node("resolve")); len(groups) > 0 {
		u.upstreams = append(u.upstreams, groups...)
		u.foreign = append(u.foreign, foreign{m, "resolve", "an egress asks no resolvers: resolve is for those of a gateway", "write allow"})
	}
	b := m.Node("block")
	switch {
	case b == nil:
	case b.Text() == "page":
		u.pages = append(u.pages, b)
		u.foreign = append(u.foreign, foreign{m, "block", "an egress answers no devices, and has no page for them", "write block"})
	case b.Text() == "truncate":
		u.foreign = append(u.foreign, foreign{m, "block", "an egress is asked nothing over UDP: truncate is for the policy of a gateway", "leave the policy out, or write block"})
	}
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
	if personal[key] {
		u.foreign = append(u.foreign, foreign{m, key, "an egress knows neither users nor devices nor platforms", "use groups"})
	}
	if (key == "listener" || key == "transport") && m.Has(key) {
		u.foreign = append(u.foreign, foreign{m, key, "an egress judges flows, which have no " + key + ": it is false of all of them", "leave it out; what is for flows alone says flow: {...}"})
	}
	n := m.Node(key)
	switch key {
	case "group", "groups":
		u.groups = append(u.groups, words(n)...)
	case "device", "devices":
		u.devices = append(u.devices, words(n)...)
	case "user", "users":
		u.users = append(u.users, words(n)...)
	case "listener":
		u.listeners = append(u.listeners, words(n)...)
	case "flow":
		if n.Kind == yamlpos.Mapping {
			u.routes = append(u.routes, words(n.AsMap().Node("route"))...)
		}
	case "all", "any", "not":
		u.in(n)
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
