package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

// ask asks the servers. A question over UDP that is answered soon is dealt with
// here, in the asker's own goroutine; all others are a race.
func (g *Group) ask(ctx context.Context, q *Question) ([]byte, error) {
	if len(g.servers) == 0 {
		return nil, noAnswer(nil)
	}
	g.budget.earn()
	now := time.Now()
	if err := g.nobody(now); err != nil {
		return nil, err
	}
	if g.strategy == Parallel {
		return g.newRace(q, nil, now).run(ctx)
	}
	s, gap := g.first(now)
	if s.Transport != UDP {
		return g.newRace(q, s, now).run(ctx)
	}
	s.counts.asked.Add(1)
	t := s.try(q, s.manner(q, now), now)
	until := now.Add(min(gap, deaf))
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	reply, err := t.listen(ctx, until)
	if err == nil && !failed(reply) && s.habits.caseLost.Load() == 0 {
		reply = bytes.Clone(reply)
		t.free(s.account(now, reply, nil))
		return reply, nil
	}
	r := g.newRace(q, s, now)
	r.begin(0, now, func(ctx context.Context) ([]byte, error) { return s.resume(ctx, q, t, reply, err) })
	return r.run(ctx)
}

// A race is the asking of several servers for one question.
type race struct {
	g     *Group
	q     Question
	begun time.Time
	order []place
	errs  []error // by the order: what came of it; nil: nothing yet
	hedge time.Duration

	next    int       // the next ask
	due     time.Time // when it is to be
	results chan *runner
	open    []*runner
	worst   []byte // the answer if there is no better one
}

// A runner is one question to one server.
type runner struct {
	place  int
	begun  time.Time
	cancel context.CancelFunc
	reply  []byte
	err    error
	sample bool // waited for though somebody else has won
	last   bool // over TCP, after silence
}

var errFailure = errors.New("it reports a failure")

func (g *Group) newRace(q *Question, first *server, now time.Time) *race {
	r := &race{g: g, q: *q, begun: now, due: now, results: make(chan *runner, g.asks()+1)} // one more: see last
	r.order, r.hedge = g.order(now, first)
	r.errs = make([]error, len(r.order))
	return r
}

// run runs the race until somebody wins, nobody can win any more, or ctx ends.
func (r *race) run(ctx context.Context) ([]byte, error) {
	defer r.stop()
	timer := time.NewTimer(r.advance(false))
	defer timer.Stop()
	for len(r.open) > 0 {
		select {
		case w := <-r.results:
			if expired(ctx) {
				return nil, context.DeadlineExceeded
			}
			if r.finish(w) {
				return w.reply, nil
			}
			timer.Reset(r.advance(true))
		case <-timer.C:
			timer.Reset(r.advance(false))
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if r.worst != nil {
		return r.worst, nil
	}
	return nil, r.g.fail(r.errs)
}

// expired reports whether ctx is past its deadline, which what happens at that
// very time may be seen before.
func expired(ctx context.Context) bool {
	d, ok := ctx.Deadline()
	return ok && !time.Now().Before(d)
}

// advance asks those whose time has come, and with failed who would be the
// next to be asked for the first time. It returns the time until the next ask.
func (r *race) advance(failed bool) time.Duration {
	for r.next < r.g.asks() {
		again := r.next >= len(r.order)
		now := time.Now()
		i := r.next % len(r.order)
		switch {
		case again && r.errs[i] != nil: // it has had its say
			r.next++
			continue
		case failed && !again || !now.Before(r.due) && r.affords(again):
			failed = false
			r.start(i, now)
		default:
			return r.due.Sub(now)
		}
	}
	return r.last()
}

// last asks once more when all that was sent over UDP has met with silence, over
// TCP: on some ways long datagrams, or the second part of a fragmented one, get
// lost. Only a server that is well but for this question is asked so, once.
func (r *race) last() time.Duration {
	if r.next > r.g.asks() {
		return r.g.timeout
	}
	for i := range r.order {
		s := r.order[i].server
		if s.Transport != UDP || r.errs[i] != nil || !s.health.up() {
			continue
		}
		now := time.Now()
		if now.Before(r.due) {
			return r.due.Sub(now)
		}
		s.counts.asked.Add(1)
		s.counts.silent.Add(1)
		w := r.begin(i, now, func(ctx context.Context) ([]byte, error) { return s.afterSilence(ctx, &r.q) })
		w.last = true
		break
	}
	return r.g.timeout
}

// affords reports whether a server may be asked beside others now. Too many of
// these have to wait until it is the server's turn in any case.
func (r *race) affords(again bool) bool {
	if len(r.open) == 0 || r.g.strategy != Fastest || again {
		return true
	}
	turn := r.begun.Add(time.Duration(r.next) * r.g.slot())
	if time.Now().Before(turn) && !r.g.budget.spend() {
		r.due = turn
		return false
	}
	r.g.hedged.Add(1)
	return true
}

func (r *race) start(i int, now time.Time) {
	s := r.order[i].server
	s.counts.asked.Add(1)
	r.begin(i, now, func(ctx context.Context) ([]byte, error) { return s.ask(ctx, &r.q, nil) })
}

// begin lets one in the order be asked by f.
func (r *race) begin(place int, now time.Time, f func(context.Context) ([]byte, error)) *runner {
	ctx, cancel := r.g.life.context(time.Until(r.begun.Add(r.g.timeout)))
	w := &runner{place: place, begun: now, cancel: cancel}
	r.next++
	r.due = now.Add(r.gap())
	r.open = append(r.open, w)
	r.g.life.spawn(func() {
		defer cancel()
		w.reply, w.err = f(ctx)
		w.err = ownTime(w.err)
		r.results <- w
	})
	return w
}

// gap returns how long those who were asked are waited for. The next server
// is asked soon if it is well; who was asked already has time.
func (r *race) gap() time.Duration {
	slot := r.g.slot()
	if r.next >= len(r.order) || r.order[r.next].down {
		return slot
	}
	return min(slot, r.hedge<<min(r.next-1, 10))
}

// finish notes what came of a question, and reports whether it won.
func (r *race) finish(w *runner) (won bool) {
	for i := range r.open {
		if r.open[i] == w {
			r.open = append(r.open[:i], r.open[i+1:]...)
			break
		}
	}
	s := r.order[w.place].server
	s.account(w.begun, w.reply, w.err)
	switch {
	case w.err != nil:
		if r.errs[w.place] == nil || w.last { // which says most
			r.errs[w.place] = fmt.Errorf("server %s: %w", s.label, w.err)
		}
		r.giveUp(w.place)
		r.g.rouse()
		return false
	case failed(w.reply):
		r.errs[w.place] = errFailure
		r.worst = w.reply
		return false
	}
	for _, slow := range r.open {
		if slow.place != w.place {
			r.order[slow.place].health.overtaken(slow.begun, r.g.slot(), time.Now())
		}
	}
	return true
}

// giveUp calls off who still waits for a server that has failed since.
func (r *race) giveUp(place int) {
	for _, w := range r.open {
		if w.place == place {
			w.cancel()
		}
	}
}

// stop calls off who is still running. But of each server one at a time runs
// to its end: how else should it be known what it can do?
func (r *race) stop() {
	samples := 0
	for _, w := range r.open {
		w.sample = r.g.life.on.Load() && r.order[w.place].health.sampled.CompareAndSwap(false, true)
		if w.sample {
			samples++
		} else {
			w.cancel()
		}
	}
	if samples > 0 {
		r.g.life.spawn(r.learn)
	}
}

// learn waits for the samples.
func (r *race) learn() {
	for range r.open {
		w := <-r.results
		if !w.sample {
			continue
		}
		s := r.order[w.place].server
		s.account(w.begun, w.reply, w.err)
		s.health.sampled.Store(false)
		if w.err != nil {
			r.g.rouse()
		}
	}
}
