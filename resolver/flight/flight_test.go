package flight

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestEqualQuestionsShareOneAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group[string, int]
		var asked, shared atomic.Int32
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				v, s, err := g.Do(t.Context(), "a", func(context.Context) (int, error) {
					<-time.After(time.Second) // the time of the bubble: all ten are here before it passes
					return int(asked.Add(1)), nil
				})
				if v != 1 || err != nil {
					t.Errorf("got %d, %v", v, err)
				}
				if s {
					shared.Add(1)
				}
			})
		}
		wg.Wait()
		if asked.Load() != 1 || shared.Load() != 9 {
			t.Errorf("asked %d times, %d shared; want 1 and 9", asked.Load(), shared.Load())
		}
	})
}

func TestWhoWaitsTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group[string, string]
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _, err := g.Do(ctx, "a", func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() })
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the first: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			v, _, err := g.Do(t.Context(), "a", func(context.Context) (string, error) { return "own", nil })
			if v != "own" || err != nil {
				t.Errorf("the second: %q, %v", v, err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
	})
}

func TestNobodyWaitsLongerThanAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group[string, int]
		let := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			g.Do(t.Context(), "a", func(context.Context) (int, error) { <-let; return 1, nil })
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := g.Do(ctx, "a", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		close(let)
		wg.Wait()
	})
}

func TestAPanicReleasesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group[string, int]
		let := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			defer func() { recover() }()
			g.Do(t.Context(), "a", func(context.Context) (int, error) { <-let; panic("on purpose") })
		})
		synctest.Wait()
		wg.Go(func() {
			if _, _, err := g.Do(t.Context(), "a", nil); err == nil {
				t.Error("the second got an answer")
			}
		})
		synctest.Wait()
		close(let)
		wg.Wait()
	})
}
