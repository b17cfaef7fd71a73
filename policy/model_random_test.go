package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy"
)

var (
	modelNames  = []string{"a.test", "b.a.test", "c.b.a.test", "d.test", "taobao.com", "x.jd.com"}
	modelAddrs  = []string{"203.0.113.9", "192.0.2.1", "10.0.0.1", "2001:db8:c::1", "198.51.100.7"}
	modelLeaves = map[string][]string{
		"exact":    modelNames,
		"suffix":   {"test", "a.test", "b.a.test", "com"},
		"pattern":  {`"*.a.test"`, `"**.a.test"`, `"*.test"`},
		"list":     {"china-sites", "phishing", "excepting", "zone", "[phishing, zone]", "rules", "rules"},
		"country":  {"CN", "US", "[US, DE]"},
		"answers":  {"203.0.113.0/24", "china-networks", "198.51.100.7"},
		"group":    {"staff", "lab", "[lab, guests]"},
		"device":   {"u1", "u2", "[u2, u3]"},
		"identity": {"weak", "medium", "strong"},
		"posture":  {"passed", "failed", "unknown"},
		"network":  {"100.64.0.0/10", "192.168.0.0/16", "china-networks"},
		"type":     {"A", "AAAA", "TXT", "[HTTPS, TYPE99]"},
		"kind":     {"wireguard", "token", "[network, certificate]"},
		"names":    {`["*.a.test", d.test]`, "{exact: d.test, suffix: b.a.test, list: zone}", `{pattern: "**.jd.com", regexp: "[abc]\\..*", category: watched}`},

		"regexp":    {`"[ab]\\.(.*\\.)?test"`, `".*\\.jd\\.com"`, `"a"`},
		"category":  {"watched"},
		"continent": {"AS", "NA"},
		"asn":       {"4134", "AS64512"},
		"cname":     {"{suffix: a.test}", "d.test"},
		"mx":        {"{suffix: mail.test}", "{list: phishing}"},
		"txt":       {`{regexp: "v=spf1.*"}`},
		"ns":        {"bad.example", "{list: phishing}"},
		"ptr":       {`{pattern: "*.mail.test"}`},
		"user":      {"alice", "bob", "[bob, carol]"},
		"platform":  {"macos", "windows", "[MacOS, linux]"},
		"listener":  {"link", "192.0.2.1:53", `[link, "192.0.2.1:53"]`},
		"transport": {"udp", "[dot, doh]"},
		"schedule":  {"office", "night", "[office, night]", "{zone: America/New_York, days: [sat-mon, wed], hours: [\"00:30-02:30\", \"23:00-01:15\"]}"},
		"flow":      {"{protocol: tcp}", "{port: [80, 8000-8100]}", "{protocol: icmp}", "{protocol: [udp, tcp], port: 443}", "{route: there}", "{route: elsewhere}"},
	}
	modelWindows = []string{"not_before: 2026-05-04", "not_after: 2026-05-04", "not_before: 2026-03-29T01:30:00Z", "not_after: 2026-10-25T02:00:00+01:00", "not_before: 2026-05-05, not_after: 2026-05-06"}
	// Around these moments clocks are set, or windows begin and end.
	modelMoments = []time.Time{noon, noon, time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC), time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC), time.Date(2026, 11, 1, 6, 0, 0, 0, time.UTC)}
	modelOps     = sortedKeys(modelLeaves)
)

func sortedKeys(m map[string][]string) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func leaf(r *rand.Rand, ops []string) modelCond {
	op := pick(r, ops)
	return modelCond{op: op, val: pick(r, modelLeaves[op])}
}

func randomCond(r *rand.Rand, depth int, ops []string) modelCond {
	if depth == 0 || r.IntN(3) > 0 {
		return leaf(r, ops)
	}
	c := modelCond{op: pick(r, []string{"all", "any", "not"})}
	n := 1
	if c.op != "not" {
		n += r.IntN(3)
	}
	for range n {
		c.kids = append(c.kids, randomCond(r, depth-1, ops))
	}
	return c
}

func randomPolicy(r *rand.Rand) modelPolicy {
	p := modelPolicy{allow: r.IntN(3) == 0}
	asks := []string{"group", "device", "kind", "identity", "posture", "network", "type", "user", "platform", "listener", "transport", "schedule", "flow"}
	for i := range 1 + r.IntN(6) {
		rule := modelRule{name: fmt.Sprintf("r%d", i), then: pick(r, []string{"allow", "refused", "steer", "allow", pick(r, blockForms), "steer", "corp", "lab", "override"}), deny: pick(r, blockForms)}
		rule.ecs = rule.allows() && r.IntN(4) == 0
		switch r.IntN(8) {
		case 0: // always
		case 1, 2:
			c := randomCond(r, 2, asks)
			rule.cond = &c
		default:
			c := randomCond(r, 3, modelOps)
			rule.cond = &c
		}
		rule.own = rule.chained() && r.IntN(4) == 0
		for _, op := range []string{"group", "device", "identity", "posture", "schedule"} {
			if r.IntN(6) == 0 {
				rule.demands = append(rule.demands, leaf(r, []string{op}))
			}
		}
		if r.IntN(12) == 0 {
			rule.demands = append(rule.demands, modelCond{op: "approval", val: pick(r, []string{"2026-05-04", "2026-10-25T02:30:00+01:00"})})
		}
		rule.shadow = r.IntN(6) == 0
		if r.IntN(8) == 0 {
			rule.window = pick(r, modelWindows)
		}
		p.rules = append(p.rules, rule)
	}
	p.filters = randomFilters(r)
	for i := range p.rules {
		p.rules[i].cond.filtered(p.filters)
	}
	for range r.IntN(3) {
		d := modelDefault{[]modelCond{leaf(r, []string{"group"}), leaf(r, []string{"listener"})}, pick(r, []string{"allow", "allow", pick(r, blockForms)}), r.IntN(2) == 0}
		if i := r.IntN(3); i < 2 {
			d.conds = d.conds[i : i+1]
		}
		p.defaults = append(p.defaults, d)
	}
	return p
}

func queryAt(r *rand.Rand, now time.Time) *policy.Query {
	q := &policy.Query{Name: pick(r, modelNames), Type: pick(r, []uint16{1, 28, 16, 65, 99}), Now: now}
	q.Asker.Kind = device.Kind(r.IntN(int(device.ByWireGuard) + 1))
	q.Asker.Source = pick(r, []netip.Addr{{}, netip.MustParseAddr("100.72.1.1"), netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("203.0.113.9")})
	if r.IntN(5) > 0 {
		q.Asker.Device = &device.Device{ID: pick(r, []device.ID{"u1", "u2", "u3"}), Groups: pick(r, [][]string{nil, {"staff"}, {"lab", "staff"}, {"guests"}}),
			User: pick(r, []string{"", "alice", "bob"}), Platform: pick(r, []string{"", "macOS", "windows"})}
	}
	if r.IntN(4) > 0 {
		q.Asker.Verdicts = posture.Verdicts{"laptop": {Result: posture.Result(r.IntN(3)), Expires: now.Add(time.Duration(r.IntN(5)-1) * time.Minute)}}
	}
	if r.IntN(3) == 0 {
		q.Flow = &policy.Service{Proto: pick(r, []uint8{1, 6, 17, 58}), Port: pick(r, []uint16{0, 80, 443})}
		if q.Flow.Proto == 1 || q.Flow.Proto == 58 {
			q.Flow.Port = 0 // ICMP has none
		}
	} else {
		q.Asker.Listener, q.Asker.Transport = pick(r, []string{"", "link", "192.0.2.1:53"}), pick(r, []string{"", "udp", "tcp", "doh"})
	}
	if q.Answered = r.IntN(3) > 0; q.Answered {
		for i := range r.IntN(4) {
			h := policy.Hop{Name: pick(r, modelNames)}
			if i == 0 {
				h.Name = q.Name
			}
			for range r.IntN(3) {
				h.Addrs = append(h.Addrs, netip.MustParseAddr(pick(r, modelAddrs)))
			}
			for range r.IntN(3) {
				h.Values = append(h.Values, pick(r, []policy.Value{{Type: 15, Text: "a.mail.test"}, {Type: 15, Text: "bad.example"}, {Type: 16, Text: "v=spf1 -all"}, {Type: 16, Text: "x"}, {Type: 2, Text: "bad.example"}, {Type: 2, Text: "ns.test"}, {Type: 12, Text: "a.mail.test"}, {Type: 12, Text: "b.a.mail.test"}}))
			}
			q.Answer = append(q.Answer, h)
		}
	}
	return q
}
