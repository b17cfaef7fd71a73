package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy"
)

func TestRemedies(t *testing.T) {
	p := parse(t, company)
	closed := parse(t, head+`
policies:
  - {name: allowed, if: {name: {list: china-sites}}, require: {identity: strong, groups: [staff, lab]}, then: allow}
  - {name: own, if: {device: kiosk}, then: allow}
`)
	for _, tt := range []struct {
		p    *policy.Policy
		q    question
		want []string
	}{
		{p, question{ask: "x.example", by: "alice staff", answer: "x.example 192.0.2.1"}, nil},
		{p, question{ask: "x.example", by: "alice staff"}, nil}, // waits for the answer
		{p, question{ask: "www.phish.example", by: "alice staff", answer: "www.phish.example"}, []string{
			"www.phish.example not in list phishing: allow by policy everything-else",
		}},
		{p, question{ask: "www.taobao.com", by: "alice staff failing"}, []string{
			"posture laptop passes: steer hong-kong by policy china-origins",
			"www.taobao.com not in list china-sites: allow by policy everything-else",
		}},
		{p, question{ask: "www.taobao.com", by: "pc lab office failing"}, []string{
			"www.taobao.com not in list china-sites: allow by policy everything-else",
			"posture laptop passes; in group staff; identity medium (token): steer hong-kong by policy china-origins",
			"posture laptop passes; in group staff; identity strong (wireguard): steer hong-kong by policy china-origins",
		}},
		{p, question{ask: "x.example", by: "bob guests", answer: "x.example 192.0.2.1"}, []string{
			"not in group guests: allow by policy everything-else",
			"source in 192.168.0.0/16: allow by policy everything-else",
			"posture laptop passes; in group staff; x.example in list china-sites: steer hong-kong by policy china-origins",
			"posture laptop passes; in group staff; addresses of x.example in CN: steer hong-kong by policy china-origins",
		}},
		{closed, question{ask: "x.example", by: "alice staff"}, []string{
			"x.example in list china-sites: allow by policy allowed", "asked by device kiosk: allow by policy own",
		}},
	} {
		var got []string
		for _, r := range tt.p.Remedies(tt.q.query()) {
			got = append(got, strings.Join(r.Changes, "; ")+": "+r.Decision)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s by %s:\n%s\nwant\n%s", tt.q.ask, tt.q.by, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
	}
	flow := question{ask: "www.taobao.com", by: "alice staff failing"}.query()
	flow.Flow = &policy.Service{Proto: 6, Port: 443}
	if got := p.Remedies(flow); len(got) != 1 || got[0].Changes[0] != "posture laptop passes" {
		t.Errorf("flow: %+v", got)
	}
}

// A denied is a question that is not allowed, and what is said to help.
type denied struct {
	name, policies string
	q              question
	at             time.Time // noon unless said
	set            func(*policy.Query)
	want           []string // of what is said, in any order; what begins with - is not
}

var denials = []denied{
	{"a group", `
  - {name: p, if: {name: x.example}, require: {groups: [lab]}, then: allow}`,
		question{ask: "x.example", by: "alice staff"}, time.Time{}, nil, []string{"in group lab: allow by policy p"}},
	{"evidence of a kind", `
  - {name: p, if: {kind: certificate, name: x.example}, then: allow}`,
		question{ask: "x.example", by: "alice"}, time.Time{}, nil, []string{"identity strong (certificate): allow by policy p"}},
	{"a user", `
  - {name: p, if: {user: bob, name: x.example}, then: allow}`,
		question{ask: "x.example", by: "alice"}, time.Time{}, nil, []string{"device of user bob: allow by policy p"}},
	{"a platform", `
  - {name: p, if: {platform: macos, name: x.example}, then: allow}`,
		question{ask: "x.example", by: "alice"}, time.Time{}, nil, []string{"platform macos: allow by policy p"}},
	{"a listener and a transport", `
  - {name: p, if: {listener: link, transport: doh, name: x.example}, then: allow}`,
		question{ask: "x.example", by: "alice"}, time.Time{}, nil, []string{"asked at listener link; asked over doh: allow by policy p"}},
	{"a source", `
  - {name: p, if: {network: 192.168.0.0/16}, then: block}
  - {name: rest, then: allow}`,
		question{ask: "x.example", by: "pc office"}, time.Time{}, nil, []string{"source not in 192.168.0.0/16: allow by policy rest"}},
	{"a time that is demanded", `
  - {name: p, if: {name: x.example}, require: {schedule: night}, then: allow}`,
		question{ask: "x.example", by: "alice"}, time.Time{}, nil, []string{"at 2026-05-04T22:30:00+08:00, when schedule night begins: allow by policy p"}},
	{"a time that blocks", `
  - {name: p, if: {group: lab, schedule: {zone: UTC, hours: "11:00-13:30"}}, then: block}
  - {name: rest, require: {posture: laptop}, then: allow}`, // the report that is good now counts then
		question{ask: "x.example", by: "alice lab passing"}, time.Time{}, nil, []string{
			"not in group lab: allow by policy rest", "at 2026-05-04T13:30:00Z, when the schedule of policy p ends: allow by policy rest"}},
	{"a policy that does not count yet", `
  - {name: p, not_before: 2026-06-01, if: {name: x.example}, then: allow}`,
		question{ask: "x.example", by: "alice"}, time.Time{}, nil, []string{"at 2026-06-01T00:00:00Z, when policy p begins to count: allow by policy p"}},
	{"an approval that has expired", `
  - {name: p, if: {name: x.example}, require: {groups: [lab], approval: {by: carol, until: 2026-05-03}}, then: allow}`,
		question{ask: "x.example", by: "alice"}, time.Time{}, nil, []string{"in group lab; the approval of policy p by carol is renewed: allow by policy p"}},
	{"a list", `
  - {name: p, if: {name: {list: phishing}}, then: {block: nxdomain}}
  - {name: rest, then: allow}`,
		question{ask: "www.phish.example"}, time.Time{}, nil, []string{"www.phish.example not in list phishing: allow by policy rest"}},
	{"a list in a category", `
  - {name: p, if: {name: {category: watched}}, then: {block: nxdomain}}
  - {name: rest, then: allow}`,
		question{ask: "www.phish.example"}, time.Time{}, nil, []string{"www.phish.example not in list phishing: allow by policy rest"}},
	{"a name that is written", `
  - {name: p, if: {name: {suffix: games.example}}, then: block}
  - {name: rest, then: allow}`,
		question{ask: "www.games.example"}, time.Time{}, nil, []string{"www.games.example not among the names of policy p (under games.example): allow by policy rest"}},
	{"a regular expression", `
  - {name: p, if: {name: {regexp: 'ads[0-9]*\..*'}}, then: block}
  - {name: rest, then: allow}`,
		question{ask: "ads7.example"}, time.Time{}, nil, []string{`ads7.example not among the names of policy p (like ads[0-9]*\..*): allow by policy rest`}},
	{"a thing that may ask for little", `
  - {name: need, if: {group: things, name: {suffix: [cams.example]}, type: [A, AAAA]}, then: allow}
  - {name: other, if: {group: lab, name: www.example}, then: allow}
defaults: [{group: things, then: block}]
default: allow`,
		question{ask: "c2.example", by: "cam things"}, time.Time{}, nil, []string{
			"not in group things: allow by policy default", "c2.example among the names of policy need (under cams.example): allow by policy need", "-in group lab: "}},
	{"a policy in shadow", `
  - {name: new, mode: shadow, if: {name: x.example}, then: allow}`,
		question{ask: "x.example", by: "alice"}, time.Time{}, nil, []string{"policy new is enforced, not in shadow: allow by policy new"}},
	{"a country, behind an alias", `
  - {name: far, if: {answer: {country: CN}}, then: block}
  - {name: rest, then: allow}`,
		question{ask: "x.example", by: "alice", answer: "x.example cdn.example 203.0.113.9"}, time.Time{}, nil, []string{"addresses of cdn.example not in CN: allow by policy rest"}},
	{"only one country", `
  - {name: near, if: {answer: {country: [DE, US]}}, then: allow}`,
		question{ask: "x.example", by: "alice", answer: "x.example 203.0.113.9"}, time.Time{}, nil, []string{"addresses of x.example in DE: allow by policy near"}},
	{"a continent, a system, a network", `
  - {name: far, if: {answer: {continent: AS}}, then: block}
  - {name: net, if: {answer: {network: 203.0.113.0/24}}, then: block}
  - {name: system, if: {answer: {asn: 4134}}, then: block}
  - {name: rest, then: allow}`,
		question{ask: "x.example", by: "alice", answer: "x.example 203.0.113.9"}, time.Time{}, nil, []string{
			"addresses of x.example not in AS; addresses of x.example not in 203.0.113.0/24; addresses of x.example not in AS4134: allow by policy rest"}},
	{"a mail server", `
  - {name: mail, if: {answer: {mx: {suffix: bad.example}}}, then: block}
  - {name: rest, then: allow}`,
		question{ask: "x.example", by: "alice", answer: "x.example"}, time.Time{}, func(q *policy.Query) {
			q.Answer[0].Values = []policy.Value{{Type: 15, Text: "mx.bad.example"}}
		}, []string{"MX of x.example not under bad.example: allow by policy rest"}},
	{"a port", `
  - {name: p, if: {name: x.example}, then: {steer: there, ports: [tcp/443, udp/8000-8100]}}`,
		question{ask: "x.example", by: "alice", flow: "tcp/22"}, time.Time{}, nil, []string{
			"flow to tcp/443: steer there by policy p", "flow to udp/8000-8100: steer there by policy p",
			"tcp/22 among the ports of policy p: steer there by policy p"}},
	{"a port that is blocked", `
  - {name: shells, if: {flow: {port: 22}}, then: block}
  - {name: p, if: {name: x.example}, then: {steer: there}}`,
		question{ask: "x.example", by: "alice", flow: "tcp/22"}, time.Time{}, nil, []string{"flow not to any/22: steer there by policy p"}},
	{"a protocol that is blocked", `
  - {name: shells, if: {flow: {protocol: [tcp, icmp]}}, then: block}
  - {name: p, if: {name: x.example}, then: {steer: there}}`,
		question{ask: "x.example", by: "alice", flow: "icmp"}, time.Time{}, nil, []string{"flow not to tcp or icmp: steer there by policy p"}},
	{"a service that is wanted", `
  - {name: p, if: {name: x.example, flow: {protocol: udp, port: 443}}, then: {steer: there}}
  - {name: q, if: {name: x.example, flow: {protocol: icmp}}, then: {steer: there}}
  - {name: r, if: {name: x.example, flow: {port: 8443}}, then: {steer: there}}`,
		question{ask: "x.example", by: "alice", flow: "tcp/443"}, time.Time{}, nil, []string{
			"flow to udp/443: steer there by policy p", "flow to icmp: steer there by policy q", "flow to tcp/8443: steer there by policy r"}},
	{"a port of two policies, one below a list", `
  - {name: p, if: {name: {list: china-sites}}, then: {steer: there, ports: tcp/443}}
  - {name: q, then: allow}`,
		question{ask: "x.example", by: "alice", flow: "tcp/22"}, time.Time{}, nil, []string{
			"x.example in list china-sites; tcp/22 among the ports of policy p: steer there by policy p",
			"flow to tcp/443; x.example in list china-sites: steer there by policy p"}},
	{"a flow to what is only allowed", `
  - {name: p, if: {name: x.example}, then: allow}`,
		question{ask: "x.example", by: "alice", flow: "tcp/22"}, time.Time{}, nil, nil},
}

// Each kind of denial has its remedies, and no others of one change.
func TestRemediesOfDenials(t *testing.T) {
	for _, tt := range denials {
		p := parse(t, head+more+"policies:"+tt.policies+"\n")
		q := tt.q.query()
		if tt.set != nil {
			tt.set(q)
		}
		var got []string
		for _, r := range p.Remedies(q) {
			got = append(got, strings.Join(r.Changes, "; ")+": "+r.Decision)
		}
		text := strings.Join(got, "\n")
		for _, want := range tt.want {
			if not, ok := strings.CutPrefix(want, "-"); ok == strings.Contains("\n"+text, "\n"+strings.TrimPrefix(not, "-")) {
				t.Errorf("%s:\n%s\nwant %s", tt.name, text, want)
			}
		}
		if tt.want == nil && got != nil {
			t.Errorf("%s:\n%s\nwant nothing", tt.name, text)
		}
	}
}

// Of random policies: what is said to help helps, and each part of it is needed.
func TestRemediesHold(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 2))
	checked := map[string]int{}
	for n := range 250 {
		m := randomPolicy(r)
		if n%2 == 0 {
			m = narrowPolicy(r)
		}
		p := parse(t, m.yaml())
		for range 10 {
			q := queryAt(r, pick(r, []time.Time{noon, noon.AddDate(0, 0, 2)}))
			q.Answered = true
			for _, remedy := range p.Remedies(q) {
				if !slices.ContainsFunc(remedy.Changes, ofFiles) {
					hold(t, p, m, q, remedy.Changes)
					for _, c := range remedy.Changes {
						checked[strings.Fields(c)[0]]++
					}
				}
			}
		}
	}
	t.Log(checked)
	for _, kind := range []string{"posture", "in", "not", "identity", "asked", "device", "platform", "source", "flow", "at", "policy", "the"} {
		if checked[kind] == 0 {
			t.Errorf("none of %s were checked", kind)
		}
	}
}

// ofFiles reports whether a change is one of names and addresses in lists and
// policies.
func ofFiles(c string) bool {
	for _, of := range []string{" list ", "addresses of", " among the names", " among the ports", "flow not to", "CNAME of", "MX of", "NS of", "PTR of", "TXT of"} {
		if strings.Contains(c, of) {
			return true
		}
	}
	return false
}

func hold(t *testing.T, p *policy.Policy, m modelPolicy, q *policy.Query, changes []string) {
	t.Helper()
	if !goes(t, p, m, q, changes) {
		t.Fatalf("%v does not help %+v\n%s", changes, q, m.yaml())
	}
	for i := range changes {
		if goes(t, p, m, q, slices.Delete(slices.Clone(changes), i, i+1)) {
			t.Fatalf("of %v the part %s is not needed for %+v\n%s", changes, changes[i], q, m.yaml())
		}
	}
}

// goes reports whether a question is allowed once the changes are made.
func goes(t *testing.T, p *policy.Policy, m modelPolicy, q *policy.Query, changes []string) bool {
	t.Helper()
	m.rules = slices.Clone(m.rules)
	var rest []string
	for _, c := range changes {
		var name string
		switch {
		case scan(c, "policy %s is enforced, not in shadow", &name):
			m.rule(name).shadow = false
		case scan(c, "the approval of policy %s by alice is renewed", &name):
			r := m.rule(name)
			r.demands = slices.DeleteFunc(slices.Clone(r.demands), func(d modelCond) bool { return d.op == "approval" })
		default:
			rest = append(rest, c)
		}
	}
	if len(rest) < len(changes) {
		p = parse(t, m.yaml())
	}
	d := p.Decide(changed(q, rest))
	return d.Denied == "" && (d.Then.Action == policy.Steer || d.Then.Action != policy.Block && q.Flow == nil)
}

func (p *modelPolicy) rule(name string) *modelRule {
	return &p.rules[slices.IndexFunc(p.rules, func(r modelRule) bool { return r.name == name })]
}

// changed makes a question as the words say.
func changed(q *policy.Query, changes []string) *policy.Query {
	out := *q
	var d device.Device
	if q.Asker.Device != nil {
		d = *q.Asker.Device
	}
	d.Groups = slices.Clone(d.Groups)
	out.Asker.Verdicts = posture.Verdicts{}
	for k, v := range q.Asker.Verdicts {
		if v.Result == posture.Passed && v.Expires.After(q.Now) {
			v.Expires = v.Expires.AddDate(100, 0, 0) // reports go on to be good
		}
		out.Asker.Verdicts[k] = v
	}
	for _, c := range changes {
		if !changeDevice(&d, c) && !changeAsked(&out, c) {
			panic("what is " + c)
		}
	}
	if q.Asker.Device != nil || d.ID != "" || len(d.Groups) > 0 || d.User != "" || d.Platform != "" {
		out.Asker.Device = &d
	}
	return &out
}

func changeDevice(d *device.Device, c string) bool {
	var word string
	switch {
	case scan(c, "not in group %s", &word):
		d.Groups = slices.DeleteFunc(d.Groups, func(g string) bool { return g == word })
	case scan(c, "in group %s", &word):
		d.Groups = append(d.Groups, word)
	case scan(c, "asked by device %s", &word):
		d.ID = device.ID(word)
	case scan(c, "device of user %s", &word):
		d.User = word
	case scan(c, "platform %s", &word):
		d.Platform = word
	default:
		return false
	}
	return true
}

func changeAsked(q *policy.Query, c string) bool {
	var word string
	switch {
	case scan(c, "posture %s passes", &word):
		q.Asker.Verdicts[word] = posture.Verdict{Result: posture.Passed, Expires: q.Now.AddDate(100, 0, 0)}
	case strings.HasPrefix(c, "identity "):
		q.Asker.Kind = device.Unidentified
		for !strings.HasSuffix(c, "("+q.Asker.Kind.String()+")") {
			q.Asker.Kind++
		}
	case scan(c, "asked at listener %s", &word):
		q.Asker.Listener = word
	case scan(c, "asked over %s", &word):
		q.Asker.Transport = word
	case scan(c, "source not in %s", &word):
		q.Asker.Source = netip.MustParseAddr("203.0.113.77")
	case scan(c, "source in %s", &word):
		q.Asker.Source = netip.MustParsePrefix(word).Addr().Next()
	case scan(c, "flow to %s", &word):
		to := flow(word)
		if to.Port == 0 && to.Proto != 1 { // any of the protocol
			to.Port = max(q.Flow.Port, 1)
		}
		q.Flow = to
	case scan(c, "at %s", &word):
		at, err := time.Parse(time.RFC3339, strings.TrimSuffix(word, ","))
		if err != nil {
			panic(err)
		}
		q.Now = at
	default:
		return false
	}
	return true
}

func scan(s, form string, to *string) bool {
	n, err := fmt.Sscanf(s, form, to)
	return n == 1 && err == nil
}
