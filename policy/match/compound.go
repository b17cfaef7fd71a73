package match

import (
	"fmt"
	"regexp"
	"strings"
)

// A compound is what a set is made of that has no entries of its own.
type compound struct {
	parts   []*Names // what one of them covers, the set covers
	less    *Names   // but for what this covers
	closest bool     // where it is at least as close to the name as what covers that
}

// Union returns a set that covers what one of the sets covers.
func Union(sets ...*Names) *Names {
	var parts []*Names
	for _, s := range sets {
		if s.Len() > 0 {
			parts = append(parts, s)
		}
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return &Names{of: &compound{parts: parts}}
}

// Without returns a set that covers what n does, but for what out covers,
// however wide that is.
func (n *Names) Without(out *Names) *Names { return n.without(out, false) }

// WithoutCloser returns a set that covers what n does, but for names which out
// covers by an entry that is as close to the name as that of n, or closer: in
// response policy zones, and for dnsmasq, the longer name counts.
func (n *Names) WithoutCloser(out *Names) *Names { return n.without(out, true) }

func (n *Names) without(out *Names, closest bool) *Names {
	if out.Len() == 0 || n.Len() == 0 {
		return n
	}
	return &Names{of: &compound{parts: []*Names{n}, less: out, closest: closest}}
}

func (c *compound) lookup(h *Hashes) (Match, bool) {
	var in Match
	found := false
	for _, p := range c.parts {
		if m, ok := p.LookupHashes(h); ok && (!found || len(m.Name) > len(in.Name)) {
			in, found = m, true
		}
	}
	if !found || c.less == nil {
		return in, found
	}
	if out, ok := c.less.LookupHashes(h); ok && (!c.closest || len(out.Name) >= len(in.Name)) {
		return Match{}, false
	}
	return in, true
}

// leaves passes to each all sets with entries that the set is made of, those
// that are taken out included.
func (n *Names) leaves(each func(*Names)) {
	switch {
	case n == nil:
	case n.of == nil:
		each(n)
	default:
		for _, p := range n.of.parts {
			p.leaves(each)
		}
		n.of.less.leaves(each)
	}
}

// MaxPatterns is how many keywords and regular expressions a set may have: each
// is tried for each name that no entry covers.
const MaxPatterns = 1000

// A pattern covers names by what they look like: those that hold the keyword or,
// if there is one, that the expression matches.
type pattern struct {
	keyword string // with an expression, its text
	expr    *regexp.Regexp
}

func (p *pattern) covers(name string) bool {
	if p.expr != nil {
		return p.expr.MatchString(name)
	}
	return strings.Contains(name, p.keyword)
}

// AddKeyword adds an entry for all names that hold the text.
func (b *NamesBuilder) AddKeyword(text string) error {
	text = strings.ToLower(text)
	for i := range len(text) {
		if c := text[i]; c != '.' && !inLabel(c) {
			return fmt.Errorf("the keyword %q holds %q, as no name does", text, c)
		}
	}
	if text == "" || text == "." {
		return fmt.Errorf("the keyword %q is in every name", text)
	}
	return b.addPattern(pattern{keyword: text})
}

// maxExpr bounds the text of a regular expression, and with it the time that it takes.
const maxExpr = 1000

// AddRegexp adds an entry for all names that the regular expression (RE2)
// matches, wherever in the name that is. Case does not count.
func (b *NamesBuilder) AddRegexp(expr string) error {
	if len(expr) > maxExpr {
		return fmt.Errorf("a regular expression of more than %d bytes", maxExpr)
	}
	re, err := regexp.Compile("(?i)" + expr)
	if err != nil {
		return fmt.Errorf("%q is no regular expression (RE2): %w", expr, err)
	}
	if matchesAll(re) {
		return fmt.Errorf("the regular expression %q matches every name", expr)
	}
	return b.addPattern(pattern{expr: re, keyword: expr})
}

// matchesAll reports whether the expression matches names that have nothing in
// common.
func matchesAll(re *regexp.Regexp) bool {
	for _, name := range []string{"a", "7q", "x_y", "kj.z", "0-9.b1.c2"} {
		if !re.MatchString(name) {
			return false
		}
	}
	return true
}

func (b *NamesBuilder) addPattern(p pattern) error {
	if len(b.patterns) >= MaxPatterns {
		return fmt.Errorf("more than %d keywords and regular expressions", MaxPatterns)
	}
	b.patterns = append(b.patterns, p)
	return nil
}

// drop takes out the entries that are to be dropped.
func (b *NamesBuilder) drop() {
	kept := 0
	for i := range b.entries.len {
		e := *b.entries.at(i)
		if !b.dropped[e] {
			*b.entries.at(kept) = e
			kept++
		}
	}
	if kept == 0 {
		b.entries, b.depths = entries{}, depths{}
		return
	}
	b.entries.cut(kept)
}

// String returns the pattern as lists write it.
func (p *pattern) String() string {
	if p.expr != nil {
		return "/" + p.keyword + "/"
	}
	return "keyword:" + p.keyword
}
