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
	"identity", "kind", "posture", "network", "type",
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
		kinds := yamlpos.Values(c.some(n), kind)
		return cond{op: opKind, kinds: kinds, text: some(kindNames(kinds))}
	case "posture":
		return c.readPosture(n)
	case "network":
		return c.readSource(n)
	default:
		types := yamlpos.Values(c.some(n), parseType)
		return cond{op: opType, types: types, text: some(typeNames(types))}
	}
}

// readSeveral reads the members of all and any, a list of mappings.
func (c *compiler) readSeveral(o op, n *yamlpos.Node) cond {
	out := cond{op: o}
	for _, item := range c.some(n) {
		out.kids = append(out.kids, c.readAll(item))
	}
	return out.tidy()
}

// tidy replaces one alone by itself, and puts what costs little to look at
// first. Conditions on posture come last: a decision that did not look at
// posture does not change as reports age.
func (c cond) tidy() cond {
	if len(c.kids) == 1 {
		return c.kids[0]
	}
	slices.SortStableFunc(c.kids, func(a, b cond) int { return a.rank() - b.rank() })
	return c
}

// rank orders conditions. Of those that look at posture too, those come first
// that names alone can settle, so that a policy which the index passes over
// would not have looked at posture.
func (c *cond) rank() int {
	n := bits.Len8(uint8(c.sees()))
	if c.sees()&atPosture != 0 && c.unnamed() == open {
		n++
	}
	return n
}

// nameForms are the ways to write names, with what people would say.
var nameForms = []struct{ key, text string }{{"exact", "being "}, {"suffix", "under "}, {"pattern", "like "}}

// readName reads a set of names. Several forms in one mapping are united.
func (c *compiler) readName(n *yamlpos.Node) cond {
	if n.Kind != yamlpos.Mapping {
		return c.inlineNames(c.some(n), "being ", plainName)
	}
	m := n.AsMap()
	either := cond{op: opAny}
	for _, f := range nameForms {
		if v := m.Node(f.key); v != nil {
			either.kids = append(either.kids, c.inlineNames(c.some(v), f.text, nameParsers[f.key]))
		}
	}
	if v := m.Node("list"); v != nil {
		for _, item := range c.some(v) {
			if name := yamlpos.Value(item, "", word); name != "" {
				either.kids = append(either.kids, c.listed(name, item.Pos()))
			}
		}
	}
	if len(m.Keys()) == 0 {
		n.Errorf("", "want one of exact, suffix, pattern, list")
	}
	m.Done()
	return either.tidy()
}

// listed makes the condition of being in a list.
func (c *compiler) listed(name string, at yamlpos.Pos) cond {
	in := cond{op: opName, names: c.names(name, at), words: []string{name}, text: "in list " + name}
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

func (c *compiler) readAnswer(n *yamlpos.Node) cond {
	m := n.AsMap()
	country, network := m.Node("country"), m.Node("network")
	m.Done()
	switch {
	case n.Kind != yamlpos.Mapping:
	case country != nil && network != nil:
		n.Errorf("say which is meant with any: or all:", "country and network in one")
	case country != nil:
		codes := yamlpos.Values(c.some(country), countryCode)
		if !c.hasGeo {
			country.Errorf("add geoip: {country: FILE.mmdb}", "no country database is given")
		}
		return cond{op: opCountry, words: codes, geo: c.geo, text: "in " + some(codes)}
	case network != nil:
		return c.readNetworks(network, opNetwork, true)
	default:
		n.Errorf("", "want country or network")
	}
	return cond{op: opAny}
}

func (c *compiler) readSource(n *yamlpos.Node) cond { return c.readNetworks(n, opSource, false) }

// readNetworks reads prefixes, addresses and, where they may be, lists.
func (c *compiler) readNetworks(n *yamlpos.Node, o op, lists bool) cond {
	either := cond{op: opAny}
	var b match.NetworksBuilder
	var shown []string
	for _, item := range c.some(n) {
		text := item.Text()
		if lists && c.lists[text] != nil || lists && looksNamed(text) {
			either.kids = append(either.kids, cond{op: o, nets: c.networks(text, item.Pos()), text: "in list " + text})
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
