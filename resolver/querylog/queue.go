package querylog

import (
	"slices"
	"sync"
)

// An entry is one record in a queue, with the messages if its sink wants them.
// Its slices are its own, and are used again for later records.
type entry struct {
	Record
	query, reply []byte
	size         int // that it counts with
}

// A queue is what waits for one sink. There are two lists: records are put
// into one while the sink has the other, so that neither waits for the other
// for longer than it takes to copy a record. Both together keep to the bounds.
type queue struct {
	wake chan struct{} // told when the sink had better come soon

	mu       sync.Mutex
	in       []entry
	spare    []entry // while the sink has none
	inHand   int     // records that the sink has
	bytes    int     // of both lists
	closed   bool
	maxCount int
	maxBytes int
	full     uint64 // records that were refused
	written  uint64
	lost     uint64 // records that still waited at the end
}

func newQueue(maxCount, maxBytes int) *queue {
	return &queue{wake: make(chan struct{}, 1), maxCount: maxCount, maxBytes: maxBytes}
}

// entryCost is about what an entry takes but for what it points at.
const entryCost = 512

// weigh returns about how many bytes a record takes.
func weigh(r *Record) int {
	n := entryCost + len(r.Name) + len(r.Policy) + len(r.Reason) + len(r.Route) + len(r.Upstream) +
		len(r.Device) + len(r.User) + len(r.ServerName) + len(r.Listener)
	n += 16*len(r.Groups) + 32*len(r.Posture) + 24*len(r.Addrs) + 40*len(r.Hops)
	for i := range r.Hops {
		n += len(r.Hops[i].Name) + 24*len(r.Hops[i].Addrs)
	}
	return n
}

// put copies a record into the queue, or counts that it found no room.
func (q *queue) put(r *Record, query, reply []byte, private bool) {
	size := weigh(r) + len(query) + len(reply)
	q.mu.Lock()
	if q.closed || len(q.in)+q.inHand >= q.maxCount || q.bytes+size > q.maxBytes {
		q.full++
		q.mu.Unlock()
		return
	}
	n, bytes := len(q.in), q.bytes
	q.bytes += size
	e := q.slot()
	e.size = size
	e.take(r, query, reply)
	if private {
		e.hideWire()
	}
	q.mu.Unlock()
	if n == q.maxCount/4 || bytes < q.maxBytes/4 && bytes+size >= q.maxBytes/4 {
		q.rouse()
	}
}

// slot adds an entry to the list, an old one if there is one.
func (q *queue) slot() *entry {
	if len(q.in) < cap(q.in) {
		q.in = q.in[:len(q.in)+1]
	} else {
		q.in = append(q.in, entry{})
	}
	return &q.in[len(q.in)-1]
}

func (q *queue) rouse() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// takeAll hands the sink all that waits.
func (q *queue) takeAll() []entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := q.in
	q.in, q.spare, q.inHand = q.spare, nil, len(batch)
	return batch
}

// done takes back what takeAll gave, of which so many records were written. The
// others are the first to be taken next time.
func (q *queue) done(batch []entry, written int) {
	freed := 0
	for i := range batch[:written] {
		freed += batch[i].size
		batch[i].release()
	}
	for i := range batch[written:] {
		batch[i], batch[written+i] = batch[written+i], batch[i]
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.inHand = 0
	q.bytes -= freed
	q.written += uint64(written)
	if left := batch[:len(batch)-written]; len(left) > 0 {
		q.putBefore(left)
	} else {
		q.spare = left
	}
}

// putBefore puts records before those that wait.
func (q *queue) putBefore(first []entry) {
	later := q.in
	q.in = first
	for i := range later {
		e := q.slot()
		*e, later[i] = later[i], *e
	}
	q.spare = later[:0]
}

// shut refuses all that comes from now on, and counts what waits as lost.
func (q *queue) shut() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.lost += uint64(len(q.in))
	q.in, q.spare, q.bytes = nil, nil, 0
}

// take copies all that a record has into the entry.
func (e *entry) take(r *Record, query, reply []byte) {
	groups, posture, addrs, hops := e.Groups, e.Posture, e.Addrs, e.Hops
	e.Record = *r
	e.Groups = append(groups[:0], r.Groups...)
	e.Posture = append(posture[:0], r.Posture...)
	e.Addrs = append(addrs[:0], r.Addrs...)
	e.Hops = copyHops(hops[:0], r.Hops)
	e.query = append(e.query[:0], query...)
	e.reply = append(e.reply[:0], reply...)
}

func copyHops(to, from []Hop) []Hop {
	to = slices.Grow(to, len(from))[:len(from)]
	for i := range from {
		to[i].Name = from[i].Name
		to[i].Addrs = append(to[i].Addrs[:0], from[i].Addrs...)
	}
	return to
}

// hideWire takes from the messages what may say who asked. Answers of class
// CHAOS are all about the asker.
func (e *entry) hideWire() {
	if !scrub(e.query) {
		e.query = e.query[:0]
	}
	if e.Class == classChaos || !scrub(e.reply) {
		e.reply = e.reply[:0]
	}
}

const classChaos Class = 3

// What a slice may have to be kept for the next record.
const (
	maxElements = 64
	maxMessage  = 512
)

// release lets go of what the entry points at, but for slices to be used again.
func (e *entry) release() {
	groups, posture, addrs, hops := e.Groups, e.Posture, e.Addrs, e.Hops
	clear(groups)
	clear(posture)
	for i := range hops {
		hops[i] = Hop{Addrs: kept(hops[i].Addrs, maxElements)}
	}
	e.Record = Record{}
	e.Groups, e.Posture = kept(groups, maxElements), kept(posture, maxElements)
	e.Addrs, e.Hops = kept(addrs, maxElements), kept(hops, maxElements)
	e.query, e.reply = kept(e.query, maxMessage), kept(e.reply, maxMessage)
}

func kept[T any](s []T, most int) []T {
	if cap(s) > most {
		return nil
	}
	return s[:0]
}

func (q *queue) stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Stats{Waiting: len(q.in) + q.inHand, Written: q.written, Dropped: q.full, Lost: q.lost}
}
