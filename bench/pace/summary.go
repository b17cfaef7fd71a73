package main

import (
	"fmt"
	"slices"
	"time"
)

// A summary is what a span of answers was like.
type summary struct {
	asked, answered int
	median, p99     time.Duration
	p999            time.Duration
}

func summarize(times []time.Duration) summary {
	sorted := slices.Sorted(slices.Values(times))
	s := summary{asked: len(sorted)}
	s.answered, _ = slices.BinarySearch(sorted, unanswered)
	s.median, s.p99, s.p999 = rank(sorted, 500), rank(sorted, 990), rank(sorted, 999)
	return s
}

// rank returns the smallest time that so many of 1,000 do not exceed.
func rank(sorted []time.Duration, thousandths int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)*thousandths+999)/1000-1]
}

func (s summary) String() string {
	return fmt.Sprintf("asked %d answered %d p50 %.3f p99 %.3f p99.9 %.3f ms", s.asked, s.answered, ms(s.median), ms(s.p99), ms(s.p999))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
