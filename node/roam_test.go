package node

import (
	"net/netip"
	"testing"
	"time"
)

// A connector gets another address. What it sends next tells the egress: one of
// its probes at the latest, which come each second.
func TestConnectorRoams(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		k := w.dial(40000, w.laptop.resolve("www.china.test"), "cn-1")
		w.sleepUntil(60 * time.Second)
		w.hosts["cn-1"].Move(netip.MustParseAddr("192.0.2.77"))
		took := k.insist(k.say, k.far.inbox)
		t.Logf("a segment gets through after %v", took)
		if took > time.Second+toChina+50*time.Millisecond+toChina {
			t.Errorf("a segment gets through after %v", took)
		}
		time.Sleep(time.Minute)
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
		w.sleepUntil(60 * time.Second)
		w.hosts["cn-1"].Down()
		died := w.at()
		w.until(10*time.Second, "the connector is down", func() bool { return !w.egress.neighbours.up("cn-1") })
		down := w.at() - died
		t.Logf("down after %v", down)
		if down < quiet-time.Second || down > quiet+time.Second {
			t.Errorf("the connector is shown down after %v", down)
		}
		other := w.dial(40001, label, "cn-2")
		same(t, "a SYN by the other connector", other.tookUp, oneWay)
		other.exchange(100)

		a := w.laptop.next(time.Minute)
		old.resetNear(a)
		cut := a.at - died - down - toEgress - toGateway
		t.Logf("cut %v later", cut)
		if cut < linkPatience || cut > linkPatience+time.Second {
			t.Errorf("the connection was cut %v after the connector was shown down", cut)
		}
		other.exchange(100)
		old.far.none(time.Second)

		// It comes back, and is the first choice again for what is new.
		w.hosts["cn-1"].Up()
		took := w.until(10*time.Second, "the connector is up", func() bool { return w.egress.neighbours.up("cn-1") })
		t.Logf("up after %v", took)
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
		w.sleepUntil(60 * time.Second)
		w.hosts["cn-1"].Down()
		k := &talk{w: w, near: netip.AddrPortFrom(laptopAddrs[0], 40000), label: netip.AddrPortFrom(label, 443), up: 1000}
		for _, at := range []time.Duration{0, 1, 3, 7, 15} { // as Linux repeats it
			w.sleepUntil((60 + at) * time.Second)
			k.say(syn, 0)
		}
		w.mainland["cn-2"].none(time.Second)
		a := w.laptop.next(5 * time.Second)
		if a.flags != rst|ack || a.src != k.label || a.dst != k.near || a.ack != 1001 {
			t.Errorf("%v has arrived, want a reset", a)
		}
		same(t, "the reset", a.at, 60*time.Second+3*time.Second+linkPatience+toEgress+toGateway)
		w.dial(40000, label, "cn-2")
	})
}
