package upstream

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The time for which a server that failed is asked last doubles with each
// failure in these bounds.
const (
	minPenalty = time.Second
	maxPenalty = 30 * time.Second
)

const (
	// minHedge is how long a server is waited for at least before another one is
	// asked too.
	minHedge = 20 * time.Millisecond

	// fade is the time in which what was measured of a server that nobody asks
	// loses its worth: then it is asked first once, and measured again.
	fade = time.Minute
)

// health is how a server fared lately. Round trips are averaged as TCP does
// (RFC 6298 section 2): the average, and how far answers are from it.
type health struct {
	sampled atomic.Bool // one that was overtaken is still waited for
	probing atomic.Bool

	mu       sync.Mutex
	srtt     time.Duration
	rttvar   time.Duration
	measured time.Time // zero: never
	heard    time.Time // the last answer

	failures int       // in a row
	until    time.Time // asked last until then; with a prober: until it has answered
	since    time.Time // it is up, or down
	err      error     // the last failure's
}

// answered notes an answer.
func (h *health) answered(took time.Duration, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.measure(took, now)
	h.heard = now
	if h.failures > 0 || h.since.IsZero() {
		h.since = now
	}
	h.failures, h.err, h.until = 0, nil, time.Time{}
}

func (h *health) measure(took time.Duration, now time.Time) {
	if h.measured.IsZero() {
		h.srtt, h.rttvar = took, took/2
	} else {
		h.rttvar += ((h.srtt - took).Abs() - h.rttvar) / 4
		h.srtt += (took - h.srtt) / 8
	}
	h.measured = now
}

// failed notes that a question from begun on has failed. Silence is no failure
// if others were answered meanwhile: packets get lost, and there are names that
// nobody can answer for.
func (h *health) failed(err error, begun, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !errors.Is(err, errSilent) || h.heard.Before(begun) {
		h.fail(err, now)
	}
}

// fail counts a failure. Many at one time are one, for they have one cause.
func (h *health) fail(err error, now time.Time) {
	h.err = err
	if h.failures > 0 && now.Before(h.until) {
		return
	}
	if h.failures == 0 {
		h.since = now
	}
	h.until = now.Add(min(maxPenalty, minPenalty<<min(h.failures, 10)))
	h.failures++
}

// overtaken notes that another server has answered while this one had not. Had
// it been waited for as long as is fair, that is a failure.
func (h *health) overtaken(begun time.Time, fair time.Duration, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	waited := now.Sub(begun)
	if waited > h.srtt { // its answer, if one comes, takes at least as long
		h.srtt, h.measured = (h.srtt+waited)/2, now
	}
	if waited >= fair && h.heard.Before(begun) {
		h.fail(errSilent, now)
	}
}

// standing is what servers are ordered by: the up before the down, then by the
// average, which fades.
func (h *health) standing(now time.Time, probed bool) (down bool, average, hedge time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	down = h.failures > 0 && (probed || now.Before(h.until))
	if h.measured.IsZero() {
		return down, 0, 0
	}
	average = h.srtt
	if now.Sub(h.measured) >= fade {
		average, h.measured = 0, now // for one question, not for all that come before its answer
	}
	return down, average, max(minHedge, h.srtt+4*h.rttvar)
}

// due returns when a server that is down is to be probed.
func (h *health) due() (at time.Time, down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.until, h.failures > 0
}

// up reports whether the server has not failed since its last answer.
func (h *health) up() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failures == 0
}

// cameUp reports whether the server is up, and was not before since.
func (h *health) cameUp(since time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failures == 0 && h.since.After(since)
}

// Back reports whether a server has come up since then. Who asks has a question
// that waits for that: servers that are down are probed as if it had been asked.
func (g *Group) Back(since time.Time) bool {
	g.waiting.Add(1)
	if g.resting.Load() {
		g.rouse()
	}
	return slices.ContainsFunc(g.servers, func(s *server) bool { return s.health.cameUp(since) })
}

// A Status is how a server of the group stands.
type Status struct {
	Server    string // as [Server.String] writes it
	Addr      netip.AddrPort
	Transport Transport
	Up        bool          // its last answer came in time; true for those never asked
	Failures  int           // in a row
	RTT       time.Duration // moving average; zero: never measured
	Since     time.Time     // it is up or down; zero: never asked
	Until     time.Time     // if it is down: no probe before
	Err       error         // if it is down: the last failure's
}

// Status returns how the servers stand, in the order of preference.
func (g *Group) Status() []Status {
	var all []Status
	for _, s := range g.servers {
		h := &s.health
		h.mu.Lock()
		all = append(all, Status{s.label, s.Addr, s.Transport, h.failures == 0, h.failures, h.srtt, h.since, h.until, h.err})
		h.mu.Unlock()
	}
	return all
}
