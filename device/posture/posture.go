// Package posture judges the condition of a device: reports that the device
// sends of itself are checked against the profiles of the policy file.
//
// A [Report] is a JSON object with any fields; a [Profile] is a list of checks
// on them, all of which must pass. What a report does not say counts against
// the device.
//
// A [Verdict] is what comes of it. There are three: passed, failed, and
// unknown, which is the zero value and what a device without a report has. A
// passed verdict is good until it expires; after that it reads as failed, for
// a stale report is no report of health.
package posture

import (
	"fmt"
	"time"
)

// A Result is the outcome of judging a device by a profile.
type Result uint8

// The results. Unknown and Failed both fail a demand.
const (
	Unknown Result = iota // no report
	Failed
	Passed
)

var results = [...]string{"unknown", "failed", "passed"}

func (r Result) String() string { return results[r] }

// MarshalText writes the result as a word.
func (r Result) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (r *Result) UnmarshalText(b []byte) error {
	got, err := ParseResult(string(b))
	if err == nil {
		*r = got
	}
	return err
}

// ParseResult reads the name of a result.
func ParseResult(s string) (Result, error) {
	for i, n := range results {
		if n == s {
			return Result(i), nil
		}
	}
	return Unknown, fmt.Errorf("%q is none of %q", s, results)
}

// A Verdict is how a device stands by one profile.
type Verdict struct {
	Result  Result
	Reason  string    // of a failure: the check that failed, and what the report said
	Expires time.Time // when a passed verdict becomes a failed one
}

// At returns the verdict as it reads at a moment: a passed one that has
// expired is failed.
func (v Verdict) At(now time.Time) Verdict {
	if v.Result == Passed && !now.Before(v.Expires) {
		return Verdict{Result: Failed, Reason: "the last report is older than allowed", Expires: v.Expires}
	}
	return v
}

// Verdicts holds a device's verdict by each profile. Values are shared and
// must not be modified.
type Verdicts map[string]Verdict
