package node

import (
	"context"
	"log/slog"
	"strings"
	"sync"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/replay"
)

// recounts tell of each reload, behind it, how many recent questions the new
// policy would answer otherwise. No answer and no reload waits for that: it is
// found out in small pieces, and a reload that comes meanwhile ends it early, so
// that no more than one policy is kept besides that in force.
type recounts struct {
	recent *replay.Recent // nil: nothing is known of recent questions
	log    *slog.Logger
	left   *leavings
	queue  chan *recount

	mu    *sync.Mutex
	begun int                // reloads
	stop  context.CancelFunc // ends the one at work; nil: none is
}

// A recount is a reload of which is to be told.
type recount struct {
	why, version  string
	before, after *policy.Policy
	begun         int                // reloads until this one was put in force
	same          bool               // the policy is as it was
	changes       *replay.Difference // once done is closed; nil: nothing is known
	done          chan struct{}
}

// How many reloads may wait to be told of, and how many changes are told of each
// in an answer and in a line of the log.
const (
	maxRecounts   = 8
	changesTold   = 10
	changesLogged = 2
)

func newRecounts(log *slog.Logger) recounts {
	return recounts{log: log, left: newLeavings(), queue: make(chan *recount, maxRecounts), mu: new(sync.Mutex)}
}

// hurry has reloads told of as far as it is known: another one begins.
func (r *recounts) hurry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun++
	if r.stop != nil {
		r.stop()
	}
}

// put has told of a reload: at once, if nothing has to be found out for that.
func (r *recounts) put(why string, both [2]*policy.Policy) *recount {
	c := &recount{why: why, version: both[1].Version(), before: both[0], after: both[1], done: make(chan struct{})}
	c.same = c.before.Version() == c.version
	r.mu.Lock()
	c.begun = r.begun
	r.mu.Unlock()
	if r.recent != nil && !c.same {
		select {
		case r.queue <- c:
			return c
		default: // so many at once are changes by a program
		}
	}
	r.tell(c)
	return c
}

// run finds out until ctx is done; what waits then is told without.
func (r *recounts) run(ctx context.Context) {
	for {
		select {
		case c := <-r.queue:
			r.find(ctx, c)
			r.tell(c)
		case <-ctx.Done():
			for len(r.queue) > 0 {
				r.tell(<-r.queue)
			}
			return
		}
	}
}

func (r *recounts) find(ctx context.Context, c *recount) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.mu.Lock()
	if r.stop = cancel; c.begun != r.begun {
		cancel()
	}
	r.mu.Unlock()
	c.changes = r.recent.Compare(ctx, c.before, c.after, changesTold)
	r.mu.Lock()
	r.stop = nil
	r.mu.Unlock()
}

// tell says what came of a reload, and lets go of the policy before it.
func (r *recounts) tell(c *recount) {
	args := []any{"because", c.why, "version", c.version}
	if c.same {
		args = append(args, "policy", "as before")
	}
	if d := c.changes; d != nil {
		args = append(args, "changed", d.Changed, "replayed", d.Replayed, "devices", d.Devices, "names", d.Names,
			"not_replayed", d.Left.Privacy+d.Left.Answer+d.Left.Other)
		if !d.Since.IsZero() {
			args = append(args, "since", d.Since)
		}
		if shown := examples(d); shown != "" {
			args = append(args, "examples", shown)
		}
		if d.Short != "" {
			args = append(args, "short", d.Short)
		}
	}
	r.log.Info("reloaded", args...)
	c.before, c.after = nil, nil
	close(c.done)
	r.left.add()
}

func examples(d *replay.Difference) string {
	var shown []string
	for i := range d.Changes[:min(len(d.Changes), changesLogged)] {
		shown = append(shown, d.Changes[i].String())
	}
	return strings.Join(shown, "; ")
}

// wait returns what a reload has changed, or nil if ctx is done before it is known.
func (c *recount) wait(ctx context.Context) *replay.Difference {
	select {
	case <-c.done:
		return c.changes
	case <-ctx.Done():
		return nil
	}
}
