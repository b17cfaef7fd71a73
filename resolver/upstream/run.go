package upstream

import (
	"context"
	"time"
)

// Run keeps what speeds questions up: sockets and connections that are used
// again, with what reads from them; and it probes servers that are down. When
// ctx is done it closes all of that and returns nil.
func (g *Group) Run(ctx context.Context) error {
	if err := g.life.begin(ctx); err != nil {
		return err
	}
	defer g.life.end(func() {
		for _, s := range g.servers {
			s.closeAll()
		}
	})
	idle := time.NewTicker(socketIdle / 2)
	defer idle.Stop()
	probe := time.NewTimer(maxPenalty)
	defer probe.Stop()
	seen := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-idle.C:
			for _, s := range g.servers {
				s.sockets.prune(now.Add(-socketIdle))
			}
		case <-g.wake:
			probe.Reset(g.probeDue(&seen))
		case <-probe.C:
			probe.Reset(g.probeDue(&seen))
		}
	}
}

// rouse lets the prober look anew.
func (g *Group) rouse() {
	select {
	case g.wake <- struct{}{}:
	default: // it is about to
	}
}

// probeDue probes the servers that are down and whose time has come, but not
// if nothing was asked since the last time: then it rests until something is.
// It returns the time until the next probe.
func (g *Group) probeDue(seen *uint64) time.Duration {
	now, wait := time.Now(), maxPenalty
	var due []*server
	for _, s := range g.servers {
		switch at, down := s.health.due(); {
		case !down || s.health.probing.Load():
		case now.Before(at):
			wait = min(wait, at.Sub(now))
		default:
			due = append(due, s)
		}
	}
	g.resting.Store(len(due) > 0)
	asked := g.questions.Load() + g.waiting.Load()
	if len(due) == 0 || asked == *seen {
		return wait
	}
	g.resting.Store(false)
	*seen = asked
	for _, s := range due {
		s.health.probing.Store(true)
		g.life.run(g.timeout, func(ctx context.Context) { g.probeOne(ctx, s) })
	}
	return wait
}

// probeOne asks a server that is down, in the way that all questions go. Any
// answer will do.
func (g *Group) probeOne(ctx context.Context, s *server) {
	begun := time.Now()
	s.counts.probes.Add(1)
	s.counts.asked.Add(1)
	reply, err := s.ask(ctx, &g.probe, nil)
	if g.life.on.Load() { // else that ended, not the server
		s.account(begun, reply, ownTime(err))
	}
	s.health.probing.Store(false)
	g.rouse()
}
