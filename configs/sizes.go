package configs

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/starferry/starferry/internal/yamlpos"
)

var sizeForm = regexp.MustCompile(`^([0-9]{1,15}) ?([A-Za-z]*)$`)

// units are the powers of 1024, in the words of IEC 80000-13.
var units = map[string]int64{"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

// parseSize reads a number of bytes, at least one.
func parseSize(s string) (int64, error) {
	bad := fmt.Errorf("%q is no size", s)
	m := sizeForm.FindStringSubmatch(s)
	if m == nil {
		return 0, yamlpos.Hint(bad, "write it like 64MiB")
	}
	unit, ok := units[m[2]]
	if !ok {
		return 0, yamlpos.Hint(bad, sizeHint(m[1], m[2]))
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n == 0 || n > math.MaxInt64/unit {
		return 0, bad
	}
	return n * unit, nil
}

// sizeHint does not guess whether 64M was meant as a power of 1000 or 1024.
func sizeHint(n, unit string) string {
	for _, u := range []string{"KiB", "MiB", "GiB"} {
		if unit != "" && strings.EqualFold(unit[:1], u[:1]) {
			return "write " + n + u
		}
	}
	return "the units are B, KiB, MiB and GiB: write it like 64MiB"
}

var daysForm = regexp.MustCompile(`^([0-9]{1,5})d(.*)$`)

// ParseSpan reads a time span that may be zero and may have days, such as 7d or
// 1d12h; a day is 24 hours.
func ParseSpan(s string) (time.Duration, error) {
	bad := yamlpos.Hint(fmt.Errorf("%q is no time span", s), "write it like 30s, 12h or 7d")
	days, rest := 0, s
	if m := daysForm.FindStringSubmatch(s); m != nil {
		days, _ = strconv.Atoi(m[1])
		rest = m[2]
	}
	var d time.Duration
	if rest != "" || s == "" {
		var err error
		if d, err = time.ParseDuration(rest); err != nil || d < 0 {
			return 0, bad
		}
	}
	if total := time.Duration(days)*24*time.Hour + d; total >= d { // 99999 days and the longest Duration are more than one holds
		return total, nil
	}
	return 0, bad
}

// longer is [ParseSpan] for what cannot be zero.
func longer(s string) (time.Duration, error) {
	d, err := ParseSpan(s)
	if err == nil && d == 0 {
		return 0, fmt.Errorf("%q must be longer than zero", s)
	}
	return d, err
}
