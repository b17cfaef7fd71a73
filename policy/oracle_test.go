package policy_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy"
)

// The oracle is what BIND, unbound and PowerDNS Recursor all answer when they
// are given the same rules as response policy zones. Env ORACLE names folders
// of rules.json (the rules in order), data.json (what the upstream serves) and
// cases.jsonl (questions with answers).
type oracleRule struct {
	ID     string
	Match  struct{ Kind, Value string }
	Action struct{ Type, Data string }
}

type oracleCase struct {
	Name, Type, Cat, Rcode string
	IPs                    []string
}

type oracleData map[string]struct {
	A, AAAA, TXT []string
	CNAME        string
}

func TestOracle(t *testing.T) {
	dirs := strings.Fields(os.Getenv("ORACLE"))
	if len(dirs) == 0 {
		t.Skip("ORACLE names no folder of cases")
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) { playOracle(t, dir) })
	}
}

func playOracle(t *testing.T, dir string) {
	var rules []oracleRule
	var data oracleData
	load(t, filepath.Join(dir, "rules.json"), &rules)
	load(t, filepath.Join(dir, "data.json"), &data)
	p := parse(t, oraclePolicy(rules))
	f, err := os.Open(filepath.Join(dir, "cases.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for lines := bufio.NewScanner(f); lines.Scan(); n++ {
		var c oracleCase
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprint(c.Rcode, c.IPs)
		if got := data.play(p, strings.ToLower(c.Name), c.Type); got != want {
			t.Errorf("%s %s (%s): %s, want %s", c.Name, c.Type, c.Cat, got, want)
		}
	}
	if n == 0 {
		t.Error("no cases")
	}
	t.Logf("%d cases", n)
}

func load(t *testing.T, name string, to any) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// oraclePolicy writes the rules as a policy file, with an allow at the end.
func oraclePolicy(rules []oracleRule) string {
	var b strings.Builder
	b.WriteString("policies:\n")
	for _, r := range rules {
		cond := map[string]string{
			"exact":      "name: {exact: %q}",
			"suffix":     "name: {suffix: %q}",
			"subdomains": "name: {pattern: %q}",
			"ip":         "answer: {network: %q}",
		}[r.Match.Kind]
		value := r.Match.Value
		if r.Match.Kind == "subdomains" {
			value = "**." + value
		}
		then := "{block: " + r.Action.Type + "}"
		switch r.Action.Type {
		case "allow":
			then = "allow"
		case "a", "cname":
			then = fmt.Sprintf("{override: {%s: %s}}", r.Action.Type, r.Action.Data)
		}
		fmt.Fprintf(&b, "  - {name: %s, if: {%s}, then: %s}\n", r.ID, fmt.Sprintf(cond, value), then)
	}
	b.WriteString("  - {name: rest, then: allow}\n")
	return b.String()
}

// play answers a question as a resolver under the policy would.
func (d oracleData) play(p *policy.Policy, name, typ string) string {
	q := &policy.Query{Name: name, Type: map[string]uint16{"A": 1, "AAAA": 28, "TXT": 16}[typ], Now: noon}
	dec := p.Decide(q)
	if dec.NeedAnswer {
		q.Answered, q.Answer = true, d.chain(name, typ)
		dec = p.Decide(q)
	}
	switch then := &dec.Then; {
	case then.Action == policy.Allow:
		return d.answer(name, typ)
	case then.Action == policy.Override && then.CNAME != "":
		return d.answer(then.CNAME, typ)
	case then.Action == policy.Override && typ == "A":
		return fmt.Sprint("NOERROR", then.A)
	case then.Action == policy.Override, then.Block == policy.NoData:
		return "NOERROR[]"
	case then.Block == policy.NXDomain:
		return "NXDOMAIN[]"
	case then.Block == policy.Drop:
		return "DROP[]"
	}
	return dec.String()
}

// chain returns the names of the answer, each with its addresses.
func (d oracleData) chain(name, typ string) (hops []policy.Hop) {
	for name != "" {
		h := policy.Hop{Name: name}
		addrs := map[string][]string{"A": d[name].A, "AAAA": d[name].AAAA}[typ]
		for _, a := range addrs {
			h.Addrs = append(h.Addrs, netip.MustParseAddr(a))
		}
		hops = append(hops, h)
		name = d[name].CNAME
	}
	return hops
}

// answer is what the upstream answers.
func (d oracleData) answer(name, typ string) string {
	for d[name].CNAME != "" {
		name = d[name].CNAME
	}
	e, ok := d[name]
	rcode := "NXDOMAIN"
	if ok {
		rcode = "NOERROR"
	}
	records := slices.Sorted(slices.Values(map[string][]string{"A": e.A, "AAAA": e.AAAA, "TXT": e.TXT}[typ]))
	if records == nil {
		records = []string{}
	}
	return fmt.Sprint(rcode, records)
}
