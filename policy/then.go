package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/rrtype"
	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy/list"
	"github.com/starferry/starferry/policy/match"
)

const (
	overrideTTL = time.Minute
	steerTTL    = 30 * time.Second // short, so that a change of policy or route is soon seen
)

// The keys of a "then", besides reason and ede, which may stand in it or
// beside it.
var (
	actionKeys   = []string{"block", "override", "resolve", "steer"}
	steeringKeys = []string{"ports", "when_down", "no_way", "ttl"}
	noteKeys     = []string{"reason", "ede"}
)

// readThen reads what a policy does.
func (c *compiler) readThen(rule *yamlpos.Map) Then {
	n := rule.Node("then")
	switch {
	case n == nil:
		return readNotes(Then{}, rule)
	case n.Kind != yamlpos.Mapping:
		return readNotes(yamlpos.Value(n, Then{}, bareAction), rule)
	}
	m := n.AsMap()
	var then Then
	var acts []string
	for _, act := range actionKeys {
		if v := m.Node(act); v != nil {
			acts = append(acts, act)
			then = c.readAction(act, v)
		}
	}
	strange := func(k string) bool { return !slices.Contains(steeringKeys, k) && !slices.Contains(noteKeys, k) }
	switch {
	case len(acts) > 1:
		n.Errorf("", "%s in one", strings.Join(acts, " and "))
	case len(acts) == 0 && !slices.ContainsFunc(m.Keys(), strange):
		n.Errorf("", "no action given: want allow, or one of %s", strings.Join(actionKeys, ", "))
	}
	if len(acts) > 0 {
		readSteering(m, &then)
	}
	then = readNotes(then, rule, m)
	m.Done()
	return then
}

func (c *compiler) readAction(act string, n *yamlpos.Node) Then {
	switch act {
	case "block":
		if n.Kind != yamlpos.Mapping && n.Text() == Truncate.String() {
			return Then{Action: Block, Block: Truncate}
		}
		return readBlock(n)
	case "override":
		return c.readOverride(n)
	case "resolve":
		return c.readResolve(n)
	}
	then := Then{Action: Steer, EDE: EDEForged, Route: yamlpos.Value(n, "", device.ParseName)}
	if then.Route != "" {
		c.policy.routes = append(c.policy.routes, Ref{then.Route, n.Pos()})
	}
	return then
}

func bareAction(s string) (Then, error) {
	switch s {
	case "allow":
		return Then{Action: Allow}, nil
	case "block":
		return Then{Action: Block, EDE: EDEBlocked}, nil
	case "steer":
		return Then{}, yamlpos.Hint(fmt.Errorf("steer needs a route"), "write {steer: ROUTE}")
	case "resolve":
		return Then{}, yamlpos.Hint(fmt.Errorf("resolve needs a group of upstream servers"), "write {resolve: GROUP}")
	case "override":
		return Then{}, yamlpos.Hint(fmt.Errorf("override needs an answer"), "write {override: {a: [ADDRESS]}}")
	}
	err := fmt.Errorf("unknown action %q: want allow, or one of %s", s, strings.Join(actionKeys, ", "))
	return Then{}, yamlpos.Hint(err, yamlpos.DidYouMean(s, append([]string{"allow"}, actionKeys...)))
}

// readBlock reads the form of a block: a word, or {address: [...]}.
func readBlock(n *yamlpos.Node) Then {
	then := Then{Action: Block, EDE: EDEBlocked}
	if n.Kind != yamlpos.Mapping {
		i := yamlpos.Value(n, 0, yamlpos.Index(blockKinds[:Address]...))
		if then.Block = BlockKind(i); then.Block == ZeroIP || then.Block == Page {
			then.EDE = EDEForged
		}
		return then
	}
	m := n.AsMap()
	then.Block, then.EDE = Address, EDEForged
	for _, a := range readSome(m, "address", anyAddr) {
		if a.Is4() {
			then.A = append(then.A, a)
		} else {
			then.AAAA = append(then.AAAA, a)
		}
	}
	if !m.Has("address") {
		n.Errorf("", "want a form or {address: [...]}")
	}
	m.Done()
	return then
}

func (c *compiler) readOverride(n *yamlpos.Node) Then {
	m := n.AsMap()
	then := Then{
		Action: Override,
		EDE:    EDEForged,
		A:      readSome(m, "a", addr(false)),
		AAAA:   readSome(m, "aaaa", addr(true)),
		CNAME:  yamlpos.Read(m, "cname", "", match.Clean),
		TTL:    yamlpos.Read(m, "ttl", overrideTTL, ttl),
	}
	for _, text := range readSome(m, "txt", txtRecord) {
		then.Records = append(then.Records, Record{Type: rrtype.Numbers["TXT"], Text: text})
	}
	for _, text := range readSome(m, "https", httpsRecord) {
		then.Records = append(then.Records, Record{Type: rrtype.Numbers["HTTPS"], Text: text})
	}
	if v := m.Node("list"); v != nil {
		then.zone = c.readZone(v)
	}
	switch others := m.Has("a") || m.Has("aaaa") || m.Has("txt") || m.Has("https"); {
	case n.Kind != yamlpos.Mapping:
	case m.Has("list") && (others || m.Has("cname")):
		n.Errorf("", "a list stands alone: it has the answers")
	case m.Has("list"):
	case others && m.Has("cname"):
		n.Errorf("", "a cname stands alone (RFC 1034, section 3.6.2)")
	case !others && !m.Has("cname"):
		n.Errorf("", "want a, aaaa, txt, https, cname or list")
	}
	m.Done()
	return then
}

// readSteering reads what goes with steer, and refuses it beside other actions.
func readSteering(m *yamlpos.Map, then *Then) {
	if then.Action != Steer {
		for _, key := range steeringKeys {
			hint := ""
			if key == "ttl" && then.Action == Allow {
				hint = "beside then stands ttl: {min: 60s, max: 1h}"
			}
			if m.Has(key) {
				m.KeyErrorf(key, hint, "%s goes with steer only", key)
			}
		}
		return
	}
	if n := m.Node("ports"); n != nil {
		then.Ports = yamlpos.Values(n.OneOrMore(), port)
		if len(n.OneOrMore()) == 0 {
			n.Errorf("leave it out to admit all", "an empty list")
		}
	}
	then.WhenDown = Fallback(yamlpos.Read(m, "when_down", 0, yamlpos.Index(fallbacks[:]...)))
	then.NoWay = Fallback(yamlpos.Read(m, "no_way", 0, yamlpos.Index(fallbacks[:FallServfail]...)))
	then.TTL = yamlpos.Read(m, "ttl", steerTTL, ttl)
}

// readNotes reads reason and ede, which may stand in any of the mappings but
// only once.
func readNotes(then Then, in ...*yamlpos.Map) Then {
	seen := map[string]bool{}
	for _, m := range in {
		for _, key := range noteKeys {
			if m.Has(key) && seen[key] {
				m.KeyErrorf(key, "", "%s stands beside then too", key)
			}
			seen[key] = seen[key] || m.Has(key)
		}
		then.Reason = yamlpos.Read(m, "reason", then.Reason, reason)
		if m.Has("ede") && then.Action != Block {
			m.KeyErrorf("ede", "", "ede goes with block only")
		}
		then.EDE = yamlpos.Read(m, "ede", then.EDE, blockCode)
	}
	return then
}

// readDeny reads the form of a denial, REFUSED unless said otherwise.
func (c *compiler) readDeny(rule *yamlpos.Map) Then {
	deny := Then{Action: Block, Block: Refused}
	if n := rule.Node("deny"); n != nil {
		m := n.AsMap()
		if v := m.Node("block"); v != nil {
			deny = readBlock(v)
		}
		deny.Reason = yamlpos.Read(m, "reason", "", reason)
		m.Done()
		if !rule.Has("require") {
			rule.KeyErrorf("deny", "", "deny goes with require: nothing is demanded here")
		}
	}
	deny.EDE = EDEProhibited
	return deny
}

// reason parses a sentence for people. It travels in DNS answers, so it is short.
func reason(s string) (string, error) {
	const most = 200
	if len(s) > most {
		return "", fmt.Errorf("%d bytes, more than %d", len(s), most)
	}
	return strings.Join(strings.Fields(s), " "), nil
}

// blockCode parses the EDE code of a block by number or name.
func blockCode(s string) (uint16, error) {
	switch strings.ToLower(s) {
	case strconv.Itoa(EDEBlocked), "blocked":
		return EDEBlocked, nil
	case strconv.Itoa(EDECensored), "censored":
		return EDECensored, nil
	case strconv.Itoa(EDEFiltered), "filtered":
		return EDEFiltered, nil
	}
	return 0, fmt.Errorf("%q is none of 15 (blocked), 16 (censored), 17 (filtered)", s)
}

// ttl parses a time to live of whole seconds, at most a week.
func ttl(s string) (time.Duration, error) {
	d, err := yamlpos.Duration(s)
	if err == nil && (d%time.Second != 0 || d > list.MaxTTL) {
		err = fmt.Errorf("%q is no time to live: want whole seconds, at most a week", s)
	}
	return d, err
}
