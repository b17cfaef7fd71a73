package main

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"
)

const (
	packetLanes = 16
	streamLanes = 4
	tick        = time.Millisecond
	window      = 256 // questions on their way while the capacity is measured
	run         = 16  // questions after another over one socket
)

// sources are the addresses that questions over UDP come from.
var sources = netip.MustParsePrefix("127.0.1.0/24")

// A load asks a server.
type load struct {
	mix   *mix
	to    netip.AddrPort
	span  time.Duration
	rate  int           // questions a second; zero: as many as are answered
	each  time.Duration // how long a row of the tally is
	first uint64        // number of the first question: those before were asked by somebody else

	start   time.Time
	packets []*lane
	streams []*lane
	late    time.Duration // that a question was asked at most after it was due
	unread  int           // answers that the kernel could not keep for us
}

// with returns another load of the same sort.
func (l *load) with(rate int, span, each time.Duration) *load {
	return &load{mix: l.mix, to: l.to, first: l.first, rate: rate, span: span, each: each}
}

func (l *load) now() time.Duration { return time.Since(l.start) }

// ask asks until the span is over or ctx is done, and waits for the last answers.
// It returns what became of all questions, and the number of the next one.
func (l *load) ask(ctx context.Context) (*tally, uint64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	closing, err := l.open(ctx, &wg)
	next := l.first
	if err == nil {
		next, err = l.send(ctx)
	}
	if err == nil {
		l.unread, err = lostBefore(func(at netip.AddrPort) bool { return sources.Contains(at.Addr()) })
	}
	cancel()
	for _, c := range closing {
		err = errors.Join(err, c())
	}
	wg.Wait()
	t := &tally{each: l.each}
	for _, ln := range l.lanes() {
		t.add(&ln.tally)
	}
	return t, next, err
}

func (l *load) lanes() []*lane {
	return append(l.packets[:len(l.packets):len(l.packets)], l.streams...)
}

// open opens all lanes. What it returns closes their sockets, so that what it
// has started ends.
func (l *load) open(ctx context.Context, wg *sync.WaitGroup) (closing []func() error, err error) {
	l.start = time.Now()
	for i := range packetLanes {
		ln := newLane(l.mix, l.each)
		from := sources.Addr().As4()
		from[3] = byte(1 + i)
		p, err := dialPackets(netip.AddrFrom4(from), l.to)
		if err != nil {
			return closing, err
		}
		closing = append(closing, p.conn.Close)
		ln.link = p
		l.packets = append(l.packets, ln)
		wg.Go(func() { p.receive(func(b []byte) { ln.answered(b, l.now()) }) })
	}
	for range streamLanes {
		ln := newLane(l.mix, l.each)
		s := newStream(l.to, ln.broke)
		ln.link = s
		l.streams = append(l.streams, ln)
		wg.Go(func() { s.run(ctx, func(b []byte) { ln.answered(b, l.now()) }) })
	}
	return closing, nil
}

// send asks everything when it is due, in an open loop: answers that are late
// hold back no question, and what a question took counts from when it was due.
// That it is asked later is this program's fault: its tries count from then.
func (l *load) send(ctx context.Context) (next uint64, err error) {
	lanes := l.lanes()
	i := l.first
	for now := l.now(); now < l.span+2*tries*tryTime; now = l.now() {
		open := 0
		for _, ln := range lanes {
			ln.overdue(now)
			open += ln.unsettled()
		}
		n := l.due(now, int(i-l.first), open)
		if now >= l.span && open == 0 && n <= 0 || ctx.Err() != nil {
			break
		}
		for ; n > 0; n-- {
			if err := l.one(i, now); err != nil {
				return i, err
			}
			i++
		}
		for _, ln := range lanes {
			ln.flush()
		}
		time.Sleep(tick)
	}
	for _, ln := range lanes {
		ln.overdue(l.now() + tries*tryTime) // what is open is lost
	}
	return i, nil
}

// due returns how many questions are to be asked now. After a pause these are
// not all that should have been asked meanwhile at once: no socket's buffer
// would hold them.
func (l *load) due(now time.Duration, asked, open int) int {
	if l.rate == 0 {
		if now >= l.span {
			return 0
		}
		return max(0, window-open)
	}
	all := int(min(now, l.span) * time.Duration(l.rate) / time.Second)
	most := max(1, int(4*tick*time.Duration(l.rate)/time.Second))
	return min(all-asked, most)
}

var errTooMany = errors.New("more is asked in the time of all tries than there are ids")

func (l *load) one(i uint64, now time.Duration) error {
	q := l.mix.pick(i)
	due := now
	if l.rate > 0 {
		due = time.Duration(i-l.first) * time.Second / time.Duration(l.rate)
		l.late = max(l.late, now-due)
	}
	ln := l.packets[i/run%packetLanes]
	if q.stream {
		ln = l.streams[i%streamLanes]
	}
	if !ln.ask(q, due, now) {
		return errTooMany
	}
	return nil
}
