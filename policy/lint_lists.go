package policy

import (
	"io"
	"net/netip"
	"strings"
	"unicode"

	"github.com/starferry/starferry/policy/match"
)

// leaves calls f with all conditions of the policy.
func (p *Policy) leaves(f func(*cond)) {
	for i := range p.rules {
		if p.rules[i].when != nil {
			p.rules[i].when.each(f)
		}
	}
}

// A sampled is a list of which some members are known: its set does not tell them.
type sampled struct {
	info    *ListInfo
	names   []string // names that are in it, some
	addrs   []netip.Addr
	set     *match.Names
	nets    *match.Networks
	entries map[string]bool // its names, all; nil until wanted
}

const (
	maxSamples    = 3
	maxSampleText = 64 << 20
	maxEntries    = 200_000 // of lists that are compared name by name
)

// sample reads some members of a list.
func (l *linter) sample(p *Policy, info *ListInfo) {
	s := &sampled{info: info}
	p.leaves(func(c *cond) {
		if c.list() == info.Name {
			s.set, s.nets = c.names, c.nets
		}
	})
	l.lists[info.Name] = s
	l.words(s, func(word string) bool {
		if name := s.named(word); name != "" {
			s.names = append(s.names, name)
		}
		if p, err := prefix(word); err == nil && s.nets.Contains(p.Addr()) {
			s.addrs = append(s.addrs, p.Addr())
		}
		return len(s.names) < maxSamples && len(s.addrs) < maxSamples
	})
}

// named returns a name that the list has by a word of its file; "" for none.
func (s *sampled) named(word string) string {
	name, err := match.Clean(strings.TrimLeft(word, "*."))
	if err != nil || s.set == nil {
		return ""
	}
	for _, n := range []string{name, "www." + name} {
		if m, ok := s.set.Lookup(n); ok && m.Name == name {
			return n
		}
	}
	return ""
}

// words calls f with the words of the list's file that can be names or networks,
// whatever its format, until f returns false.
func (l *linter) words(s *sampled, f func(string) bool) {
	if l.open == nil || s.info.File == "" || s.set == nil && s.nets == nil {
		return
	}
	file, err := l.open(s.info.File)
	if err != nil {
		return // there are no examples, then
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxSampleText))
	if err != nil {
		return
	}
	apart := func(r rune) bool {
		return !(unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r) || strings.ContainsRune("-_.:/*", r))
	}
	for _, line := range strings.Split(string(text), "\n") {
		if f := strings.TrimSpace(line); f == "" || strings.ContainsRune("#!;", rune(f[0])) {
			continue
		}
		for _, word := range strings.FieldsFunc(line, apart) {
			for _, w := range append(strings.Split(word, "/"), word) {
				if w != "" && !f(w) {
					return
				}
			}
		}
	}
}

// all returns all names of a list; false if not all are known, or if they do
// not tell all of what it covers.
func (l *linter) all(list string) (map[string]bool, *match.Names, bool) {
	s := l.lists[list]
	if s == nil || s.set == nil || s.info.Entries > maxEntries || !s.set.Plain() {
		return nil, nil, false
	}
	if s.entries == nil {
		s.entries = map[string]bool{}
		l.words(s, func(word string) bool {
			if name := s.named(word); name != "" {
				m, _ := s.set.Lookup(name)
				s.entries[m.Name] = true
			}
			return true
		})
	}
	return s.entries, s.set, len(s.entries) == s.set.Len()
}

// list returns the name of the list that a condition looks into, if any: what
// is excepted from a list is not in it.
func (c *cond) list() string {
	switch {
	case c.excepts():
		return ""
	case c.op == opName && c.entries == nil && len(c.words) == 1:
		return c.words[0]
	case (c.op == opNetwork || c.op == opSource) && len(c.words) == 0:
		return strings.TrimPrefix(c.text, "in list ")
	}
	return ""
}
