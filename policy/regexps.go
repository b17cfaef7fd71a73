package policy

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode"

	"github.com/starferry/starferry/internal/yamlpos"
)

// The most bytes of a regular expression. RE2 takes time that grows with its
// length times the name's.
const longestRegexp = 1000

// wholeName compiles a regular expression that has to match a whole name, in
// lower case and without the final dot. One that matched anywhere would take
// notexample.com for example.com.
func wholeName(s string) (*regexp.Regexp, error) {
	re, err := wholeText(s)
	if err != nil {
		return nil, err
	}
	tree, err := syntax.Parse(s, syntax.Perl)
	if err == nil && upper(tree) {
		err = yamlpos.Hint(fmt.Errorf("%q matches no name", s), "names are looked at in lower case: write it so")
	}
	return re, err
}

// wholeText compiles a regular expression that has to match a whole text.
func wholeText(s string) (*regexp.Regexp, error) {
	switch {
	case s == "":
		return nil, fmt.Errorf("a regular expression must not be empty")
	case len(s) > longestRegexp:
		return nil, fmt.Errorf("a regular expression of %d bytes, more than %d", len(s), longestRegexp)
	}
	if _, err := syntax.Parse(s, syntax.Perl); err != nil { // by itself, so that it cannot close the group below
		return nil, yamlpos.Hint(fmt.Errorf("%q is no regular expression: %s", s, strings.TrimPrefix(err.Error(), "error parsing regexp: ")), "the syntax is RE2, which has no lookahead and no backreferences")
	}
	re, err := regexp.Compile(`\A(?:` + s + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("%q is no regular expression: %w", s, err)
	}
	return re, nil
}

// inner returns the expression as it was written.
func inner(re *regexp.Regexp) string {
	return strings.TrimSuffix(strings.TrimPrefix(re.String(), `\A(?:`), `)\z`)
}

// upper reports whether an expression asks for a letter in upper case.
func upper(re *syntax.Regexp) bool {
	if re.Op == syntax.OpLiteral && re.Flags&syntax.FoldCase == 0 {
		for _, r := range re.Rune {
			if unicode.IsUpper(r) {
				return true
			}
		}
	}
	for _, sub := range re.Sub {
		if upper(sub) {
			return true
		}
	}
	return false
}
