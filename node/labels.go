package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/steer"
)

const (
	// labelAge is how long a label of the next hop is used without asking again.
	labelAge = time.Hour
	// refusedFor is how long a failed question for a label is not repeated by packets.
	refusedFor = 3 * time.Second
)

var (
	// errNoLabel is returned when the next hop answers that there is nothing to reach.
	errNoLabel = errors.New("the next hop has no address for the name")
	// errNotItsOwn is returned when a node answers with what is not its own: it
	// could send flows to whatever else has an address in the fleet.
	errNotItsOwn = errors.New("the label is not of the node's pool")
)

// labels is what the two steering roles, gateway and egress, share: their own
// leases, and the labels of the next hop that stand behind them.
//
// A label of the next hop is trusted for an hour, and never over a restart of
// this node: [labels.find] gives it, or has the node asked for it again.
type labels struct {
	table   *steer.Table
	started time.Time
	wake    func(label netip.Addr)
	ask     asker
	nexts   []configs.Peer // the nodes of the next hop
	worker  *worker
	voided  func() // labels are void: flows have to be judged again

	mu       sync.Mutex
	busy     map[pending]busy
	journals map[string]uint64 // by node: which its labels come from
}

// An asker asks a node of the next hop.
type asker func(ctx context.Context, node, route string, q resolver.Question, facts resolver.Facts) (*resolver.NodeReply, error)

// A busy question is being asked, or was refused and is not repeated yet.
type busy struct {
	until   time.Time
	refused bool
}

// maxBusy is from where on questions that are over are forgotten.
const maxBusy = 4096

type pending struct {
	label netip.Addr
	node  string
}

func newLabels(table *steer.Table, started time.Time, worker *worker) *labels {
	return &labels{table: table, started: started, worker: worker, busy: map[pending]busy{}, journals: map[string]uint64{}}
}

// A finding is what is known of a node's label behind a lease.
type finding uint8

const (
	askedFor finding = iota // it is being asked for
	found
	refused // the node has just said that it has none, or did not answer
)

// find returns the label of the node behind a lease, if it may be used. If
// not, the node is asked, once for all packets that wait for it.
func (l *labels) find(lease *steer.Lease, node, route string, now time.Time) (netip.Addr, finding) {
	n, ok := lease.Next(node)
	p := pending{lease.Addr(), node}
	l.mu.Lock()
	defer l.mu.Unlock()
	// An answer on its way while the node lost its journal may be learnt after
	// all labels of that journal were forgotten.
	if ok && n.Addr.IsValid() && !n.Asked.Before(l.started) && now.Sub(n.Asked) <= labelAge && n.Journal == l.journals[node] {
		return n.Addr, found
	}
	if b, ok := l.busy[p]; ok && now.Before(b.until) {
		if b.refused {
			return netip.Addr{}, refused
		}
		return netip.Addr{}, askedFor
	}
	if len(l.busy) >= maxBusy {
		maps.DeleteFunc(l.busy, func(_ pending, b busy) bool { return !now.Before(b.until) })
	}
	l.busy[p] = busy{until: now.Add(errandTime)}
	if !l.worker.try(func(ctx context.Context) { l.fetch(ctx, lease, node, route, p) }) {
		delete(l.busy, p)
		return netip.Addr{}, refused
	}
	return netip.Addr{}, askedFor
}

// denied reports whether the node has just said that it has no label behind a
// lease, so that it is not asked again yet.
func (l *labels) denied(lease *steer.Lease, node string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.busy[pending{lease.Addr(), node}]
	return b.refused && now.Before(b.until)
}

func (l *labels) fetch(ctx context.Context, lease *steer.Lease, node, route string, p pending) {
	_, err := l.refresh(ctx, lease, node, route)
	l.mu.Lock()
	if err != nil {
		l.busy[p] = busy{until: time.Now().Add(refusedFor), refused: true}
	} else {
		delete(l.busy, p)
	}
	l.mu.Unlock()
	l.wake(lease.Addr())
	if n, ok := lease.Next(node); ok {
		l.wake(n.Addr)
	}
}

// refresh asks the node for its label behind a lease and keeps it.
func (l *labels) refresh(ctx context.Context, lease *steer.Lease, node, route string) (netip.Addr, error) {
	q := resolver.Question{Name: lease.Name(), Type: typeOf(lease.V6()), Class: dns.ClassINET}
	r, err := l.ask(ctx, node, route, q, lease.Facts())
	if err != nil {
		return netip.Addr{}, err
	}
	return l.learn(lease, node, r)
}

// owns reports whether a label is of the pool of the node that names it.
func (l *labels) owns(node string, label netip.Addr) bool {
	p, ok := peerWhere(l.nexts, nameIs(node))
	return ok && within(p.Pool, label)
}

// learn keeps what a node answered.
func (l *labels) learn(lease *steer.Lease, node string, r *resolver.NodeReply) (netip.Addr, error) {
	l.heard(node, r.Journal)
	if r.Msg.Rcode != dns.RcodeSuccess || len(r.Addrs) == 0 {
		return netip.Addr{}, errNoLabel
	}
	if !l.owns(node, r.Addrs[0]) {
		return netip.Addr{}, fmt.Errorf("%s answered %v: %w", node, r.Addrs[0], errNotItsOwn)
	}
	l.table.Learn(lease, node, steer.Next{Addr: r.Addrs[0], Journal: r.Journal, Asked: time.Now()})
	return r.Addrs[0], nil
}

// heard takes notice of a node's journal, in whatever answer it comes. One that
// is not that of before voids all labels learnt from the node: by now they may
// serve other names. (What was learnt before this node started needs no check:
// it is asked for again in any case.)
func (l *labels) heard(node string, journal uint64) {
	l.mu.Lock()
	before, known := l.journals[node]
	l.journals[node] = journal
	l.mu.Unlock()
	if !known || before == journal {
		return
	}
	l.table.Forget(node)
	l.voided()
}

// lease gives a name its own label, with the facts by which it was judged.
func (l *labels) lease(q resolver.Question, by string, facts resolver.Facts) (*steer.Lease, error) {
	lease, err := l.table.Lease(q.Name, q.Type == dns.TypeAAAA, by, time.Now())
	if err != nil {
		return nil, err
	}
	if len(facts) > 0 {
		l.table.SetFacts(lease, facts)
	}
	return lease, nil
}
