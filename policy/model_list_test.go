package policy_test

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/starferry/starferry/policy"
)

// A modelFilter is one rule of a list in adblock's syntax.
type modelFilter struct {
	name                    string
	alone                   bool // |name^
	excepts, important, off bool
	types, clients          []string // with ~ before those that are not meant
}

func someOf(r *rand.Rand, from []string) (out []string) {
	if r.IntN(2) > 0 {
		return nil
	}
	for range 1 + r.IntN(2) {
		out = append(out, pick(r, []string{"", "", "~"})+pick(r, from))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func randomFilters(r *rand.Rand) (out []modelFilter) {
	for range 1 + r.IntN(6) {
		out = append(out, modelFilter{
			name: pick(r, append([]string{"test", "a.test", "com"}, modelNames...)), alone: r.IntN(4) == 0,
			excepts: r.IntN(4) == 0, important: r.IntN(4) == 0,
			types: someOf(r, []string{"A", "AAAA", "TXT", "HTTPS"}), clients: someOf(r, []string{"u1", "u2", "staff", "lab", "100.72.0.0/16", "192.168.1.1"}),
		})
		if last := out[len(out)-1]; r.IntN(8) == 0 {
			last.off = true
			out = append(out, last)
		}
	}
	return out
}

// String writes the rule as a list does.
func (f modelFilter) String() string {
	s := "||" + f.name + "^"
	if f.alone {
		s = s[1:]
	}
	if f.excepts {
		s = "@@" + s
	}
	var options []string
	for _, o := range []struct {
		on   bool
		text string
	}{{f.important, "important"}, {f.off, "badfilter"}, {f.types != nil, "dnstype=" + strings.Join(f.types, "|")}, {f.clients != nil, "client=" + strings.Join(f.clients, "|")}} {
		if o.on {
			options = append(options, o.text)
		}
	}
	if options != nil {
		s += "$" + strings.Join(options, ",")
	}
	return s
}

func (f modelFilter) same(g modelFilter) bool {
	return f.name == g.name && f.alone == g.alone && f.excepts == g.excepts && f.important == g.important && slices.Equal(f.types, g.types) && slices.Equal(f.clients, g.clients)
}

// among is the truth of being one of the words, and of being none of those with ~.
func (f modelFilter) among(words []string, is func(w string, not bool) truth) truth {
	t, meant := isTrue, isFalse
	all := true
	for _, w := range words {
		if rest, not := strings.CutPrefix(w, "~"); not {
			t = min(t, isTrue-is(rest, true))
		} else {
			meant, all = max(meant, is(w, false)), false
		}
	}
	if all {
		return t
	}
	return min(t, meant)
}

// is the truth that the rule is for a name and a question.
func (f modelFilter) is(q *policy.Query, name string) truth {
	if name != f.name && (f.alone || !under(name, f.name)) {
		return isFalse
	}
	byType := f.among(f.types, func(w string, _ bool) truth {
		return yes(map[string]uint16{"A": 1, "AAAA": 28, "TXT": 16, "HTTPS": 65}[w] == q.Type)
	})
	return min(byType, f.among(f.clients, func(w string, not bool) truth {
		if w[0] == '1' {
			switch src := q.Asker.Source; {
			case !src.IsValid() && !f.excepts:
				return isUnknown
			case !src.IsValid(): // an exception that may be for somebody else is none
				return yes(not)
			case strings.Contains(w, "/"):
				return yes(netip.MustParsePrefix(w).Contains(src))
			default:
				return yes(w == src.String())
			}
		}
		d := q.Asker.Device
		return yes(d != nil && (string(d.ID) == w || slices.Contains(d.Groups, w)))
	}))
}

// filtered is the truth that a list of these rules has a name, for a question.
func filtered(filters []modelFilter, q *policy.Query, name string) truth {
	var in, out, important, most truth
	for _, f := range filters {
		if f.off || slices.ContainsFunc(filters, func(g modelFilter) bool { return g.off && g.same(f) }) {
			continue
		}
		to := &in
		switch {
		case f.excepts && f.important:
			to = &most
		case f.important:
			to = &important
		case f.excepts:
			to = &out
		}
		*to = max(*to, f.is(q, name))
	}
	return min(isTrue-most, max(important, min(in, isTrue-out)))
}

// fileOf is a file of these rules: its name says what is in it.
func fileOf(filters []modelFilter) string {
	var text strings.Builder
	for _, f := range filters {
		fmt.Fprintln(&text, f)
	}
	return "rules-" + hex.EncodeToString([]byte(text.String()))
}

// filtered tells a condition what is in the list of rules.
func (c *modelCond) filtered(filters []modelFilter) {
	if c == nil {
		return
	}
	c.filters = filters
	for i := range c.kids {
		c.kids[i].filtered(filters)
	}
}
