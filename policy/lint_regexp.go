package policy

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/starferry/starferry/policy/match"
)

// A deadBranch is a part of a regular expression that no name can match.
type deadBranch struct {
	part string // of the expression
	why  string
	hint string
}

// deadBranches returns the alternatives of an expression, in groups too, that
// match no name because of a character that no name has, or has not there: a bar
// that is escaped, spaces of a word "or" that was meant as an alternative, a dot
// at the beginning of what is to be the whole name. If all of it matches none,
// the expression itself is the only one.
func deadBranches(expr string) (out []deadBranch) {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil // a mistake of its own
	}
	if why, ok := lifeless(re, true, true); ok {
		why.part = expr
		return []deadBranch{why}
	}
	branch(re, true, true, func(re *syntax.Regexp, first, last bool) {
		if b, ok := lifeless(re, first, last); ok {
			b.part = strings.TrimSuffix(strings.TrimPrefix(re.String(), "(?-s:"), ")")
			out = append(out, b)
		}
	})
	return out
}

// branch calls f with the alternatives of an expression, and whether the name
// begins and ends with them. Those of an alternative that f has got are its own.
func branch(re *syntax.Regexp, first, last bool, f func(re *syntax.Regexp, first, last bool)) {
	switch re.Op {
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			f(sub, first, last)
			if _, ok := lifeless(sub, first, last); !ok {
				branch(sub, first, last, f)
			}
		}
	case syntax.OpConcat:
		ends := slices.IndexFunc(re.Sub, hasWidth)
		for i, sub := range re.Sub {
			branch(sub, first && i <= max(ends, 0), last && i == len(re.Sub)-1, f)
		}
	default:
		once := re.Op == syntax.OpCapture || re.Op == syntax.OpQuest
		for _, sub := range re.Sub {
			branch(sub, first && once, last && once, f)
		}
	}
}

// lifeless returns why an expression matches nothing in a name, if so.
func lifeless(re *syntax.Regexp, first, last bool) (deadBranch, bool) {
	if r, ok := strange(re); ok {
		return dead(r), true
	}
	switch {
	case first && dotted(re, false):
		return deadBranch{why: "no name begins with a dot", hint: "the expression is of the whole name: begin it with .*"}, true
	case last && dotted(re, true):
		return deadBranch{why: "names are looked at without their final dot", hint: "leave the dot at the end out"}, true
	}
	return deadBranch{}, false
}

// hasWidth reports whether what an expression matches may be longer than nothing.
func hasWidth(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpBeginText, syntax.OpEndText, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpEmptyMatch:
		return false
	}
	return true
}

// dotted reports whether all that an expression matches begins, or ends, with a dot.
func dotted(re *syntax.Regexp, end bool) bool {
	switch re.Op {
	case syntax.OpLiteral:
		if end {
			return re.Rune[len(re.Rune)-1] == '.'
		}
		return re.Rune[0] == '.'
	case syntax.OpCapture, syntax.OpPlus:
		return dotted(re.Sub[0], end)
	case syntax.OpRepeat:
		return re.Min > 0 && dotted(re.Sub[0], end)
	case syntax.OpAlternate:
		return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !dotted(sub, end) })
	case syntax.OpConcat:
		subs := slices.DeleteFunc(slices.Clone(re.Sub), func(sub *syntax.Regexp) bool { return !hasWidth(sub) })
		switch {
		case len(subs) == 0:
			return false
		case end:
			return dotted(subs[len(subs)-1], end)
		}
		return dotted(subs[0], end)
	}
	return false
}

// strange returns a character that all that the expression matches has and no
// name does.
func strange(re *syntax.Regexp) (rune, bool) {
	switch re.Op {
	case syntax.OpLiteral:
		for _, r := range re.Rune {
			if !nameRune(r, re.Flags&syntax.FoldCase != 0) {
				return r, true
			}
		}
	case syntax.OpCharClass:
		for i := 0; i < len(re.Rune); i += 2 {
			for r := re.Rune[i]; r <= re.Rune[i+1] && r <= 'z'; r++ {
				if nameRune(r, false) {
					return 0, false
				}
			}
		}
		if len(re.Rune) > 0 {
			return re.Rune[0], true
		}
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			if r, ok := strange(sub); ok {
				return r, true
			}
		}
	case syntax.OpCapture, syntax.OpPlus:
		return strange(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return strange(re.Sub[0])
		}
	case syntax.OpAlternate:
		return strangeAll(re.Sub)
	}
	return 0, false
}

func strangeAll(subs []*syntax.Regexp) (r rune, ok bool) {
	for _, sub := range subs {
		if r, ok = strange(sub); !ok {
			return 0, false
		}
	}
	return r, ok
}

// nameRune reports whether a name can have the character; where case is folded,
// also in upper case.
func nameRune(r rune, fold bool) bool {
	if fold && r >= 'A' && r <= 'Z' {
		r += 'a' - 'A'
	}
	return r == '.' || r < 0x80 && strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-_", r)
}

// dead is a branch with a character that no name has.
func dead(r rune) (d deadBranch) {
	switch {
	case r == '|':
		d.why, d.hint = `an escaped bar is a character, and no name has one`, `write | without the backslash to mean "or"`
	case r == ' ':
		d.why, d.hint = `no name has a space`, `"or" is written |, without spaces`
	case r == '\\':
		d.why, d.hint = `no name has a backslash`, `write one before what it escapes, and none before a | that means "or"`
	case r >= 'A' && r <= 'Z':
		d.why, d.hint = `names are compared in lower case`, `write it in lower case`
	default:
		d.why, d.hint = "no name has "+string(r), "names have letters, digits, hyphens, underscores and dots"
	}
	return d
}

// regexp returns the regular expression of a condition on names; "" if it has none.
func (c *cond) regexp() string {
	if sights[c.op] != atName || c.op == opName {
		return ""
	}
	return strings.TrimPrefix(c.text, "like ")
}

// dead finds expressions of which a part matches no name.
func (l *linter) dead(r *Rule) {
	r.when.each(func(c *cond) {
		for _, b := range deadBranches(c.regexp()) {
			q, ok := l.search([]*Rule{r}, func(q *Query, d *Decision) bool {
				return d.Rule != r && c.truthFor(l.policy, q) == No && slices.Contains(meant(c.regexp()), q.Name)
			})
			if ok {
				l.find(r, DeadBranch, q, l.show(r, q), b.hint, `"%s" matches no name: %s`, b.part, b.why)
			}
		}
	})
}

// meant returns names that an expression was meant for, if its bars were
// escaped, or written as the word "or", by mistake, or if it was to match
// anywhere in them.
func meant(expr string) []string {
	fixed := strings.NewReplacer(" or ", "|", `\\.`, `\.`, `\\|`, "|", `\|`, "|", " ", "").Replace(expr)
	return namesLike(fixed, fixed)
}

// matched returns some names that an expression matches.
func matched(expr string) []string { return namesLike(expr, `\A(?:`+expr+`)\z`) }

// namesLike returns names made of what an expression says that pattern matches.
func namesLike(expr, pattern string) (out []string) {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil
	}
	like, err := regexp.Compile(pattern)
	if err != nil {
		return nil
	}
	for _, s := range texts(re) {
		for _, name := range []string{s, "www" + s, "www." + s, s + "example", "www" + s + ".example", s + ".example"} {
			if clean, err := match.Clean(name); err == nil && clean == name && like.MatchString(name) {
				out = append(out, name)
				break
			}
		}
	}
	return out
}

// maxTexts bounds how many texts of an expression are made.
const maxTexts = 8

// texts returns short texts that an expression matches, one of each alternative.
func texts(re *syntax.Regexp) []string {
	switch re.Op {
	case syntax.OpLiteral:
		return []string{strings.ToLower(string(re.Rune))}
	case syntax.OpCharClass:
		for i := 0; i < len(re.Rune); i += 2 {
			for r := re.Rune[i]; r <= re.Rune[i+1] && r <= 'z'; r++ {
				if nameRune(r, false) {
					return []string{string(r)}
				}
			}
		}
		return nil
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return []string{"x"}
	case syntax.OpCapture, syntax.OpPlus:
		return texts(re.Sub[0])
	case syntax.OpRepeat:
		var out []string
		for _, t := range texts(re.Sub[0]) {
			out = append(out, strings.Repeat(t, min(re.Min, 64)))
		}
		return out
	case syntax.OpConcat:
		return joined(re.Sub)
	case syntax.OpAlternate:
		var out []string
		for _, sub := range re.Sub {
			out = append(out, texts(sub)...)
		}
		return out[:min(len(out), maxTexts)]
	case syntax.OpNoMatch:
		return nil
	}
	return []string{""} // what may be left out, and what stands between characters
}

// joined returns the texts of expressions that follow one another.
func joined(subs []*syntax.Regexp) []string {
	out := []string{""}
	for _, sub := range subs {
		var next []string
		for _, t := range texts(sub) {
			for _, before := range out {
				if s := before + t; len(s) < 256 { // no name is longer
					next = append(next, s)
				}
			}
		}
		out = next[:min(len(next), maxTexts)]
	}
	return out
}
