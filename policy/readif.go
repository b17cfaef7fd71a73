package policy

import (
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy/match"
)

// conditionKeys are the words of an "if".
var conditionKeys = []string{
	"all", "any", "not", "name", "answer", "device", "devices", "group", "groups",
	"user", "users", "platform", "identity", "kind", "posture", "network", "listener", "transport", "schedule", "type", "flow",
}

// readAll reads a mapping of conditions, all of which must be true.
func (c *compiler) readAll(n *yamlpos.Node) cond {
	m := n.AsMap()
	all := cond{op: opAll}
	for _, key := range m.Keys() {
		if !slices.Contains(conditionKeys, key) {
			m.KeyErrorf(key, yamlpos.DidYouMean(key, conditionKeys), "unknown condition %q", key)
			continue
		}
		all.kids = append(all.kids, c.readCondition(key, m.Node(key)))
	}
	if n.Kind == yamlpos.Mapping && len(m.Keys()) == 0 {
		n.Errorf("an if that matches always is left out", "no condition given")
	}
	return all.tidy()
}

func (c *compiler) readCondition(key string, n *yamlpos.Node) cond {
	switch key {
	case "all":
		return c.readSeveral(opAll, n)
	case "any":
		return c.readSeveral(opAny, n)
	case "not":
		return cond{op: opNot, kids: []cond{c.readAll(n)}}
	case "name":
		return c.readName(n)
	case "answer":
		return c.readAnswer(n)
	case "device", "devices":
		ids := c.refs(n, &c.policy.devices)
		return cond{op: opDevice, words: ids, text: some(ids)}
	case "group", "groups":
		groups := c.refs(n, &c.policy.groups)
		return cond{op: opGroup, words: groups, text: "in group " + some(groups)}
	case "identity":
		s := yamlpos.Value(n, device.Strong, strength)
		return cond{op: opIdentity, strength: s, text: "at least " + s.String()}
	case "kind":
		kinds := yamlpos.Values(members(n), kind)
		return cond{op: opKind, kinds: kinds, text: some(kindNames(kinds))}
	case "posture":
		return c.readPosture(n)
	case "network":
		return c.readNetworks(n, opSource)
	case "type":
		types := yamlpos.Values(members(n), parseType)
		return cond{op: opType, types: types, text: some(typeNames(types))}
	case "schedule":
		times := c.readTimes(n)
		names := scheduleNames(times)
		return cond{op: opSchedule, words: names, text: some(names), rare: &rare{schedules: times}}
	case "flow":
		return c.readFlow(n)
	default:
		return c.readWords(key, n)
	}
}

// readWords reads the conditions on who asks, and where, that are words to be
// one of.
func (c *compiler) readWords(key string, n *yamlpos.Node) cond {
	var out cond
	switch key {
	case "user", "users":
		c.policy.personal = append(c.policy.personal, Ref{key, n.Pos()})
		out = cond{op: opUser, words: yamlpos.Values(members(n), yamlpos.Word)}
	case "platform":
		c.policy.personal = append(c.policy.personal, Ref{key, n.Pos()})
		out = cond{op: opPlatform, words: yamlpos.Values(members(n), yamlpos.Word)}
	case "listener":
		out = cond{op: opListener, words: yamlpos.Values(members(n), listener)}
		for _, item := range n.OneOrMore() {
			c.policy.listeners = append(c.policy.listeners, Ref{item.Text(), item.Pos()})
		}
	default:
		out = cond{op: opTransport, words: yamlpos.Values(members(n), transport)}
	}
	out.text = some(out.words)
	return out
}

// readFlow reads what a flow wants to reach, and how it came.
func (c *compiler) readFlow(n *yamlpos.Node) cond {
	m := n.AsMap()
	all := cond{op: opAll}
	protos, ports := []uint8{0}, []Port{{}}
	if v := m.Node("protocol"); v != nil {
		protos = yamlpos.Values(members(v), protocol)
	}
	if v := m.Node("port"); v != nil {
		ports = yamlpos.Values(members(v), portRange)
		if slices.Contains(protos, protoICMP) {
			v.Errorf("say so in a policy of its own, or with any:", "icmp has no ports")
		}
	}
	if m.Has("protocol") || m.Has("port") {
		of := cond{op: opService, rare: &rare{}}
		for _, proto := range protos {
			for _, p := range ports {
				p.Proto = proto
				of.services = append(of.services, p)
				of.words = append(of.words, p.String())
			}
		}
		of.text = some(of.words)
		all.kids = append(all.kids, of)
	}
	if v := m.Node("route"); v != nil {
		routes := c.refs(v, &c.policy.flowRoutes)
		all.kids = append(all.kids, cond{op: opRoute, words: routes, text: some(routes)})
	}
	if n.Kind == yamlpos.Mapping && len(m.Keys()) == 0 {
		n.Errorf("", "want protocol, port or route")
	}
	m.Done()
	return all.tidy()
}

// readSeveral reads the members of all and any, a list of mappings.
func (c *compiler) readSeveral(o op, n *yamlpos.Node) cond {
	out := cond{op: o}
	for _, item := range members(n) {
		out.kids = append(out.kids, c.readAll(item))
	}
	return out.tidy()
}

// tidy replaces one alone by itself, and puts what costs little to look at
// first. Conditions that change by themselves come last: a decision that did not
// look at posture does not change as reports age.
func (c cond) tidy() cond {
	if len(c.kids) == 1 {
		return c.kids[0]
	}
	slices.SortStableFunc(c.kids, func(a, b cond) int { return a.rank() - b.rank() })
	return c
}

// rank orders conditions. Of those that look at the clock too, those come first
// that names alone can settle, so that a policy which the index passes over
// would not have looked at it.
func (c *cond) rank() int {
	n := bits.Len8(uint8(c.sees()))
	if c.sees()&atClock != 0 && c.unnamed() == open {
		n++
	}
	return n
}

// nameForms are the ways to write names, with what people would say.
var nameForms = []struct{ key, text string }{{"exact", "being "}, {"suffix", "under "}, {"pattern", "like "}}

// readName reads a set of names. Several forms in one mapping are united.
func (c *compiler) readName(n *yamlpos.Node) cond {
	if n.Kind != yamlpos.Mapping {
		return c.inlineNames(members(n), "being ", plainName)
	}
	m := n.AsMap()
	either := cond{op: opAny}
	for _, f := range nameForms {
		if v := m.Node(f.key); v != nil {
			either.kids = append(either.kids, c.inlineNames(members(v), f.text, nameParsers[f.key]))
		}
	}
	if v := m.Node("regexp"); v != nil {
		for _, re := range yamlpos.Values(members(v), wholeName) {
			either.kids = append(either.kids, cond{op: opRegexp, text: "like " + inner(re), rare: &rare{re: re}})
		}
	}
	if v := m.Node("list"); v != nil {
		for _, item := range members(v) {
			if name := yamlpos.Value(item, "", word); name != "" {
				either.kids = append(either.kids, c.listed(name, item.Pos()))
			}
		}
	}
	if v := m.Node("category"); v != nil {
		for _, item := range members(v) {
			either.kids = append(either.kids, c.readCategory(item)...)
		}
	}
	if len(m.Keys()) == 0 {
		n.Errorf("", "want one of exact, suffix, pattern, regexp, list, category")
	}
	m.Done()
	return either.tidy()
}

// listed makes the condition of being in a list.
func (c *compiler) listed(name string, at yamlpos.Pos) cond {
	set := c.names(name, at)
	if set == nil {
		return cond{op: opName}
	}
	if set.Rules != nil {
		return ruled(name, set)
	}
	in := cond{op: opName, names: set.Names, words: []string{name}, text: "in list " + name}
	if l := c.lists[name]; l != nil && l.place < 64 {
		in.slot = l.place + 1
	}
	return in
}

// An entry is a name with what it covers.
type entry struct {
	kind match.Kind
	name string
}

func (c *compiler) inlineNames(items []*yamlpos.Node, text string, parse func(string) (entry, error)) cond {
	var b match.NamesBuilder
	var shown []string
	entries := yamlpos.Values(items, parse)
	for i, e := range entries {
		if err := b.AddKind(e.kind, e.name); err != nil {
			items[min(i, len(items)-1)].Errorf("", "%v", err)
		}
		shown = append(shown, match.Match{Name: e.name, Kind: e.kind}.String())
	}
	return cond{op: opName, names: b.Build(), entries: entries, text: text + strings.ReplaceAll(some(shown), "=", "")}
}

// readNetworks reads prefixes, addresses and lists.
func (c *compiler) readNetworks(n *yamlpos.Node, o op) cond {
	either := cond{op: opAny}
	var b match.NetworksBuilder
	var shown []string
	for _, item := range members(n) {
		text := item.Text()
		if c.lists[text] != nil || looksNamed(text) {
			either.kids = append(either.kids, cond{op: o, nets: c.networks(text, item.Pos()), text: "in list " + text})
			c.ofZone(text, o, item.Pos())
			continue
		}
		p := yamlpos.Value(item, netip.Prefix{}, prefix)
		if !p.IsValid() {
			continue
		}
		if err := b.Add(p); err != nil {
			item.Errorf("", "%v", err)
		}
		shown = append(shown, p.String())
	}
	if len(shown) > 0 {
		either.kids = append(either.kids, cond{op: o, nets: b.Build(), words: shown, text: "in " + some(shown)})
	}
	return either.tidy()
}

// readPosture reads {profile: passed}, several of which must all be true.
func (c *compiler) readPosture(n *yamlpos.Node) cond {
	m := n.AsMap()
	all := cond{op: opAll}
	for _, name := range m.Keys() {
		c.profile(name, m.KeyPos(name))
		want := yamlpos.Read(m, name, "", yamlpos.OneOf("passed", "failed", "unknown"))
		result, _ := posture.ParseResult(want) // one of the three, or reported
		all.kids = append(all.kids, cond{op: opPosture, profile: name, result: result})
	}
	if n.Kind == yamlpos.Mapping && len(all.kids) == 0 {
		n.Errorf("", "no posture given")
	}
	return all.tidy()
}
