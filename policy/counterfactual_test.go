package policy_test

import (
	"fmt"
	"math/rand/v2"
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
			"posture laptop passes; in group staff; x.example in list china-sites: steer hong-kong by policy china-origins",
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

// Of random policies: what is said to help helps, and each part of it is needed.
func TestRemediesHold(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 2))
	checked := 0
	for range 400 {
		src := randomPolicy(r).yaml()
		p := parse(t, src)
		for range 10 {
			q := queryAt(r, noon)
			q.Flow, q.Answered = nil, true
			for _, remedy := range p.Remedies(q) {
				if !slices.ContainsFunc(remedy.Changes, func(c string) bool { return strings.Contains(c, " list ") || strings.Contains(c, "addresses") }) {
					checked++
					hold(t, p, q, remedy.Changes, src)
				}
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d were checked", checked)
	}
}

func hold(t *testing.T, p *policy.Policy, q *policy.Query, changes []string, src string) {
	t.Helper()
	if !goes(p, changed(q, changes)) {
		t.Fatalf("%v does not help %+v\n%s", changes, q, src)
	}
	for i := range changes {
		if goes(p, changed(q, slices.Delete(slices.Clone(changes), i, i+1))) {
			t.Fatalf("of %v the part %s is not needed for %+v\n%s", changes, changes[i], q, src)
		}
	}
}

func goes(p *policy.Policy, q *policy.Query) bool {
	d := p.Decide(q)
	return d.Denied == "" && d.Then.Action != policy.Block
}

// changed makes a question as the words say.
func changed(q *policy.Query, changes []string) *policy.Query {
	out := *q
	var d device.Device
	if q.Asker.Device != nil {
		d = *q.Asker.Device
	}
	groups := slices.Clone(d.Groups)
	verdicts := posture.Verdicts{}
	for k, v := range q.Asker.Verdicts {
		verdicts[k] = v
	}
	for _, c := range changes {
		var word string
		switch {
		case scan(c, "posture %s passes", &word):
			verdicts[word] = posture.Verdict{Result: posture.Passed, Expires: q.Now.Add(time.Hour)}
		case scan(c, "not in group %s", &word):
			groups = slices.DeleteFunc(groups, func(g string) bool { return g == word })
		case scan(c, "in group %s", &word):
			groups = append(groups, word)
		case scan(c, "asked by device %s", &word):
			d.ID = device.ID(word)
		case scan(c, "identity %s", &word):
			out.Asker.Kind = map[string]device.Kind{"weak": device.ByNetwork, "medium": device.ByToken, "strong": device.ByWireGuard}[word]
		default:
			panic("what is " + c)
		}
	}
	d.Groups = groups
	out.Asker.Verdicts = verdicts
	if q.Asker.Device != nil || d.ID != "" || len(groups) > 0 {
		out.Asker.Device = &d
	}
	return &out
}

func scan(s, form string, to *string) bool {
	n, err := fmt.Sscanf(s, form, to)
	return n == 1 && err == nil
}
