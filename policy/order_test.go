package policy_test

import (
	"fmt"
	"strings"
	"testing"
)

func TestFirstTruePolicyDecides(t *testing.T) {
	check(t, `
policies:
  - {name: one, if: {name: a.example}, then: {block: nxdomain}}
  - {name: two, if: {name: {suffix: example}}, then: {block: nodata}}
  - {name: rest, then: allow}
`, []question{
		{ask: "a.example", by: "alice", want: "block nxdomain by one"},
		{ask: "b.a.example", by: "alice", want: "block nodata by two"},
		{ask: "example", by: "alice", want: "block nodata by two"},
		{ask: "notexample", by: "alice", answer: "notexample 192.0.2.1", want: "allow by rest"},
	})
}

func TestNames(t *testing.T) {
	check(t, `
policies:
  - {name: exact, if: {name: [x.example, "*.one.example", "**.many.example"]}, then: {block: nxdomain}}
  - {name: forms, if: {name: {exact: e.test, suffix: s.test, pattern: "*.p.test", list: phishing}}, then: {block: nodata}}
`, []question{
		{ask: "x.example", want: "block nxdomain by exact"},
		{ask: "y.x.example", want: "block refused by default"},
		{ask: "one.example", want: "block refused by default"},
		{ask: "a.one.example", want: "block nxdomain by exact"},
		{ask: "b.a.one.example", want: "block refused by default"},
		{ask: "many.example", want: "block refused by default"},
		{ask: "b.a.many.example", want: "block nxdomain by exact"},
		{ask: "e.test", want: "block nodata by forms"},
		{ask: "x.e.test", want: "block refused by default"},
		{ask: "x.s.test", want: "block nodata by forms"},
		{ask: "x.p.test", want: "block nodata by forms"},
		{ask: "p.test", want: "block refused by default"},
		{ask: "www.phish.example", want: "block nodata by forms"},
	})
}

// The names of the chain come one after the other, each with the whole list.
func TestChain(t *testing.T) {
	check(t, `
policies:
  - {name: low, if: {name: cdn.example}, then: {block: nxdomain}}
  - {name: high, if: {name: www.example}, then: {block: nodata}}
  - {name: end, if: {group: staff}, then: allow}
  - {name: below, if: {name: under.example}, then: {block: drop}}
`, []question{
		// The asked name decides, though the alias matches a policy above.
		{ask: "www.example", by: "alice staff", answer: "www.example cdn.example 192.0.2.1", want: "block nodata by high"},
		{ask: "x.example", by: "alice staff", answer: "x.example cdn.example 192.0.2.1", want: "block nxdomain by low at cdn.example"},
		{ask: "x.example", by: "alice staff", answer: "x.example y.example www.example", want: "block nodata by high at www.example"},
		// The policy on groups ends the list: nothing below it is looked at.
		{ask: "under.example", by: "alice staff", answer: "under.example", want: "allow by end"},
		{ask: "x.example", by: "alice staff", answer: "x.example under.example", want: "allow by end"},
		// For others it does not.
		{ask: "under.example", by: "bob", answer: "under.example", want: "block drop by below"},
		{ask: "x.example", by: "bob", answer: "x.example under.example", want: "block drop by below at under.example"},
		// An answer that begins with another name is judged by the asked one too.
		{ask: "www.example", by: "bob", answer: "other.example", want: "block nodata by high"},
		{ask: "x.example", by: "bob", answer: "-", want: "block refused by default"},
	})
}

// A name that is allowed is not safe from what its aliases are, and "not"
// counts for each alias too.
func TestNotOnNamesCountsForEachName(t *testing.T) {
	check(t, `
policies:
  - {name: ours-only, if: {not: {name: {suffix: corp.example}}}, then: {block: nxdomain}}
  - {name: rest, then: allow}
`, []question{
		{ask: "www.corp.example", want: "ask upstream"},
		{ask: "www.corp.example", answer: "www.corp.example 192.0.2.1", want: "allow by rest"},
		{ask: "www.corp.example", answer: "www.corp.example cdn.other 192.0.2.1", want: "block nxdomain by ours-only at cdn.other"},
	})
}

// Addresses count for the name that owns them.
func TestAnswers(t *testing.T) {
	check(t, `
policies:
  - {name: china, if: {answer: {country: CN}}, then: {steer: hong-kong}}
  - {name: nets, if: {answer: {network: [198.51.100.0/24, china-networks]}}, then: {block: nodata}}
  - {name: www, if: {name: www.example}, then: {block: nxdomain}}
  - {name: foreign, if: {not: {answer: {country: US}}}, then: {block: drop}}
  - {name: rest, then: allow}
`, []question{
		{ask: "x.example", answer: "x.example 203.0.113.9", want: "steer hong-kong by china"},
		{ask: "x.example", answer: "x.example 192.0.2.1 203.0.113.9", want: "steer hong-kong by china"},
		{ask: "x.example AAAA", answer: "x.example 2001:db8:c::1", want: "steer hong-kong by china"},
		{ask: "x.example", answer: "x.example 192.0.2.1", want: "allow by rest"},
		{ask: "x.example", answer: "x.example 192.0.2.1 198.51.100.7", want: "block nodata by nets"},
		// The alias owns the address, but the asked name is judged before it.
		{ask: "www.example", answer: "www.example cdn.example 203.0.113.9", want: "block nxdomain by www"},
		{ask: "x.example", answer: "x.example cdn.example 203.0.113.9", want: "steer hong-kong by china at cdn.example"},
		// No address, or one in no known country, is unknown: also under "not".
		{ask: "x.example", answer: "x.example", want: "allow by rest"},
		{ask: "x.example", answer: "-", want: "allow by rest"},
		{ask: "x.example", answer: "x.example 10.0.0.1", want: "allow by rest"},
		{ask: "x.example", answer: "x.example 192.0.2.1 10.0.0.1", want: "allow by rest"},
	})
}

func TestWhenTheQuestionGoesUpstream(t *testing.T) {
	check(t, `
policies:
  - {name: phishing, if: {name: {list: phishing}}, then: {block: nxdomain}}
  - {name: closed, if: {answer: {country: CN}, group: lab}, then: {block: nodata}}
  - {name: china, if: {any: [name: {list: china-sites}, answer: {country: CN}]}, then: {steer: hong-kong}}
  - {name: ok, if: {name: ok.example}, then: allow}
  - {name: rest, then: {block: refused}}
`, []question{
		{ask: "www.phish.example", by: "bob", want: "block nxdomain by phishing"},
		{ask: "www.taobao.com", by: "bob", want: "steer hong-kong by china"},
		// For the lab the open condition stands above the list of sites.
		{ask: "www.taobao.com", by: "rat lab", want: "ask upstream"},
		{ask: "ok.example", by: "bob", want: "ask upstream"},
		{ask: "ok.example", by: "bob", answer: "ok.example 192.0.2.1", want: "allow by ok"},
		{ask: "x.example", by: "bob", want: "ask upstream"},
	})
}

// A list that ends in a block without a condition on the answer above it sends
// nothing out, whatever name is asked for.
func TestDefaultDenySendsNothing(t *testing.T) {
	rules := `
policies:
  - {name: ok, if: {name: {suffix: ok.example}}, then: allow}
  - {name: staff, if: {group: staff, answer: {country: US}}, then: allow}
`
	questions := []question{
		{ask: "secret.exfil.test", by: "bob", want: "block refused by default"},
		{ask: "secret.exfil.test", by: "alice staff", want: "ask upstream"},
		{ask: "www.ok.example", by: "bob", want: "allow by ok"},
	}
	check(t, rules, questions)
	check(t, rules+"default: block\n", questions)
	check(t, rules+"  - {name: rest, then: {block: nxdomain}}\n", []question{
		{ask: "secret.exfil.test", by: "bob", want: "block nxdomain by rest"},
	})
}

// An allow at the end waits for the names of the answer; it goes upstream anyway.
func TestAllowAtTheEndWaitsForAliases(t *testing.T) {
	questions := func(by string) []question {
		return []question{
			{ask: "x.example", want: "ask upstream"},
			{ask: "x.example", answer: "x.example 192.0.2.1", want: "allow by " + by},
			{ask: "x.example", answer: "x.example phish.example 192.0.2.1", want: "block nxdomain by phishing at phish.example"},
		}
	}
	phishing := "\npolicies:\n  - {name: phishing, if: {name: {list: phishing}}, then: {block: nxdomain}}\n"
	check(t, phishing+"default: allow\n", questions("default"))
	check(t, phishing+"  - {name: rest, then: allow}\n", questions("rest"))
	check(t, "\npolicies: [{name: rest, then: allow}, {name: below, if: {name: {list: phishing}}, then: block}]\n", []question{
		{ask: "www.phish.example", want: "allow by rest"},
	})
}

func TestConditionsOnWhoAsks(t *testing.T) {
	check(t, `
policies:
  - {name: dev, if: {device: [carol, dave]}, then: {block: nxdomain}}
  - {name: grp, if: {groups: [eng, ops]}, then: {block: nodata}}
  - {name: txt, if: {type: [TXT, TYPE99]}, then: {block: drop}}
  - {name: net, if: {network: [192.168.0.0/16, 198.18.0.9]}, then: {block: zero-ip}}
  - {name: far, if: {not: {network: 100.64.0.0/10}}, then: {override: {a: 10.0.0.1}}}
  - {name: kind, if: {kind: [wireguard], device: erin}, then: {block: {address: 10.0.0.9}}}
  - {name: weak, if: {not: {identity: medium}}, then: {steer: r}}
`, []question{
		{ask: "x", by: "carol", want: "block nxdomain by dev"},
		{ask: "x", by: "alice ops", want: "block nodata by grp"},
		{ask: "x TXT", by: "alice", want: "block drop by txt"},
		{ask: "x", by: "pc office", want: "block zero-ip by net"},
		{ask: "x", by: "nobody", want: "block zero-ip by net"},
		{ask: "x", by: "erin", want: "block address by kind"},
		{ask: "x", by: "alice", want: "block refused by default"},
		{ask: "x", by: "alice sourceless", want: "block refused by default"},
	})
}

func TestNesting(t *testing.T) {
	check(t, `
policies:
  - name: nest
    if:
      all:
        - any: [group: a, group: b, {all: [group: c, not: {group: d}]}]
        - not: {all: [name: {suffix: free.example}, type: A]}
    then: {block: nxdomain}
  - {name: rest, then: allow}
`, []question{
		{ask: "x.example", by: "u a", want: "block nxdomain by nest"},
		{ask: "x.example", by: "u c", want: "block nxdomain by nest"},
		{ask: "x.example", by: "u c d", answer: "x.example", want: "allow by rest"},
		{ask: "x.example", by: "u", answer: "x.example", want: "allow by rest"},
		{ask: "free.example", by: "u b", answer: "free.example", want: "allow by rest"},
		{ask: "free.example AAAA", by: "u b", want: "block nxdomain by nest"},
	})
}

func TestPostureIsOneOfThree(t *testing.T) {
	check(t, `
policies:
  - {name: good, if: {posture: {laptop: passed}}, then: {block: nxdomain}}
  - {name: bad, if: {posture: {laptop: failed}}, then: {block: nodata}}
  - {name: not-good, if: {not: {posture: {laptop: passed}}}, then: {block: drop}}
  - {name: none, if: {posture: {laptop: unknown}}, then: {block: zero-ip}}
`, []question{
		{ask: "x", by: "alice passing", want: "block nxdomain by good"},
		{ask: "x", by: "alice failing", want: "block nodata by bad"},
		{ask: "x", by: "alice stale", want: "block nodata by bad"}, // too old is failed
		{ask: "x", by: "alice", want: "block zero-ip by none"},     // no report is unknown, under "not" too
	})
}

// A policy with "cname: ignore" is for the asked name and its own addresses.
func TestCNAMEIgnore(t *testing.T) {
	check(t, `
policies:
  - {name: own, if: {any: [name: tracker.example, answer: {country: CN}]}, then: {block: nxdomain}, cname: ignore}
  - {name: all, if: {name: cdn.example}, then: {block: nodata}, cname: check}
  - {name: rest, then: allow}
`, []question{
		{ask: "tracker.example", want: "block nxdomain by own"},
		{ask: "x.example", answer: "x.example tracker.example 192.0.2.1", want: "allow by rest"},
		// Addresses are those of the name that owns them: behind an alias they do not count.
		{ask: "x.example", answer: "x.example 203.0.113.9", want: "block nxdomain by own"},
		{ask: "x.example", answer: "x.example y.example 203.0.113.9", want: "allow by rest"},
		{ask: "x.example", answer: "x.example tracker.example cdn.example 203.0.113.9", want: "block nodata by all at cdn.example"},
		{ask: "x.example", want: "ask upstream"},
	})
	// Nothing further along the chain could match: the decision need not wait.
	check(t, `
policies:
  - {name: own, if: {name: tracker.example}, then: {block: nxdomain}, cname: ignore}
  - {name: rest, then: allow}
`, []question{{ask: "x.example", want: "allow by rest"}})
}

// While the decision is open, the question goes where it would go if none of
// what is open came true.
func TestWhereTheQuestionGoes(t *testing.T) {
	check(t, `
policies:
  - {name: phishing, if: {name: {list: phishing}}, then: {block: nxdomain}}
  - {name: china, if: {answer: {country: CN}}, then: {steer: hong-kong}}
  - {name: blocked, if: {name: no.corp.example}, then: block}
  - {name: corp, if: {name: {suffix: corp.example}}, require: {groups: [staff]}, then: {resolve: corp}}
  - {name: plain, if: {group: guests}, then: allow}
  - {name: rest, then: {resolve: far}}
`, []question{
		{ask: "www.corp.example", by: "alice staff", want: "ask upstream corp"},
		{ask: "www.corp.example", by: "alice staff", answer: "www.corp.example 10.0.0.1", want: "resolve corp by corp"},
		{ask: "www.corp.example", by: "bob", want: "ask upstream"}, // will be denied
		{ask: "no.corp.example", by: "alice staff", want: "ask upstream"},
		{ask: "x.example", by: "bob guests", want: "ask upstream"},
		{ask: "x.example", by: "bob", want: "ask upstream far"},
		{ask: "x.example", by: "bob", answer: "x.example 192.0.2.1", want: "resolve far by rest"},
		{ask: "x.example", by: "bob", flow: "tcp/443", answer: "x.example 192.0.2.1", want: "block refused by rest"},
	})
	// So it does where only names of the chain are waited for.
	check(t, `
policies:
  - {name: phishing, if: {name: {list: phishing}}, then: {block: nxdomain}}
  - {name: rest, then: {resolve: far}}
`, []question{{ask: "x.example", want: "ask upstream far"}})
}

// More policies than a walk can hold are written for one name.
func TestManyPoliciesForAName(t *testing.T) {
	var b strings.Builder
	b.WriteString("\npolicies:\n")
	for i := range 40 {
		fmt.Fprintf(&b, "  - {name: p%d, if: {name: {suffix: example}, group: g%d}, then: {block: nodata}}\n", i, i)
		fmt.Fprintf(&b, "  - {name: q%d, if: {name: {exact: x%d.test, pattern: '*.x%d.test'}}, then: {block: nodata}}\n", i, i, i)
	}
	b.WriteString("  - {name: rest, then: {block: nxdomain}}\n")
	check(t, b.String(), []question{
		{ask: "a.example", by: "u g0", want: "block nodata by p0"},
		{ask: "a.example", by: "u g15", want: "block nodata by p15"},
		{ask: "a.example", by: "u g39 g20", want: "block nodata by p20"},
		{ask: "a.example", by: "u", want: "block nxdomain by rest"},
		{ask: "x7.test", by: "u", want: "block nodata by q7"},
		{ask: "a.x39.test", by: "u", want: "block nodata by q39"},
		{ask: "b.a.x39.test", by: "u", want: "block nxdomain by rest"},
	})
}
