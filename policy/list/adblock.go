package list

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/starferry/starferry/policy/match"
)

// maxRules bounds into how many sets the modifiers of a list divide it: each is
// looked into for each name.
const maxRules = 64

// maxNoted bounds of how many rules with modifiers a list keeps the lines.
const maxNoted = 10_000

// A rule is one line, taken apart.
type rule struct {
	pattern   []byte
	excepts   bool
	important bool
	off       bool     // takes out the same rule without this modifier (badfilter)
	but       []string // names that it does not cover (denyallow)
	scope     Scope    // for which questions it is (dnstype), and whose (client)
}

// adblockLine reads that part of the adblock syntax that is for DNS, as AdGuard
// describes it: rules for names and all under them (||), for names alone (|),
// and regular expressions, with exceptions (@@).
//
// Half of a rule would block more than its author meant, so one with a modifier
// that is not known is left out whole.
func adblockLine(line []byte, to *collector) error {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] == '!' || line[0] == '#' || line[0] == '[' {
		return nil
	}
	if isCosmetic(line) {
		return beyond("a rule for parts of pages")
	}
	r, err := parseRule(line)
	if err != nil {
		return err
	}
	if expr, ok := expression(r.pattern); ok {
		return r.addRegexp(expr, to)
	}
	kind, name, err := r.name()
	if err != nil {
		return err
	}
	return r.add(kind, name, to)
}

func isCosmetic(line []byte) bool {
	for _, mark := range []string{"##", "#@#", "#?#", "#$#", "#%#", "$$"} {
		if bytes.Contains(line, []byte(mark)) {
			return line[0] != '/'
		}
	}
	return false
}

func parseRule(line []byte) (r rule, err error) {
	r.pattern, r.excepts = bytes.CutPrefix(line, []byte("@@"))
	if _, ok := expression(r.pattern); ok {
		return r, nil
	}
	end := bytes.IndexByte(r.pattern, '$')
	if bytes.HasPrefix(r.pattern, []byte("/")) { // other dollars may belong to the expression
		if end = bytes.LastIndex(r.pattern, []byte("/$")); end >= 0 {
			end++
		}
	}
	if end < 0 {
		return r, nil
	}
	options := r.pattern[end+1:]
	r.pattern = r.pattern[:end]
	for _, o := range apart(options, ',') {
		if err := r.option(o); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (r *rule) option(text []byte) error {
	key, value, _ := bytes.Cut(bytes.TrimSpace(text), []byte("="))
	switch string(key) {
	case "important":
		r.important = true
	case "badfilter":
		r.off = true
	case "denyallow":
		for name := range bytes.SplitSeq(value, []byte("|")) {
			clean, err := match.Clean(string(name))
			if err != nil {
				return err
			}
			r.but = append(r.but, clean)
		}
	case "dnstype":
		return r.scope.readTypes(value)
	case "client":
		return r.scope.readClients(value)
	default:
		return beyond("the modifier " + clip(key))
	}
	return nil
}

// expression returns the regular expression that a pattern is.
func expression(pattern []byte) ([]byte, bool) {
	if len(pattern) < 3 || pattern[0] != '/' || pattern[len(pattern)-1] != '/' {
		return nil, false
	}
	return pattern[1 : len(pattern)-1], true
}

// name returns the names that a pattern covers.
func (r *rule) name() (match.Kind, []byte, error) {
	kind := match.Tree
	name, ok := bytes.CutPrefix(r.pattern, []byte("||"))
	if !ok {
		kind = match.Exact
		if name, ok = bytes.CutPrefix(r.pattern, []byte("|")); !ok {
			if bytes.IndexByte(r.pattern, '*') >= 0 {
				return 0, nil, beyond("a wildcard within a name")
			}
			return 0, nil, errors.New("not of the form ||name^")
		}
	}
	if rest, ok := bytes.CutPrefix(name, []byte("*.")); ok && kind == match.Tree {
		kind, name = match.Under, rest
	}
	name, after, ends := bytes.Cut(name, []byte("^"))
	switch {
	case bytes.IndexByte(name, '*') >= 0:
		return 0, nil, beyond("a wildcard within a name")
	case !ends || len(after) > 0 && string(after) != "|":
		return 0, nil, beyond("a part of a name (no ^ at its end)")
	}
	return kind, name, nil
}

// add adds a rule for names, or takes it out.
func (r *rule) add(kind match.Kind, name []byte, to *collector) error {
	set, err := to.ruled(r)
	switch {
	case err != nil:
		return err
	case !r.off && !r.excepts:
		return to.addTo(set, kind, name)
	}
	key, err := match.KeyOf(name)
	if err != nil {
		return err
	}
	if !r.off && to.isWide(kind, key) {
		to.wideException(r, kind, name)
		if to.stats.left {
			return nil
		}
	}
	to.stats.Entries++
	if r.off {
		set.Drop(kind, key)
		return nil
	}
	return set.AddKey(kind, key)
}

func (r *rule) addRegexp(expr []byte, to *collector) error {
	if r.off {
		return beyond("badfilter for a regular expression")
	}
	set, err := to.ruled(r)
	if err != nil {
		return err
	}
	return to.pattern(set.AddRegexp(string(expr)))
}

// ruled returns the set of the rules that have the modifiers of this one.
func (c *collector) ruled(r *rule) (*match.NamesBuilder, error) {
	if !r.excepts && !r.important && r.but == nil && r.scope.Empty() {
		return &c.names, nil
	}
	slices.Sort(r.but)
	r.but = slices.Compact(r.but)
	k := strings.Join(r.but, "|") + " " + r.scope.String()
	if r.excepts {
		k += "@"
	}
	if r.important {
		k += "!"
	}
	set := c.rules[k]
	if set == nil {
		if len(c.rules) >= maxRules {
			return nil, beyond("a modifier with so many different values")
		}
		set = &rules{excepts: r.excepts, important: r.important, scope: r.scope}
		set.Apart = true
		for _, name := range r.but {
			if err := set.but.AddKind(match.Tree, name); err != nil {
				return nil, err
			}
		}
		if c.rules == nil {
			c.rules = map[string]*rules{}
		}
		c.rules[k] = set
	}
	if !r.off && !r.scope.Empty() {
		c.note(set, r.pattern)
	}
	return &set.NamesBuilder, nil
}

// note keeps in which line of the list a rule stands that is not for all.
func (c *collector) note(set *rules, pattern []byte) {
	if c.noted >= maxNoted || c.stats.line == 0 {
		return
	}
	what := string(pattern)
	if _, is := expression(pattern); !is {
		name := bytes.TrimPrefix(bytes.TrimLeft(pattern, "|"), []byte("*."))
		name, _, _ = bytes.Cut(name, []byte("^"))
		clean, err := match.Clean(string(name))
		if err != nil {
			return
		}
		what = clean
	}
	if set.lines == nil {
		set.lines = map[string]int{}
	}
	if _, have := set.lines[what]; !have {
		set.lines[what] = c.stats.line
		c.noted++
	}
}
