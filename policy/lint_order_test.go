package policy_test

import (
	"fmt"
	"io"
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
