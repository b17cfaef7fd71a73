package main

import (
	"math/bits"
	"time"
)

// A histogram counts times: of each power of two of microseconds, eight parts.
type histogram [8 * 32]int

// place returns where a time is counted: by its highest four bits.
func place(d time.Duration) int {
	us := uint64(max(0, d.Microseconds()))
	if us < 8 {
		return int(us)
	}
	shift := bits.Len64(us) - 4
	return min(len(histogram{})-1, 8*shift+int(us>>shift))
}

// limit returns the time that all that is counted at a place stays below.
func limit(place int) time.Duration {
	if place < 8 {
		return time.Duration(place+1) * time.Microsecond
	}
	shift := (place - 8) / 8
	return time.Duration((place-8*shift+1)<<shift) * time.Microsecond
}

// rank returns what so many of 100 times stay below.
func (h *histogram) rank(hundredths int) time.Duration {
	all, sum := 0, 0
	for _, n := range h {
		all += n
	}
	for i, n := range h {
		if sum += n; n > 0 && 100*sum >= all*hundredths {
			return limit(i)
		}
	}
	return 0
}

// A row is what became of the questions of one span of time.
type row struct {
	asked    int
	answered int // rightly, or by SERVFAIL
	retried  int // asked again, as no answer came to the first
	servfail int
	lost     int // without a reply in the end
	times    histogram
}

func (r *row) add(o *row) {
	r.asked += o.asked
	r.answered += o.answered
	r.retried += o.retried
	r.servfail += o.servfail
	r.lost += o.lost
	for i, n := range o.times {
		r.times[i] += n
	}
}

// A fault is an answer that should not be, or might not be.
type fault struct {
	kind     kind
	stream   bool
	asked    time.Duration // since the load began, as the next
	answered time.Duration
	err      error // what was wrong; errLost: there was no answer
}

// A tally is what became of all questions of a load.
type tally struct {
	each   time.Duration // how long a row is
	rows   []row
	faults []fault
	broken int // connections that ended while they were in use
}

// row returns the row of questions that were due at this time.
func (t *tally) row(due time.Duration) *row {
	i := max(0, int(due/t.each))
	for len(t.rows) <= i {
		t.rows = append(t.rows, row{})
	}
	return &t.rows[i]
}

func (t *tally) add(o *tally) {
	for i := range o.rows {
		t.row(time.Duration(i) * t.each).add(&o.rows[i])
	}
	t.faults = append(t.faults, o.faults...)
	t.broken += o.broken
}
