package listen

import (
	"net/netip"
	"slices"
	"testing"
)

// A playedQueue is a queue with what is known of it from outside.
type playedQueue struct {
	t *testing.T
	*queue
	begun   []*packet // in work, in the order in which they began
	waiting []*packet // in the order in which they came
}

func caller4(n byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, n}) }

func played(t *testing.T, most, each int) *playedQueue {
	return &playedQueue{t: t, queue: newQueue(Limits{Workers: most, PerClient: each})}
}

func (q *playedQueue) come(n byte) place {
	p := &packet{addr: netip.AddrPortFrom(caller4(n), 53)}
	found := q.enter(caller4(n), p)
	switch found {
	case taken:
		q.begun = append(q.begun, p)
	case later:
		q.waiting = append(q.waiting, p)
	}
	return found
}

// end ends the i-th of those in work.
func (q *playedQueue) end(i int) {
	from := q.begun[i].addr.Addr()
	q.begun = slices.Delete(q.begun, i, i+1)
	q.leave(from, func(p *packet) {
		first := slices.IndexFunc(q.waiting, func(w *packet) bool { return w.addr == p.addr })
		if first < 0 || q.waiting[first] != p {
			q.t.Fatal("what begins is not the first of its client")
		}
		q.waiting = slices.Delete(q.waiting, first, first+1)
		q.begun = append(q.begun, p)
	})
}

// share returns how many of a client there are.
func share(all []*packet, client netip.Addr) (n int) {
	for _, p := range all {
		if p.addr.Addr() == client {
			n++
		}
	}
	return n
}

// check holds the queue against what must be.
func (q *playedQueue) check() {
	q.t.Helper()
	if len(q.begun) > q.most || len(q.waiting) > waitShare*q.most || q.queue.inWork != len(q.begun) || q.queue.waiting != len(q.waiting) {
		q.t.Fatalf("%d in work, %d wait; the queue says %d and %d", len(q.begun), len(q.waiting), q.queue.inWork, q.queue.waiting)
	}
	for _, p := range slices.Concat(q.begun, q.waiting) {
		client := p.addr.Addr()
		in, wait := share(q.begun, client), share(q.waiting, client)
		if in > q.each || wait > waitShare*q.each {
			q.t.Fatalf("%v has %d in work, and %d that wait", client, in, wait)
		}
		if wait > 0 && in < q.each && len(q.begun) < q.most {
			q.t.Fatalf("%v waits although there is a place", client)
		}
	}
	if len(q.begun) == 0 && len(q.callers) > 0 {
		q.t.Fatalf("%d clients are remembered for nothing", len(q.callers))
	}
}

func FuzzQueue(f *testing.F) {
	f.Add(byte(2), byte(1), []byte{1, 1, 1, 1, 1, 1, 2, 2, 130, 129, 3, 128, 128})
	f.Add(byte(3), byte(7), []byte{1, 2, 3, 4, 1, 2, 3, 4, 200, 255, 128, 129, 4, 4})
	f.Fuzz(func(t *testing.T, most, each byte, steps []byte) {
		q := played(t, 1+int(most%8), 1+int(each%8))
		for _, s := range steps {
			if s < 128 {
				q.come(s % 5)
			} else if len(q.begun) > 0 {
				q.end(int(s) % len(q.begun))
			}
			q.check()
		}
		for len(q.begun) > 0 {
			q.end(0)
			q.check()
		}
		if len(q.waiting) > 0 {
			t.Errorf("%d wait in the end", len(q.waiting))
		}
	})
}

// One who asks much does not keep others waiting for long.
func TestClientsTakeTurns(t *testing.T) {
	q := played(t, 3, 2)
	for range 2 + waitShare*2 {
		q.come(1)
	}
	if got := q.come(1); got != full {
		t.Errorf("one too many of a client: %d", got)
	}
	for _, n := range []byte{2, 2, 3} {
		if got := q.come(n); got == full {
			t.Errorf("client %d has to do without a place", n)
		}
	}
	var order []byte
	for range 4 {
		q.end(0)
		order = append(order, q.begun[len(q.begun)-1].addr.Addr().As4()[3])
	}
	if want := []byte{2, 3, 1, 1}; !slices.Equal(order, want) {
		t.Errorf("begun in the order %v, want %v", order, want)
	}
}

func TestAClosedQueueBeginsNothing(t *testing.T) {
	q := played(t, 1, 1)
	q.come(1)
	q.come(1)
	q.close()
	q.leave(caller4(1), func(*packet) { t.Error("it has begun another") })
}
