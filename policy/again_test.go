package policy_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/policy/list"
)

// Read again with the lists of before, a policy decides and is called as if it
// had been read alone.
func TestParseAgain(t *testing.T) {
	var known list.Cache
	disk := map[string]string{"l": "a.test\n"}
	open := func(path string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(disk[path])), nil }
	src := []byte("lists: {l: {file: l, format: plain}}\npolicies: [{name: a, if: {name: {list: l}}, then: {block: nxdomain}}]\ndefault: allow\n")
	blocked := func(p *policy.Policy, name string) bool {
		d := p.Decide(&policy.Query{Name: name, Type: 1, Now: noon})
		return d.Rule != nil
	}
	first, err := policy.ParseAgain(&known, "p", src, open)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.test", "b.test"} {
		disk["l"] = name + "\n"
		again, err := policy.ParseAgain(&known, "p", src, open)
		if err != nil {
			t.Fatal(err)
		}
		alone, err := policy.Parse("p", src, open)
		if err != nil {
			t.Fatal(err)
		}
		if again.Version() != alone.Version() || (again.Version() == first.Version()) != (name == "a.test") {
			t.Errorf("%s: versions %s %s, %s at first", name, again.Version(), alone.Version(), first.Version())
		}
		if !blocked(again, name) || blocked(again, "x.test") || blocked(again, "b.test") != (name == "b.test") {
			t.Errorf("%s: the policy holds another list", name)
		}
	}
	if !blocked(first, "a.test") || blocked(first, "b.test") {
		t.Error("the first policy changed")
	}
}

// A name that none of ten lists of 1,000,000 names in all holds.
func BenchmarkDecideTenLists(b *testing.B) {
	var src strings.Builder
	src.WriteString("lists:\n")
	for i := range 10 {
		fmt.Fprintf(&src, "  l%d: {file: l%d, format: plain}\n", i, i)
	}
	src.WriteString("default: allow\npolicies:\n")
	for i := range 10 {
		fmt.Fprintf(&src, "  - {name: p%d, if: {name: {list: l%d}}, then: {block: nxdomain}}\n", i, i)
	}
	p, err := policy.Parse("p", []byte(src.String()), func(path string) (io.ReadCloser, error) {
		var text strings.Builder
		for i := range 100_000 {
			fmt.Fprintf(&text, "host%d.%s.example\n", i, path)
		}
		return io.NopCloser(strings.NewReader(text.String())), nil
	})
	if err != nil {
		b.Fatal(err)
	}
	queries := make([]policy.Query, 1<<14)
	for i := range queries {
		queries[i] = policy.Query{Name: fmt.Sprintf("www.host%d.l%d.example", 100_000+i*7, i%10), Type: 1, Now: noon}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if d := p.Decide(&queries[i&(1<<14-1)]); d.Rule != nil {
			b.Fatal(d.Rule.Name)
		}
	}
}
