package yamlpos

import (
	"bytes"
	"regexp"
	"sort"
	"strings"
	"unicode/utf8"
)

const aliasHint = `a value that begins with * needs quotes: "*.example.com"`

// checkText refuses what is no text, at its place: yaml.v3 says so without one.
func (f *File) checkText(src []byte) error {
	if len(src) > maxSize {
		return f.errorAt(Pos{f.name, 1, 1}, "", "%d bytes, more than %d", len(src), maxSize)
	}
	for i := 0; i < len(src); {
		r, size := utf8.DecodeRune(src[i:])
		switch {
		case r == utf8.RuneError && size <= 1:
			return f.errorAt(f.place(src, i), "", "not UTF-8: byte 0x%02x", src[i])
		case !printable(r):
			return f.errorAt(f.place(src, i), "", "control character %U", r)
		}
		i += size
	}
	return nil
}

// printable is what YAML 1.1 allows in a stream (section 4.1.1), without the
// byte order mark, which is cut off at the beginning.
func printable(r rune) bool {
	switch {
	case r == '\t', r == '\n', r == '\r', r == 0x85:
		return true
	case r < 0x20, r >= 0x7F && r < 0xA0, r == 0xFEFF, r == 0xFFFE, r == 0xFFFF:
		return false
	}
	return true
}

// place returns the place of byte i of src.
func (f *File) place(src []byte, i int) Pos {
	lines := splitLines(src[:i])
	return Pos{f.name, len(lines), 1 + utf8.RuneCountInString(lines[len(lines)-1])}
}

var yamlPrefix = regexp.MustCompile(`^yaml: (line \d+: )?`)

// syntaxError makes a mistake with its place from an error of yaml.v3, which
// gives at best the line on which the surrounding thing begins. YAML is read
// from front to back, so the place is where the shortest part of the file ends
// that fails in the same way.
func (f *File) syntaxError(src []byte, err error) *Error {
	n := sort.Search(len(src), func(n int) bool {
		_, e := decode(src[:n])
		return e != nil && e.Error() == err.Error()
	})
	for n > 0 && n < len(src) && !utf8.RuneStart(src[n]) {
		n++
	}
	at := tokenStart(src, n)
	msg := yamlPrefix.ReplaceAllString(err.Error(), "")
	line := bytes.LastIndexAny(src[:at], "\r\n") + 1
	hint := syntaxHint(msg, string(src[line:at]), string(src[at:]))
	if tab := indentTab(src, at); tab >= 0 {
		at, hint = tab, "indent with spaces, not with tabs"
	}
	return f.errorAt(f.place(src, at), hint, "%s", msg)
}

// tokenStart returns where the word begins that ends at or before byte n.
func tokenStart(src []byte, n int) int {
	const blank = " \t\r\n"
	for n > 0 && strings.IndexByte(blank, src[n-1]) >= 0 {
		n--
	}
	for n > 0 && strings.IndexByte(blank, src[n-1]) < 0 {
		n--
	}
	return n
}

// indentTab returns where a tab stands in the indentation of the line of byte
// at or of the line after it, or -1.
func indentTab(src []byte, at int) int {
	start := bytes.LastIndexByte(src[:at], '\n') + 1
	for range 2 {
		for i := start; i < len(src) && (src[i] == ' ' || src[i] == '\t'); i++ {
			if src[i] == '\t' {
				return i
			}
		}
		next := bytes.IndexByte(src[start:], '\n')
		if next < 0 {
			break
		}
		start += next + 1
	}
	return -1
}

// twoColons is a value within brackets, on their first line, that holds what ends a
// key, but for what is quoted.
var (
	twoColons = regexp.MustCompile(`^[^\r\n]*: [^,{}\[\]"'\r\n]*: `)
	quoted    = regexp.MustCompile(`"[^"\r\n]*"|'[^'\r\n]*'`)
)

// syntaxHint says what to do about an error of yaml.v3, by what stands in its
// line before its place, and from there on.
func syntaxHint(msg, before, rest string) string {
	switch {
	case strings.Contains(msg, "mapping values are not allowed") && strings.TrimSpace(before) == "":
		return `is it indented like its neighbours? a value of several lines that holds ": " needs quotes`
	case strings.Contains(msg, "mapping values are not allowed"),
		strings.Contains(msg, "expected ','") && twoColons.MatchString(quoted.ReplaceAllString(before+rest, `""`)):
		return `a value that holds ": " needs quotes`
	case strings.HasPrefix(rest, "*"), strings.Contains(msg, "unknown anchor"),
		strings.Contains(msg, "alphabetic or numeric"):
		return aliasHint
	case strings.Contains(msg, "cannot start any token"):
		return "such a value needs quotes"
	case strings.Contains(msg, "expected key"), strings.Contains(msg, "'-' indicator"):
		return "is it indented like its neighbours?"
	case strings.Contains(msg, "expected ':'"):
		return `is a ":" missing?`
	case strings.Contains(msg, "']'"), strings.Contains(msg, "'}'"):
		return "is a bracket not closed?"
	case strings.Contains(msg, "unexpected end of stream"):
		return "is a quote not closed?"
	}
	return ""
}
