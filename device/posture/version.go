package posture

import (
	"cmp"
	"fmt"
	"strings"
)

// A version is a row of numbers as digits without leading zeros: reports may
// hold numbers of any length.
type version []string

// readVersion reads the first row of numbers with dots between in s; what
// stands before and after it is ignored: v1.2, "macOS 15.1 (24B83)" and
// 6.12.3-amd64 are 1.2, 15.1 and 6.12.3.
func readVersion(s string) (version, bool) {
	from := strings.IndexAny(s, digits)
	if from < 0 {
		return nil, false
	}
	var v version
	for rest := s[from:]; ; {
		n := 0
		for n < len(rest) && isDigit(rest[n]) {
			n++
		}
		v = append(v, strings.TrimLeft(rest[:n], "0"))
		if n+1 >= len(rest) || rest[n] != '.' || !isDigit(rest[n+1]) {
			return v, true
		}
		rest = rest[n+1:]
	}
}

const digits = "0123456789"

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// compare orders by number after number; missing ones are 0.
func (v version) compare(w version) int {
	at := func(v version, i int) string {
		if i < len(v) {
			return v[i]
		}
		return ""
	}
	for i := range max(len(v), len(w)) {
		a, b := at(v, i), at(w, i)
		if c := cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)); c != 0 {
			return c
		}
	}
	return 0
}

// A bound is one side of a comparison: ">= 1.2".
type bound struct {
	op   string
	want version
}

var operators = []string{">=", "<=", "!=", "==", ">", "<", "="}

// isRange reports whether s looks like a comparison.
func isRange(s string) bool {
	return strings.ContainsAny(s[:min(1, len(s))], "<>=!")
}

// parseRange reads comparisons with commas between: ">= 1.2, < 2". All must hold.
func parseRange(s string) ([]bound, error) {
	var out []bound
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		var b bound
		for _, op := range operators {
			if rest, ok := strings.CutPrefix(part, op); ok {
				b.op, part = op, strings.TrimSpace(rest)
				break
			}
		}
		v, ok := readVersion(part)
		if b.op == "" || !ok || strings.Trim(part, digits+".") != "" || strings.Count(part, ".") != len(v)-1 || !isDigit(part[0]) {
			return nil, fmt.Errorf("%q is no comparison of versions such as \">= 15.0\"", s)
		}
		b.want = v
		out = append(out, b)
	}
	return out, nil
}

func (b bound) holds(v version) bool {
	c := v.compare(b.want)
	switch b.op {
	case ">=":
		return c >= 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	case "<":
		return c < 0
	case "!=":
		return c != 0
	default:
		return c == 0
	}
}
