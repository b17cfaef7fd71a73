package policy

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy/match"
)

// maxSearch bounds how many questions are tried for an example.
const maxSearch = 20_000

// A candidates are values to make questions of: those that the conditions of a
// policy speak of, and others.
type candidates struct {
	names   []string
	types   []uint16
	askers  []Asker
	answers [][]netip.Addr
}

// search returns the first question made of what the policy speaks of that is
// accepted, with the answer known.
func (l *linter) search(r *Rule, accept func(*Query, *Decision) bool) (*Query, bool) {
	c := l.candidates(r)
	tried := 0
	for _, t := range c.types {
		for _, name := range c.names {
			for _, addrs := range c.answers {
				for i := range c.askers {
					if tried++; tried > maxSearch {
						return nil, false
					}
					q := &Query{Name: name, Type: t, Asker: c.askers[i], Answered: true, Answer: []Hop{{Name: name, Addrs: addrs}}, Now: l.now}
					if d := l.policy.Decide(q); accept(q, &d) {
						return q, true
					}
				}
			}
		}
	}
	return nil, false
}

func (l *linter) candidates(r *Rule) (c candidates) {
	c.names, c.types = []string{"www.example.com"}, []uint16{typeNumbers["A"]}
	c.answers = [][]netip.Addr{nil}
	who := whoever{words: map[op][]string{}, kinds: []device.Kind{device.ByWireGuard, device.ByNetwork, device.ByToken, device.Unidentified}}
	r.when.each(func(leaf *cond) {
		switch leaf.op {
		case opType:
			c.types = append(c.types, leaf.types...)
		case opCountry, opNetwork:
			for _, a := range l.addrsOf(leaf) {
				c.answers = append(c.answers, []netip.Addr{a})
			}
		case opSource:
			who.sources = append(who.sources, edges([]*cond{leaf})[2:]...)
		case opKind:
			who.kinds = append(who.kinds, leaf.kinds...)
		case opPosture:
			who.profiles = append(who.profiles, leaf.profile)
		case opGroup, opDevice:
			who.words[leaf.op] = append(who.words[leaf.op], leaf.words...)
		}
		c.names = append(c.names, l.namesOf(leaf)...)
	})
	if d := r.demands; d != nil {
		who.words[opGroup] = append(who.words[opGroup], d.groups...)
		who.words[opDevice] = append(who.words[opDevice], d.devices...)
		who.profiles = append(who.profiles, d.profiles...)
	}
	c.answers = append(c.answers, []netip.Addr{elsewhere})
	c.askers = who.askers()
	return c
}

// namesOf returns names that a condition is true of.
func (l *linter) namesOf(c *cond) (out []string) {
	for _, e := range c.entries {
		if e.kind&match.Exact != 0 {
			out = append(out, e.name)
		}
		if e.kind&(match.One|match.Under) != 0 {
			out = append(out, "www."+e.name)
		}
	}
	if s := l.lists[c.list()]; s != nil {
		out = append(out, s.names...)
	}
	if expr := c.regexp(); expr != "" {
		out = append(append(out, matched(expr)...), meant(expr)...)
	}
	return out
}

// addrsOf returns addresses that a condition is true of.
func (l *linter) addrsOf(c *cond) (out []netip.Addr) {
	for _, w := range c.words {
		if p, err := netip.ParsePrefix(w); err == nil && c.op == opNetwork {
			out = append(out, p.Addr())
		}
	}
	for a, code := range l.places {
		if c.op == opCountry && slices.Contains(c.words, code) {
			out = append(out, a)
		}
	}
	if s := l.lists[c.list()]; s != nil {
		out = append(out, s.addrs...)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// list returns the name of the list that a condition looks into, if any.
func (c *cond) list() string {
	name, ok := strings.CutPrefix(c.text, "in list ")
	if !ok || c.op != opName && c.op != opNetwork || len(c.entries) > 0 || len(c.words) > 0 && c.words[0] != name {
		return ""
	}
	return name
}

// whoever is what conditions say of who asks.
type whoever struct {
	words    map[op][]string // groups and devices
	kinds    []device.Kind
	profiles []string
	sources  []netip.Addr
}

// askers returns somebody of each sort.
func (w *whoever) askers() (out []Asker) {
	groups := set(w.words[opGroup])
	var devices []*device.Device
	add := func(id string, groups []string) {
		devices = append(devices, &device.Device{ID: device.ID(id), Groups: groups})
	}
	add("somebody", groups)
	for _, g := range groups {
		add("somebody", []string{g})
	}
	for _, id := range set(w.words[opDevice]) {
		add(id, groups)
	}
	add("somebody", nil)
	results := []posture.Result{posture.Passed}
	if len(w.profiles) > 0 {
		results = append(results, posture.Failed, posture.Unknown)
	}
	var kinds []device.Kind
	for _, k := range w.kinds {
		if !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	sources := append([]netip.Addr{{}}, w.sources...)
	for _, k := range kinds {
		for _, d := range devices {
			for _, src := range sources {
				for _, r := range results {
					a := Asker{Device: d, Kind: k, Source: src, Verdicts: posture.Verdicts{}}
					for _, p := range w.profiles {
						a.Verdicts[p] = assumedVerdict(r)
					}
					out = append(out, a)
				}
			}
		}
	}
	return append(out, Asker{})
}

// elsewhere is an address of nobody's list (RFC 5737).
var elsewhere = netip.MustParseAddr("192.0.2.1")

// truthFor is the truth of a condition at the asked name.
func (c *cond) truthFor(p *Policy, q *Query) Truth {
	at := spot{q.hop(0), q.alias(0)}
	s := scene{q: q, at: &at, until: new(time.Time), filter: p.filter, hashes: new(match.Hashes)}
	if !q.Answered {
		s.open = atAnswer
	}
	return c.eval(&s)
}

// prepare draws samples of the lists, and makes the policy decide by invented
// addresses of each country.
func (l *linter) prepare(p *Policy) {
	l.places = map[netip.Addr]string{}
	for i := range p.lists {
		l.sample(p, &p.lists[i])
	}
	byCode := map[string]netip.Addr{}
	given := []netip.Addr{elsewhere}
	p.leaves(func(c *cond) {
		switch c.op {
		case opCountry:
			for _, code := range c.words {
				if !byCode[code].IsValid() {
					byCode[code] = invented(len(byCode))
					l.places[byCode[code]] = code
				}
			}
		case opNetwork:
			given = append(given, l.addrsOf(c)...)
		}
	})
	var err error
	if l.policy, err = p.assuming(byCode, given); err != nil {
		l.policy = p
	}
}

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

// all returns all names of a list; false if not all are known.
func (l *linter) all(list string) (map[string]bool, *match.Names, bool) {
	s := l.lists[list]
	if s == nil || s.set == nil || s.info.Entries > maxEntries {
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

// disjoint reports whether it is proven that no name is in both lists: of two
// names that are each in one of the lists, and cover one name, one is under the
// other or both cover what is one label below the same name.
func (l *linter) disjoint(c, d *cond) bool {
	a, inA, okA := l.all(c.list())
	b, inB, okB := l.all(d.list())
	if !okA || !okB {
		return false
	}
	apart := func(names map[string]bool, in *match.Names) bool {
		for n := range names {
			for _, s := range []string{n, someLabel + "." + n, someLabel + "." + otherLabel + "." + n} {
				if _, ok := in.Lookup(s); ok {
					return false
				}
			}
		}
		return true
	}
	return apart(a, inB) && apart(b, inA)
}

// show tells a question and what becomes of it.
func (l *linter) show(q *Query) string {
	d := l.policy.Decide(q)
	return l.describe(q) + ": " + d.told()
}

func (l *linter) describe(q *Query) string {
	s := q.Name + " " + typeName(q.Type)
	a := &q.Asker
	switch {
	case a.Device == nil:
		s += ", by nobody that is known"
	case len(a.Device.Groups) > 0:
		s += fmt.Sprintf(", by %s in group %s", a.Device.ID, strings.Join(a.Device.Groups, " and "))
	default:
		s += ", by " + string(a.Device.ID)
	}
	s += fmt.Sprintf(" (%v)", a.Kind)
	for _, p := range l.policy.profiles {
		if v, ok := a.Verdicts[p.Name]; ok {
			s += fmt.Sprintf(", posture %s %v", p.Name, v.Result)
		}
	}
	if a.Source.IsValid() {
		s += fmt.Sprintf(", from %v", a.Source)
	}
	for _, h := range q.Answer {
		for _, addr := range h.Addrs {
			if code := l.places[addr]; code != "" {
				s += ", answer in " + code
			} else {
				s += fmt.Sprintf(", answer %v", addr)
			}
		}
	}
	return s
}
