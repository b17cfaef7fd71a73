package querylog

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// A sink is where records go. Only its outlet calls it, one call at a time.
type sink interface {
	wantsWire() bool
	// ready opens what is not open, or what others have moved, or fails: then
	// records wait.
	ready(ctx context.Context) error
	// write writes records until one fails, and returns how many it has written.
	write(batch []entry) (int, error)
	// close lets go of what is open.
	close() error
}

// A tidier is a sink of which something remains to be done now and then.
type tidier interface {
	due() <-chan struct{}
	tidy(ctx context.Context) error
}

const (
	flushEvery = 500 * time.Millisecond
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	// farewell is how long the end waits for a peer that does not take what is left.
	farewell = 2 * time.Second
)

// An outlet is a sink with its queue.
type outlet struct {
	name  string
	sink  sink
	queue *queue
	log   *slog.Logger
	hurry atomic.Bool // the sink is to be tried again at once
	trouble

	retry   time.Time // when the sink may be tried again
	pause   time.Duration
	unready bool // the trouble is that it cannot be opened
}

// A trouble is what keeps a sink from working, said once when it begins and
// once when it is over.
type trouble struct {
	mu  sync.Mutex
	err error
}

func (t *trouble) change(err error) (before error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, t.err = t.err, err
	return before
}

func (o *outlet) run(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		o.drain(ctx)
		select {
		case <-tick.C:
		case <-o.queue.wake:
		case <-ctx.Done():
		}
	}
	o.end(ctx)
}

// end writes what is left, if the sink takes it.
func (o *outlet) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	o.retry = time.Time{}
	o.drain(ctx)
	o.queue.shut()
	if err := o.sink.close(); err != nil {
		o.report(err)
	}
}

// drain has the sink write all that waits, unless it is not ready.
func (o *outlet) drain(ctx context.Context) {
	if o.hurry.Swap(false) {
		o.retry = time.Time{}
	}
	if time.Now().Before(o.retry) {
		return
	}
	if err := o.sink.ready(ctx); err != nil {
		o.unready = true
		o.failed(ctx, err)
		return
	}
	batch := o.queue.takeAll()
	n, err := o.sink.write(batch)
	o.queue.done(batch, n)
	if err != nil {
		o.unready = false
		o.failed(ctx, err)
		return
	}
	// That a file can be opened says nothing of whether the disk is still full.
	if n > 0 || o.unready {
		o.works()
	}
}

func (o *outlet) works() {
	o.pause, o.unready = 0, false
	if o.change(nil) != nil {
		o.log.Info("the query log is written again", "sink", o.name)
	}
}

// failed has the sink left alone for a while, longer each time.
func (o *outlet) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	o.pause = min(max(2*o.pause, firstRetry), lastRetry)
	o.retry = time.Now().Add(o.pause)
	if o.change(err) == nil {
		o.report(err)
	}
}

func (o *outlet) report(err error) {
	o.log.Error("the query log cannot be written", "sink", o.name, "err", err)
}

func (o *outlet) tidy(ctx context.Context, t tidier) {
	for {
		if err := t.tidy(ctx); err != nil && ctx.Err() == nil {
			o.log.Warn("older files of the query log", "sink", o.name, "err", err)
		}
		select {
		case <-t.due():
		case <-ctx.Done():
			return
		}
	}
}

func (o *outlet) stats() Stats {
	s := o.queue.stats()
	s.Sink = o.name
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		s.Err = o.err.Error()
	}
	return s
}
