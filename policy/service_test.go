package policy_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy"
)

// What cannot be read as a service is answered with what to write.
func TestParseService(t *testing.T) {
	for s, want := range map[string]string{
		"tcp/443": "", "udp/53": "", "icmp": "", "tcp/65535": "",
		"":           `"" is no protocol that flows can have: write it like tcp/443, udp/443 or icmp`,
		"443":        `"443" is a port without a protocol: write it like tcp/443`,
		"tcp":        `"tcp" says no port`,
		"tcp/":       `"tcp/" says no port`,
		"TCP/443":    `"TCP" is no protocol`,
		"sctp/9":     `"sctp" is no protocol`,
		"icmp/8":     `icmp has no ports`,
		"icmp/":      `icmp has no ports`,
		"tcp/80-90":  `"tcp/80-90" is more than one port, and a flow goes to one: write it like tcp/80`,
		"tcp/0":      `"0" is no port: one is a number from 1 to 65535`,
		"tcp/65536":  `"65536" is no port`,
		"tcp/https":  `"https" is no port`,
		"udp/+1":     `"+1" is no port`,
		"udp/1/udp":  `"1/udp" is no port`,
		"tcp:443":    `"tcp:443" is no protocol`,
		"tcp/443 ":   `"443 " is no port`,
		"tcp/443,80": `"443,80" is no port`,
	} {
		f, err := policy.ParseService(s)
		switch {
		case want == "" && (err != nil || f.String() != s):
			t.Errorf("%q: %v, %v", s, f, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || f != policy.Service{}):
			t.Errorf("%q: %v, %v, want %s", s, f, err, want)
		}
	}
}

// What is read is written the same, and a steer with this port admits it.
func FuzzParseService(f *testing.F) {
	for _, s := range []string{"tcp/443", "udp/1", "icmp", "tcp/65536", "443"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		to, err := policy.ParseService(s)
		if err != nil {
			return
		}
		again, err := policy.ParseService(to.String())
		if err != nil || again != to {
			t.Fatalf("%q is %v, and then %v, %v", s, to, again, err)
		}
		p, err := policy.Parse("p.yaml", []byte("policies: [{name: a, if: {flow: {protocol: "+strings.SplitN(to.String(), "/", 2)[0]+"}}, then: {steer: r}}]"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if d := p.Decide(&policy.Query{Name: "x", Type: 1, Flow: &to, Answered: true}); d.Then.Action != policy.Steer {
			t.Fatalf("%v: %s", to, d.String())
		}
	})
}

// A flow is explained as it is decided, and the policy that decides is the last
// that was looked at and true.
func TestFlowsExplained(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 14))
	seen := map[string]int{}
	for range 400 {
		m := randomPolicy(r)
		p := parse(t, strings.Replace(m.yaml(), "policies:\n", `policies:
  - {name: by-there, if: {flow: {route: there, port: 443}, type: AAAA}, then: block}
`, 1))
		for range 20 {
			q := queryAt(r, noon)
			q.Flow, q.Answered = &policy.Service{Proto: pick(r, []uint8{1, 6, 17, 58}), Port: pick(r, []uint16{80, 443})}, true
			d, trace := p.Explain(q)
			plain := p.Decide(q)
			if plain.Rule != d.Rule || plain.String() != d.String() || plain.Text() != d.Text() || plain.Hop != d.Hop || trace.Decision != d.String() {
				t.Fatalf("%+v\ndecided %s: %s, explained %s: %s\n%v\n%s", q, plain.String(), plain.Text(), d.String(), d.Text(), trace, m.yaml())
			}
			if d.Then.Action == policy.Steer && d.Denied == "" && !strings.HasPrefix(trace.Route, d.Then.Route+" by policy ") {
				t.Fatalf("%s goes by %q\n%s", d.String(), trace.Route, m.yaml())
			}
			decider := trace.Steps[len(trace.Steps)-1].Rule
			for i := range trace.Steps {
				if s := &trace.Steps[i]; s.Rule == d.Rule && s.Matched == policy.Yes {
					decider = s.Rule
				}
			}
			if decider != d.Rule {
				t.Fatalf("decided by %v, the last that is explained is %v\n%v", d.Rule, decider, trace)
			}
			seen[strings.Fields(d.String())[0]]++
			if d.Rule != nil && d.Rule.Name == "by-there" {
				seen["route"]++
			}
		}
	}
	t.Log(seen)
	for _, what := range []string{"steer", "block", "deny", "route"} {
		if seen[what] == 0 {
			t.Errorf("none came to %s", what)
		}
	}
}
