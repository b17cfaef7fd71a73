package main

import (
	"encoding/binary"
	"errors"
	"sync"
	"time"
)

// A question is asked again as a stub resolver does it: after each second, and
// after the last one it is lost.
const (
	tries   = 3
	tryTime = time.Second
)

var errLost = errors.New("no reply")

// A link carries the messages of a lane. They are the caller's again when send
// has returned.
type link interface {
	send(msgs [][]byte)
}

// asked is a question on its way.
type asked struct {
	question
	due  time.Duration // since the load began; what it took counts from here
	sent time.Duration // and its tries from here
	open bool
}

// A lane is one socket, and the questions over it. Question k has the low 16
// bits of k for its id, which comes again only after the time of all tries: so
// no late answer is taken for another's.
type lane struct {
	mix  *mix
	link link

	mu      sync.Mutex // guards all that follows
	ring    []asked    // by id
	next    uint64
	cursors [tries]uint64 // those before are older than one, two, three tries
	open    int
	tally   tally
	out     [][]byte // to be sent; out[:waiting] are
	waiting int
	scratch []byte
}

const ids = 1 << 16

func newLane(m *mix, each time.Duration) *lane {
	return &lane{mix: m, ring: make([]asked, ids), tally: tally{each: each}}
}

// ask puts a question to those that flush sends. It is false if all ids
// are taken; then it asks nothing.
func (l *lane) ask(q question, due, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next-l.cursors[tries-1] >= ids {
		return false
	}
	a := &l.ring[l.next%ids]
	*a = asked{question: q, due: due, sent: now, open: true}
	l.write(a, uint16(l.next))
	l.next++
	l.open++
	l.tally.row(due).asked++
	return true
}

func (l *lane) write(a *asked, id uint16) {
	if l.waiting == len(l.out) {
		l.out = append(l.out, nil)
	}
	l.out[l.waiting] = l.mix.append(l.out[l.waiting][:0], a.question, id)
	l.waiting++
}

// overdue asks again what has waited for the time of a try, and gives up what
// has waited for all of them.
func (l *lane) overdue(now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for try := range l.cursors {
		age := time.Duration(try+1) * tryTime
		for c := &l.cursors[try]; *c < l.next && now-l.ring[*c%ids].sent >= age; *c++ {
			if a := &l.ring[*c%ids]; a.open {
				l.late(a, uint16(*c), try, now)
			}
		}
	}
}

func (l *lane) late(a *asked, id uint16, try int, now time.Duration) {
	r := l.tally.row(a.due)
	if try == tries-1 {
		r.lost++
		l.settle(a, now, errLost)
		return
	}
	if try == 0 {
		r.retried++
	}
	l.write(a, id)
}

func (l *lane) settle(a *asked, now time.Duration, err error) {
	a.open = false
	l.open--
	if err != nil {
		l.tally.faults = append(l.tally.faults, fault{a.kind, a.stream, a.due, now, err})
	}
}

// flush sends what there is to be sent. Only one goroutine may call it, and ask
// and overdue: what it sends is not under the lock.
func (l *lane) flush() {
	if l.waiting == 0 {
		return
	}
	l.link.send(l.out[:l.waiting])
	l.waiting = 0
}

// answered takes a message into account. One that answers nothing that is on
// its way, as a second answer does, is none.
func (l *lane) answered(msg []byte, now time.Duration) {
	if len(msg) < headerSize {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	id := binary.BigEndian.Uint16(msg)
	a := &l.ring[id]
	if !a.open {
		return
	}
	l.scratch = l.mix.append(l.scratch[:0], a.question, id)
	err := l.mix.check(a.kind, l.scratch, msg)
	r := l.tally.row(a.due)
	switch err {
	case nil:
		r.answered++
	case errServfail:
		r.answered++
		r.servfail++
	}
	r.times[place(now-a.due)]++
	l.settle(a, now, err)
}

// unsettled returns how many questions are on their way.
func (l *lane) unsettled() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// broke counts a connection that ended while it was in use.
func (l *lane) broke() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.broken++
}
