package policy_test

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy"
)

const lintRules = `||shared.test^
||other.test^
||v6.test^$dnstype=AAAA
`

// lintFiles are lists with modifiers and exceptions, and a zone.
var lintFiles = map[string]string{
	"a.txt":  lintRules,
	"b.txt":  "shared.test\n",
	"x.txt":  lintRules + "@@||good.shared.test^\n",
	"z.rpz":  "@ SOA a. b. 1 1 1 1 1\nshared.test A 192.0.2.9\nbad.test CNAME .\n",
	"v6.txt": "||v6.test^$dnstype=AAAA\n",
}

func openLintFiles(path string) (io.ReadCloser, error) {
	if text, ok := lintFiles[path]; ok {
		return io.NopCloser(strings.NewReader(text)), nil
	}
	return open(path)
}

// What is said of a list with modifiers, exceptions or answers of its own is
// said of all of it, and of the part that a condition looks into.
func TestLintListRules(t *testing.T) {
	const head = `lists:
  a: {file: a.txt, format: adblock}
  b: {file: b.txt, format: plain}
  x: {file: x.txt, format: adblock, use: block}
  z: {file: z.rpz, format: rpz, use: block}
policies:
`
	for _, tt := range []struct{ policies, want string }{
		{"  - {name: both, if: {all: [{name: {list: a}}, {name: {list: b}}]}, then: {block: nxdomain}}\n", ""},
		{"  - {name: one, if: {name: {list: a}, not: {name: {list: b}}}, then: allow}\n  - {name: two, if: {name: {list: a}}, then: {block: nxdomain}}\n", ""},
		{"  - {name: bad, if: {name: {list: x}}, then: {block: nxdomain}}\n", ""},
		{"  - {name: bad, if: {name: {list: x}}, then: {override: {a: 192.0.2.1}}}\n", "list x is for use: block"},
		{"  - {name: zone, then: {override: {list: z}}}\n", ""},
	} {
		p, err := policy.Parse("policy.yaml", []byte(head+tt.policies+"default: block\n"), openLintFiles)
		if err != nil {
			t.Fatal(err)
		}
		found := said(p.Lint(openLintFiles))
		if (tt.want == "") != (found == "") || !strings.Contains(found, tt.want) {
			t.Errorf("%s\nfound %s\nwant %s", tt.policies, found, tt.want)
		}
	}
}

// Of a list that has exceptions too, the asker is told to get off it, or among
// what is excepted.
func TestListRulesRemediesExcepted(t *testing.T) {
	p := parseRules(t, strings.Replace(ofRules, "{steer: there}", "allow", 1), lintRules+"@@||good.shared.test^\n")
	var got []string
	for _, r := range p.Remedies(question{ask: "shared.test", by: "bob staff", answer: "-"}.query()) {
		got = append(got, strings.Join(r.Changes, " and "))
	}
	for _, want := range []string{"shared.test not in list ads", "shared.test excepted from list ads"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q, want among them %s", got, want)
		}
	}
}

// Lists of many kinds of rules, which take proofs that are not worth it, do not
// hold the linter up.
func TestLintManyRules(t *testing.T) {
	var rules strings.Builder
	for i := range 26 {
		fmt.Fprintf(&rules, "||n%d.test^$client=10.%d.0.0/16\n", i, i)
	}
	files := func(string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(rules.String())), nil }
	p, err := policy.Parse("policy.yaml", []byte(`lists: {a: {file: a.txt, format: adblock}}
policies:
  - {name: one, if: {any: [{name: {list: a}}, {group: staff}]}, then: {block: nxdomain}}
  - {name: two, if: {name: {list: a}, not: {group: lab}}, then: {block: nodata}}
  - {name: three, if: {any: [{name: {list: a}}, {all: [{group: staff}, {name: {list: a}}]}]}, then: {block: refused}}
  - {name: rest, then: allow}
`), files)
	if err != nil {
		t.Fatal(err)
	}
	if looked := policy.LintProven(p, files); looked > 1<<24+1000 {
		t.Errorf("%d conditions were looked at", looked)
	}
}

// A policy of many groups leaves room for remedies of other kinds.
func TestRemediesOfManyGroups(t *testing.T) {
	var groups strings.Builder
	for i := range 30 {
		fmt.Fprintf(&groups, "  - {name: p%d, if: {group: g%d, name: n%d.test}, then: allow}\n", i, i, i)
	}
	p := parseRules(t, strings.Replace(ofRules, "{steer: there}", "allow", 1)+groups.String(), lintRules)
	got := p.Remedies(question{ask: "shared.test", by: "bob staff", answer: "-"}.query())
	if !slices.ContainsFunc(got, func(r policy.Remedy) bool { return slices.Contains(r.Changes, "shared.test not in list ads") }) {
		t.Errorf("not to be off the list: %+v", got)
	}
}
