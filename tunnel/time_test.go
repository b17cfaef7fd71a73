package tunnel

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// running runs a world's clock inside a bubble, until f is done.
func running(t *testing.T, change func(*Config), f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, change)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		f(t, w)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if w.lease.held() != 0 || len(w.Flows()) != 0 {
			t.Errorf("after the end: %d leases held, flows %+v", w.lease.held(), w.Flows())
		}
	})
}

// pass lets time pass, and the Switch do what falls due.
func pass(d time.Duration) {
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

func TestIdle(t *testing.T) {
	const ssh = "198.19.0.7:22"
	for _, c := range []struct {
		name string
		do   func(w *world)
		idle time.Duration
		why  CloseReason
	}{
		{"UDP without an answer", func(w *world) { w.in(Link, udp(up, near, 1)) }, 2 * time.Minute, CloseIdle},
		{"UDP", func(w *world) { w.in(Link, udp(up, near, 1)); w.in(Link, udp(beyon, up, 1)) }, 5 * time.Minute, CloseIdle},
		{"ping", func(w *world) { w.in(Link, echo(alice+":1", "198.19.0.7:0")) }, time.Minute, CloseIdle},
		{"a SYN", func(w *world) { w.in(Link, tcp(up, near, synF, 1, 0, 0)) }, 4 * time.Minute, CloseIdle},
		{"a connection", func(w *world) { w.handshake() }, 2*time.Hour + 4*time.Minute, CloseIdle},
		{"an adopted connection", func(w *world) { w.in(Link, tcp(up, near, ackF, 1, 1, 0)) }, 2*time.Hour + 4*time.Minute, CloseIdle},
		{"half closed", func(w *world) { w.handshake(); w.in(Link, tcp(up, near, finF|ackF, 1001, 5001, 0)) }, 4 * time.Minute, CloseIdle},
		{"closed", func(w *world) {
			w.handshake()
			w.in(Link, tcp(up, near, finF|ackF, 1001, 5001, 0))
			w.in(Link, tcp(beyon, up, finF|ackF, 5001, 1002, 0))
		}, 10 * time.Second, CloseFin},
		{"reset", func(w *world) { w.handshake(); w.in(Link, rst(up, near, 1001)) }, 10 * time.Second, CloseReset},
		{"denied", func(w *world) { w.in(Link, tcp(up, ssh, synF, 1, 0, 0)) }, time.Minute, CloseDenied},
		{"revoked", func(w *world) {
			w.handshake()
			w.set(func() { w.denied[443] = true })
			w.in(Link, tcp(up, near, ackF, 1001, 5001, 0))
		}, 4 * time.Minute, CloseRevoked},
		{"cut", func(w *world) { w.handshake(); w.Cut(func(*Info) bool { return true }, CloseLinkDown) }, 10 * time.Second, CloseLinkDown},
	} {
		t.Run(c.name, func(t *testing.T) {
			running(t, nil, func(t *testing.T, w *world) {
				pass(time.Second)
				c.do(w)
				pass(c.idle - time.Second)
				if len(w.Flows()) != 1 {
					t.Error("forgotten too early")
				}
				pass(3 * time.Second)
				if len(w.Flows()) != 0 {
					t.Error("kept too long")
				}
				if r := w.ended(); len(r) != 1 || r[0].Close != c.why || r[0].Duration != 0 {
					t.Errorf("records %+v", r)
				}
			})
		})
	}
}

func TestTrafficKeepsAFlow(t *testing.T) {
	running(t, nil, func(t *testing.T, w *world) {
		for range 30 {
			w.in(Link, udp(up, near, 1))
			pass(100 * time.Second)
			w.in(Link, udp(beyon, up, 1))
		}
		if n := len(w.ended()); n != 0 || w.lease.held() != 1 {
			t.Fatalf("%d ended, %d held", n, w.lease.held())
		}
		if ago := time.Since(w.lease.touched()); ago > 4*time.Minute {
			t.Errorf("the lease was touched %v ago", ago)
		}
		pass(6 * time.Minute)
		r := w.ended()
		if len(r) != 1 || r[0].Duration != 3000*time.Second || r[0].PacketsUp != 30 || r[0].BytesDown != 29*30 {
			t.Errorf("records %+v", r)
		}
	})
}

func TestShutdownResetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.handshake()
		w.waiting = true
		w.in(Link, udp(up, near, 1))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
		w.want(w.taken())
		if r := w.ended(); len(r) != 1 || r[0].Close != CloseShutdown {
			t.Errorf("%+v", r)
		}
	})
}

func TestHeldUntilWoken(t *testing.T) {
	running(t, nil, func(t *testing.T, w *world) {
		w.waiting = true
		w.want(w.in(Link, udp(up, near, 1), udp(up, near, 2), udp(up, near, 3), udp(up, near, 4), udp(up, near, 5)))
		if n := w.questions(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		if f := w.Flows(); len(f) != 1 || f[0].State != Waiting {
			t.Errorf("%+v", f)
		}
		w.Wake(ip("198.19.0.9")) // another
		if n := w.questions(); n != 0 {
			t.Error("woken by another label")
		}
		w.waiting = false
		w.Wake(ip("198.19.0.7"))
		w.want(w.taken(), out(Link, udp(up, beyon, 1)), out(Link, udp(up, beyon, 2)), out(Link, udp(up, beyon, 3)), out(Link, udp(up, beyon, 4)))
		w.wantDrops(map[Drop]uint64{DropHeldFull: 1})
		if len(w.held) != 0 || w.kept != 0 {
			t.Errorf("%d flows and %d packets still held", len(w.held), w.kept)
		}
	})
}

func TestHeldTooLong(t *testing.T) {
	running(t, nil, func(t *testing.T, w *world) {
		w.waiting = true
		pass(50 * time.Millisecond)
		w.in(Link, udp(up, near, 1), udp(up, near, 2))
		w.questions()
		pass(900 * time.Millisecond)
		w.in(Link, udp(up, near, 3))
		if n := w.questions(); n != 0 {
			t.Errorf("asked %d times within a second", n)
		}
		pass(200 * time.Millisecond)
		if n := w.questions(); n != 1 {
			t.Errorf("asked %d times after a second", n)
		}
		pass(2 * time.Second)
		w.wantDrops(map[Drop]uint64{DropWaitingTooLong: 3})
		if len(w.Flows()) != 0 || len(w.ended()) != 0 {
			t.Error("something is left of it")
		}
	})
}

func TestHeldThenRuled(t *testing.T) {
	syn := tcp(up, near, synF, 1, 0, 0)
	running(t, nil, func(t *testing.T, w *world) {
		w.waiting = true
		w.in(Link, syn)
		w.denied[443] = true
		w.Wake(ip("198.19.0.7"))
		w.want(w.taken(), made(Link, tcp(near, up, rstF|ackF, 0, 2, 0)))
	})
	running(t, nil, func(t *testing.T, w *world) {
		w.waiting = true
		w.in(Link, syn, syn)
		w.refuse = true
		w.Wake(ip("198.19.0.7"))
		w.want(w.taken())
		w.wantDrops(map[Drop]uint64{DropUnknownSource: 2})
	})
}

// What the judge waits for may come before anybody waits.
func TestWokenTooEarly(t *testing.T) {
	running(t, nil, func(t *testing.T, w *world) {
		judge, asked := w.cfg.Judge, 0
		w.cfg.Judge = func(f *First) Ruling {
			if asked++; asked == 1 {
				w.Wake(f.Dst.Addr())
				return Ruling{Outcome: Wait}
			}
			return judge(f)
		}
		w.want(w.in(Link, udp(up, near, 1)), out(Link, udp(up, beyon, 1)))
	})
}

func TestHoldIsBounded(t *testing.T) {
	running(t, nil, func(t *testing.T, w *world) {
		w.waiting = true
		for i := range 2000 {
			p := udp(up, near, 1)
			p.src = netip.AddrPortFrom(p.src.Addr(), uint16(i+1))
			w.in(Link, p)
		}
		w.wantDrops(map[Drop]uint64{DropHeldFull: 2000 - holdAll})
		if len(w.Flows()) != holdAll {
			t.Errorf("%d flows wait", len(w.Flows()))
		}
	})
}

// A flow that was admitted may have to wait for a new ruling too.
func TestOpenFlowWaits(t *testing.T) {
	running(t, nil, func(t *testing.T, w *world) {
		w.in(Link, udp(up, near, 1))
		w.set(func() { w.waiting = true })
		w.want(w.in(Link, udp(up, near, 2), udp(beyon, up, 3)))
		w.waiting = false
		w.Wake(ip("198.19.0.7"))
		w.want(w.taken(), out(Link, udp(up, beyon, 2)), out(Link, udp(near, up, 3)))
		// And if nobody wakes it, it is asked about again at its next packet.
		w.set(func() { w.waiting = true })
		w.in(Link, udp(up, near, 4))
		pass(4 * time.Second)
		w.waiting = false
		w.want(w.in(Link, udp(up, near, 5)), out(Link, udp(up, beyon, 5)))
		w.wantDrops(map[Drop]uint64{DropWaitingTooLong: 1})
		if len(w.ended()) != 0 {
			t.Error("it ended meanwhile")
		}
	})
}

func TestRevokedUnasked(t *testing.T) {
	running(t, nil, func(t *testing.T, w *world) {
		w.handshake()
		w.Rejudge(func(*Info) bool { return true })
		w.want(w.taken())
		w.set(func() { w.denied[443] = true })
		w.Rejudge(func(i *Info) bool { return i.Device == "bob" })
		w.want(w.taken())
		w.Rejudge(func(i *Info) bool { return i.Device == "alice-laptop" })
		w.want(w.taken(), made(Link, rst(near, up, 5001)), made(Link, rst(up, beyon, 1001)))
	})
}
