package steer

import (
	"container/heap"
	"time"
)

// tend does for both pools what is due.
func (t *Table) tend(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range []*pool{t.v4, t.v6} {
		if p != nil {
			t.sweep(p, now)
		}
	}
	for by, a := range t.askers {
		if now.UnixNano()-a.since >= int64(budgetWindow) {
			delete(t.askers, by)
		}
	}
}

// sweep puts leases to rest that nothing used for as long as is promised, and
// frees the addresses of those that have rested. The caller holds t.mu, as for
// everything below.
func (t *Table) sweep(p *pool, now time.Time) {
	n := now.UnixNano()
	if t.first == 0 {
		t.first = n
	}
	t.release(p, n)
	for len(p.live) > 0 && p.live[0].due <= n {
		l := p.live[0]
		switch end := t.end(l, t.cfg.Keep); {
		case end > n:
			l.due = end
			heap.Fix(&p.live, 0)
		case l.holds.Load() > 0:
			l.due = n + int64(time.Minute)
			heap.Fix(&p.live, 0)
		default:
			t.layToRest(p, l, n)
		}
	}
	t.press(p, n)
}

// end returns when a lease may be put to rest that is kept for so long after
// its last use.
func (t *Table) end(l *Lease, keep time.Duration) int64 {
	return max(l.use.Load()+int64(keep), t.first+int64(min(idleKeep, t.cfg.Keep)))
}

// press puts leases to rest early that never carried a packet, if the pool is
// under pressure. Looking for them costs a walk over the pool, so it is done
// once a minute.
func (t *Table) press(p *pool, n int64) {
	if !p.strained() || n-p.pressed < int64(time.Minute) && n >= p.pressed {
		return
	}
	p.pressed = n
	p.all(func(l *Lease) {
		idle := l.rested.Load() == 0 && !l.carried.Load() && l.holds.Load() <= 0
		if idle && t.end(l, min(idleKeep, t.cfg.Keep)) <= n {
			t.layToRest(p, l, n)
		}
	})
}

func (t *Table) layToRest(p *pool, l *Lease, n int64) {
	heap.Remove(&p.live, l.place)
	l.rested.Store(n)
	p.resting = append(p.resting, rest{l, n})
	p.atRest++
}

// recall ends a rest.
func (t *Table) recall(l *Lease) {
	if l.rested.Load() == 0 {
		return
	}
	p := t.pool(l.v6)
	l.rested.Store(0)
	l.due = t.end(l, t.cfg.Keep)
	heap.Push(&p.live, l)
	p.atRest--
}

// release frees the addresses of leases that have rested. One that a flow took
// hold of or used, having found it just before it was laid to rest, is recalled.
func (t *Table) release(p *pool, n int64) {
	for len(p.resting) > 0 && p.resting[0].since+int64(t.cfg.Quarantine) <= n {
		l, since := p.resting[0].lease, p.resting[0].since
		p.resting[0].lease = nil
		p.resting = p.resting[1:]
		switch {
		case l.rested.Load() != since: // recalled before
		case l.use.Load() > since || !l.holds.CompareAndSwap(0, gone):
			t.recall(l)
		default:
			t.free(p, l)
		}
	}
}

func (t *Table) free(p *pool, l *Lease) {
	p.atRest--
	p.give(l.index)
	t.unpublish(l)
	t.batch.records = appendEnd(t.batch.records, l)
}

// unpublish makes a lease and what it has learnt unfindable.
func (t *Table) unpublish(l *Lease) {
	delete(t.names, l.key)
	for _, n := range l.lore().nexts {
		t.unlearn(l, n.node, n.Next)
	}
	t.pool(l.v6).set(l.index, nil)
}
