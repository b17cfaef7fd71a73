package upstream

import (
	"sync/atomic"
	"time"
)

// Bounds are the upper bounds of the classes of [ServerStats.RTT].
var Bounds = [...]time.Duration{
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second,
}

// Stats are what a group has counted since it was made.
type Stats struct {
	Questions uint64 // that were asked
	Shared    uint64 // of these: answered together with an equal one
	Hedged    uint64 // servers asked because an earlier one was slow
	Servers   []ServerStats
}

// ServerStats are what was counted of one server.
type ServerStats struct {
	Server     string // as [Server.String] writes it
	Asked      uint64
	Answered   uint64
	Failures   uint64 // no answer, or none that can be used
	Refusals   uint64 // answers with SERVFAIL, REFUSED and the like
	Truncated  uint64 // answers over UDP that had to be asked for over TCP
	Silent     uint64 // questions without an answer over UDP that went over TCP
	Mismatched uint64 // messages to other questions than ours: forgeries, mostly
	CaseLost   uint64 // answers that did not keep the case of letters
	Probes     uint64
	Opened     uint64        // sockets and connections
	RTT        [12]uint64    // answers by the time they took; the last are slower than all Bounds
	RTTSum     time.Duration // of all answers
}

// counts is the living form of ServerStats.
type counts struct {
	asked, answered, failures, refusals, truncated, silent, mismatched, caseLost, probes, opened atomic.Uint64

	rtt    [len(Bounds) + 1]atomic.Uint64
	rttSum atomic.Int64
}

func (c *counts) took(d time.Duration) {
	i := 0
	for i < len(Bounds) && d > Bounds[i] {
		i++
	}
	c.answered.Add(1)
	c.rtt[i].Add(1)
	c.rttSum.Add(int64(d))
}

func (c *counts) read(name string) ServerStats {
	s := ServerStats{
		Server: name, Asked: c.asked.Load(), Answered: c.answered.Load(), Failures: c.failures.Load(), Refusals: c.refusals.Load(),
		Truncated: c.truncated.Load(), Silent: c.silent.Load(), Mismatched: c.mismatched.Load(), CaseLost: c.caseLost.Load(), Probes: c.probes.Load(),
		Opened: c.opened.Load(), RTTSum: time.Duration(c.rttSum.Load()),
	}
	for i := range c.rtt {
		s.RTT[i] = c.rtt[i].Load()
	}
	return s
}

// Stats returns what was counted.
func (g *Group) Stats() Stats {
	s := Stats{Questions: g.questions.Load(), Shared: g.shared.Load(), Hedged: g.hedged.Load()}
	for _, u := range g.servers {
		s.Servers = append(s.Servers, u.counts.read(u.label))
	}
	return s
}
