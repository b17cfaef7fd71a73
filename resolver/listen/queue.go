package listen

import (
	"net/netip"
	"sync"
)

// A queue says which questions over a socket are in work, and keeps those that
// wait for a place: those of a client in the order in which they came, while the
// clients take turns. So one who asks much waits for itself first.
type queue struct {
	most, each int // questions in work, of all and of one client; waitShare times as many may wait

	mu      sync.Mutex // guards all that follows
	callers map[netip.Addr]caller
	turns   []netip.Addr // clients whose next question waits for nothing but a place of all
	inWork  int
	waiting int
	closed  bool
}

// waitShare is how many questions may wait for each that may be in work. One that
// waits takes some hundred bytes, one in work some ten thousand.
const waitShare = 4

// A caller is a client with questions in work, or waiting.
type caller struct {
	inWork, waiting int
	first, last     *packet // of those that wait
	listed          bool    // it is in turns
}

// A place is what became of a question that came.
type place int

const (
	full  place = iota // and it can be none
	taken              // it is in work
	later              // it waits
)

func newQueue(l Limits) *queue {
	return &queue{most: or(l.Workers, 1024), each: or(l.PerClient, 256), callers: make(map[netip.Addr]caller)}
}

// enter finds a place for a client's question. Where it is taken, leave has to
// be called in the end.
func (q *queue) enter(from netip.Addr, p *packet) place {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.callers[from]
	found := later
	switch {
	case q.inWork < q.most && c.inWork < q.each:
		found = taken
		q.inWork++
		c.inWork++
	case q.waiting >= waitShare*q.most || c.waiting >= waitShare*q.each:
		return full
	default:
		q.push(from, &c, p)
	}
	q.callers[from] = c
	return found
}

func (q *queue) push(from netip.Addr, c *caller, p *packet) {
	p.waited, p.next = true, nil
	if c.first == nil {
		c.first = p
	} else {
		c.last.next = p
	}
	c.last = p
	c.waiting++
	q.waiting++
	q.list(from, c)
}

// list gives a client its turn, if it has something for it.
func (q *queue) list(from netip.Addr, c *caller) {
	if !c.listed && c.waiting > 0 && c.inWork < q.each {
		c.listed = true
		q.turns = append(q.turns, from)
	}
}

// leave gives back the place of a client's question, and begins the next one that
// waits for it, if there is one, unless the queue has been closed. The queue is
// locked while begin runs.
func (q *queue) leave(from netip.Addr, begin func(*packet)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.callers[from]
	q.inWork--
	if c.inWork--; c.inWork == 0 && c.waiting == 0 {
		delete(q.callers, from)
	} else {
		q.list(from, &c)
		q.callers[from] = c
	}
	if len(q.turns) > 0 && !q.closed {
		begin(q.pop())
	}
}

// pop takes the question whose turn it is into work.
func (q *queue) pop() *packet {
	from := q.turns[0]
	q.turns = q.turns[1:]
	c := q.callers[from]
	p := c.first
	c.first, p.next = p.next, nil
	c.waiting--
	c.inWork++
	c.listed = false
	q.waiting--
	q.inWork++
	q.list(from, &c)
	q.callers[from] = c
	return p
}

// close leaves what waits.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}
