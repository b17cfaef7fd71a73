package policy_test

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy"
)

// with opens the files of a test besides those of the company.
func with(more map[string]string) func(string) (io.ReadCloser, error) {
	return func(path string) (io.ReadCloser, error) {
		if s, ok := more[path]; ok {
			return io.NopCloser(strings.NewReader(s)), nil
		}
		return open(path)
	}
}

// Policies of an included file stand at the place of the include, and what the
// files define is of all of them.
func TestInclude(t *testing.T) {
	src := `
lists: {phishing: {file: phishing.txt, format: plain}}
policies:
  - {name: first, if: {name: {list: china}}, then: {block: drop}}
  - include: [teams/a.yaml, teams/b.yaml]
  - {name: last, if: {schedule: late}, then: allow}
  - include: end.yaml
`
	more := map[string]string{
		"teams/a.yaml":    "lists: {china: {file: china.conf, format: dnsmasq}}\npolicies:\n  - {name: a1, if: {name: {list: phishing}}, then: block}\n  - include: teams/deep.yaml\n  - {name: a2, if: {posture: {desk: failed}, name: x.y}, then: block}\n",
		"teams/deep.yaml": "postures: {desk: {max_age: 1m, checks: [firewall: on]}}\npolicies: [{name: deep, if: {name: {category: all}}, then: block}]\n",
		"teams/b.yaml":    "categories: {all: [china, phishing]}\npolicies: [{name: b1, then: block, if: {group: x}}]\n",
		"end.yaml":        "schedules: {late: {zone: UTC, hours: \"20:00-22:00\"}}\n",
	}
	p, err := policy.Parse("etc/policy.yaml", []byte(src), with(more))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range p.Rules() {
		got = append(got, r.Name+" "+r.At.String())
	}
	want := []string{
		"first etc/policy.yaml:4:5", "a1 etc/teams/a.yaml:3:5", "deep etc/teams/deep.yaml:2:12", "a2 etc/teams/a.yaml:5:5",
		"b1 etc/teams/b.yaml:2:12", "last etc/policy.yaml:6:5",
	}
	if !slices.Equal(got, want) {
		t.Errorf("policies\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if w := p.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
	before := p.Version()
	more["end.yaml"] += "# changed\n"
	if p, err := policy.Parse("etc/policy.yaml", []byte(src), with(more)); err != nil || p.Version() == before {
		t.Errorf("the version does not move with an included file: %v", err)
	}
}

func TestIncludeMistakes(t *testing.T) {
	for _, tt := range []struct {
		src, more, want string
	}{
		{"policies: [include: none.yaml]", "", "p:1:21: include: open none.yaml: file does not exist\n    policies: [include: none.yaml]\n                        ^ paths are relative to the folder of p"},
		{"policies: [include: more.yaml]", "policies: [include: p]", "more.yaml:1:21: include: p includes itself: p → more.yaml → p"},
		{"policies: [include: more.yaml]", "policies: [include: ./more.yaml]", "more.yaml includes itself: more.yaml → more.yaml"},
		{"policies: [include: more.yaml, include: more.yaml]", "", "more"},
		{"policies: [{include: more.yaml}, {include: more.yaml}]", "policies: []", "p:1:44: include: more.yaml is included twice\n    policies: [{include: more.yaml}, {include: more.yaml}]\n                                               ^ first at p:1:22"},
		{"policies: [{name: a, then: block}, {include: more.yaml}]", "policies: [{name: a, then: allow}]", "more.yaml:1:12: policy \"a\" is given twice\n    policies: [{name: a, then: allow}]\n               ^ first at p:1:12"},
		{"lists: {x: {file: china.conf, format: dnsmasq}}\npolicies: [include: more.yaml]", "lists: {x: {file: china.conf, format: dnsmasq}}", "more.yaml:1:9: list \"x\" is given twice"},
		{"postures: {x: {max_age: 1m, checks: [firewall: on]}}\npolicies: [include: more.yaml]", "postures: {x: {max_age: 1m, checks: [firewall: on]}}", "first at p:1:12"},
		{"schedules: {x: {zone: UTC, days: mon}}\npolicies: [include: more.yaml]", "schedules: {x: {zone: UTC, days: mon}}", "more.yaml:1:13: schedule \"x\" is given twice"},
		{"policies: [include: more.yaml]", "default: allow", "more.yaml:1:1: default stands in p, which includes this file"},
		{"policies: [include: more.yaml]", "geoip: {country: country.mmdb}", "geoip stands in p"},
		{"policies: [include: more.yaml]", "policies: [{name: b, then: alow}]", "more.yaml:1:28: then: unknown action"},
		{"policies: [include: more.yaml]", "policies: [{name: b, if: {name: {list: chian}}, then: allow}]", "more.yaml:1:40: unknown list \"chian\""},
		{"policies: [include: more.yaml]", "policies: [", "more.yaml:"},
		{"policies: [include: more.yaml]", "", "more.yaml:1:1: empty file"},
		{"policies: [{include: more.yaml, name: x}]", "policies: []", "unknown key \"name\""},
		{"policies: [include: []]", "", "include: an empty list"},
	} {
		_, err := policy.Parse("p", []byte(tt.src+"\n"), with(map[string]string{"more.yaml": tt.more + "\n", "p": tt.src + "\n"}))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s\nwith %s\n%v\nwant %s", tt.src, tt.more, err, tt.want)
		}
	}
}
