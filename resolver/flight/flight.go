// Package flight lets equal questions that are asked at one time share one
// answer. The first asker works, in its own goroutine; who comes while it
// does waits for its result. Unlike golang.org/x/sync/singleflight everybody
// waits only as long as the own context lasts, and if the one that works is
// called off, somebody who waits takes over.
package flight

import (
	"context"
	"errors"
	"sync"
)

// A Group is a set of questions in work. The zero value is ready.
type Group[K comparable, V any] struct {
	mu    sync.Mutex
	calls map[K]*call[V]
}

type call[V any] struct {
	done chan struct{}
	v    V
	err  error
}

// errPanic is what others get if the one that worked panicked.
var errPanic = errors.New("the question that this one waited for failed")

// Do returns what do returns for the key, and whether it was work done for
// somebody else: then the value is shared and must not be modified.
func (g *Group[K, V]) Do(ctx context.Context, key K, do func(context.Context) (V, error)) (v V, shared bool, err error) {
	for {
		c, first := g.join(key)
		if first {
			v, err = g.work(ctx, key, c, do)
			return v, false, err
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return v, false, ctx.Err()
		}
		calledOff := errors.Is(c.err, context.Canceled) || errors.Is(c.err, context.DeadlineExceeded)
		if !calledOff || ctx.Err() != nil {
			return c.v, true, c.err
		}
	}
}

func (g *Group[K, V]) join(key K) (c *call[V], first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c, ok := g.calls[key]; ok {
		return c, false
	}
	if g.calls == nil {
		g.calls = make(map[K]*call[V])
	}
	c = &call[V]{done: make(chan struct{}), err: errPanic}
	g.calls[key] = c
	return c, true
}

func (g *Group[K, V]) work(ctx context.Context, key K, c *call[V], do func(context.Context) (V, error)) (V, error) {
	defer func() {
		g.mu.Lock()
		delete(g.calls, key)
		g.mu.Unlock()
		close(c.done)
	}()
	v, err := do(ctx)
	c.v, c.err = v, err
	return v, err
}
