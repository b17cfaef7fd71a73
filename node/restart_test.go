package node

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starferry/starferry/tunnel/link"
)

// sleepToRestart sleeps until 220 ms before the next question by which the
// gateway sees whether the egress is there. It asks since the world began.
func (w *world) sleepToRestart() { w.sleepUntil(time.Minute - 220*time.Millisecond) }

// forget takes a file from the state of a node that does not run.
func (w *world) forget(node, file string) {
	w.t.Helper()
	if err := os.Remove(filepath.Join(w.stateDir(node), file)); err != nil {
		w.t.Fatal(err)
	}
}

// insist has one end send the same segment every 50 ms, the first after 7 ms
// so that nothing else happens at the same instant, until the other end gets
// one, and returns how long that took.
func (k *talk) insist(send func(flags uint8, n int), to inbox) time.Duration {
	k.w.t.Helper()
	begin := k.w.at()
	time.Sleep(7 * time.Millisecond)
	for ; k.w.at()-begin < 10*time.Second; time.Sleep(50 * time.Millisecond) {
		synctest.Wait()
		if len(to.c) > 0 {
			a := to.next(time.Second)
			if a.flags != psh|ack || len(a.data) != 100 {
				k.w.t.Fatalf("%v has arrived", a)
			}
			time.Sleep(time.Second)
			to.drain()
			return a.at - begin
		}
		send(psh|ack, 100)
	}
	k.w.t.Fatalf("nothing has arrived in 10 s")
	return 0
}

// The egress restarts and does not know where the others are: they notice by
// their probes, and begin anew.
func TestEgressRestarts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		k := w.dial(40000, w.laptop.resolve("www.china.test"), "cn-1")
		w.sleepToRestart()
		w.stops["hk-1"]()
		w.forget("hk-1", "endpoints.json")
		w.startEgress()
		at := w.at()
		took := k.insist(k.say, k.far.inbox)
		// Two questions missed, then a handshake; the third packet of it opens the
		// other direction.
		const missed = 220*time.Millisecond + 2*time.Second
		same(t, "the gateway can send", w.opened(w.gateway.trunk.wires[0].dev, "hk-1")-at, missed+2*toEgress)
		same(t, "the egress can send", w.opened(w.egress.trunk.wires[0].dev, "gw-sjc")-at, missed+3*toEgress)
		// Then the directory comes, after two round trips; the first segment after
		// that waits for the connector's label.
		directory := missed + 7*toEgress
		first := nextSent(directory-toGateway-toEgress) + toGateway + toEgress
		same(t, "a segment gets through", took, first+2*toChina+toChina)
		w.until(10*time.Second, "all is up", w.allUp)
		k.exchange(1000)
	})
}

// nextSent returns when the first segment of insist is sent at that time or later.
func nextSent(from time.Duration) time.Duration {
	at := 7 * time.Millisecond
	for at < from {
		at += 50 * time.Millisecond
	}
	return at
}

// The egress restarts and knows where the others are. The laptop is silent:
// what the origin sends brings the connection back.
func TestEgressRestartsKnowing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		k := w.dial(40000, w.laptop.resolve("www.china.test"), "cn-1")
		w.sleepToRestart()
		w.stops["hk-1"]()
		w.startEgress()
		at := w.at()
		took := k.insist(k.reply, w.laptop.inbox)
		// A handshake and the packet that proves it, and before it up to 200 ms so
		// that not all peers are greeted at once.
		at1, at2 := w.opened(w.egress.trunk.wires[0].dev, "gw-sjc")-at, w.opened(w.gateway.trunk.wires[0].dev, "hk-1")-at
		if jitter := at2 - 3*toEgress; jitter < 0 || jitter > 200*time.Millisecond || at2-at1 != toEgress {
			t.Errorf("the egress can send after %v, the gateway after %v", at1, at2)
		}
		directory := at1.Round(time.Millisecond) + 4*toEgress
		first := nextSent(directory-toChina) + toChina
		same(t, "a segment gets through", took, first+2*toChina+toEgress+toGateway)
		w.until(10*time.Second, "all is up", w.allUp)
		if !w.gateway.neighbours.up("hk-1") || w.linkChanges("gw-sjc") != 1 {
			t.Error("the gateway has taken the link for down")
		}
		k.exchange(1000)
	})
}

// linkChanges counts how often a node's links went up or down.
func (w *world) linkChanges(node string) int {
	w.logs.mu.Lock()
	defer w.logs.mu.Unlock()
	return strings.Count(w.logs.String(), "msg=link node="+node+" ")
}

// What the origin sends makes flows for two minutes after a start, and then no
// more; what the laptop sends in the middle of a connection does so always.
func TestAdoptionEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		label := w.laptop.resolve("www.china.test")
		var talks []*talk
		for port := range uint16(4) {
			talks = append(talks, w.dial(40000+port, label, "cn-1"))
		}
		w.sleepUntil(60 * time.Second)
		w.stops["hk-1"]()
		w.startEgress()
		restart := w.at()
		w.sleepUntil(restart + 10*time.Second)
		talks[0].reply(psh|ack, 100) // has the egress ask for the connector's label
		a := w.laptop.next(time.Second)
		same(t, "the first", a.at, restart+10*time.Second+2*toChina+oneWay)

		w.sleepUntil(restart + adoption - toChina)
		talks[1].reply(psh|ack, 100)
		same(t, "the last one in time", w.laptop.next(time.Second).at, restart+adoption-toChina+oneWay)
		talks[2].reply(psh|ack, 100)
		w.laptop.none(10 * time.Second)

		begin := w.at()
		talks[2].say(psh|ack, 100)
		same(t, "the laptop's own", talks[2].far.next(time.Second).at-begin, oneWay)
		talks[2].up += 100
		talks[2].exchange(100)

		// Nobody makes a connection that way which never was, or to a port that policy does not admit.
		talks[3].reply(syn|ack, 0)
		w.mainland["cn-1"].in(pkt{src: origin, dst: netip.AddrPortFrom(laptopAddrs[0], 50000), proto: protoTCP, flags: ack}.bytes())
		w.laptop.none(10 * time.Second)
	})
}

// A connector that restarts has forgotten by which port it reached the origin.
// Its first probe says so, and the egress resets the connections through it:
// a laptop that only listens would wait for long.
func TestConnectorRestarts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		label := w.laptop.resolve("www.china.test")
		k := w.dial(40000, label, "cn-1")
		w.sleepUntil(60 * time.Second)
		w.stops["cn-1"]()
		w.startConnector("cn-1")
		begin := w.at()
		a := w.laptop.next(time.Second)
		k.resetNear(a)
		same(t, "the reset", a.at-begin, 3*toChina+toEgress+toGateway)
		same(t, "the connector can send", w.opened(w.connectors["cn-1"].trunk.wires[0].dev, "hk-1")-begin, 2*toChina)
		w.laptop.none(time.Second)

		begin = w.at()
		k.say(psh|ack, 100)
		a = w.laptop.next(time.Second)
		k.resetNear(a)
		same(t, "the answer of the egress", a.at-begin, 2*(toGateway+toEgress))
		if again := w.dial(40001, label, "cn-1"); again.origin != origin {
			t.Errorf("%v leads to %v now", label, again.origin)
		}
		k.far.none(time.Second)
	})
}

// The gateway restarts. Its leases, the labels behind them and where the laptop
// is come from its files; a segment of the origin alone brings the connection back.
func TestGatewayRestarts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		k := w.dial(40000, w.laptop.resolve("www.china.test"), "cn-1")
		w.sleepUntil(60 * time.Second)
		w.stops["gw-sjc"]()
		w.startGateway()
		at := w.at()
		took := k.insist(k.reply, w.laptop.inbox)
		same(t, "the gateway can send", w.opened(w.gateway.trunk.wires[0].dev, "hk-1")-at, 2*toEgress)
		same(t, "the egress can send", w.opened(w.egress.trunk.wires[0].dev, "gw-sjc")-at, 3*toEgress)
		// The first segment that the gateway gets waits until it has asked the egress,
		// and that the connector, for the label.
		first := nextSent(3*toEgress-toChina) + toChina + toEgress
		same(t, "a segment gets through", took, first+2*toEgress+2*toChina+toGateway)
		k.exchange(1000)
		if again := w.laptop.resolve("www.china.test"); again != k.label.Addr() {
			t.Errorf("%v was %v before", again, k.label)
		}
	})
}

// opened returns when a device has last shaken hands with a peer, since the
// begin of the world; zero if never.
func (w *world) opened(d *link.Device, peer string) time.Duration {
	for _, s := range d.Status() {
		if s.Name == peer && !s.LastHandshake.IsZero() {
			return s.LastHandshake.Sub(w.start)
		}
	}
	return 0
}
