package upstream

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry/internal/yamlpos"
)

// A Strategy is how a group chooses among its servers.
//
// All of them come to an answer in the same way: servers are asked one after
// the other, at intervals; who was asked may answer until the timeout; the
// first answer that is no failure is taken; and a failure lets the next server
// be asked at once. Servers that were silent are asked again in the end. The
// strategies differ in the order and the intervals.
type Strategy uint8

// The strategies.
const (
	// Fastest asks the server with the lowest moving average of round trips,
	// and a second one if it takes longer than it nearly always does.
	Fastest Strategy = iota
	// Failover asks in the order of preference.
	Failover
	// Parallel asks all servers at once.
	Parallel
)

var strategies = [...]string{Fastest: "fastest", Failover: "failover", Parallel: "parallel"}

// String returns the word that ParseStrategy reads.
func (s Strategy) String() string { return strategies[s] }

// ParseStrategy reads the name of a strategy.
func ParseStrategy(s string) (Strategy, error) {
	if i := slices.Index(strategies[:], s); i >= 0 {
		return Strategy(i), nil
	}
	err := fmt.Errorf("no strategy is called %q", s)
	if hint := yamlpos.DidYouMean(s, strategies[:]); hint != "" {
		return 0, yamlpos.Hint(err, hint)
	}
	return 0, yamlpos.Hint(err, "write fastest, failover or parallel")
}

// asks is how many times servers are asked at most: each one twice, and a
// single one three times, because packets get lost.
func (g *Group) asks() int { return max(3, 2*len(g.servers)) }

// slot is the interval between servers that leaves time for all of them, and
// for the last to answer.
func (g *Group) slot() time.Duration { return g.timeout / time.Duration(g.asks()+1) }

// A place is where a server stands in the order.
type place struct {
	*server
	down    bool
	average time.Duration
	hedge   time.Duration // it nearly always has answered by then; zero: not known
}

func (g *Group) place(s *server, now time.Time) place {
	p := place{server: s}
	p.down, p.average, p.hedge = s.health.standing(now, g.life.on.Load())
	return p
}

// before reports whether p is asked before q. Equal ones keep their order.
func (g *Group) before(p, q *place) bool {
	if p.down != q.down {
		return q.down
	}
	return g.strategy == Fastest && p.average < q.average
}

// first returns who is asked first, and how long that one is waited for before
// another is asked too.
func (g *Group) first(now time.Time) (*server, time.Duration) {
	if len(g.servers) == 1 {
		return g.servers[0], g.slot()
	}
	best, up, hedge := place{}, 0, g.slot()
	for i, s := range g.servers {
		p := g.place(s, now)
		if i == 0 || g.before(&p, &best) {
			best = p
		}
		if !p.down {
			up++
			hedge = p.soonest(hedge)
		}
	}
	if g.strategy != Fastest || up < 2 {
		hedge = g.slot()
	}
	return best.server, hedge
}

// soonest returns the lower of d and when this server would have answered.
func (p *place) soonest(d time.Duration) time.Duration {
	if p.hedge > 0 {
		return min(d, p.hedge)
	}
	return d
}

// order returns the servers as they are asked, and the interval between them.
func (g *Group) order(now time.Time, first *server) (order []place, hedge time.Duration) {
	hedge = g.slot()
	for _, s := range g.servers {
		p := g.place(s, now)
		if !p.down && g.strategy == Fastest {
			hedge = p.soonest(hedge)
		}
		order = append(order, p)
	}
	slices.SortStableFunc(order, func(a, b place) int {
		switch {
		case a.server == first || b.server != first && g.before(&a, &b):
			return -1
		case b.server == first || g.before(&b, &a):
			return 1
		}
		return 0
	})
	if g.strategy == Parallel {
		hedge = 0
	}
	return order, hedge
}

// A budget bounds how often a second server is asked because the first is slow:
// one in ten questions in the long run. Servers that are slow because they have
// too much to do must not get more for it.
type budget struct{ tenths atomic.Int64 }

const (
	hedgeCost = 10
	maxBudget = 10 * hedgeCost
)

func (b *budget) fill() { b.tenths.Store(maxBudget) }

func (b *budget) earn() {
	if b.tenths.Load() < maxBudget {
		b.tenths.Add(1)
	}
}

func (b *budget) spend() bool {
	if b.tenths.Add(-hedgeCost) >= 0 {
		return true
	}
	b.tenths.Add(hedgeCost)
	return false
}
