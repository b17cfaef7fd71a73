package yamlpos

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Pos is a place in a file. Lines and columns count from 1, columns in
// characters. The zero value is no place.
type Pos struct {
	File      string
	Line, Col int
}

func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// IsZero reports whether p is no place.
func (p Pos) IsZero() bool { return p == Pos{} }

func (p Pos) compare(q Pos) int {
	return cmp.Or(cmp.Compare(p.Line, q.Line), cmp.Compare(p.Col, q.Col))
}

// An Error is one mistake in a file.
type Error struct {
	Pos  Pos
	Msg  string
	Hint string // what to do about it; may be empty
	line string // the offending source line
}

// Error returns the mistake in three lines: place and message, the source
// line, and a caret under the column with the hint.
func (e *Error) Error() string {
	if strings.TrimSpace(e.line) == "" {
		s := fmt.Sprintf("%v: %s", e.Pos, e.Msg)
		if e.Hint != "" {
			s += ": " + e.Hint
		}
		return s
	}
	line, col := excerpt(strings.ToValidUTF8(e.line, "\uFFFD"), e.Pos.Col)
	s := fmt.Sprintf("%v: %s\n    %s\n    %s^", e.Pos, e.Msg, line, indent(line, col))
	if e.Hint != "" {
		s += " " + e.Hint
	}
	return s
}

// maxLine is how many characters of a source line are shown.
const maxLine = 160

// excerpt cuts a long line to the part around the column.
func excerpt(line string, col int) (string, int) {
	r := []rune(line)
	if len(r) <= maxLine {
		return line, col
	}
	from := min(max(0, col-1-maxLine/2), len(r)-maxLine)
	cut := string(r[from : from+maxLine])
	if from > 0 {
		cut, col = "…"+cut, col+1
	}
	if from+maxLine < len(r) {
		cut += "…"
	}
	return cut, col - from
}

// indent returns blanks as wide as what stands in line before column col.
func indent(line string, col int) string {
	var b strings.Builder
	for _, r := range line {
		if col--; col < 1 {
			break
		}
		switch {
		case r == '\t':
			b.WriteByte('\t')
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf): // drawn onto the character before
		case isWide(r):
			b.WriteString("  ")
		default:
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// isWide reports whether terminals give r two columns (Unicode, UAX #11: the
// blocks that are wide throughout).
func isWide(r rune) bool {
	return r >= 0x1100 && (r <= 0x115F || // Hangul Jamo
		r >= 0x2E80 && r <= 0xA4CF || // CJK and Yi
		r >= 0xAC00 && r <= 0xD7A3 || // Hangul
		r >= 0xF900 && r <= 0xFAFF || r >= 0xFE30 && r <= 0xFE6F || r >= 0xFF00 && r <= 0xFF60 ||
		r >= 0x1F300 && r <= 0x1FAFF || r >= 0x20000 && r <= 0x3FFFD)
}

// Errors are mistakes of one or more files. It prints one after the other.
type Errors []error

func (e Errors) Error() string {
	var b strings.Builder
	for i, err := range e {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(err.Error())
	}
	return b.String()
}

// Unwrap gives the mistakes to [errors.Is] and [errors.As].
func (e Errors) Unwrap() []error { return e }

// Join puts the mistakes of several files together, in the order given, and
// returns nil if there are none.
func Join(errs ...error) error {
	var out Errors
	for _, err := range errs {
		var many Errors
		switch {
		case err == nil:
		case errors.As(err, &many) && error(many).Error() == err.Error():
			out = append(out, many...)
		default:
			out = append(out, err)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// A hinted error says besides what to do about it.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// Hint adds to the error of a parse function what to do about it; it is
// printed beside the caret.
func Hint(err error, hint string) error { return hinted{err, hint} }

func hintOf(err error) string {
	var h hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}

// DidYouMean returns the hint "did you mean ...?" with the word that is at
// most two edits from s, or nothing if none is.
func DidYouMean(s string, words []string) string {
	best, at := min(3, 1+utf8.RuneCountInString(s)/2), ""
	for _, w := range words {
		if d := distance(s, w, best); d < best {
			best, at = d, w
		}
	}
	if at == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", at)
}

// distance is the Levenshtein distance of a and b, or limit if it is no less.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost = 1 + min(diag, row[j], row[j+1])
			}
			diag, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
