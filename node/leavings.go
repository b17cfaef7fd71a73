package node

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"
)

// leavings are what reloads leave behind: the policies before, with their lists.
// Were these only collected when the heap has doubled, the lists of the next
// reload would come on top.
type leavings struct {
	some atomic.Bool
	more chan struct{} // holds something if there were more since run looked last
}

func newLeavings() *leavings { return &leavings{more: make(chan struct{}, 1)} }

// add says that a policy is of no more use to anybody.
func (l *leavings) add() {
	l.some.Store(true)
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// collect frees them at once, if there are some: for somebody who needs the room.
func (l *leavings) collect() {
	if l.some.CompareAndSwap(true, false) {
		runtime.GC()
	}
}

// rest is how long they are left: after a reload each name is decided anew, and
// there is enough to do.
const rest = 5 * time.Second

// run collects them in time until ctx is done.
func (l *leavings) run(ctx context.Context) {
	due := time.NewTimer(time.Hour)
	due.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.more:
			due.Reset(rest)
		case <-due.C:
			l.collect()
		}
	}
}
