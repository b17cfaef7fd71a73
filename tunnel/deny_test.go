package tunnel

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestDenialOfTCP(t *testing.T) {
	const ssh, bsh = "198.19.0.7:22", "240.1.0.7:22"
	w := newWorld(t, nil)
	refused := tcp(ssh, up, rstF|ackF, 0, 1001, 0)
	w.want(w.in(Link, tcp(up, ssh, synF, 1000, 0, 0)), made(Link, refused))
	r := w.ended()
	if len(r) != 1 || r[0].Close != CloseDenied || r[0].Policy != "china-origins" || r[0].Port != 22 || r[0].Overlay.IsValid() {
		t.Fatalf("records %+v", r)
	}
	// Each further segment is answered, without asking again, except a reset, which never is.
	w.questions()
	w.want(w.in(Link, tcp(up, ssh, ackF, 1001, 777, 50)), made(Link, rst(ssh, up, 777)))
	w.want(w.in(Link, tcp(up, ssh, finF, 1001, 0, 5)), made(Link, tcp(ssh, up, rstF|ackF, 0, 1007, 0)))
	w.want(w.in(Link, rst(up, ssh, 1001)))
	if n := w.questions(); n != 0 {
		t.Errorf("asked %d times about a remembered denial", n)
	}
	// A new SYN is a first packet; denied again it is still the same denial.
	w.want(w.in(Link, tcp(up, ssh, synF, 3000, 0, 0)), made(Link, tcp(ssh, up, rstF|ackF, 0, 3001, 0)))
	if n := w.questions(); n != 1 || len(w.ended()) != 0 {
		t.Errorf("asked %d times about a new SYN", n)
	}
	// When the policy changes its mind, what comes next is adopted.
	w.set(func() { delete(w.denied, 22) })
	w.want(w.in(Link, tcp(up, ssh, ackF, 1001, 777, 50)), out(Link, tcp(up, bsh, ackF, 1001, 777, 50)))
	w.want(w.in(Link, tcp(bsh, up, ackF, 777, 1051, 0)), out(Link, tcp(ssh, up, ackF, 777, 1051, 0)))
	w.wantDrops(map[Drop]uint64{DropDenied: 5})
}

func TestDenialOfTheRest(t *testing.T) {
	w := newWorld(t, nil)
	w.set(func() { w.denied[53], w.denied[0] = true, true })
	for _, p := range []pkt{udp(up, "198.19.0.7:53", 9), echo(alice+":7", "198.19.0.7:0")} {
		w.want(w.in(Link, p, p, p), made(Link, failed(nodeA, alice, 3, 13, p))) // at a rate
	}
	p := udp("["+alice6+"]:1", "[2001:2:0:1000::7]:53", 9)
	if got := w.in(Link, p); len(got) != 1 || got[0].pkt.typ != [2]uint8{1, 1} || got[0].pkt.src.Addr() != ip(nodeA6) {
		t.Error("IPv6:", got)
	}
	// Never about an ICMP error.
	w.want(w.in(Link, failed(alice, "198.19.0.7", 3, 3, udp("198.19.0.7:53", up, 9))))
	w.wantDrops(map[Drop]uint64{DropDenied: 8})
}

func TestRevokedByTheNextSegment(t *testing.T) {
	for _, c := range []struct {
		name string
		p    pkt
		want []sent
	}{
		{"from the device", tcp(up, near, ackF, 1001, 5001, 10),
			[]sent{made(Link, rst(up, beyon, 1001)), made(Link, rst(near, up, 5001))}},
		{"from the origin", tcp(beyon, up, ackF, 5001, 1001, 10),
			[]sent{made(Link, rst(near, up, 5001)), made(Link, rst(up, beyon, 1001))}},
		{"a keepalive, which repeats a number", tcp(up, near, ackF, 1000, 5001, 0),
			[]sent{made(Link, rst(up, beyon, 1000)), made(Link, rst(up, beyon, 1001)), made(Link, rst(near, up, 5001))}},
		{"a reset, which is passed on in effect but not answered", rst(up, near, 1001),
			[]sent{made(Link, rst(up, beyon, 1001))}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.handshake()
			w.set(func() { w.denied[443] = true })
			w.want(w.in(Link, c.p), c.want...)
			r := w.ended()
			if len(r) != 1 || r[0].Close != CloseRevoked || r[0].PacketsUp != 2 || r[0].PacketsDown != 1 || r[0].Overlay != ip(alice) {
				t.Errorf("records %+v", r)
			}
			if w.lease.held() != 0 {
				t.Error("the lease is still held")
			}
			// Whoever challenges the reset gets the exact one, from either side.
			w.want(w.in(Link, tcp(beyon, up, ackF, 5001, 1001, 0)), made(Link, rst(up, beyon, 1001)))
			w.want(w.in(Link, tcp(up, near, ackF, 1001, 5001, 0)), made(Link, rst(near, up, 5001)))
		})
	}
}

func TestUnknownFromNowOn(t *testing.T) {
	w := newWorld(t, nil)
	w.handshake()
	w.set(func() { w.refuse = true })
	w.want(w.in(Link, tcp(up, near, ackF, 1001, 5001, 10)), made(Link, rst(up, beyon, 1001)), made(Link, rst(near, up, 5001)))
	w.want(w.in(Link, tcp(up, near, synF, 9000, 0, 0)))
	w.wantDrops(map[Drop]uint64{DropDenied: 1, DropUnknownSource: 1})
}

// A peer is one end of a TCP connection, as strict about resets as RFC 5961.
type peer struct {
	self, other string
	next, rcv   uint32 // SND.NXT, RCV.NXT
	window      uint32
	synSent     bool
	closed      bool
}

// take receives a segment, and returns what the peer answers.
func (p *peer) take(s pkt) (answers []pkt) {
	switch {
	case p.closed:
	case s.flags&rstF != 0 && p.synSent: // RFC 9293, section 3.10.7.3
		p.closed = s.flags&ackF != 0 && s.ack == p.next
	case s.flags&rstF != 0 && s.seq == p.rcv:
		p.closed = true
	case s.flags&rstF != 0 && s.seq-p.rcv < p.window, s.flags&synF != 0:
		return []pkt{tcp(p.self, p.other, ackF, p.next, p.rcv, 0)} // the challenge
	case s.flags&rstF == 0 && s.seq == p.rcv:
		p.rcv += uint32(s.data) // its acknowledgement is delayed
	}
	return nil
}

// A connection is two peers with the Switch between them.
type connection struct {
	w    *world
	r    *rand.Rand
	peer [2]peer
	loss float64
}

// deliver hands on what the Switch sent, and what is answered, until nothing is left.
func (c *connection) deliver(sent []sent) {
	for n := 0; len(sent) > 0 && n < 100; n++ {
		p := sent[0].pkt
		sent = sent[1:]
		if c.r.Float64() < c.loss {
			continue
		}
		to := &c.peer[fwd]
		if p.dst == ap(beyon) {
			to = &c.peer[rev]
		}
		for _, a := range to.take(p) {
			sent = append(sent, c.w.in(Link, a)...)
		}
	}
}

// sends lets a peer send some data.
func (c *connection) sends(d int, n int) {
	p := &c.peer[d]
	if p.closed {
		return
	}
	s := tcp(p.self, p.other, ackF, p.next, p.rcv, n)
	p.next += uint32(n)
	c.deliver(c.w.in(Link, s))
}

func newConnection(t *testing.T, seed uint64) *connection {
	w := newWorld(t, nil)
	w.handshake()
	return &connection{w: w, r: rand.New(rand.NewPCG(seed, 0)), peer: [2]peer{
		{self: up, other: near, next: 1001, rcv: 5001, window: 65000},
		{self: beyon, other: up, next: 5001, rcv: 1001, window: 65000},
	}}
}

// However the connection stands when it is cut, both ends are reset: at once
// if nothing of the last data was lost, else when they speak next.
func TestResetsAreExact(t *testing.T) {
	ways := map[string]func(w *world){
		"cut":      func(w *world) { w.Cut(func(*Info) bool { return true }, CloseLinkDown) },
		"rejudged": func(w *world) { w.denied[443] = true; w.Rejudge(func(i *Info) bool { return i.Far == "hk-1" }) },
	}
	for name, way := range ways {
		for seed := range uint64(200) {
			t.Run(fmt.Sprint(name, seed), func(t *testing.T) {
				c := newConnection(t, seed)
				c.loss = []float64{0, 0.3}[seed%2]
				for range c.r.IntN(8) {
					c.sends(c.r.IntN(2), c.r.IntN(3)*700)
				}
				lossless := c.loss == 0
				c.loss = 0
				c.w.taken()
				way(c.w)
				c.deliver(c.w.taken())
				if lossless && !(c.peer[fwd].closed && c.peer[rev].closed) {
					t.Fatalf("not reset at once: %+v", c.peer)
				}
				for d := range c.peer {
					p := &c.peer[d]
					if !p.closed { // it repeats what was not acknowledged
						c.deliver(c.w.in(Link, tcp(p.self, p.other, ackF, p.next-1, p.rcv, 1)))
					}
					if !p.closed {
						t.Fatalf("still open: %+v", *p)
					}
				}
			})
		}
	}
}

// Data of which nobody knows whether it has arrived: the end may expect what
// follows it, or still what it acknowledged last.
func TestResetsBothNumbers(t *testing.T) {
	w := newWorld(t, nil)
	w.handshake()
	w.in(Link, tcp(beyon, up, ackF, 5001, 1001, 1000))
	w.Cut(func(*Info) bool { return true }, CloseLinkDown)
	w.want(w.taken(), made(Link, rst(near, up, 6001)), made(Link, rst(near, up, 5001)), made(Link, rst(up, beyon, 1001)))
}

func TestResetOfHalfAConnection(t *testing.T) {
	w := newWorld(t, nil)
	w.in(Link, tcp(up, near, synF, 1000, 0, 0))
	w.Cut(func(*Info) bool { return true }, CloseLinkDown)
	w.want(w.taken(), made(Link, tcp(near, up, rstF|ackF, 0, 1001, 0)), made(Link, rst(up, beyon, 1001)))
	p := peer{self: up, other: near, next: 1001, synSent: true}
	if p.take(tcp(near, up, rstF|ackF, 0, 1001, 0)); !p.closed {
		t.Error("a SYN-SENT peer does not take it")
	}
	// It may try again at once, and is judged.
	w.want(w.in(Link, tcp(up, near, synF, 2000, 0, 0)), out(Link, tcp(up, beyon, synF, 2000, 0, 0)))
}

func TestCutOfUDP(t *testing.T) {
	w := newWorld(t, nil)
	w.in(Link, udp(up, near, 1))
	w.set(func() { w.far[ip("198.19.0.7")] = ip("240.1.9.9") })
	w.Cut(func(i *Info) bool { return i.Name == "www.listed-china.test" }, CloseLinkDown)
	w.want(w.taken())
	if r := w.ended(); len(r) != 1 || r[0].Close != CloseLinkDown {
		t.Fatal(r)
	}
	w.want(w.in(Link, udp(up, near, 1)), out(Link, udp(up, "240.1.9.9:443", 1)))
}

func TestAnotherWayEndsTheFlow(t *testing.T) {
	w := newWorld(t, nil)
	w.handshake()
	w.in(Link, udp(up, near, 1))
	w.ended()
	w.set(func() { w.far[ip("198.19.0.7")] = ip("240.1.9.9") })
	w.want(w.in(Link, tcp(up, near, ackF, 1001, 5001, 10)), made(Link, rst(up, beyon, 1001)), made(Link, rst(near, up, 5001)))
	w.want(w.in(Link, udp(up, near, 1)), out(Link, udp(up, "240.1.9.9:443", 1)))
	for _, r := range w.ended() {
		if r.Close != CloseDisplaced {
			t.Errorf("%+v", r)
		}
	}
	// What still comes back the old way is late.
	w.want(w.in(Link, udp(beyon, up, 1)))
}

// Two labels of one origin, at a connector: the same device port meets the
// same far end twice. The newest wins, and only the older one's device is reset.
func TestDisplaced(t *testing.T) {
	w := newWorld(t, nil)
	w.far[ip("198.19.0.8")] = ip("240.1.0.7")
	w.handshake()
	w.want(w.in(Link, tcp(up, "198.19.0.8:443", synF, 1, 0, 0)),
		made(Link, rst(near, up, 5001)), out(Link, tcp(up, beyon, synF, 1, 0, 0)))
	if r := w.ended(); len(r) != 1 || r[0].Close != CloseDisplaced {
		t.Fatal(r)
	}
	w.want(w.in(Link, tcp(beyon, up, synF|ackF, 9, 2, 0)), out(Link, tcp("198.19.0.8:443", up, synF|ackF, 9, 2, 0)))
	if w.lease.held() != 1 {
		t.Errorf("%d leases held, want 1", w.lease.held())
	}
}

func TestAdoption(t *testing.T) {
	data := tcp(up, near, ackF, 70, 80, 10)
	t.Run("from the device", func(t *testing.T) {
		w := newWorld(t, nil)
		w.want(w.in(Link, data), out(Link, tcp(up, beyon, ackF, 70, 80, 10)))
		if w.judged[0].Syn {
			t.Error("called a SYN")
		}
	})
	back, xback := tcp(beyon, "100.72.8.5:40000", ackF, 80, 70, 10), tcp(near, upLAN, ackF, 80, 70, 10)
	t.Run("in reverse", func(t *testing.T) {
		w := newWorld(t, nil)
		w.adopt = true
		w.want(w.in(Link, back), out(LAN, xback))
		w.want(w.in(LAN, tcp(upLAN, near, ackF, 70, 90, 10)), out(Link, tcp("100.72.8.5:40000", beyon, ackF, 70, 90, 10)))
		if n := w.questions(); n != 1 {
			t.Errorf("judged %d times", n)
		}
		// Judged again it is asked about as the device's flow.
		w.set(func() { w.adopt = false })
		w.want(w.in(Link, back), out(LAN, xback))
		f := w.judged[0]
		if f.Reverse || f.Side != LAN || f.Src != ap(upLAN) || f.Dst != ap(near) || f.Path == nil || f.Meta == nil {
			t.Errorf("asked %+v", f)
		}
	})
	t.Run("in reverse, only from ports that are allowed", func(t *testing.T) {
		w := newWorld(t, nil)
		w.adopt = true
		w.denied[443] = true
		w.want(w.in(Link, tcp(beyon, up, ackF, 80, 70, 10)), made(Link, rst(up, beyon, 70)))
		w.want(w.in(Link, tcp(beyon, up, ackF, 80, 71, 10)), made(Link, rst(up, beyon, 71)))
	})
	t.Run("in reverse, not over the device's newer flow", func(t *testing.T) {
		w := newWorld(t, nil)
		w.far[ip("198.19.0.7")] = ip("240.1.9.9")
		w.in(Link, data)
		w.adopt = true
		w.want(w.in(Link, tcp(beyon, up, ackF, 80, 70, 10)))
	})
}

func TestCloses(t *testing.T) {
	w := newWorld(t, nil)
	w.handshake()
	w.in(Link, tcp(up, near, finF|ackF, 1001, 5001, 0))
	w.in(Link, tcp(beyon, up, finF|ackF, 5001, 1002, 0))
	last := tcp(up, near, ackF, 1002, 5002, 0)
	w.want(w.in(Link, last), out(Link, tcp(up, beyon, ackF, 1002, 5002, 0)))
	if f := w.Flows(); len(f) != 1 || f[0].State != Closing || f[0].PacketsUp != 4 {
		t.Fatalf("%+v", f)
	}
	w.want(w.in(Link, tcp(beyon, up, synF, 1, 0, 0)))
	w.want(w.in(Link, tcp(up, near, synF, 8000, 0, 0)), out(Link, tcp(up, beyon, synF, 8000, 0, 0)))
	if r := w.ended(); len(r) != 1 || r[0].Close != CloseFin || r[0].PacketsUp != 4 || r[0].PacketsDown != 2 {
		t.Fatalf("%+v", r)
	}
	// A reset far off is not believed, one that fits is.
	w.in(Link, tcp(beyon, up, synF|ackF, 100, 8001, 0))
	w.in(Link, tcp(up, near, ackF, 8001, 101, 0))
	w.in(Link, rst(beyon, up, 900000))
	if s := w.Flows()[0].State; s != Open {
		t.Error("after a reset far off:", s)
	}
	w.want(w.in(Link, rst(beyon, up, 101)), out(Link, rst(near, up, 101)))
	if s := w.Flows()[0].State; s != Closing {
		t.Error("after the reset:", s)
	}
}

func TestBadRulings(t *testing.T) {
	for name, path := range map[string]Path{
		"nowhere":        {},
		"other family":   {NewDst: ip("fd00::1")},
		"back to itself": {NewSrc: ip("198.19.0.7"), NewDst: ip(alice)},
		"no such side":   {Out: 99, NewDst: ip("240.1.0.7")},
	} {
		w := newWorld(t, func(c *Config) { c.Judge = func(*First) Ruling { return Ruling{Outcome: Admit, Path: path} } })
		w.want(w.in(Link, udp(up, near, 0)))
		if len(w.Flows()) != 0 {
			t.Error(name, "made a flow")
		}
	}
	// A judge whose stamps are old as soon as it speaks cannot make the Switch turn for ever.
	var moving Stamp
	moving.Counter = &newWorld(t, nil).policy
	w := newWorld(t, func(c *Config) {
		c.Judge = func(*First) Ruling {
			moving.Counter.Add(1)
			return Ruling{Outcome: Admit, Path: Path{NewDst: ip("240.1.0.7")}, Stamps: [2]Stamp{moving}}
		}
	})
	w.want(w.in(Link, udp(up, near, 0)))
	w.wantDrops(map[Drop]uint64{DropContended: 1})
}

func TestZeroValuesRefuse(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Judge = func(*First) Ruling { return Ruling{} } })
	w.want(w.in(Link, udp(up, near, 0)))
	w = newWorld(t, func(c *Config) { c.Classify = func(Side, netip.Addr, netip.Addr) (Class, Drop) { return 0, 0 } })
	w.want(w.in(Link, udp(up, near, 0)))
	w.wantDrops(map[Drop]uint64{DropStray: 1})
}
