package node

import (
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const (
	// late is when the connectors of these tests move or die: 100 ms after a probe.
	late = 60*time.Second + 100*time.Millisecond
	// noticed is when the egress has not heard of a dead one for 3.5 s, at the
	// next second at which it looks.
	noticed = 64 * time.Second
)

// A connector gets another address. What it sends next tells the egress: one of
// its probes at the latest, which come each second.
func TestConnectorRoams(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		k := w.dial(40000, w.laptop.resolve("www.china.test"), "cn-1")
		w.sleepUntil(late)
		w.hosts["cn-1"].Move(netip.MustParseAddr("192.0.2.77"))
		took := k.insist(k.say, k.far.inbox)
		probed := 900*time.Millisecond + toChina
		same(t, "a segment gets through", took, nextSent(probed-toGateway-toEgress)+oneWay)
		w.sleepUntil(w.at() + time.Minute)
		if n := w.linkChanges("hk-1"); n != 2 {
			t.Errorf("the links of the egress have changed %d times, want 2: that they came up", n)
		}
		k.exchange(100)
	})
}

// It roams while the origin talks: nothing is lost but what was under way.
func TestConnectorRoamsTalking(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		k := w.dial(40000, w.laptop.resolve("www.china.test"), "cn-1")
		w.sleepUntil(60 * time.Second)
		w.hosts["cn-1"].Move(netip.MustParseAddr("192.0.2.77"))
		begin := w.at()
		k.reply(psh|ack, 100)
		same(t, "the origin's segment", w.laptop.next(time.Second).at-begin, oneWay)
		k.down += 100
		begin = w.at()
		k.say(ack, 0)
		same(t, "its acknowledgement", k.far.next(time.Second).at-begin, oneWay)
	})
}

// A connector dies. The egress shows it down when it has not heard of it for 3.5 s,
// and looks once a second; 15 s later the connections through it end. Others
// take the second connector at once.
func TestConnectorDies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1", "cn-2")
		label := w.laptop.resolve("www.china.test")
		old := w.dial(40000, label, "cn-1")
		w.sleepUntil(late)
		heard := w.lastHeard("cn-1")
		w.hosts["cn-1"].Down()
		w.until(10*time.Second, "the connector is down", func() bool { return !w.egress.neighbours.up("cn-1") })
		down := w.at()
		same(t, "it was last heard", heard, 60*time.Second+toChina)
		same(t, "it is shown down", down, noticed)
		other := w.dial(40001, label, "cn-2")
		same(t, "a SYN by the other connector", other.tookUp, oneWay)
		other.exchange(100)

		a := w.laptop.next(time.Minute)
		old.resetNear(a)
		same(t, "the reset", a.at-down, linkPatience+toEgress+toGateway)
		other.exchange(100)
		old.far.none(time.Second)

		// It comes back, and is the first choice again for what is new.
		w.hosts["cn-1"].Up()
		took := w.until(10*time.Second, "the connector is up", func() bool { return w.egress.neighbours.up("cn-1") })
		if took > time.Second+3*toChina {
			t.Errorf("the connector is shown up after %v", took)
		}
		w.dial(40002, label, "cn-1")
		other.exchange(100)
	})
}

// A SYN that was sent to a dead connector before it was found to be dead stays
// on that way, however often it is repeated, until the connections by it end.
// The next attempt takes the other.
func TestConnectorDiesUnnoticed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1", "cn-2")
		label := w.laptop.resolve("www.china.test")
		w.sleepUntil(late)
		w.hosts["cn-1"].Down()
		k := &talk{w: w, near: netip.AddrPortFrom(laptopAddrs[0], 40000), label: netip.AddrPortFrom(label, 443), up: 1000}
		for _, at := range []time.Duration{0, 1, 3, 7, 15} { // as Linux repeats it
			w.sleepUntil(late + at*time.Second)
			k.say(syn, 0)
		}
		w.mainland["cn-2"].none(time.Second)
		a := w.laptop.next(5 * time.Second)
		if a.flags != rst|ack || a.src != k.label || a.dst != k.near || a.ack != 1001 {
			t.Errorf("%v has arrived, want a reset", a)
		}
		same(t, "the reset", a.at, noticed+linkPatience+toEgress+toGateway)
		w.dial(40000, label, "cn-2")
	})
}

// lastHeard returns when the egress has last heard of a connector's probes.
func (w *world) lastHeard(connector string) time.Duration {
	n := w.egress.neighbours
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.by[connector].seen.Sub(w.start)
}

// Datagrams of one flow go the way that they began with until that is given up.
// Then the next one takes the other, without a word to anybody.
func TestDatagramsMoveOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1", "cn-2")
		label := netip.AddrPortFrom(w.laptop.resolve("www.china.test"), 443)
		p := pkt{src: netip.AddrPortFrom(laptopAddrs[0], 40000), dst: label, proto: protoUDP, data: []byte("QUIC")}
		w.laptop.out(p.bytes())
		if a := w.mainland["cn-1"].next(time.Second); a.dst != origin || a.proto != protoUDP {
			t.Errorf("%v has arrived", a)
		}
		w.sleepUntil(late)
		w.hosts["cn-1"].Down()
		for len(w.mainland["cn-2"].c) == 0 && w.at() < 2*time.Minute {
			w.laptop.out(p.bytes())
			w.sleepUntil(w.at() + 250*time.Millisecond)
		}
		given := noticed + linkPatience
		a := w.mainland["cn-2"].next(time.Second)
		if a.dst != origin || a.at < given || a.at > given+250*time.Millisecond+toChina {
			t.Errorf("%v has arrived at %v", a, a.at)
		}
		w.laptop.none(time.Second)
	})
}

// The egress dies. The gateway knows after three questions, refuses names with
// the reason, and resets the connections 15 s later.
func TestEgressDies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		label := w.laptop.resolve("www.china.test")
		k := w.dial(40000, label, "cn-1")
		w.sleepToRestart()
		w.hosts["hk-1"].Down()
		at := w.at()
		down := w.until(10*time.Second, "the egress is down", func() bool { return !w.gateway.neighbours.up("hk-1") })
		same(t, "the gateway knows", down, 220*time.Millisecond+2500*time.Millisecond)
		r, took, err := w.laptop.ask("shop.china.test", dns.TypeA)
		if err != nil || r.Rcode != dns.RcodeRefused || ede(r) != 23 {
			t.Errorf("%v, %v", r, err)
		}
		same(t, "the refusal", took, 2*toGateway)

		a := w.laptop.next(time.Minute)
		k.resetNear(a)
		if cut := a.at - at - down - toGateway; cut < linkPatience || cut >= linkPatience+time.Second {
			t.Errorf("the connection was cut %v after the egress was shown down", cut)
		}
		k.near = netip.AddrPortFrom(laptopAddrs[0], 40001)
		begin := w.at()
		k.say(syn, 0)
		a = w.laptop.next(time.Second)
		if a.flags != rst|ack || a.at-begin != 2*toGateway {
			t.Errorf("%v has arrived after %v", a, a.at-begin)
		}

		// It comes back: WireGuard tries again at the latest after five seconds.
		w.hosts["hk-1"].Up()
		w.until(6*time.Second, "all is up", w.allUp)
		w.dial(40002, label, "cn-1")
	})
}

// ede returns the code of the extended error, -1 if there is none.
func ede(m *dns.Msg) int {
	if o := m.IsEdns0(); o != nil {
		for _, e := range o.Option {
			if e, ok := e.(*dns.EDNS0_EDE); ok {
				return int(e.InfoCode)
			}
		}
	}
	return -1
}
