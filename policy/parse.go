package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy/list"
	"github.com/starferry/starferry/policy/match"
	"github.com/starferry/starferry/steer/geo"
)

// Parse reads and compiles the policy file src. open opens the files that it
// names (lists, the country database), by the path that is written there;
// where paths are relative to is up to it. The error reports every mistake,
// each with its place.
func Parse(name string, src []byte, open func(path string) (io.ReadCloser, error)) (*Policy, error) {
	return ParseAgain(nil, name, src, open)
}

// ParseAgain does what [Parse] does, and builds only those lists that are not
// in the cache, which it fills.
func ParseAgain(known *list.Cache, name string, src []byte, open func(path string) (io.ReadCloser, error)) (*Policy, error) {
	c := &compiler{
		open:     open,
		known:    known,
		hash:     sha256.New(),
		lists:    map[string]*namedList{},
		profiles: map[string]*posture.Profile{},
		defined:  defined{map[string]*schedule{}, map[string]*category{}, map[string]yamlpos.Pos{}},
		used:     map[string]bool{},
		policy:   &Policy{},
	}
	if err := c.readFiles(name, src); err != nil {
		return nil, err
	}
	return c.finish(), nil
}

// A compiler holds what is known while a file is read.
type compiler struct {
	file     sources
	open     func(path string) (io.ReadCloser, error)
	hash     hash.Hash // of all sources; of lists, of their sums
	known    *list.Cache
	lists    map[string]*namedList
	geo      *geo.DB
	hasGeo   bool
	asn      *geo.DB
	hasASN   bool
	profiles map[string]*posture.Profile
	defined
	used   map[string]bool // "list x" and "posture x" that something names
	policy *Policy
}

// defined is what a file defines for its policies besides lists and profiles.
type defined struct {
	schedules  map[string]*schedule
	categories map[string]*category
	places     map[string]yamlpos.Pos // of all that has a name, by "schedule office" and the like
}

// taken keeps where something of this kind and name is defined, and reports a
// second one.
func (c *compiler) taken(kind, name string, at yamlpos.Pos) bool {
	key := kind + " " + name
	first, dup := c.places[key]
	if !dup {
		c.places[key] = at
		return false
	}
	if first == at { // a key that stands twice in one mapping is reported already
		return true
	}
	where := fmt.Sprintf("first in line %d", first.Line)
	if first.File != at.File {
		where = fmt.Sprintf("first at %v", first)
	}
	c.file.ErrorAt(at, where, "%s %q is given twice", kind, name)
	return true
}

func sorted[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// A category is a group of lists of names.
type category struct{ lists []*yamlpos.Node }

func (c *compiler) readCategories(m *yamlpos.Map) {
	for _, name := range m.Keys() {
		if _, err := word(name); err != nil {
			m.KeyErrorf(name, "", "categories: %v", err)
		}
		if c.taken("category", name, m.KeyPos(name)) {
			continue
		}
		cat := &category{lists: members(m.Node(name))}
		c.categories[name] = cat
		for _, item := range cat.lists { // which also finds those that there are not
			if list := yamlpos.Value(item, "", word); list != "" {
				c.names(list, item.Pos())
			}
		}
	}
}

// readCategory returns the conditions of being in each list of a category.
func (c *compiler) readCategory(n *yamlpos.Node) (out []cond) {
	name := yamlpos.Value(n, "", word)
	if name == "" {
		return nil
	}
	c.used["category "+name] = true
	cat := c.categories[name]
	if cat == nil {
		n.Errorf(yamlpos.DidYouMean(name, sorted(c.categories)), "unknown category %q", name)
		return nil
	}
	for _, item := range cat.lists {
		if c.lists[item.Text()] != nil {
			out = append(out, c.listed(item.Text(), item.Pos()))
		}
	}
	for i := range out {
		out[i].text = fmt.Sprintf("in category %s (%s)", name, out[i].text)
	}
	return out
}

func readDefault(root *yamlpos.Map) Then {
	if yamlpos.Read(root, "default", "block", yamlpos.OneOf("allow", "block")) == "allow" {
		return Then{Action: Allow}
	}
	return Then{Action: Block, Block: Refused, EDE: EDEBlocked, Reason: "no policy decides"}
}

func (c *compiler) readPostures(m *yamlpos.Map) {
	for _, name := range m.Keys() {
		if _, err := word(name); err != nil {
			m.KeyErrorf(name, "", "postures: %v", err)
		}
		c.taken("posture", name, m.KeyPos(name))
		p := posture.ReadProfile(m.Map(name))
		p.Name = name
		c.profiles[name] = p
		c.policy.profiles = append(c.policy.profiles, p)
	}
}

func (c *compiler) readRule(m *yamlpos.Map) Rule {
	m.Require("name", "then")
	r := Rule{Name: yamlpos.Read(m, "name", "", word), At: m.Pos()}
	if n := m.Node("if"); n != nil {
		when := c.readAll(n)
		r.when = &when
	}
	r.when = readWindow(m, r.when)
	r.shadow = yamlpos.Read(m, "mode", "enforce", yamlpos.OneOf("enforce", "shadow")) == "shadow"
	r.demands = c.readDemands(m.Map("require"))
	r.Then = c.readThen(m)
	if r.Then.Block == Truncate {
		r.when = overUDP(r.when)
	}
	if r.Then.zone != nil {
		r.when = r.Then.zone.within(r.when)
	}
	r.ends = r.when == nil || r.when.sees()&(atName|atAnswer) == 0
	readForward(m, &r.Then)
	r.deny = c.readDeny(m)
	r.Log = yamlpos.Read(m, "log", Logging{}, logging)
	r.own = readOwn(m, r.ends)
	m.Done()
	return r
}

// readDemands reads what a policy requires; nil if it requires nothing.
func (c *compiler) readDemands(m *yamlpos.Map) *demands {
	if m == nil {
		return nil
	}
	d := &demands{
		groups:   c.refs(m.Node("groups"), &c.policy.groups),
		devices:  c.refs(m.Node("devices"), &c.policy.devices),
		identity: yamlpos.Read(m, "identity", 0, strength),
		profiles: c.profileNames(m.Node("posture")),

		schedules: c.readTimes(m.Node("schedule")),
		approval:  readApproval(m.Node("approval")),
	}
	if len(m.Keys()) == 0 {
		m.Errorf("leave it out to require nothing", "require: nothing demanded")
	}
	m.Done()
	return d
}

// refs reads one or more names that are defined elsewhere and keeps their places.
func (c *compiler) refs(n *yamlpos.Node, to *[]Ref) []string {
	if n == nil {
		return nil
	}
	var out []string
	for _, item := range members(n) {
		if name := yamlpos.Value(item, "", device.ParseName); name != "" {
			out = append(out, name)
			*to = append(*to, Ref{name, item.Pos()})
		}
	}
	return out
}

// members returns the members of a list that must not be empty, or a value alone.
func members(n *yamlpos.Node) []*yamlpos.Node {
	items := n.OneOrMore()
	if len(items) == 0 {
		n.Errorf("", "an empty list")
	}
	return items
}

// readSome parses a scalar, or a list of them that must not be empty.
func readSome[T any](m *yamlpos.Map, key string, parse func(string) (T, error)) []T {
	n := m.Node(key)
	if n == nil {
		return nil
	}
	return yamlpos.Values(members(n), parse)
}

func (c *compiler) profileNames(n *yamlpos.Node) []string {
	if n == nil {
		return nil
	}
	var out []string
	for _, item := range members(n) {
		name := yamlpos.Value(item, "", word)
		if name != "" && c.profile(name, item.Pos()) {
			out = append(out, name)
		}
	}
	return out
}

// profile reports whether there is a profile of this name, and says so if not.
func (c *compiler) profile(name string, at yamlpos.Pos) bool {
	c.used["posture "+name] = true
	if c.profiles[name] != nil {
		return true
	}
	c.file.ErrorAt(at, yamlpos.DidYouMean(name, slices.Sorted(maps.Keys(c.profiles))), "unknown posture %q", name)
	return false
}

// finish makes the policy from what was read without a mistake.
func (c *compiler) finish() *Policy {
	p := c.policy
	p.version = hex.EncodeToString(c.hash.Sum(nil)[:8])
	p.arrange()
	for _, l := range c.listsInOrder() {
		p.warnings = append(p.warnings, l.told()...)
		p.lists = append(p.lists, l.info)
		if !c.used["list "+l.info.Name] {
			p.warnings = append(p.warnings, fmt.Sprintf("%v: list %s is used nowhere", l.info.At, l.info.Name))
		}
	}
	for _, prof := range p.profiles {
		if !c.used["posture "+prof.Name] {
			p.warnings = append(p.warnings, fmt.Sprintf("%v: posture %s is used nowhere", prof.At, prof.Name))
		}
	}
	for _, what := range sorted(c.places) {
		if kind, _, _ := strings.Cut(what, " "); (kind == "schedule" || kind == "category") && !c.used[what] {
			p.warnings = append(p.warnings, fmt.Sprintf("%v: %s is used nowhere", c.places[what], what))
		}
	}
	p.warnings = append(p.warnings, p.unreached()...)
	p.filter = p.filterNames()
	return p
}

// filterNames returns a filter of all names that conditions look for.
func (p *Policy) filterNames() *match.Filter {
	sets := map[*match.Names]bool{}
	for i := range p.rules {
		if when := p.rules[i].when; when != nil {
			when.namesIn(sets)
		}
	}
	return match.NewFilter(slices.Collect(maps.Keys(sets))...)
}

// unreached says which policies stand below one that always decides.
func (p *Policy) unreached() []string {
	var out []string
	var always *Rule
	for i := range p.rules {
		r := &p.rules[i]
		if always != nil { // also of one in shadow, which would not be looked at either
			out = append(out, fmt.Sprintf("%v: policy %s is never looked at: %s above it has no conditions", r.At, r.Name, always.Name))
		} else if r.when == nil && !r.shadow {
			always = r
		}
	}
	return out
}
