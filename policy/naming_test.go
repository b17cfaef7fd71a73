package policy_test

import (
	"fmt"
	"testing"
)

func TestNaming(t *testing.T) {
	const file = `
lists:
  sites: {file: china.conf, format: dnsmasq}
policies:
  - {name: exact, if: {name: a.example}, then: allow}
  - {name: under, if: {name: {suffix: b.example, pattern: "*.c.example"}}, then: {block: nxdomain}}
  - {name: listed, if: {name: {list: sites}, group: staff}, then: {steer: hong-kong}}
  - {name: either, if: {any: [{name: d.example}, {answer: {network: 192.0.2.0/24}}]}, then: {steer: hong-kong}}
  - {name: both, if: {all: [{name: d.example}, {answer: {network: 192.0.2.0/24}}]}, then: {override: {a: 192.0.2.1}}}
  - {name: others, if: {not: {name: d.example}}, then: {block: nodata}}
  - {name: asker, if: {group: guests}, require: {identity: strong}, then: allow}
  - {name: all, then: allow}
`
	p := parse(t, file)
	want := []string{
		"exact [=a.example] [] false",
		"under [b.example *.c.example] [] false",
		"listed [] [sites] false",
		"either [=d.example] [] true",
		"both [=d.example] [] false",
		"others [] [] true",
		"asker [] [] true",
		"all [] [] true",
	}
	for i := range p.Rules() {
		r := &p.Rules()[i]
		n := p.Naming(r)
		lists := []string{}
		for _, l := range n.Lists {
			lists = append(lists, l.Name)
		}
		if got := fmt.Sprint(r.Name, " ", n.Names, " ", lists, " ", n.More); got != want[i] {
			t.Errorf("%s, want %s", got, want[i])
		}
	}
}
