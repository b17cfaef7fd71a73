package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The capacity is the throughput of RFC 1242, section 3.17, found as in RFC
// 2544, section 26.1: the highest rate of an open loop at which nothing is lost,
// here that no question has to be asked again. Each step of the search holds what
// is to be endured later: a reload, and an upstream that dies and comes back.
//
// What a closed loop reaches says where to search. It is not the capacity: who
// waits for answers waits for reloads too, and asks the more at a time the slower
// it is answered.
const (
	loopSpan  = 4 * time.Second
	loopEach  = time.Second // the first one fills the caches, and does not count
	stepSpan  = 5 * time.Second
	steps     = 6  // to find it within 2 % of what the closed loop reaches
	share     = 80 // of 100: the load that lasts
	stepDelay = stepSpan / 10
)

// step is what happens in a step.
var step = plan{
	turns:   []turn{{5 * stepDelay, 0, false}, {7 * stepDelay, 0, true}},
	reloads: []time.Duration{2 * stepDelay},
}

// bisect returns the highest rate that passes, of so many that it tries, all
// below most. Zero: none has passed.
func bisect(most, tries int, passes func(rate int) (bool, error)) (int, error) {
	low, high := 0, most
	for range tries {
		rate := low + (high-low)/2
		switch ok, err := passes(rate); {
		case err != nil:
			return 0, err
		case ok:
			low = rate
		default:
			high = rate
		}
	}
	return low, nil
}

var errNoCapacity = errors.New("at no rate that was tried all was answered at once: this machine is too busy")

// capacity measures what the gateway can answer. The load says whom to ask what,
// from which number on, and goes on behind all that was asked.
func (w *world) capacity(ctx context.Context, l *load, markers [2][]byte) (int, error) {
	loop := l.with(0, loopSpan, loopEach)
	t, next, err := loop.ask(ctx)
	if err != nil {
		return 0, err
	}
	l.first = next
	answered := perSecond(t)
	fmt.Printf("# in a closed loop: %d answers a second\n", answered)
	found, err := bisect(answered+answered/4, steps, func(rate int) (bool, error) {
		r, err := w.suffer(ctx, l.with(rate, stepSpan, stepSpan), step, markers)
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && !w.server.alive() {
			err = fmt.Errorf("the gateway: %w: %w", errEnded, w.server.err)
		}
		if err != nil {
			return false, err
		}
		l.first = r.next
		why := r.misses()
		fmt.Printf("# %d questions a second for %v: %s\n", rate, stepSpan, why)
		return why == allWell, nil
	})
	if err == nil && found == 0 {
		err = errNoCapacity
	}
	return found, err
}

// perSecond returns the answers a second of all rows of a closed loop but the
// first.
func perSecond(t *tally) int {
	answered, n := 0, 0
	for i, r := range t.rows {
		if at := time.Duration(i) * t.each; at >= t.each && at < loopSpan {
			answered, n = answered+r.answered, n+1
		}
	}
	return answered / max(1, n)
}

const allWell = "all answered at once"

// misses says why the rate of a step is above the capacity, if it is.
func (r *report) misses() string {
	retried := 0
	for _, row := range r.tally.rows {
		retried += row.retried
	}
	switch invalid := r.invalid(); {
	case len(invalid) > 0:
		return invalid[0]
	case retried > 0:
		return fmt.Sprintf("%d asked again", retried)
	case len(r.replies()) > 0:
		return r.replies()[0]
	}
	return allWell
}
