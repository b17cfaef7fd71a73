package state

import (
	"context"
	"math/rand/v2"
	"time"
)

// A backoff spaces out attempts: 100 ms, doubling up to 2 s, each shortened by
// up to half so that nodes that lost the same neighbour do not come back as one.
type backoff time.Duration

func newBackoff() *backoff {
	b := new(backoff)
	b.reset()
	return b
}

func (b *backoff) reset() { *b = backoff(100 * time.Millisecond) }

// sleep waits for its turn, or for ctx.
func (b *backoff) sleep(ctx context.Context) error {
	d := time.Duration(*b)
	*b = backoff(min(2*d, 2*time.Second))
	timer := time.NewTimer(d/2 + rand.N(d/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
