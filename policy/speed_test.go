package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy"
)

// fifty is a file of fifty policies as a company of some size has.
func fifty() string {
	var b strings.Builder
	b.WriteString(head + "policies:\n")
	for i := range 12 {
		fmt.Fprintf(&b, "  - {name: site-%d, if: {name: {suffix: [s%d.example, t%d.example]}}, then: {block: nxdomain}}\n", i, i, i)
		fmt.Fprintf(&b, "  - {name: team-%d, if: {group: team-%d, name: {exact: w%d.example}}, then: {override: {a: 10.0.0.%d}}}\n", i, i, i, i)
		fmt.Fprintf(&b, "  - {name: list-%d, if: {all: [name: {list: phishing}, not: {identity: medium}]}, then: {block: nodata}}\n", i)
		fmt.Fprintf(&b, "  - {name: net-%d, if: {answer: {network: china-networks}, network: 192.168.%d.0/24}, then: {block: nodata}}\n", i, i)
	}
	b.WriteString(`  - name: china
    if: {any: [name: {list: china-sites}, answer: {country: CN}]}
    require: {groups: [staff], identity: medium, posture: laptop}
    then: {steer: hong-kong, ports: [tcp/443]}
  - {name: rest, then: allow}
`)
	return b.String()
}

var quick = []struct {
	name string
	q    question
}{
	{"first", question{ask: "a.s0.example", by: "alice staff passing"}},
	{"steer", question{ask: "www.taobao.com", by: "alice staff passing"}},
	{"steer by answer", question{ask: "cdn.example", by: "alice staff passing", answer: "cdn.example 203.0.113.9"}},
	{"flow", question{ask: "www.taobao.com", by: "alice staff passing", flow: "tcp/443"}},
	{"allow", question{ask: "www.example.com", by: "alice staff passing", answer: "www.example.com cdn.example 192.0.2.1"}},
	{"ask upstream", question{ask: "www.example.com", by: "alice staff passing"}},
}

func TestDecideAllocatesNothing(t *testing.T) {
	p := parse(t, fifty())
	for _, tt := range quick {
		q := tt.q.query()
		var d policy.Decision
		if n := testing.AllocsPerRun(100, func() { d = p.Decide(q) }); n > 0 {
			t.Errorf("%s: %v allocations for %v", tt.name, n, &d)
		}
		scoped := p.For(&q.Asker, noon)
		if n := testing.AllocsPerRun(100, func() { d = scoped.Decide(q) }); n > 0 {
			t.Errorf("%s: %v allocations for %v in the scope", tt.name, n, &d)
		}
	}
	proto := quick[1].q.query()
	if n := testing.AllocsPerRun(100, func() {
		q := policy.Query{Name: proto.Name, Type: proto.Type, Asker: proto.Asker, Now: noon}
		if d := p.Decide(&q); d.Then.Action != policy.Steer {
			t.Error(d)
		}
	}); n > 0 {
		t.Errorf("the query escapes: %v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	p := parse(b, fifty())
	for _, tt := range quick {
		q := tt.q.query()
		scoped := p.For(&q.Asker, noon)
		for by, decide := range map[string]func(*policy.Query) policy.Decision{"": p.Decide, " for the scope": scoped.Decide} {
			b.Run(tt.name+by, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					decide(q)
				}
			})
		}
	}
}

// Policies that a name does not concern cost it nothing, however many they are.
func BenchmarkManyPolicies(b *testing.B) {
	for _, n := range []int{50, 10_000} {
		var src strings.Builder
		src.WriteString("policies:\n")
		for i := range n {
			fmt.Fprintf(&src, "  - {name: p%d, if: {name: {suffix: s%d.example}, group: staff}, then: {block: nxdomain}}\n", i, i)
		}
		p := parse(b, src.String())
		q := question{ask: fmt.Sprintf("www.s%d.example", n-1), by: "alice staff"}.query()
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Decide(q)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	src := []byte(fifty())
	for b.Loop() {
		if _, err := policy.Parse("policy.yaml", src, open); err != nil {
			b.Fatal(err)
		}
	}
}
