package main

import "time"

// What happens to the upstreams, and when: again in each cycle.
const cycle = time.Minute

const reloadEvery = 10 * time.Second

// A plan is what happens to the world, and when.
type plan struct {
	turns   []turn
	reloads []time.Duration
}

// scheduled returns what happens in a run of this length.
func scheduled(span time.Duration) plan { return plan{turns(span), reloads(span)} }

// A turn is that an upstream ends, or is there again.
type turn struct {
	at     time.Duration
	server int
	alive  bool
}

// turns returns what happens to the two upstreams in so long. In a run that is
// shorter than a cycle all of it happens accordingly faster. One that has ended
// is there again before the last tenth of its cycle is over, so a run does not
// end without upstreams unless it is cut off in a cycle.
func turns(span time.Duration) []turn {
	once := []turn{
		{12 * time.Second, 0, false}, {22 * time.Second, 0, true},
		{32 * time.Second, 1, false}, {42 * time.Second, 1, true},
		{48 * time.Second, 0, false}, {48 * time.Second, 1, false},
		{52 * time.Second, 0, true}, {52 * time.Second, 1, true},
	}
	var all []turn
	for from := time.Duration(0); from < span; from += pressed(cycle, span) {
		for _, t := range once {
			if t.at = from + pressed(t.at, span); t.at < span {
				all = append(all, t)
			}
		}
	}
	return all
}

// reloads returns when the gateway has to reload.
func reloads(span time.Duration) []time.Duration {
	var all []time.Duration
	every := pressed(reloadEvery, span)
	for at := every; at < span; at += every {
		all = append(all, at)
	}
	return all
}

// pressed returns a time of the cycle as it is in a run of this length.
func pressed(d, span time.Duration) time.Duration {
	if span >= cycle {
		return d
	}
	return time.Duration(float64(d) * span.Seconds() / cycle.Seconds())
}

// A gap is a time in which no upstream is there.
type gap struct{ from, to time.Duration }

// recovery is how long after a gap SERVFAIL is still taken for one of it: an
// upstream has to begin, and to be found again.
const recovery = 3 * time.Second

// excused reports whether somebody who asked and was answered at these times
// may have had to do without upstreams.
func excused(gaps []gap, asked, answered time.Duration) bool {
	for _, g := range gaps {
		if answered >= g.from && asked < g.to+recovery {
			return true
		}
	}
	return false
}

// A watch finds the gaps in what happens to the upstreams.
type watch struct {
	dead [2]bool
	gaps []gap
}

// forever is the end of a gap that has none yet.
const forever = time.Duration(1<<63-1) - recovery

// note takes a turn into account. The end of a server counts from before it was
// ended, its return from after it was begun.
func (w *watch) note(t turn) {
	was := w.dead[0] && w.dead[1]
	w.dead[t.server] = !t.alive
	switch is := w.dead[0] && w.dead[1]; {
	case is && !was:
		w.gaps = append(w.gaps, gap{t.at, forever})
	case was && !is:
		w.gaps[len(w.gaps)-1].to = t.at
	}
}
