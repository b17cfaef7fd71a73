package policy_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy"
)

// What policies decide in the place of another: by is their names, empty if it
// decides something.
var shadows = []struct{ policies, by string }{
	// Two that are each of a part of it.
	{`
  - {name: a, if: {name: x.example, type: A}, then: block}
  - {name: b, if: {name: x.example, not: {type: A}}, then: {block: nodata}}
  - {name: c, if: {name: x.example}, then: allow}`, "a b"},
	{`
  - {name: a, if: {name: x.example, type: A}, then: block}
  - {name: b, if: {name: x.example, type: [AAAA, TXT]}, then: {block: nodata}}
  - {name: c, if: {name: x.example}, then: allow}`, ""},
	{`
  - {name: a, if: {name: x.example}, then: block}
  - {name: between, if: {user: bob}, then: allow}
  - {name: b, if: {name: y.example}, then: block}
  - {name: c, if: {name: [x.example, y.example]}, then: allow}`, "a b"},
	// Each in another thing that is looked at.
	{`
  - {name: a, if: {name: {suffix: x.example}, schedule: day}, then: block}
  - {name: b, if: {name: {suffix: x.example}, schedule: night}, then: block}
  - {name: c, if: {name: www.x.example}, then: allow}`, "a b"},
	{`
  - {name: a, if: {schedule: day, group: g}, then: block}
  - {name: b, if: {schedule: early, group: g}, then: block}
  - {name: c, if: {group: g, name: x.example}, then: allow}`, ""},
	{`
  - {name: a, if: {listener: link, user: bob}, then: block}
  - {name: b, if: {not: {listener: link}, user: [alice, bob]}, then: block}
  - {name: c, if: {user: bob, name: x.example}, then: allow}`, "a b"},
	{`
  - {name: a, if: {identity: strong}, then: block}
  - {name: b, if: {identity: medium}, then: block}
  - {name: c, if: {kind: token, name: x.example}, then: allow}
  - {name: last, if: {not: {kind: wireguard}, identity: medium}, then: block}`, "b|b"},
	{`
  - {name: a, if: {posture: {laptop: passed}}, then: allow}
  - {name: b, if: {posture: {laptop: failed}}, then: block}
  - {name: c, if: {name: x.example}, then: block}`, ""}, // there may be no report
	{`
  - {name: a, if: {posture: {laptop: passed}}, then: allow}
  - {name: b, if: {posture: {laptop: failed}}, then: block}
  - {name: d, if: {posture: {laptop: unknown}}, then: block}
  - {name: c, if: {name: x.example}, then: block}`, "a b d"},
	{`
  - {name: a, if: {answer: {country: CN}}, then: allow}
  - {name: b, if: {not: {answer: {country: CN}}}, then: block}
  - {name: c, if: {name: x.example}, then: block}`, ""}, // the country may not be known
	{`
  - {name: a, if: {platform: macos}, then: allow}
  - {name: b, if: {not: {platform: macos}}, then: block}
  - {name: c, if: {name: x.example}, then: block}`, ""},
	{`
  - {name: a, if: {platform: macos}, then: allow}
  - {name: b, if: {not: {platform: macos}}, then: block}
  - {name: c, if: {platform: linux, name: x.example}, then: block}`, "b"},
	// Three groups of which one must be had.
	{`
  - {name: a, if: {group: g, not: {group: h}}, then: block}
  - {name: b, if: {group: h, flow: {protocol: tcp}}, then: block}
  - {name: d, if: {group: h, not: {flow: {protocol: tcp}}}, then: block}
  - {name: c, if: {group: [g, h], name: x.example}, then: allow}`, "a b d"},
	// A policy without conditions can be covered too, and those below it are not looked at.
	{`
  - {name: a, if: {type: A}, then: allow}
  - {name: b, if: {not: {type: A}}, then: {block: nodata}}
  - {name: c, then: allow}`, "a b"},
	// One in shadow decides nothing, in the place of others neither.
	{`
  - {name: a, if: {name: x.example, type: A}, then: block}
  - {name: b, mode: shadow, if: {name: x.example, not: {type: A}}, then: {block: nodata}}
  - {name: c, if: {name: x.example}, then: allow}`, ""},
	{`
  - {name: whole, mode: shadow, then: block}
  - {name: a, if: {name: {suffix: x.example}}, then: block}
  - {name: c, if: {name: x.example}, then: allow}`, "a"},
	// One with cname: ignore is not looked at behind aliases.
	{`
  - {name: a, if: {name: x.example, type: A}, cname: ignore, then: block}
  - {name: b, if: {name: x.example, not: {type: A}}, then: block}
  - {name: c, if: {name: x.example}, then: allow}`, ""},
	{`
  - {name: a, if: {name: x.example, type: A}, cname: ignore, then: block}
  - {name: b, if: {name: x.example, not: {type: A}}, cname: ignore, then: block}
  - {name: c, if: {name: x.example}, cname: ignore, then: allow}`, "a b"},
	// A time that is over for one is not for another.
	{`
  - {name: a, if: {name: x.example}, not_after: 2026-05-31, then: block}
  - {name: b, if: {name: x.example}, not_before: 2026-06-01, then: block}
  - {name: c, if: {name: x.example}, then: allow}`, "a b"},
	{`
  - {name: a, if: {name: x.example}, not_after: 2026-05-31, then: block}
  - {name: b, if: {name: x.example}, not_before: 2026-06-02, then: block}
  - {name: c, if: {name: x.example}, then: allow}`, ""},
	// A list that excepts names has not all that is below its entries.
	{`
  - {name: a, if: {name: {list: excepting}}, then: block}
  - {name: c, if: {name: {suffix: ads.example}}, then: allow}`, ""},
	{`
  - {name: a, if: {name: {list: phishing}}, then: block}
  - {name: c, if: {name: {suffix: www.phish.example}}, then: {block: nodata}}`, "a"},
}

func TestShadows(t *testing.T) {
	for _, tt := range shadows {
		src := strings.Replace(lintHead, "lists:\n", "lists:\n  excepting: {file: excepting.txt, format: adblock}\n", 1) + "policies:" + tt.policies + "\n"
		open := func(path string) (io.ReadCloser, error) {
			if path == "excepting.txt" {
				return io.NopCloser(strings.NewReader("||ads.example^\n@@||good.ads.example^\n")), nil
			}
			return openListed(path)
		}
		p, err := policy.Parse("policy.yaml", []byte(src), open)
		if err != nil {
			t.Fatalf("%v\n%s", err, src)
		}
		var by []string
		for _, f := range p.Lint(open) {
			if f.Flaw == policy.Shadowed {
				by = append(by, strings.Join(f.By, " "))
				if strings.Count(f.Example, "by policy") != len(f.By) || len(f.By) > 1 && !strings.Contains(f.Msg, f.By[1]+" in line ") {
					t.Errorf("%s", &f)
				}
			}
		}
		if got := strings.Join(by, "|"); got != tt.by {
			t.Errorf("%s\nshadowed by %q, want %q", tt.policies, got, tt.by)
		}
	}
}

// Lists that are too long to be taken name by name, and which of them cover which.
var longLists = []struct{ above, below, by string }{
	{"name: {list: more.txt}", "name: {list: many.txt}", "a"},
	{"name: {list: many.txt}", "name: {list: more.txt}", ""},
	{"name: {list: more.txt}", "name: {list: stray.txt}", ""}, // one name of many
	{"name: {list: more.txt}", "name: {list: stars.txt}", "a"},
	{"name: {list: more.txt}", "name: {list: [many.txt, stars.txt]}", "a"},
	{"name: {list: stars.txt}", "name: {list: many.txt}", ""}, // the names themselves
	{"name: {list: stars.txt}", "name: {list: deep.txt}", ""}, // and what is two labels below
	{"name: {list: alone.txt}", "name: {list: many.txt}", ""}, // what is below
	{"name: {list: many.txt}", "name: {list: alone.txt}", "a"},
	{"name: {list: holes.txt}", "name: {list: alone.txt}", "a"}, // the exceptions are below these
	{"name: {list: holes.txt}", "name: {list: many.txt}", ""},
	{"name: {list: [holes.txt, more.txt]}", "name: {list: many.txt}", "a"},
	{"name: {list: tld.txt}", "name: {list: many.txt}", "a"},
	{"name: {list: more.txt}, group: [g, h]", "name: {list: many.txt}, group: [g]", "a"},
	{"name: {list: more.txt}, group: [g]", "name: {list: many.txt}, group: [g, h]", ""},
	{"name: {suffix: [n1.test, n2.test]}", "name: {list: many.txt}", ""},
}

func longList(path string) string {
	line, of := "n%d.test\n", 150
	switch path {
	case "more.txt":
		of = 300
	case "stars.txt":
		line = "*.n%d.test\n"
	case "deep.txt":
		line = "**.n%d.test\n"
	case "alone.txt":
		line = "=n%d.test\n"
	case "holes.txt":
		line = "||n%d.test^\n@@||good.n%[1]d.test^\n"
	case "tld.txt":
		return "test\n"
	}
	var out strings.Builder
	for i := range of {
		fmt.Fprintf(&out, line, i)
	}
	if path == "stray.txt" {
		out.WriteString("stray.test\n")
	}
	return out.String()
}

func TestShadowsOfLongLists(t *testing.T) {
	open := func(path string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(longList(path))), nil }
	for _, tt := range longLists {
		src := "lists:\n"
		for _, name := range []string{"many", "more", "stray", "stars", "deep", "alone", "tld"} {
			src += "  " + name + ".txt: {file: " + name + ".txt, format: plain}\n"
		}
		src += "  holes.txt: {file: holes.txt, format: adblock}\npolicies:\n" +
			"  - {name: a, if: {" + tt.above + "}, then: block}\n" +
			"  - {name: c, if: {" + tt.below + "}, then: allow}\n"
		p, err := policy.Parse("policy.yaml", []byte(src), open)
		if err != nil {
			t.Fatalf("%v\n%s", err, src)
		}
		by := ""
		for _, f := range p.Lint(open) {
			if f.Flaw == policy.Shadowed {
				by = strings.Join(f.By, " ")
			}
		}
		if by != tt.by {
			t.Errorf("%s below %s: shadowed by %q, want %q", tt.below, tt.above, by, tt.by)
		}
	}
}

// Where a long list is said to cover another no name is found that is only in the other.
func TestLongListsHold(t *testing.T) {
	found := 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 5))
		name := func() string {
			return strings.Repeat(pick(r, []string{"a.", "b.", "c."}), r.IntN(3)) + fmt.Sprintf("n%d.test", r.IntN(130))
		}
		lists := map[string]string{}
		for i, most := range []string{"below", "above"} {
			for range 110 + 600*i {
				lists[most] += pick(r, []string{"", "", "=", "*.", "**."}) + name() + "\n"
			}
		}
		if r.IntN(2) == 0 {
			lists["above"] += "test\n"
		}
		open := func(path string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(lists[path])), nil }
		p, err := policy.Parse("policy.yaml", []byte("lists:\n  above: {file: above, format: plain}\n  below: {file: below, format: plain}\n"+
			"policies:\n  - {name: a, if: {name: {list: above}}, then: block}\n  - {name: c, if: {name: {list: below}}, then: allow}\n"), open)
		if err != nil {
			t.Fatal(err)
		}
		shadowed := slices.ContainsFunc(p.Lint(open), func(f policy.Finding) bool { return f.Flaw == policy.Shadowed })
		if shadowed {
			found++
		}
		for range 2000 {
			n := strings.Repeat(pick(r, []string{"", "a.", "z."}), r.IntN(3)) + name()
			d := p.Decide(&policy.Query{Name: n, Type: 1})
			if shadowed && d.Rule != nil && d.Rule.Name == "c" {
				t.Fatalf("seed %d: %s is in the list that is said to be covered only", seed, n)
			}
		}
	}
	if found == 0 || found == 200 {
		t.Errorf("%d of 200 are covered", found)
	}
}

// Policies that only their names are looked up for do not use up what is spent on
// examples: the last of many is looked at too.
func TestLintLooksAtTheLastOfManyPolicies(t *testing.T) {
	var src strings.Builder
	src.WriteString("policies:\n")
	for i := range 12_000 {
		fmt.Fprintf(&src, "  - {name: p%d, if: {name: {suffix: n%d.example}}, then: block}\n", i, i)
	}
	src.WriteString("  - {name: late, if: {name: www.n7.example}, then: allow}\n")
	p, err := policy.Parse("policy.yaml", []byte(src.String()), nil)
	if err != nil {
		t.Fatal(err)
	}
	found := p.Lint(nil)
	if len(found) != 1 || found[0].Policy != "late" || !slices.Equal(found[0].By, []string{"p7"}) {
		t.Errorf("found %v", found)
	}
}
