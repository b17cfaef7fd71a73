package policy_test

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy"
)

const someRules = `||all.test^
||v6.test^$dnstype=AAAA
@@||good.all.test^$dnstype=A
||lab.test^$client=lab|192.168.0.0/16
||home.test^$client=~alice
||must.all.test^$important,dnstype=~A
@@||must.all.test^
`

const ofRules = head + `
policies:
  - {name: ads, if: {name: {list: ads}}, then: {block: nxdomain}}
  - {name: rest, if: {group: staff}, then: {steer: there}}
`

func parseRules(t testing.TB, src, rules string) *policy.Policy {
	t.Helper()
	src = strings.Replace(src, "lists:\n", "lists:\n  ads: {file: ads.txt, format: adblock}\n", 1)
	p, err := policy.Parse("policy.yaml", []byte(src), func(path string) (io.ReadCloser, error) {
		if path == "ads.txt" {
			return io.NopCloser(strings.NewReader(rules)), nil
		}
		return open(path)
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Rules of lists that are for some questions only: who is told what, and why.
func TestListRulesExplained(t *testing.T) {
	p := parseRules(t, ofRules, someRules)
	for _, tt := range []struct {
		q          question
		step, then string
	}{
		{question{ask: "x.all.test", by: "bob"}, "yes: name in list ads by ||all.test^", "block nxdomain"},
		{question{ask: "v6.test AAAA", by: "bob"}, "yes: name in list ads by ||v6.test^$dnstype=AAAA in line 2; type AAAA", "block nxdomain"},
		{question{ask: "v6.test", by: "bob staff"}, "no: name not in list ads; type A, not AAAA as $dnstype=AAAA of list ads", "steer there"},
		{question{ask: "good.all.test", by: "bob staff"}, "no: name excepted from list ads by @@||good.all.test^$dnstype=A in line 3; type A", "steer there"},
		{question{ask: "good.all.test AAAA", by: "bob staff"}, "yes: name in list ads by ||all.test^; type AAAA, not A as $dnstype=A of list ads", "block nxdomain"},
		{question{ask: "lab.test", by: "bob office"}, "yes: name in list ads by ||lab.test^$client=192.168.0.0/16|lab in line 4; source 192.168.1.5 in 192.168.0.0/16", "block nxdomain"},
		{question{ask: "lab.test", by: "bob lab"}, "yes: name in list ads by ||lab.test^$client=192.168.0.0/16|lab in line 4; device bob in group lab", "block nxdomain"},
		{question{ask: "lab.test", by: "bob staff sourceless"}, "unknown: source not known", "steer there"},
		{question{ask: "home.test", by: "alice staff"}, "no: name not in list ads; device alice", "steer there"},
		{question{ask: "home.test", by: "bob staff"}, "yes: name in list ads by ||home.test^$client=~alice in line 5; device bob, not alice; device bob not in group alice", "block nxdomain"},
		{question{ask: "must.all.test AAAA", by: "bob staff"}, "yes: name in list ads by ||must.all.test^$dnstype=~A,important in line 6; type AAAA, not A as $dnstype=~A of list ads", "block nxdomain"},
		{question{ask: "must.all.test", by: "bob staff"}, "no: type A; name excepted from list ads by @@||must.all.test^", "steer there"},
		{question{ask: "v6.test", by: "bob staff", flow: "tcp/443"}, "no: name not in list ads; type A, not AAAA as $dnstype=AAAA of list ads", "steer there"},
		{question{ask: "v6.test AAAA", by: "bob staff", flow: "tcp/443"}, "yes: name in list ads by ||v6.test^$dnstype=AAAA in line 2; type AAAA", "block nxdomain"},
	} {
		q := tt.q.query()
		d, trace := p.Explain(q)
		if got := trace.Steps[0].Matched.String() + ": " + trace.Steps[0].Text; got != tt.step || d.String() != tt.then {
			t.Errorf("%s by %s:\n got %s, %v\nwant %s, %s", tt.q.ask, tt.q.by, got, &d, tt.step, tt.then)
		}
		if short := p.For(&q.Asker, noon).Decide(q); short.String() != tt.then {
			t.Errorf("%s by %s: %v in the scope", tt.q.ask, tt.q.by, &short)
		}
		if n := testing.AllocsPerRun(20, func() { p.Decide(q) }); n > 0 {
			t.Errorf("%s: %v allocations", tt.q.ask, n)
		}
	}
	if names := p.Clients(); len(names) != 2 || names[0].Name != "alice" || names[1].Name != "lab" || names[0].Pos.Line != 3 {
		t.Errorf("named are %v", names)
	}
}

// An exception for networks is none for those of whom no source is known.
func TestListRulesExceptNobodyUnknown(t *testing.T) {
	p := parseRules(t, ofRules, `||bad.test^
@@||bad.test^$client=192.168.0.0/16
||other.test^
@@||other.test^$client=~192.168.0.0/16
||must.test^$important
@@||must.test^$important,client=192.168.0.0/16
`)
	for _, tt := range []struct{ ask, by, then string }{
		{"bad.test", "bob staff", "block nxdomain"},
		{"bad.test", "bob staff office", "steer there"},
		{"bad.test", "bob staff sourceless", "block nxdomain"},
		{"other.test", "bob staff office", "block nxdomain"},
		{"other.test", "bob staff sourceless", "block nxdomain"},
		{"must.test", "bob staff office", "steer there"},
		{"must.test", "bob staff sourceless", "block nxdomain"},
	} {
		d, trace := p.Explain(question{ask: tt.ask, by: tt.by}.query())
		if d.String() != tt.then {
			t.Errorf("%s by %s: %v, want %s: %s", tt.ask, tt.by, &d, tt.then, trace.Steps[0].Text)
		}
	}
}

// Scopes tell apart whom rules tell apart, and nobody else.
func TestListRulesInScopes(t *testing.T) {
	p := parseRules(t, ofRules, someRules)
	for _, same := range []bool{true, false} {
		for _, pair := range map[bool][][2]string{true: {{"bob", "carl"}, {"bob lab", "carl lab"}}, false: {{"bob", "bob lab"}, {"bob", "alice"}, {"bob", "bob office"}, {"bob", "bob sourceless"}}}[same] {
			if a, b := scope(p, pair[0]), scope(p, pair[1]); (a == b) != same {
				t.Errorf("%s and %s: %x, %x", pair[0], pair[1], a, b)
			}
		}
	}
	only := parseRules(t, ofRules, "||a.test^$dnstype=A\n||b.test^\n")
	if a, b := scope(only, "bob"), scope(only, "alice office"); a != b {
		t.Errorf("types alone tell %x and %x apart", a, b)
	}
	if !p.CouldSteer("v6.test", nil, "there", noon) || !p.CouldSteer("lab.test", nil, "there", noon) || p.CouldSteer("x.all.test", nil, "there", noon) {
		t.Error("could steer: v6 and lab for some, x.all for nobody")
	}
}

// What would have to change speaks of the list, whichever of its rules it is.
func TestListRulesRemedies(t *testing.T) {
	p := parseRules(t, strings.Replace(ofRules, "{steer: there}", "allow", 1), someRules)
	for _, tt := range []struct{ ask, by, want string }{
		{"lab.test", "bob staff lab", "lab.test not in list ads"},
		{"home.test", "bob staff", "home.test not in list ads"},
		{"x.all.test", "bob staff", "x.all.test not in list ads"},
	} {
		var got []string
		for _, r := range p.Remedies(question{ask: tt.ask, by: tt.by, answer: "-"}.query()) {
			got = append(got, strings.Join(r.Changes, " and "))
		}
		if !slices.Contains(got, tt.want) {
			t.Errorf("%s by %s: %q, want among them %s", tt.ask, tt.by, got, tt.want)
		}
	}
	if n := p.Naming(&p.Rules()[0]); len(n.Lists) != 1 || n.More || n.Lists[0].Name != "ads" {
		t.Errorf("its names are %+v", n)
	}
}

// Lists without such rules cost what they did, and those with them little more.
func BenchmarkListRules(b *testing.B) {
	for name, rules := range map[string]string{"plain": "||all.test^\n", "rules": someRules} {
		p := parseRules(b, ofRules, rules)
		for _, ask := range []string{"www.x.all.test", "www.example.com"} {
			q := question{ask: ask, by: "bob staff"}.query()
			scoped := p.For(&q.Asker, noon)
			b.Run(name+" "+ask, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					scoped.Decide(q)
				}
			})
		}
	}
}
