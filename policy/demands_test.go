package policy_test

import (
	"testing"
	"time"

	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy"
)

const china = `
policies:
  - name: china-origins
    if: {any: [name: {list: china-sites}, answer: {country: CN}]}
    require: {groups: [staff], identity: medium, posture: laptop}
    then: {steer: hong-kong, ports: [tcp/80, tcp/443, udp/443, tcp/8000-8100]}
  - {name: rest, then: allow}
`

// A demand that is not met denies; the policies below are not asked.
func TestDemands(t *testing.T) {
	check(t, china, []question{
		{ask: "taobao.com", by: "alice staff passing", want: "steer hong-kong by china-origins"},
		{ask: "taobao.com", by: "alice staff failing", want: "deny refused by china-origins: posture laptop failed: firewall: want on, report says off"},
		{ask: "taobao.com", by: "alice staff stale", want: "deny refused by china-origins: posture laptop failed: the last report is older than allowed"},
		{ask: "taobao.com", by: "alice staff", want: "deny refused by china-origins: posture laptop unknown: no report"},
		{ask: "taobao.com", by: "bob guests passing", want: "deny refused by china-origins: not in group staff"},
		{ask: "taobao.com", by: "pc staff office passing", want: "deny refused by china-origins: identity weak (network), want medium"},
		{ask: "taobao.com", by: "nobody", want: "deny refused by china-origins: the device is not known, want group staff; identity none (none), want medium; posture laptop unknown: no report"},
		// By the answer: nobody is denied before it is known.
		{ask: "x.example", by: "bob", want: "ask upstream"},
		{ask: "x.example", by: "bob", answer: "x.example 203.0.113.9", want: "deny refused by china-origins: not in group staff; posture laptop unknown: no report"},
		{ask: "x.example", by: "bob", answer: "x.example 192.0.2.1", want: "allow by rest"},
	})
}

// The demands of an allow at the end are judged before anything goes upstream.
func TestDemandsBeforeUpstream(t *testing.T) {
	check(t, `
policies:
  - {name: phishing, if: {name: {list: phishing}}, then: {block: nxdomain}}
  - {name: rest, require: {posture: [laptop], devices: [alice, carol]}, then: allow, deny: {block: nxdomain, reason: See the help desk}}
`, []question{
		{ask: "x.example", by: "alice failing", want: "deny nxdomain by rest: posture laptop failed: firewall: want on, report says off"},
		{ask: "x.example", by: "alice passing", want: "ask upstream"},
		{ask: "x.example", by: "alice passing", answer: "x.example bad.example", want: "block nxdomain by phishing at bad.example"},
		{ask: "x.example", by: "bob passing", want: "deny nxdomain by rest: device bob is not one of those demanded"},
		{ask: "x.example", by: "nobody", want: "deny nxdomain by rest: the device is not known; posture laptop unknown: no report"},
	})
}

// The route of a flow is that by which it goes without conditions on routes.
func TestFlowRoutes(t *testing.T) {
	const steers = `
  - {name: china, if: {name: {suffix: cn.test}}, require: {groups: staff}, then: {steer: hong-kong, ports: [tcp/22, tcp/443]}}
  - {name: europe, if: {name: {suffix: eu.test}}, then: {steer: berlin}}
`
	for _, tt := range []struct{ first, ask, by, flow, want string }{
		{"if: {flow: {route: hong-kong, port: 22}}, then: block", "a.cn.test", "alice staff", "tcp/22", "block refused by first"},
		{"if: {flow: {route: hong-kong, port: 22}}, then: block", "a.cn.test", "alice staff", "tcp/443", "steer hong-kong by china"},
		{"if: {flow: {route: hong-kong, port: 22}}, then: block", "a.eu.test", "alice staff", "tcp/22", "steer berlin by europe"},
		{"if: {flow: {route: hong-kong}}, then: {steer: berlin}", "a.cn.test", "alice staff", "tcp/443", "steer berlin by first"},
		{"if: {flow: {route: berlin}}, then: {steer: hong-kong, ports: [tcp/22]}", "a.eu.test", "alice staff", "tcp/443", "block refused by first"},
		{"if: {flow: {route: [hong-kong, berlin]}}, require: {groups: guests}, then: {steer: berlin}", "a.cn.test", "alice staff", "tcp/443", "deny refused by first"},
		// What does not go anywhere has no route: neither is this one, nor is it not.
		{"if: {flow: {route: hong-kong}}, then: {steer: hong-kong}", "a.test", "alice staff", "tcp/443", "block refused by default"},
		{"if: {not: {flow: {route: hong-kong}}}, then: {steer: hong-kong}", "a.test", "alice staff", "tcp/443", "block refused by default"},
		{"if: {flow: {route: hong-kong}}, then: {steer: hong-kong}", "a.cn.test", "alice", "tcp/443", "deny refused by china"},
		{"if: {flow: {route: hong-kong}}, then: {steer: hong-kong}", "a.cn.test", "alice staff", "udp/443", "block refused by china"},
		{"if: {not: {flow: {route: hong-kong}}}, then: block", "a.eu.test", "alice staff", "tcp/443", "block refused by first"},
		{"if: {not: {flow: {route: hong-kong}}}, then: block", "a.cn.test", "alice staff", "tcp/443", "steer hong-kong by china"},
	} {
		p := parse(t, "policies:\n  - {name: first, "+tt.first+"}"+steers)
		q := question{ask: tt.ask, by: tt.by, flow: tt.flow, answer: tt.ask}.query()
		d, trace := p.Explain(q)
		by := "default"
		if d.Rule != nil {
			by = d.Rule.Name
		}
		if got := d.String() + " by " + by; got != tt.want {
			t.Errorf("%s: %s to %s by %q: %s, want %s\n%v", tt.first, tt.flow, tt.ask, tt.by, got, tt.want, trace)
		}
		if plain := p.Decide(q); plain.String() != d.String() {
			t.Errorf("%s: decided %s, explained %s", tt.first, plain.String(), d.String())
		}
	}
}

// A decision about a flow ends with that about its route.
func TestFlowRoutesEnd(t *testing.T) {
	p := parse(t, head+`policies:
  - {name: first, if: {flow: {route: hong-kong, port: 22}}, then: block}
  - {name: china, if: {posture: {laptop: passed}}, then: {steer: hong-kong}}
`)
	q := question{ask: "a.test", by: "alice staff", flow: "tcp/22", answer: "a.test"}.query()
	q.Asker.Verdicts = posture.Verdicts{"laptop": {Result: posture.Passed, Expires: noon.Add(time.Minute)}}
	if d := p.Decide(q); d.Rule == nil || d.Rule.Name != "first" || !d.Until.Equal(noon.Add(time.Minute)) {
		t.Errorf("%+v", d)
	}
}

func TestFlows(t *testing.T) {
	check(t, china, []question{
		{ask: "taobao.com", by: "alice staff passing", flow: "tcp/443", want: "steer hong-kong by china-origins"},
		{ask: "taobao.com", by: "alice staff passing", flow: "tcp/8050", want: "steer hong-kong by china-origins"},
		{ask: "taobao.com", by: "alice staff passing", flow: "tcp/8101", want: "block refused by china-origins"},
		{ask: "taobao.com", by: "alice staff passing", flow: "tcp/22", want: "block refused by china-origins"},
		{ask: "taobao.com", by: "alice staff passing", flow: "udp/80", want: "block refused by china-origins"},
		{ask: "taobao.com", by: "alice staff passing", flow: "gre/0", want: "block refused by china-origins"},
		{ask: "taobao.com", by: "alice staff passing", flow: "icmp", want: "steer hong-kong by china-origins"},
		{ask: "taobao.com", by: "alice staff passing", flow: "icmp6", want: "steer hong-kong by china-origins"},
		{ask: "taobao.com", by: "alice staff failing", flow: "icmp", want: "deny refused by china-origins: posture laptop failed: firewall: want on, report says off"},
		// Only steer admits.
		{ask: "x.example", by: "alice staff passing", flow: "tcp/443", answer: "x.example 192.0.2.1", want: "block refused by rest"},
		// By the answer that is on record; without one nothing matches, and nothing waits.
		{ask: "x.example", by: "alice staff passing", flow: "tcp/443", answer: "x.example 203.0.113.9", want: "steer hong-kong by china-origins"},
		{ask: "x.example", by: "alice staff passing", flow: "tcp/443", answer: "x.example cdn.example 203.0.113.9", want: "steer hong-kong by china-origins at cdn.example"},
		{ask: "x.example", by: "alice staff passing", flow: "tcp/443", want: "block refused by rest"},
	})
	check(t, "\npolicies: [{name: all, then: {steer: r}}]\n", []question{
		{ask: "x", flow: "tcp/1", want: "steer r by all"},
		{ask: "x", flow: "gre/0", want: "steer r by all"},
	})
	check(t, "\ndefault: allow\n", []question{{ask: "x", flow: "tcp/1", want: "block refused by default"}})
}

func TestWhyAFlowIsBlocked(t *testing.T) {
	p := parse(t, head+china)
	for service, want := range map[string]string{
		"tcp/22": "policy china-origins: tcp/22 is not among its ports",
		"gre/0":  "policy china-origins: protocol 47 is not among its ports",
	} {
		d := p.Decide(question{ask: "jd.com", by: "alice staff passing", flow: service}.query())
		if d.Text() != want || d.Then.Action != policy.Block {
			t.Errorf("%s: %q, want %q", service, d.Text(), want)
		}
	}
	d := p.Decide(question{ask: "x.example", by: "alice", flow: "tcp/22"}.query())
	if want := "policy rest: allow admits no traffic, only a steer does"; d.Text() != want {
		t.Errorf("%q, want %q", d.Text(), want)
	}
}

// A decision says when it may change by time alone: when a passed verdict that
// it looked at expires.
func TestUntil(t *testing.T) {
	p := parse(t, head+`
policies:
  - {name: a, if: {posture: {laptop: passed}, name: {suffix: a.example}}, then: {block: nxdomain}}
  - {name: b, if: {name: b.example}, require: {posture: laptop}, then: {steer: r}}
  - {name: c, if: {name: c.example}, then: allow}
`)
	soon := noon.Add(10 * time.Minute)
	for _, tt := range []struct {
		ask, by string
		want    time.Time
	}{
		{"a.example", "u passing", soon},
		{"b.example", "u passing", soon},
		{"c.example", "u passing", time.Time{}}, // the name was looked at first
		{"a.example", "u failing", time.Time{}},
		{"b.example", "u stale", time.Time{}},
		{"b.example", "u", time.Time{}},
	} {
		d := p.Decide(question{ask: tt.ask, by: tt.by}.query())
		if !d.Until.Equal(tt.want) {
			t.Errorf("%s by %s: until %v, want %v", tt.ask, tt.by, d.Until, tt.want)
		}
	}
}

func TestCouldSteer(t *testing.T) {
	p := parse(t, head+`
policies:
  - {name: phishing, if: {name: {list: phishing}}, then: {block: nxdomain}}
  - {name: china, if: {any: [name: {list: china-sites}, answer: {country: CN}]}, require: {groups: [staff]}, then: {steer: hong-kong}}
  - {name: bj, if: {name: bj.example, group: staff}, then: {steer: beijing}}
  - {name: ours, if: {any: [name: ours.example, answer: {country: CN}]}, then: {steer: shanghai}, cname: ignore}
  - {name: end, if: {not: {group: staff}}, then: block}
  - {name: lab, if: {name: lab.example, posture: {laptop: passed}, type: A}, then: {steer: beijing}}
  - {name: stop, then: block}
  - {name: never, if: {name: never.example}, then: {steer: beijing}}
`)
	for _, tt := range []struct {
		name, facts, route string
		want               bool
	}{
		{"www.taobao.com", "", "hong-kong", true},
		{"www.taobao.com", "", "beijing", false},
		{"www.taobao.com", "www.taobao.com 192.0.2.1", "hong-kong", true},
		{"bad.example", "", "hong-kong", false},
		{"bad.example", "bad.example 203.0.113.9", "hong-kong", false},
		{"x.example", "", "hong-kong", true}, // nothing is known of its addresses
		{"x.example", "x.example 203.0.113.9", "hong-kong", true},
		{"x.example", "x.example 192.0.2.1", "hong-kong", false},
		{"x.example", "x.example 10.0.0.1", "hong-kong", false}, // in no known country
		{"x.example", "x.example", "hong-kong", false},
		{"x.example", "x.example jd.com 192.0.2.1", "hong-kong", true},
		{"bj.example", "bj.example 192.0.2.1", "beijing", true},
		{"lab.example", "lab.example 192.0.2.1", "beijing", true},
		{"ours.example", "", "shanghai", true},
		{"x.example", "", "shanghai", true},
		{"ours.example", "ours.example 192.0.2.1", "shanghai", true},
		{"x.example", "x.example ours.example 192.0.2.1", "shanghai", false},
		{"never.example", "never.example 192.0.2.1", "beijing", false},
	} {
		if got := p.CouldSteer(tt.name, chain(tt.facts), tt.route, noon); got != tt.want {
			t.Errorf("CouldSteer(%s, %q, %s) = %v", tt.name, tt.facts, tt.route, got)
		}
	}
}
