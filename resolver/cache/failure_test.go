package cache

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starferry/starferry/resolver/upstream"
)

// That nobody answers is remembered, for longer each time, until one of those who
// failed is back.
func TestFailuresAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &server{err: fmt.Errorf("asking: %w", upstream.ErrNoAnswer), slow: 2 * time.Second}
		var back time.Time
		s := &Source{Cache: New(1 << 20), Ask: up.ask, Stale: time.Hour, Back: func(since time.Time) bool { return back.After(since) }}
		q := question(t, "www.example.com.")
		kept := func() bool {
			_, err := s.Resolve(t.Context(), q)
			if !errors.Is(err, upstream.ErrNoAnswer) {
				t.Fatalf("got %v", err)
			}
			return errors.As(err, new(*Failure))
		}
		for n, span := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			if kept() || up.asked != n+1 {
				t.Fatalf("asked %d times, want %d", up.asked, n+1)
			}
			time.Sleep(span*time.Second - 1)
			if !kept() || up.asked != n+1 {
				t.Errorf("asked again within %v s", int(span))
			}
			time.Sleep(time.Nanosecond)
		}
		s.Resolve(t.Context(), q) //nolint:errcheck // it fails
		if !kept() {
			t.Error("not kept")
		}
		time.Sleep(time.Millisecond)
		back, up.err, up.slow = time.Now(), nil, 0
		up.m = answer(t, 0, "www.example.com. 60 IN A 192.0.2.1")
		for range 2 {
			if r, err := s.Resolve(t.Context(), q); err != nil || r.Stale {
				t.Errorf("one is back, and the failure is still there: %v", err)
			}
		}
		if n, _ := s.Cache.Size(); n != 1 {
			t.Errorf("%d entries, want one: the answer in the failure's place", n)
		}
	})
}

// A stale answer serves for half a minute, but no longer than until a resolver is
// back.
func TestStaleUntilOneIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &server{m: answer(t, 0, "www.example.com. 60 IN A 192.0.2.1")}
		var back time.Time
		s := &Source{Cache: New(1 << 20), Ask: up.ask, Stale: time.Hour, Back: func(since time.Time) bool { return back.After(since) }}
		for _, step := range []struct {
			what        string
			later       time.Duration
			err         error
			back, stale bool
			asked       int
		}{
			{"fresh", 0, nil, false, false, 1},
			{"its time is over, and nobody answers", time.Minute, upstream.ErrNoAnswer, false, true, 2},
			{"soon after", 5 * time.Second, nil, false, true, 2},
			{"one is back", 5 * time.Second, nil, true, false, 3},
		} {
			time.Sleep(step.later)
			if up.err = step.err; step.back {
				back = time.Now()
			}
			if r, err := s.Resolve(t.Context(), question(t, "www.example.com.")); err != nil || r.Stale != step.stale || up.asked != step.asked {
				t.Errorf("%s: stale %t, asked %d times; want %t, %d (%v)", step.what, r.Stale, up.asked, step.stale, step.asked, err)
			}
		}
	})
}

// A failure is no answer that could be served, renewed or prolonged, and does not
// displace one; nor is it one that the asker went away.
func TestFailuresAreNoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &server{m: answer(t, 0, "www.example.com. 60 IN A 192.0.2.1")}
		s := &Source{Cache: New(1 << 20), Ask: up.ask, Stale: time.Hour, Prefetch: true}
		q := question(t, "www.example.com.")
		if _, err := s.Resolve(t.Context(), q); err != nil {
			t.Fatal(err)
		}
		up.err = upstream.ErrNoAnswer
		time.Sleep(time.Minute)
		for range 3 {
			if r, err := s.Resolve(t.Context(), q); err != nil || !r.Stale {
				t.Errorf("want the stale answer, got %v, %v", r.Stale, err)
			}
			time.Sleep(time.Minute)
		}
		other := question(t, "other.example.com.")
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for range 2 {
			if _, err := s.Resolve(gone, other); errors.As(err, new(*Failure)) {
				t.Error("who goes away leaves a failure behind")
			}
		}
		s.Resolve(t.Context(), other) //nolint:errcheck // it fails
		before := up.asked
		for range 5 {
			s.Resolve(t.Context(), other) //nolint:errcheck // it fails
			s.Renew(t.Context(), other)
		}
		if s.Wait(); up.asked != before {
			t.Error("what failed was asked again to renew it")
		}
		if s.Cache.Flush(func(name string) bool { return name == other.Name }) != 1 {
			t.Error("a failure cannot be flushed")
		}
	})
}
