package cache

import (
	"context"
	"errors"
	"time"

	"github.com/starferry/starferry/resolver/upstream"
)

// How long it is remembered that nobody answered a question: doubling from the
// one to the other while that goes on (RFC 9520 section 3.2 allows 1 s to 5 min).
// Upstream servers that are down are probed at the same intervals.
const (
	minFailure = time.Second
	maxFailure = 30 * time.Second
	// maxReason bounds the text of a failure.
	maxReason = 300
)

// A Failure is the error of a question that nobody has answered lately, so that
// nobody was asked this time. It wraps [upstream.ErrNoAnswer].
type Failure struct {
	reason string
	span   time.Duration // for which it holds
}

// Error says what came of it when it was asked.
func (f *Failure) Error() string { return "failed lately: " + f.reason }

// Unwrap returns [upstream.ErrNoAnswer].
func (f *Failure) Unwrap() error { return upstream.ErrNoAnswer }

// refused reports whether e is a failure that still holds: its time is not over,
// and none of those who failed has come back since.
func (s *Source) refused(e *entry, now time.Time) bool {
	return e.failure != nil && now.Before(e.expiry) && (s.Back == nil || !s.Back(e.stored))
}

// fail remembers that nobody answered. It takes the place of nothing but the
// failure before it.
func (s *Source) fail(ctx context.Context, k Key, old *entry, begun time.Time, err error) {
	if old != nil && old.failure == nil || ctx.Err() != nil || !errors.Is(err, upstream.ErrNoAnswer) || upstream.Busy(err) {
		return
	}
	reason := err.Error()
	f := &Failure{reason[:min(len(reason), maxReason)], minFailure}
	if old != nil {
		f.span = min(2*old.failure.span, maxFailure)
	}
	until := time.Now().Add(f.span)
	s.Cache.put(&entry{key: k, failure: f, stored: begun, expiry: until, gone: until.Add(maxFailure)})
}
