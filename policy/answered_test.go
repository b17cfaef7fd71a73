package policy_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy"
)

func parseZone(t testing.TB, src, text string) (*policy.Policy, error) {
	t.Helper()
	return policy.Parse("policy.yaml", []byte(src), func(path string) (io.ReadCloser, error) {
		if path == "zone.rpz" {
			return io.NopCloser(strings.NewReader(text)), nil
		}
		return open(path)
	})
}

const zonePolicy = `lists: {zone: {file: zone.rpz, format: rpz}, ads: {file: phishing.txt, format: plain}}
policies:
  - {name: data, if: {not: {group: lab}}, require: {identity: strong}, then: {override: {list: zone}}}
  - {name: zone, if: {name: {list: zone}}, then: {block: nxdomain}}
  - {name: ads, if: {name: {list: ads}}, then: block}
  - {name: rest, then: allow}
`

// An override by a zone answers with what the zone has for the name, and is not
// there for names that it has nothing for.
func TestOverrideByZone(t *testing.T) {
	p, err := parseZone(t, zonePolicy, `a.test A 192.0.2.1
a.test 7 TXT hi
*.g.test CNAME *.garden.example.
bad.test CNAME .
now.test 0 A 192.0.2.3
now.test 60 A 192.0.2.4
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		q    question
		want string
	}{
		{question{ask: "a.test", by: "bob"}, "override by data: [192.0.2.1] [{16 hi}] 7s"},
		{question{ask: "x.g.test", by: "bob"}, "override by data: x.g.test.garden.example [] [] 1m0s"},
		{question{ask: "now.test", by: "bob"}, "override by data: [192.0.2.3 192.0.2.4] [] 0s"}, // 0 is said, and is not the policy's own
		{question{ask: "x.a.test", by: "bob", answer: "-"}, "allow by rest: [] [] 0s"},
		{question{ask: "x.a.test", by: "bob", answer: "x.a.test a.test 203.0.113.1"}, "override by data: [192.0.2.1] [{16 hi}] 7s"},
		{question{ask: "bad.test", by: "bob"}, "block nxdomain by zone: [] [] 0s"},
		{question{ask: "a.test", by: "bob lab", answer: "-"}, "allow by rest: [] [] 0s"},
		{question{ask: "a.test", by: "bob office"}, "deny refused by data: [] [] 0s"},
	} {
		q := tt.q.query()
		d, trace := p.Explain(q)
		got := fmt.Sprintf("%v by %s: ", &d, d.Rule.Name) + strings.TrimSpace(fmt.Sprintf("%s %v %v %v", d.Then.CNAME, d.Then.A, d.Then.Records, d.Then.TTL))
		if got != tt.want {
			t.Errorf("%s by %s: %s, want %s\n%v", tt.q.ask, tt.q.by, got, tt.want, trace)
		}
	}
	long := strings.Repeat("a23456789.", 24) + "g.test"
	if d := p.Decide(question{ask: long, by: "bob"}.query()); d.Then.CNAME != "" || d.Then.Action != policy.Override {
		t.Errorf("a name that gets too long: %v %s", &d, d.Then.CNAME)
	}
	if q := (question{ask: "a.test", by: "bob"}).query(); testing.AllocsPerRun(20, func() { p.Decide(q) }) > 0 {
		t.Error("an answer of a zone allocates")
	}
	n := p.Naming(&p.Rules()[0])
	if len(n.Lists) != 1 || n.More || fmt.Sprint(n.Lists[0].Source.Select) != "[local cname]" {
		t.Errorf("its names are %+v", n)
	}
	_, trace := p.Explain(question{ask: "a.test", by: "bob"}.query())
	if want := "name with an answer in list zone"; !strings.Contains(trace.String(), want) {
		t.Errorf("%q is not in %v", want, trace)
	}
	for from, want := range map[string]string{
		"{list: ads}":               "of format plain, which has no answers",
		"{list: zones}":             "did you mean",
		"{list: zone, a: 10.0.0.1}": "a list stands alone",
	} {
		if _, err := parseZone(t, strings.Replace(zonePolicy, "{list: zone}}}", from+"}}", 1), "a.test A 192.0.2.1\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", from, err, want)
		}
	}
}

// Ten thousand targets are one condition.
func BenchmarkZoneTargets(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, "host%d.test CNAME t%d.garden.example.\n", i, i)
		}
		p, err := parseZone(b, zonePolicy, text.String())
		if err != nil {
			b.Fatal(err)
		}
		q := question{ask: fmt.Sprintf("host%d.test", n-1), by: "bob"}.query()
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := p.Decide(q); d.Then.CNAME == "" {
					b.Fatal(d)
				}
			}
		})
	}
}

// Who is sent to TCP by a policy is decided there by the policies below it.
func TestTruncate(t *testing.T) {
	p := parse(t, `policies:
  - {name: tcp, if: {name: a.test}, require: {groups: [staff]}, then: {block: truncate}}
  - {name: rest, then: allow}
`)
	for transport, want := range map[string]string{"udp": "block truncate", "tcp": "allow", "doh": "allow", "": "allow"} {
		q := question{ask: "a.test", by: "bob staff", answer: "-"}.query()
		q.Asker.Transport = transport
		if d := p.Decide(q); d.String() != want {
			t.Errorf("%s: %v, want %s", transport, &d, want)
		}
	}
	for _, src := range []string{
		"policies: [{name: a, require: {groups: [b]}, deny: {block: truncate}, then: allow}]", "defaults: [{group: a, then: {block: truncate}}]",
	} {
		if _, err := policy.Parse("policy.yaml", []byte(src), open); err == nil || !strings.Contains(err.Error(), "truncate") {
			t.Errorf("%s: %v", src, err)
		}
	}
}

// A zone that is read as names and for its answers is counted once, and what is
// wrong with it is said once.
func TestZoneReadTwice(t *testing.T) {
	const text = `ads.test CNAME .
a.test A 192.0.2.1
a.test A 2001:db8::1
b.test CNAME garden.example.
c.test SSHFP 1 1 00
ns.rpz-nsdname CNAME .
not a record at all
`
	for _, tt := range []struct {
		policy, takes string
		entries       int
	}{
		{"{name: p, if: {name: {list: zone}}, then: block}", "", 1},
		{"{name: p, then: {override: {list: zone}}}", "", 2},
		{"{name: p, then: {override: {list: zone}}}, {name: q, if: {name: {list: zone}}, then: block}", "", 3},
		{"{name: q, if: {name: {list: zone}}, then: block}, {name: p, then: {override: {list: zone}}}", "", 3},
		{"{name: q, if: {name: {list: zone}}, then: block}, {name: p, then: {override: {list: zone}}}", ", select: [cname, nxdomain]", 3},
	} {
		p, err := parseZone(t, "lists: {zone: {file: zone.rpz, format: rpz"+tt.takes+"}}\npolicies: ["+tt.policy+", {name: rest, then: allow}]\n", text)
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(p.Warnings(), "\n")
		if l := p.Lists()[0]; l.Entries != tt.entries {
			t.Errorf("%s%s: %+v", tt.policy, tt.takes, l)
		}
		if !strings.Contains(tt.policy, "}, {") {
			continue
		}
		if l := p.Lists()[0]; l.Bad != 4 { // two that cannot be read, two that are not supported
			t.Errorf("%s%s: %d are bad\n%s", tt.policy, tt.takes, l.Bad, all)
		}
		for what, times := range map[string]int{
			"cannot be read, left out: 2 (": 1, "cannot be read": 1, "is no address of type A": 1, "line 7: ": 1,
			"not supported, left out: 2 (": 1, "local data of type SSHFP: 1": 1, "rpz-nsdname in a list of names: 1": 1, "where it is not selected": 0,
		} {
			if n := strings.Count(all, what); n != times {
				t.Errorf("%s%s: %q is said %d times, want %d\n%s", tt.policy, tt.takes, what, n, times, all)
			}
		}
	}
}
