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

// maxFree bounds the calls that are kept to be used again.
const maxFree = 64

// A Group is a set of questions in work. The zero value is ready.
type Group[K comparable, V any] struct {
	mu    sync.Mutex
	calls map[K]*call[V]
	free  []*call[V]
}

type call[V any] struct {
	done chan struct{} // nil: nobody waits
	v    V
	err  error
}

// errPanic is what others get if the one that worked panicked.
var errPanic = errors.New("the question that this one waited for failed")

// Do returns what do returns for the key, and whether it was work done for
// somebody else. Whoever worked does not know who else got the value: it must
// not be modified by anybody.
func (g *Group[K, V]) Do(ctx context.Context, key K, do func(context.Context) (V, error)) (v V, shared bool, err error) {
	for {
		c, done := g.join(key)
		if done == nil {
			v, err = g.work(ctx, key, c, do)
			return v, false, err
		}
		select {
		case <-done:
		case <-ctx.Done():
			return v, false, ctx.Err()
		}
		calledOff := errors.Is(c.err, context.Canceled) || errors.Is(c.err, context.DeadlineExceeded)
		if !calledOff || ctx.Err() != nil {
			return c.v, true, c.err
		}
	}
}

// join returns the call for the key and what ends it; nil: it is the asker's
// own to do. What ends it is made only if somebody waits, which is rare.
func (g *Group[K, V]) join(key K) (c *call[V], done chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c, ok := g.calls[key]; ok {
		if c.done == nil {
			c.done = make(chan struct{})
		}
		return c, c.done
	}
	if g.calls == nil {
		g.calls = make(map[K]*call[V])
	}
	if n := len(g.free); n > 0 {
		c, g.free = g.free[n-1], g.free[:n-1]
	} else {
		c = new(call[V])
	}
	c.err = errPanic
	g.calls[key] = c
	return c, nil
}

func (g *Group[K, V]) work(ctx context.Context, key K, c *call[V], do func(context.Context) (V, error)) (V, error) {
	defer g.leave(key, c)
	v, err := do(ctx)
	c.v, c.err = v, err
	return v, err
}

// leave ends the call. One that nobody waited for is used again.
func (g *Group[K, V]) leave(key K, c *call[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.calls, key)
	if c.done != nil {
		close(c.done)
		return
	}
	if *c = (call[V]{}); len(g.free) < maxFree {
		g.free = append(g.free, c)
	}
}
