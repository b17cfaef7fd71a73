package list

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy/match"
)

// Lines that nobody can read, whatever the format. One that is left open would
// swallow others in a zone, so parentheses are closed.
var garbage = []string{
	"<html><body>404 not found</body></html>", "\x00\x01\x02\xff", "a b\\ c$$ <d>", "??? = ???", "a..b.test <", "=/<>/", "((x))))", `"open <`,
	strings.Repeat("<", maxLine+7), "include:<nothing>", "\u202e\u0000 <", "||<>^", "0.0.0.0/999 <", "<1.2.3.4> <x>", "/(/<", "/re <",
}

// A sample is a list in a format with names or addresses that tell what is read.
type sample struct {
	source Source
	lines  []string
	ask    []string
}

func samples() []sample {
	var out []sample
	for format, line := range map[string]func(i int) string{
		"plain":   func(i int) string { return fmt.Sprintf("%shost%d.test", []string{"", "=", "*.", "**."}[i%4], i) },
		"hosts":   func(i int) string { return fmt.Sprintf("0.0.0.0 host%d.test www.host%d.test", i, i) },
		"dnsmasq": func(i int) string { return fmt.Sprintf("server=/host%d.test/1.1.1.%d", i, i) },
		"adblock": func(i int) string {
			return []string{"", "@@"}[i%2] + fmt.Sprintf("||%shost%d.test^", []string{"", "", "", "www."}[i%4], i-i%2) + []string{"", "", "$important", "$dnstype=A"}[i%4]
		},
		"regexp": func(i int) string { return fmt.Sprintf(`^(www\.)?host%d\.test$`, i) },
		"v2fly":  func(i int) string { return []string{"", "full:", "domain:"}[i%3] + fmt.Sprintf("host%d.test @cn", i) },
		"rpz": func(i int) string {
			return fmt.Sprintf("%shost%d.test CNAME %s", []string{"", "*."}[i%2], i, []string{".", "*.", "rpz-drop.", "rpz-passthru."}[i%4])
		},
	} {
		s := sample{source: Source{Name: "l", Format: format}}
		for i := range 40 {
			s.lines = append(s.lines, line(i))
			s.ask = append(s.ask, fmt.Sprintf("host%d.test", i), fmt.Sprintf("www.host%d.test", i), fmt.Sprintf("x.www.host%d.test", i))
		}
		out = append(out, s)
	}
	for format, line := range map[string]string{"cidr": "192.0.%d.0/25", "dnsmasq": "bogus-nxdomain=192.0.%d.7", "rpz": "25.0.%d.0.192.rpz-ip CNAME ."} {
		s := sample{source: Source{Name: "l", Format: format}}
		for i := range 40 {
			s.lines = append(s.lines, fmt.Sprintf(line, i))
			s.ask = append(s.ask, fmt.Sprintf("192.0.%d.7", i), fmt.Sprintf("192.0.%d.200", i))
		}
		out = append(out, s)
	}
	return out
}

// read says what the list has, and what was found in it.
func (s *sample) read(t *testing.T, lines []string) (found string, stats Stats) {
	t.Helper()
	text := strings.NewReader(strings.Join(lines, "\n") + "\n")
	var b strings.Builder
	if _, err := netip.ParseAddr(s.ask[0]); err == nil {
		set, stats, err := s.source.Networks(text)
		if err != nil {
			t.Fatal(s.source.Format, err)
		}
		for _, a := range s.ask {
			p, _ := set.Lookup(netip.MustParseAddr(a))
			fmt.Fprintln(&b, a, p)
		}
		return b.String(), stats
	}
	set, stats, err := s.source.Names(text)
	if err != nil {
		t.Fatal(s.source.Format, err)
	}
	for _, n := range s.ask {
		m, _ := set.Lookup(n)
		fmt.Fprintln(&b, n, m.Name, m.Kind)
		for i := range set.Rules {
			if m, ok := set.Rules[i].Names.Lookup(n); ok {
				rule, _, _ := strings.Cut(set.Rules[i].String(m), " in line") // which moves
				fmt.Fprintln(&b, " ", rule)
			}
		}
	}
	return b.String(), stats
}

// Whatever stands between the lines of a list, wherever that is, changes
// nothing but what is counted as bad, and each such line is told by its number.
func TestGarbageLosesNothingElse(t *testing.T) {
	for _, s := range samples() {
		want, before := s.read(t, s.lines)
		if before.Bad != 0 || before.Entries < len(s.lines) {
			t.Fatalf("%s: %+v", s.source.Format, before)
		}
		for seed := range uint64(60) {
			r := rand.New(rand.NewPCG(seed, 3))
			lines, at := slices.Clone(s.lines), map[int]bool{}
			for range 1 + r.IntN(4) {
				lines = slices.Insert(lines, r.IntN(len(lines)+1), garbage[r.IntN(len(garbage))])
			}
			for i, line := range lines {
				if slices.Contains(garbage, line) {
					at[i+1] = true
				}
			}
			got, stats := s.read(t, lines)
			if got != want {
				t.Fatalf("%s, seed %d: with %q\n%s\nwithout\n%s", s.source.Format, seed, lines, got, want)
			}
			if stats.Entries != before.Entries || stats.Bad < len(at) {
				t.Fatalf("%s, seed %d: %d entries of %d, %d bad of %d lines in %q", s.source.Format, seed, stats.Entries, before.Entries, stats.Bad, len(at), lines)
			}
			for _, p := range stats.BadLines {
				if !at[p.Line] || p.Why == "" {
					t.Errorf("%s, seed %d: line %d is told: %s", s.source.Format, seed, p.Line, p.Why)
				}
			}
		}
	}
}

// A parenthesis that is never closed loses its own line, wherever it stands, and
// so does one that a later record closes.
func TestOpenParentheses(t *testing.T) {
	const record = "m.test CNAME (\n  .\n)"
	for _, text := range []string{
		"x (\na.test CNAME .\nb.test CNAME .", "x ((\ny (\na.test CNAME .\nz (\nb.test CNAME .", "a.test CNAME .\n(((\n(\nb.test CNAME .\n(",
		"x CNAME (\na.test CNAME .\n" + record + "\nb.test CNAME .", "x A (\na.test CNAME .\nb.test CNAME .\n" + record, "x A (\na.test CNAME .\nb.test CNAME .\n)",
		"x (\na.test CNAME .\n" + strings.Repeat("more.test CNAME .\n", 100) + "b.test CNAME .", strings.Repeat("(\n", 200) + "a.test CNAME .\nb.test CNAME .",
	} {
		set, stats, err := Names("rpz", strings.NewReader(text), "l")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a.test", "b.test"} {
			if _, ok := set.Lookup(name); !ok {
				t.Errorf("%q: %s is lost: %+v", text, name, stats)
			}
		}
		if stats.Bad == 0 || stats.BadLines[0].Line == 0 || !strings.Contains(stats.BadLines[0].Text, "(") {
			t.Errorf("%q: %+v", text, stats)
		}
	}
}

// The same of what a zone answers with.
func TestGarbageInAnswers(t *testing.T) {
	var lines []string
	for i := range 40 {
		lines = append(lines, fmt.Sprintf("host%d.test A 192.0.2.%d\n  TXT x%d", i, i, i))
	}
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 4))
		with := slices.Clone(lines)
		for range 1 + r.IntN(4) {
			with = slices.Insert(with, r.IntN(len(with)+1), garbage[r.IntN(len(garbage))])
		}
		a, stats, err := Source{Name: "l", Format: "rpz"}.Answers(strings.NewReader(strings.Join(with, "\n")))
		if err != nil || stats.Entries != 80 {
			t.Fatalf("seed %d: %+v, %v", seed, stats, err)
		}
		for i := range 40 {
			if got, want := says(a.Of(fmt.Sprintf("host%d.test", i))), fmt.Sprintf("[192.0.2.%d] [] [{16 x%d}] 0s", i, i); got != want {
				t.Fatalf("seed %d: host%d is %s, want %s in %q", seed, i, got, want, with)
			}
		}
	}
}

// Kinds are named as lists write them.
func TestKindsAreWritten(t *testing.T) {
	r := Rules{}
	for m, want := range map[match.Match]string{
		{Name: "a.test", Kind: match.Tree}: "||a.test^", {Name: "a.test", Kind: match.Under}: "||*.a.test^", {Name: "a.test", Kind: match.Exact}: "|a.test^",
	} {
		if got := r.String(m); got != want {
			t.Errorf("%v: %s, want %s", m, got, want)
		}
	}
}
