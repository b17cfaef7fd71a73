package upstream

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// A life is the time while [Group.Run] runs: only then may connections be kept
// and goroutines outlast a question.
type life struct {
	on atomic.Bool
	mu sync.Mutex
	wg sync.WaitGroup
	// within returns a context of the life that ends after a time.
	within func(time.Duration) (context.Context, context.CancelFunc)
}

func (l *life) begin(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.within != nil {
		return errors.New("the upstream group runs already")
	}
	l.within = func(d time.Duration) (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, d) }
	l.on.Store(true)
	return nil
}

// run starts f with a context of the life; false: there is none.
func (l *life) run(d time.Duration, f func(context.Context)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.on.Load() {
		return false
	}
	ctx, cancel := l.within(d)
	l.wg.Go(func() {
		defer cancel()
		f(ctx)
	})
	return true
}

// context returns a context for what belongs to a question and may outlast it
// by no more than d.
func (l *life) context(d time.Duration) (context.Context, context.CancelFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.on.Load() {
		return l.within(d)
	}
	return context.WithTimeout(context.Background(), d)
}

// spawn starts f, which ends soon after the question that it belongs to: part
// of the life if there is one.
func (l *life) spawn(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.on.Load() {
		l.wg.Go(f)
	} else {
		go f()
	}
}

// end ends the life; closeAll closes all that is kept.
func (l *life) end(closeAll func()) {
	l.mu.Lock()
	l.on.Store(false)
	l.mu.Unlock()
	closeAll()
	l.wg.Wait()
	l.mu.Lock()
	l.within = nil
	l.mu.Unlock()
}
