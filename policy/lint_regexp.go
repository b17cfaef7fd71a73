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

// deadBranches returns the alternatives of an expression that match no name
// because of a character that no name has: a bar that is escaped, spaces of a
// word "or" that was meant as an alternative. The expression itself is one if
// it has no others.
func deadBranches(expr string) (out []deadBranch) {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil // a mistake of its own
	}
	branches := []*syntax.Regexp{re}
	if re.Op == syntax.OpAlternate {
		branches = re.Sub
	}
	for _, b := range branches {
		if r, ok := strange(b); ok {
			out = append(out, dead(b, r))
		}
	}
	return out
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

func dead(re *syntax.Regexp, r rune) deadBranch {
	d := deadBranch{part: re.String()}
	switch {
	case r == '|':
		d.why, d.hint = `an escaped bar is a character, and no name has one`, `write | without the backslash to mean "or"`
	case r == ' ':
		d.why, d.hint = `no name has a space`, `"or" is written |, without spaces`
	case r == '\\':
		d.why, d.hint = `no name has a backslash`, `one backslash escapes: write it once`
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
				l.find(r, DeadBranch, q, l.show(r, q), b.hint, "%q matches no name: %s", b.part, b.why)
			}
		}
	})
}

// meant returns names that an expression was meant for, if its bars were
// escaped, or written as the word "or", by mistake.
func meant(expr string) (out []string) {
	fixed := strings.NewReplacer(" or ", "|", `\\.`, `\.`, `\\|`, "|", `\|`, "|", " ", "").Replace(expr)
	return matched(fixed)
}

// matched returns some names that an expression matches.
func matched(expr string) (out []string) {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil
	}
	whole, err := regexp.Compile(`\A(?:` + expr + `)\z`)
	if err != nil {
		return nil
	}
	for _, s := range texts(re) {
		for _, name := range []string{s, "www" + s, "www." + s, s + "example", "www" + s + ".example", s + ".example"} {
			if clean, err := match.Clean(name); err == nil && clean == name && (whole.MatchString(name)) {
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
