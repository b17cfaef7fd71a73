package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/internal/rrtype"
	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy/match"
)

// A testCase is an expectation under "tests":
//
//	{device: alice-laptop, posture: failing, ask: www.taobao.com, want: {block: refused}}
type testCase struct {
	at     yamlpos.Pos
	name   string
	rrtype uint16
	device string         // one of the node's own devices
	inline *testDevice    // one that is described here
	stand  posture.Result // by all profiles that stands does not name
	stands map[string]posture.Result
	time   time.Time // zero: no condition may look at it
	flow   *Service

	listener, transport string // empty: as the device usually asks

	answer []testHop
	known  bool // answer is given, if only as none
	want   expectation
}

// A testDevice is a device that a test describes.
type testDevice struct {
	groups   []string
	user     string
	platform string
	kind     device.Kind
	source   netip.Addr
}

// A testHop is a name of an assumed answer. Places stand for addresses in them.
type testHop struct {
	name   string
	addrs  []netip.Addr
	places []place
	values []Value
}

// An expectation is what a test wants of the decision; what is empty is not looked at.
type expectation struct {
	text   string // as people write it
	action string // allow, block, deny, steer, override, resolve
	detail string // form, route, group; addresses or a name with spaces between
	policy string
}

// readTest reads an expectation.
func (c *compiler) readTest(m *yamlpos.Map) {
	m.Require("ask", "want")
	t := testCase{at: m.Pos(), rrtype: rrtype.Numbers["A"], stand: posture.Passed}
	asked := yamlpos.Read(m, "ask", question{}, parseQuestion)
	if t.name = asked.name; asked.rrtype != 0 {
		t.rrtype = asked.rrtype
		if m.Has("type") {
			m.KeyErrorf("type", "", "the type stands in ask too")
		}
	}
	t.rrtype = yamlpos.Read(m, "type", t.rrtype, parseType)
	c.readTestAsker(m, &t)
	t.time = yamlpos.Read(m, "time", time.Time{}, testTime)
	t.flow = yamlpos.Read(m, "flow", nil, parseFlow)
	t.listener = yamlpos.Read(m, "listener", "", listener)
	t.transport = yamlpos.Read(m, "transport", "", transport)
	for _, key := range []string{"listener", "transport"} {
		if t.flow != nil && m.Has(key) {
			m.KeyErrorf(key, "conditions on it are false of flows", "a flow has no %s", key)
		}
	}
	if n := m.Node("answer"); n != nil {
		t.answer, t.known = c.readTestAnswer(n, &t), true
	}
	if n := m.Node("want"); n != nil {
		t.want = c.readWant(n)
	}
	m.Done()
	c.policy.tests = append(c.policy.tests, t)
}

// A question is a name with a type, 0 for none.
type question struct {
	name   string
	rrtype uint16
}

// parseQuestion reads NAME or NAME TYPE.
func parseQuestion(s string) (q question, err error) {
	words := strings.Fields(s)
	if len(words) == 0 || len(words) > 2 {
		return q, fmt.Errorf("%q is no question: want a name, or a name and a type", s)
	}
	if len(words) == 2 {
		if q.rrtype, err = parseType(words[1]); err != nil {
			return q, err
		}
	}
	q.name, err = match.Clean(words[0])
	return q, err
}

// testTime reads a time with its zone (RFC 3339).
func testTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, yamlpos.Hint(fmt.Errorf("%q is no time", s), "write it like 2026-05-04T12:00:00+02:00")
	}
	return t, nil
}

func parseFlow(s string) (*Service, error) {
	f, err := ParseService(s)
	return &f, err
}

func (c *compiler) readTestAsker(m *yamlpos.Map, t *testCase) {
	if n := m.Node("device"); n != nil && n.Kind == yamlpos.Mapping {
		t.inline = readTestDevice(n.AsMap())
	} else {
		t.device = yamlpos.Read(m, "device", "", device.ParseName)
	}
	if n := m.Node("posture"); n != nil {
		c.readStand(n, t)
	}
}

// readTestDevice reads a device that is described: one with a link of its own,
// unless something else is said.
func readTestDevice(m *yamlpos.Map) *testDevice {
	d := &testDevice{
		groups:   readSome(m, "groups", device.ParseName),
		user:     yamlpos.Read(m, "user", "", yamlpos.Word),
		platform: yamlpos.Read(m, "platform", "", yamlpos.Word),
		source:   yamlpos.Read(m, "network", netip.Addr{}, sourceIn),
		kind:     device.ByWireGuard,
	}
	if m.Has("identity") && m.Has("kind") {
		m.KeyErrorf("identity", "the kind of evidence says how strong it is", "identity and kind in one")
	}
	d.kind = byStrength[yamlpos.Read(m, "identity", device.Strong, strength)]
	d.kind = yamlpos.Read(m, "kind", d.kind, kind)
	m.Done()
	return d
}

// byStrength are kinds of evidence that are worth so much.
var byStrength = map[device.Strength]device.Kind{
	device.None: device.Unidentified, device.Weak: device.ByNetwork, device.Medium: device.ByToken, device.Strong: device.ByWireGuard,
}

// sourceIn reads an address, or a network as its first address.
func sourceIn(s string) (netip.Addr, error) {
	p, err := prefix(s)
	return p.Addr(), err
}

// readStand reads how the device stands: by all profiles, or by each; by those
// that are not named it passes.
func (c *compiler) readStand(n *yamlpos.Node, t *testCase) {
	if n.Kind != yamlpos.Mapping {
		t.stand = yamlpos.Value(n, posture.Passed, stand)
		return
	}
	m := n.AsMap()
	t.stands = map[string]posture.Result{}
	for _, name := range m.Keys() {
		c.profile(name, m.KeyPos(name))
		t.stands[name] = yamlpos.Read(m, name, posture.Passed, stand)
	}
}

func stand(s string) (posture.Result, error) {
	i, err := yamlpos.Index("passing", "failing", "unknown")(s)
	return []posture.Result{posture.Passed, posture.Failed, posture.Unknown}[i], err
}

// assume reads what a name owns besides addresses that are written: an address
// somewhere, by {country: CN}, {continent: AS} or {asn: 4134}, or another record,
// by {mx: NAME} and the like, which only a question of that type brings.
func (h *testHop) assume(n *yamlpos.Node, t *testCase) {
	m := n.AsMap()
	for _, code := range readSome(m, "country", countryCode) {
		h.places = append(h.places, place{Country: code})
	}
	for _, code := range readSome(m, "continent", continentCode) {
		h.places = append(h.places, place{Country: countryOn(code)})
	}
	for _, number := range readSome(m, "asn", asNumber) {
		h.places = append(h.places, place{ASN: number})
	}
	for _, key := range []string{"mx", "ns", "ptr", "txt"} {
		read := match.Clean
		if key == "txt" {
			read = yamlpos.Word
		}
		for _, text := range readSome(m, key, read) {
			h.values = append(h.values, Value{recordKeys[key], text})
		}
		if asked := rrtype.Name(t.rrtype); m.Has(key) && recordKeys[key] != t.rrtype {
			m.KeyErrorf(key, fmt.Sprintf("ask: %s %s", t.name, strings.ToUpper(key)), "the answer to a question of type %s holds no %s records", asked, strings.ToUpper(key))
		}
	}
	switch keys := len(m.Keys()); {
	case keys == 0:
		n.Errorf("", "want one of %s", strings.Join(assumptions, ", "))
	case keys > 1:
		n.Errorf("each is an item of its own: [{country: CN}, {asn: 4134}]", "several in one")
	}
	m.Done()
}

// assumptions are what an assumed answer can hold besides addresses and names.
var assumptions = []string{"country", "continent", "asn", "mx", "ns", "ptr", "txt"}

// readTestAnswer reads an assumed answer: addresses, places and records, each of
// the name that stands before them, names that CNAMEs lead to; or none.
func (c *compiler) readTestAnswer(n *yamlpos.Node, t *testCase) []testHop {
	hops := []testHop{{name: t.name}}
	if n.Text() == "none" {
		return hops
	}
	for _, item := range members(n) {
		last := &hops[len(hops)-1]
		if item.Kind == yamlpos.Mapping {
			last.assume(item, t)
			continue
		}
		if a, err := anyAddr(item.Text()); err == nil {
			last.addrs = append(last.addrs, a)
			continue
		}
		if name := yamlpos.Value(item, "", answerName); name != "" {
			hops = append(hops, testHop{name: name})
		}
	}
	return hops
}

// answerName reads a name of a chain. What was meant as an address is no name.
func answerName(s string) (string, error) {
	name, err := match.Clean(s)
	if err != nil || strings.Trim(s, "0123456789.") == "" {
		return "", yamlpos.Hint(fmt.Errorf("%q is neither an address nor a name", s), "or {country: CN}; a name is what a CNAME leads to")
	}
	return name, nil
}

// wants are the decisions that can be expected with a detail.
var wants = []string{"steer", "block", "deny", "override", "resolve"}

// readWant reads the decision that is expected: allow, block (denials
// included), deny, or {steer: ROUTE}, {block: FORM}, {deny: FORM}, {override:
// ADDRESS or NAME}, {resolve: GROUP}, with or without the policy that decides.
func (c *compiler) readWant(n *yamlpos.Node) (want expectation) {
	if n.Kind != yamlpos.Mapping {
		want.action = yamlpos.Value(n, "", yamlpos.OneOf("allow", "block", "deny"))
		want.text = want.action
		return want
	}
	m := n.AsMap()
	for _, act := range wants {
		if !m.Has(act) {
			continue
		}
		if want.action != "" {
			n.Errorf("", "%s and %s in one: want one of %s", want.action, act, strings.Join(wants, ", "))
		}
		want.action, want.detail = act, readDetail(m, act)
	}
	if m.Has("decision") {
		if want.action != "" {
			m.KeyErrorf("decision", "", "%s says the decision", want.action)
		}
		want.action = yamlpos.Read(m, "decision", "", yamlpos.OneOf("allow", "block", "deny"))
	}
	want.policy = yamlpos.Read(m, "policy", "", yamlpos.Word)
	if want.action == "" && want.policy == "" && !slices.ContainsFunc(m.Keys(), func(k string) bool { return k != "policy" }) {
		n.Errorf("", "want one of %s, or the policy", strings.Join(wants, ", "))
	}
	c.knownPolicy(m, want.policy)
	m.Done()
	want.text = strings.TrimSpace(want.action + " " + want.detail)
	if want.policy != "" {
		want.text = strings.TrimSpace(want.text + " by policy " + want.policy)
	}
	return want
}

// byDefault is what a test calls the decision that no policy makes.
const byDefault = "default"

func (c *compiler) knownPolicy(m *yamlpos.Map, name string) {
	names := []string{byDefault}
	for i := range c.policy.rules {
		names = append(names, c.policy.rules[i].Name)
	}
	if name != "" && !slices.Contains(names, name) {
		m.Node("policy").Errorf(yamlpos.DidYouMean(name, names), "unknown policy %q", name)
	}
}

func readDetail(m *yamlpos.Map, act string) string {
	switch act {
	case "steer", "resolve":
		return yamlpos.Read(m, act, "", device.ParseName)
	case "block", "deny":
		return yamlpos.Read(m, act, "", yamlpos.OneOf(blockKinds[:]...))
	}
	return strings.Join(readSome(m, act, func(s string) (string, error) {
		if a, err := anyAddr(s); err == nil {
			return a.String(), nil
		}
		return match.Clean(s)
	}), " ")
}
