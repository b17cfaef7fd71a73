package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
)

// A regular expression has to match the whole name.
func TestRegexps(t *testing.T) {
	check(t, `
policies:
  - {name: ads, if: {name: {regexp: ['ads?[0-9]*\..*', '(?i:track)er\.test']}}, then: {block: nxdomain}}
  - {name: either, if: {name: {regexp: 'x|y\.test', exact: z.test}}, then: {block: nodata}}
`, []question{
		{ask: "ad.example", want: "block nxdomain by ads"},
		{ask: "ads42.cdn.example", want: "block nxdomain by ads"},
		{ask: "bads42.example", want: "block refused by default"},
		{ask: "www.ads42.example", want: "block refused by default"},
		{ask: "tracker.test", want: "block nxdomain by ads"},
		{ask: "tracker.test.example", want: "block refused by default"},
		{ask: "x", want: "block nodata by either"},
		{ask: "x.test", want: "block refused by default"},
		{ask: "y.test", want: "block nodata by either"},
		{ask: "z.test", want: "block nodata by either"},
		{ask: "q.test", answer: "q.test ads.example 192.0.2.1", want: "block nxdomain by ads at ads.example"},
	})
}

func TestPlacesAndRecords(t *testing.T) {
	p := parse(t, head+`
policies:
  - {name: asia, if: {answer: {continent: AS}, type: A}, then: {block: nxdomain}}
  - {name: lab, if: {answer: {asn: [AS64512, 7]}}, then: {block: nodata}}
  - {name: mail, if: {answer: {mx: {suffix: mail.bad.test}}}, then: {block: drop}}
  - {name: tunnel, if: {answer: {txt: {regexp: '[A-Za-z0-9+/]{20,}=*'}}}, then: {block: zero-ip}}
  - {name: parked, if: {answer: {ns: [ns1.park.test, ns2.park.test]}}, then: {block: page}}
  - {name: alias, if: {answer: {cname: {suffix: park.test}}}, then: {block: nodata}}
  - {name: rest, then: allow}
`)
	value := func(typ uint16, text string) []policy.Hop {
		return []policy.Hop{{Name: "a.test", Values: []policy.Value{{Type: 15, Text: "ok.test"}, {Type: typ, Text: text}}}}
	}
	for _, tt := range []struct {
		hops []policy.Hop
		want string
	}{
		{chain("a.test 203.0.113.9"), "block nxdomain by asia"},
		{chain("a.test 10.0.0.1"), "block nodata by lab"},
		{chain("a.test 192.0.2.1"), "allow by rest"},
		{value(15, "x.mail.bad.test"), "block drop by mail"},
		{value(2, "x.mail.bad.test"), "allow by rest"},
		{value(16, "QUJDREVGR0hJSktMTU5PUFFSUw=="), "block zero-ip by tunnel"},
		{value(16, "v=spf1 QUJDREVGR0hJSktMTU5PUFFSUw=="), "allow by rest"},
		{value(2, "ns2.park.test"), "block page by parked"},
		{chain("a.test x.park.test 192.0.2.1"), "block nodata by alias"},
		{chain("x.park.test 192.0.2.1"), "allow by rest"},
	} {
		q := question{ask: "a.test"}.query()
		q.Answered, q.Answer = true, tt.hops
		d, trace := p.Explain(q)
		if got := outcome(q, &d); got != tt.want {
			t.Errorf("%+v: %s, want %s\n%v", tt.hops, got, tt.want, trace)
		}
	}
	q := question{ask: "a.test"}.query()
	if d := p.Decide(q); !d.NeedAnswer {
		t.Errorf("before the answer: %v", &d)
	}
	if got := len(p.Records()); got != 4 {
		t.Errorf("%d conditions on records, want 4", got)
	}
}

// Demands of times and approvals deny when their time has passed.
func TestDemandsOfTime(t *testing.T) {
	p := parse(t, head+more+`
policies:
  - {name: games, if: {name: {suffix: games.test}}, require: {schedule: night}, then: allow}
  - {name: contract, require: {approval: {by: bob, until: 2026-05-06}}, then: {steer: there}}
`)
	for _, tt := range []struct{ ask, at, want, until string }{
		{"x.games.test", "2026-05-04T12:00:00Z", "deny refused by games: not in schedule night, it is Mon 20:00 CST", "2026-05-04T14:30:00Z"},
		{"x.games.test", "2026-05-04T14:30:00Z", "allow by games", "2026-05-04T22:00:00Z"},
		{"a.test", "2026-05-06T23:59:59Z", "steer there by contract", "2026-05-07T00:00:00Z"},
		{"a.test", "2026-05-07T00:00:00Z", "deny refused by contract: the approval by bob has expired at 2026-05-07 00:00 UTC", ""},
	} {
		q := question{ask: tt.ask, answer: tt.ask}.query()
		now, err := time.Parse(time.RFC3339, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		q.Now = now
		d := p.Decide(q)
		until := ""
		if !d.Until.IsZero() {
			until = d.Until.UTC().Format(time.RFC3339)
		}
		if got := outcome(q, &d); got != tt.want || until != tt.until {
			t.Errorf("%s at %s: %s until %q, want %s until %q", tt.ask, tt.at, got, until, tt.want, tt.until)
		}
	}
}

// A policy in shadow decides nothing, ends no list and sends nothing upstream,
// but it is said what it would do.
func TestShadow(t *testing.T) {
	p := parse(t, head+`
policies:
  - {name: china, mode: shadow, if: {answer: {country: CN}}, require: {groups: [staff]}, then: {steer: there}}
  - {name: new, mode: shadow, if: {name: {suffix: a.test}}, then: {block: nxdomain}}
  - {name: guests, mode: shadow, if: {group: guests}, then: allow}
  - {name: old, if: {name: b.test}, then: {block: nodata}}
`)
	for _, tt := range []struct{ ask, by, answer, want, would string }{
		{"a.test", "alice", "", "block refused by default", ""}, // it would depend on the answer, which is not asked for
		{"a.test", "alice", "a.test 192.0.2.1", "block refused by default", "block nxdomain by new"},
		{"c.test", "alice staff", "c.test 203.0.113.9", "block refused by default", "steer there by china"},
		{"c.test", "alice", "c.test 203.0.113.9", "block refused by default", "deny refused by china"},
		{"c.test", "bob guests", "c.test", "block refused by default", "allow by guests"},
		{"b.test", "bob guests", "b.test", "block nodata by old", "allow by guests"},
		{"b.test", "alice", "b.test", "block nodata by old", ""},
	} {
		q := question{ask: tt.ask, by: tt.by, answer: tt.answer}.query()
		d, trace := p.Explain(q)
		would := d.Would()
		if d.Shadow != nil {
			would += " by " + d.Shadow.Name
		}
		if got := outcome(q, &d); got != tt.want || would != tt.would {
			t.Errorf("%s by %s: %s, would %q; want %s, would %q\n%v", tt.ask, tt.by, got, would, tt.want, tt.would, trace)
		}
		if shown := strings.HasSuffix(trace.String(), "\nwere shadows enforced: "+tt.would); shown != (tt.would != "") {
			t.Errorf("the trace does not say so: %v", trace)
		}
	}
	if p.CouldSteer("c.test", nil, "there", noon) {
		t.Error("a policy in shadow could steer")
	}
	q := question{ask: "b.test", by: "bob guests", answer: "b.test"}.query()
	if n := testing.AllocsPerRun(100, func() { p.Decide(q) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestDefaults(t *testing.T) {
	p := parse(t, `
policies: [{name: one, if: {name: a.test}, then: allow}]
defaults:
  - {group: iot, then: block, learn: true}
  - {group: [lab, guests], listener: "192.0.2.1:53", then: {block: nxdomain}}
  - {listener: "192.0.2.1:53", then: allow, learn: yes}
default: allow
`)
	for _, tt := range []struct{ by, listener, want, text string }{
		{"tv iot", "", "block refused learned", "no policy decides: default for group iot"},
		{"tv iot", "192.0.2.1:53", "block refused learned", "no policy decides: default for group iot"},
		{"pc lab", "192.0.2.1:53", "block nxdomain", "no policy decides: default for group lab or guests, listener 192.0.2.1:53"},
		{"pc lab", "", "allow", ""},
		{"pc", "192.0.2.1:53", "allow learned", ""},
		{"nobody", "", "allow", ""},
	} {
		q := question{ask: "b.test", by: tt.by, answer: "b.test 192.0.2.1"}.query()
		q.Asker.Listener = tt.listener
		d, trace := p.Explain(q)
		got := d.String()
		if d.Learned {
			got += " learned"
		}
		if got != tt.want || d.Text() != tt.text {
			t.Errorf("%s at %s: %s, %q; want %s, %q\n%v", tt.by, tt.listener, got, d.Text(), tt.want, tt.text, trace)
		}
	}
	if got := strings.Join(p.Learning(), " "); got != "iot" {
		t.Errorf("learns about %q", got)
	}
	q := question{ask: "a.test", by: "tv iot", answer: "a.test"}.query()
	if d := p.Decide(q); d.Learned {
		t.Error("what a policy decides is not learnt")
	}
}

func TestOverridesOfRecords(t *testing.T) {
	p := parse(t, `policies: [{name: a, then: {override: {a: 10.0.0.1, txt: ["v=spf1 -all", b], https: "1  WWW.Example alpn=h2,h3 port=8443 ipv4hint=10.0.0.1"}}}]`+"\n")
	got := p.Rules()[0].Then.Records
	want := []policy.Record{{Type: 16, Text: "v=spf1 -all"}, {Type: 16, Text: "b"}, {Type: 65, Text: "1 www.example. alpn=h2,h3 port=8443 ipv4hint=10.0.0.1"}}
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// What Explain says of each condition.
func TestWordsOfConditions(t *testing.T) {
	q := question{ask: "a.test", by: "alice staff", answer: "a.test b.test 203.0.113.9"}.query()
	q.Asker.Device = &device.Device{ID: "alice", User: "al", Platform: "macos"}
	q.Asker.Listener, q.Asker.Transport = "link", "udp"
	q.Answer[0].Values = []policy.Value{{Type: 16, Text: "hello"}}
	flow := *q
	flow.Flow, flow.Asker.Listener, flow.Asker.Transport = &policy.Service{Proto: 6, Port: 443}, "", ""
	for _, tt := range []struct {
		q          *policy.Query
		cond, want string
	}{
		{q, `name: {regexp: 'a\..*'}`, `yes: name like a\..*`},
		{q, `name: {category: watched}`, `no: name not in category watched (in list china-sites); name not in category watched (in list phishing)`},
		{q, `user: [bob]`, `no: user al, not bob`},
		{q, `platform: [windows, macos]`, `yes: platform macos`},
		{q, `listener: 192.0.2.1:53`, `no: listener link, not 192.0.2.1:53`},
		{q, `transport: [dot, doh]`, `no: transport udp, not dot or doh`},
		{&flow, `listener: link`, `no: listener none, not link`},
		{q, `schedule: office`, `yes: in schedule office, it is Mon 14:00 CEST`},
		{q, `schedule: night`, `no: not in schedule night, it is Mon 20:00 CST`},
		{q, `flow: {protocol: tcp, port: 443}`, `no: no flow, not tcp/443`},
		{&flow, `flow: {protocol: tcp, port: 443}`, `yes: flow to tcp/443`},
		{&flow, `flow: {port: 80}`, `no: flow to tcp/443, not any/80`},
		{&flow, `flow: {route: there}`, `unknown: no route without it`},
		{q, `flow: {route: there}`, `no: no flow, not there`},
		{q, `answer: {txt: {regexp: 'hel+o'}}`, `yes: answer TXT "hello" like hel+o`},
		{q, `answer: {mx: x.test}`, `unknown: no MX at a.test`},
		{q, `answer: {cname: {suffix: c.test}}`, `no: answer CNAME b.test, not under c.test`},
	} {
		p := parse(t, head+more+"policies: [{name: it, if: {"+tt.cond+"}, then: block}]\n")
		_, trace := p.Explain(tt.q)
		got := trace.Steps[0].Matched.String() + ": " + strings.TrimSuffix(trace.Steps[0].Text, "; ends the list")
		if got != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.cond, got, tt.want)
		}
	}
	p := parse(t, head+"policies: [{name: it, if: {any: [answer: {continent: [EU, AS]}, answer: {asn: 5}]}, not_after: 2026-05-04, then: block}]\n")
	_, trace := p.Explain(q)
	want := "answer 203.0.113.9 in AS; counts until 2026-05-05 00:00 UTC"
	if got := trace.Steps[len(trace.Steps)-1].Text; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
