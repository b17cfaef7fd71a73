package policy_test

import (
	"strings"
	"testing"

	"github.com/starferry/starferry/policy"
)

// A name that a policy has blocked is not let through by one above it.
func TestLearnBarred(t *testing.T) {
	l := policy.Lesson{Group: "cameras", Siblings: 2}
	for _, name := range []string{"a.maker.example.com", "b.maker.example.com", "a.cdn.example.com", "b.cdn.example.com", "a.other.example", "b.other.example"} {
		l.Add(name, noon)
	}
	for _, name := range []string{"bad.maker.example.com", "not.asked.example.org"} {
		l.Bar(name)
	}
	got := l.YAML()
	for _, want := range []string{"- a.maker.example.com", "- b.maker.example.com", "- cdn.example.com", "- other.example"} {
		if !strings.Contains(got, want+" ") {
			t.Errorf("%s is not in\n%s", want, got)
		}
	}
	for _, bad := range []string{"- maker.example.com", "- example.com", "bad", "asked"} {
		if strings.Contains(got, bad) {
			t.Errorf("%s is in\n%s", bad, got)
		}
	}
}

// Whatever was asked for, and whatever the group is called, it can be read.
func TestLearntIsRead(t *testing.T) {
	l := policy.Lesson{Group: "null", Siblings: 2}
	for _, name := range []string{"null", "true", "~", "-", "--", "-.example", "0x10", "12", "1e3", "com", "2026-01-01", "1.0.0.127.in-addr.arpa", "_a._tcp.example.com"} {
		l.Add(name, noon)
	}
	p := parse(t, l.YAML())
	for _, name := range []string{"null", "-", "1e3"} {
		d := p.Decide(&policy.Query{Name: name, Type: 1, Asker: who("x in null"), Now: noon})
		if d.Rule == nil || d.Rule.Name != "null-learnt" {
			t.Errorf("%s: %+v", name, d)
		}
	}
}
