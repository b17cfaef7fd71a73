package steer

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/starferry/starferry/policy"
)

// maxName bounds a name: 255 bytes on the wire (RFC 1035, section 2.3.4), each
// of which takes at most four characters.
const maxName = 1020

// A Table is the leases of one node. Its methods are safe for concurrent use.
type Table struct {
	cfg    Config
	v4, v6 *pool // nil without one
	id     uint64

	writing sync.Mutex // held over writes; taken before mu
	journal *journal

	mu     sync.RWMutex
	closed bool
	names  map[key]*Lease
	nexts  map[nextKey]*Lease
	askers map[string]*asked
	new    map[key]pending
	batch  *batch        // to come
	learnt chan struct{} // capacity 1: there is something to write soon
	serial uint64
	first  int64 // when the table first did anything
}

type nextKey struct {
	node string
	addr netip.Addr
}

// A pending lease is in a batch that is not written yet.
type pending struct {
	lease *Lease
	batch *batch
}

// asked is how many new leases somebody caused in an hour.
type asked struct {
	since int64
	count int
}

// A batch is records that are written together, with the leases that exist
// once they are. Those who wait for it queue for Table.writing; the first of
// them writes it.
type batch struct {
	records []byte
	leases  []*Lease
	done    bool // guarded by Table.writing, as err is
	err     error
}

// Journal returns the random id of the journal. Labels learnt under another id
// are void.
func (t *Table) Journal() uint64 { return t.id }

func (t *Table) pool(v6 bool) *pool {
	if v6 {
		return t.v6
	}
	return t.v4
}

// Lease returns the name's lease in a family and counts as an answer: it is kept
// for as long as answers are. If there is none one is made for the asker, who
// pays for it from his budget; the empty asker has no limit. The name is in
// lower case, without the final dot.
//
// Errors are [ErrFull], [ErrBudget], [ErrNoPool], [ErrClosed], and failures to
// write the journal; a lease that exists is returned whatever the disk does.
func (t *Table) Lease(name string, v6 bool, by string, now time.Time) (*Lease, error) {
	k := key{name, v6}
	t.mu.RLock()
	l := t.names[k]
	hit := l != nil && l.rested.Load() == 0
	if hit {
		l.used(now)
	}
	t.mu.RUnlock()
	if hit {
		return l, nil
	}
	l, b, err := t.begin(k, by, now)
	if err == nil && b != nil {
		err = t.commit(b)
	}
	if err != nil {
		return nil, fmt.Errorf("leasing an address for %q: %w", name, err)
	}
	return l, nil
}

// begin finds a lease or makes one; one that was made is a lease once the
// batch is written.
func (t *Table) begin(k key, by string, now time.Time) (*Lease, *batch, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, nil, ErrClosed
	}
	if l := t.names[k]; l != nil {
		l.used(now)
		t.recall(l)
		return l, nil, nil
	}
	if p, ok := t.new[k]; ok {
		p.lease.used(now)
		return p.lease, p.batch, nil
	}
	if k.name == "" || len(k.name) > maxName {
		return nil, nil, errors.New("it is no name")
	}
	p := t.pool(k.v6)
	if p == nil {
		return nil, nil, ErrNoPool
	}
	t.sweep(p, now)
	if p.count >= p.capacity {
		return nil, nil, ErrFull
	}
	if !t.pay(by, now) {
		return nil, nil, ErrBudget
	}
	l := t.allocate(p, k, now)
	return l, t.batch, nil
}

// pay takes a new lease from the asker's budget for this hour.
func (t *Table) pay(by string, now time.Time) bool {
	if t.cfg.Budget < 0 || by == "" {
		return true
	}
	a := t.askers[by]
	if a == nil || now.UnixNano()-a.since >= int64(budgetWindow) {
		a = &asked{since: now.UnixNano()}
		t.askers[by] = a
	}
	a.count++
	return a.count <= t.cfg.Budget
}

func (t *Table) allocate(p *pool, k key, now time.Time) *Lease {
	i, ok := p.take()
	if !ok {
		panic("steer: a pool counts fewer leases than it has")
	}
	t.serial++
	l := &Lease{key: k, addr: p.addr(i), index: i, serial: t.serial}
	l.use.Store(now.UnixNano())
	l.saved.use = now.UnixNano()
	t.batch.records = appendAlloc(t.batch.records, l)
	t.batch.leases = append(t.batch.leases, l)
	t.new[k] = pending{l, t.batch}
	return l
}

// commit returns once the batch is written. While one caller writes, others
// fill the next batch.
func (t *Table) commit(b *batch) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	if !b.done {
		t.write(nil)
		t.shrink()
	}
	return b.err
}

// write writes the batch to come and, with it, more records. The caller holds
// t.writing.
func (t *Table) write(more []byte) error {
	t.mu.Lock()
	b := t.batch
	t.batch = &batch{}
	if t.closed {
		b.err = ErrClosed
	}
	t.mu.Unlock()
	if records := append(b.records, more...); b.err == nil && len(records) > 0 {
		b.err = t.journal.write(records)
	}
	b.done = true
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range b.leases {
		delete(t.new, l.key)
		if b.err != nil {
			t.pool(l.v6).give(l.index)
			continue
		}
		t.publish(l)
		l.due = t.end(l, t.cfg.Keep)
		heap.Push(&t.pool(l.v6).live, l)
	}
	return b.err
}

// publish lets a lease be found.
func (t *Table) publish(l *Lease) {
	t.names[l.key] = l
	t.pool(l.v6).set(l.index, l)
}

// Peek returns the name's lease in a family, if there is one, and leaves
// everything as it is.
func (t *Table) Peek(name string, v6 bool) (*Lease, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.names[key{name, v6}]
	return l, l != nil && l.found()
}

// ByAddr returns the lease of a label. It takes no lock and allocates nothing.
func (t *Table) ByAddr(a netip.Addr) (*Lease, bool) {
	p := t.pool(!a.Is4())
	i, ok := p.index(a)
	if !ok {
		return nil, false
	}
	l := p.at(i)
	return l, l != nil && l.found()
}

// ByNext returns the lease behind which a node has said to have the label; of
// several, the one of which it said so last.
func (t *Table) ByNext(node string, addr netip.Addr) (*Lease, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.nexts[nextKey{node, addr}]
	return l, l != nil && l.found()
}

// Learn keeps by which label a node knows the name of a lease. Of a lease that
// has ended nothing is kept.
func (t *Table) Learn(l *Lease, node string, next Next) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.names[l.key] != l {
		return
	}
	k, old := l.lore(), Next{}
	k.nexts = slices.Clone(k.nexts)
	i := slices.IndexFunc(k.nexts, func(n nodeNext) bool { return n.node == node })
	if i < 0 {
		k.nexts = append(k.nexts, nodeNext{node, next})
	} else {
		old, k.nexts[i].Next = k.nexts[i].Next, next
		t.unlearn(l, node, old)
	}
	t.nexts[nextKey{node, next.Addr}] = l
	l.known.Store(&k)
	if old.Addr != next.Addr || old.Journal != next.Journal { // when it was asked is worth no write
		l.dirty.Store(true)
		t.hurry()
	}
}

func (t *Table) unlearn(l *Lease, node string, n Next) {
	if k := (nextKey{node, n.Addr}); t.nexts[k] == l {
		delete(t.nexts, k)
	}
}

// Forget voids all labels that were learnt from a node.
func (t *Table) Forget(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.names {
		k := l.lore()
		i := slices.IndexFunc(k.nexts, func(n nodeNext) bool { return n.node == node })
		if i < 0 {
			continue
		}
		t.unlearn(l, node, k.nexts[i].Next)
		k.nexts = slices.Delete(slices.Clone(k.nexts), i, i+1)
		l.known.Store(&k)
		l.dirty.Store(true)
	}
}

// SetFacts keeps the addresses by which a name was judged. The table makes a
// copy of them.
func (t *Table) SetFacts(l *Lease, facts []policy.Hop) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := l.lore()
	if t.names[l.key] != l || sameFacts(k.facts, facts) {
		return
	}
	k.facts = slices.Clone(facts)
	for i := range k.facts {
		k.facts[i].Addrs = slices.Clone(k.facts[i].Addrs)
	}
	l.known.Store(&k)
	l.dirty.Store(true)
	t.hurry()
}

func sameFacts(a, b []policy.Hop) bool {
	return slices.EqualFunc(a, b, func(a, b policy.Hop) bool { return a.Name == b.Name && slices.Equal(a.Addrs, b.Addrs) })
}

// Stats counts the addresses of both pools.
func (t *Table) Stats() (v4, v6 Stats) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.v4.stats(), t.v6.stats()
}

func (p *pool) stats() Stats {
	if p == nil {
		return Stats{}
	}
	return Stats{Capacity: p.capacity, Used: p.count, Resting: p.atRest}
}

// Run writes what is written lazily and puts leases to rest that are due, until
// the context is done. What is left to write then is written by Close.
func (t *Table) Run(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	var soon <-chan time.Time // nil: nothing was learnt
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.learnt:
			if soon == nil {
				soon = time.After(flushSoon)
			}
			continue
		case <-soon:
			soon = nil
		case now := <-tick.C:
			t.tend(now)
		}
		failing = t.flushed(t.flush(), failing)
	}
}

// flushed tells when writing begins to fail and when it works again.
func (t *Table) flushed(err error, failing bool) bool {
	if err != nil && !failing {
		t.cfg.Log.Error("leases are not written, no new ones can be given out; trying on", "err", err)
	}
	if err == nil && failing {
		t.cfg.Log.Info("leases are written again")
	}
	return err != nil
}

// hurry has Run write what was learnt: after a crash a node needs the labels of
// the connections that are open, and some of them are a second old.
func (t *Table) hurry() {
	select {
	case t.learnt <- struct{}{}:
	default:
	}
}

// Close writes what is not yet written and closes the journal. Leases can still
// be found; there are no new ones.
func (t *Table) Close() error {
	t.mu.RLock()
	closed := t.closed
	t.mu.RUnlock()
	if closed {
		return nil
	}
	err := t.flush()
	t.writing.Lock()
	defer t.writing.Unlock()
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	return errors.Join(err, t.journal.close())
}
