package node

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/starferry/starferry/state"
)

// quiet is how long a neighbour that dials us may be silent: it asks our DNS
// every second (see [link.Prober]), so three misses and a half.
const quiet = 3500 * time.Millisecond

// neighbours keeps which nodes at the other ends of links answer. The dialing
// side probes; the side that is dialed has seen the prober's questions. What
// changes goes to the state tables, and to changed.
type neighbours struct {
	store   *state.Store
	log     *slog.Logger
	changed func(name string, up bool)
	lost    func(name string) // it has been down for linkPatience

	mu sync.Mutex
	by map[string]*neighbour
}

type neighbour struct {
	role    string
	passive bool // it dials us
	seen    time.Time
	lost    bool // and lost has been told
	row     state.Link
}

func newNeighbours(store *state.Store, log *slog.Logger, changed func(string, bool), lost func(string)) *neighbours {
	return &neighbours{store: store, log: log, changed: changed, lost: lost, by: map[string]*neighbour{}}
}

// add makes a neighbour known, as down.
func (n *neighbours) add(name, role string, passive bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	nb := &neighbour{role: role, passive: passive}
	nb.row = state.Link{Name: name, Role: role, Since: time.Now(), Reason: "no answer yet"}
	n.by[name] = nb
	n.put(nb.row)
}

// up reports whether the neighbour answers.
func (n *neighbours) up(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	nb := n.by[name]
	return nb != nil && nb.row.Up
}

// allDownFor returns for how long none of the neighbours has answered; zero if
// one does.
func (n *neighbours) allDownFor(names []string) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	shortest := time.Duration(math.MaxInt64)
	for _, name := range names {
		nb := n.by[name]
		if nb == nil {
			continue
		}
		if nb.row.Up {
			return 0
		}
		shortest = min(shortest, time.Since(nb.row.Since))
	}
	return shortest
}

// saw notes that a neighbour that dials us has asked something.
func (n *neighbours) saw(name string) {
	n.mu.Lock()
	nb := n.by[name]
	if nb == nil || !nb.passive {
		n.mu.Unlock()
		return
	}
	nb.seen = time.Now()
	up := nb.row.Up
	n.mu.Unlock()
	if !up {
		n.report(name, true, 0, "")
	}
}

// report sets how a neighbour stands.
func (n *neighbours) report(name string, up bool, rtt time.Duration, reason string) {
	n.mu.Lock()
	nb := n.by[name]
	if nb == nil {
		n.mu.Unlock()
		return
	}
	flipped := nb.row.Up != up
	if flipped {
		nb.row.Since, nb.lost = time.Now(), false
	}
	nb.row.Up, nb.row.Reason = up, reason
	if rtt > 0 {
		nb.row.RTT = rtt
	}
	n.put(nb.row)
	n.mu.Unlock()
	if !flipped {
		return
	}
	n.log.Info("link", "neighbour", name, "up", up, "reason", reason)
	n.changed(name, up)
}

// measured keeps how long the latest answer of a neighbour took. Nothing is
// decided by that, so nobody is told.
func (n *neighbours) measured(name string, rtt time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if nb := n.by[name]; nb != nil {
		nb.row.RTT = rtt
		n.put(nb.row)
	}
}

func (n *neighbours) put(row state.Link) {
	if err := n.store.Update(func(tx state.Tx) error { return tx.PutLink(row) }); err != nil {
		n.log.Error("keeping the state of a link", "err", err)
	}
}

// Run notices passive neighbours that have fallen silent, and those that stay away.
func (n *neighbours) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			for _, name := range n.silent(now) {
				n.report(name, false, 0, "it has not asked for "+quiet.String())
			}
			for _, name := range n.gone(now) {
				n.lost(name)
			}
		}
	}
}

func (n *neighbours) silent(now time.Time) (names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, nb := range n.by {
		if nb.passive && nb.row.Up && now.Sub(nb.seen) > quiet {
			names = append(names, name)
		}
	}
	return names
}

// gone returns those that have just been down for longer than a restart takes.
func (n *neighbours) gone(now time.Time) (names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, nb := range n.by {
		if !nb.row.Up && !nb.lost && now.Sub(nb.row.Since) >= linkPatience {
			nb.lost = true
			names = append(names, name)
		}
	}
	return names
}
