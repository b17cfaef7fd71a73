package node

import (
	"net/netip"
	"testing"
	"time"
)

// The egress has lost its leases: its labels may come to stand for other names.
// The gateway hears of it when it asks for whatever name, and must not send a
// connection for one site to another.
func TestLostJournal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		www := w.laptop.resolve("www.china.test")
		old := w.dial(40000, www, "cn-1")
		w.sleepUntil(60 * time.Second)
		w.stops["hk-1"]()
		w.forget("hk-1", "leases")
		w.startEgress()
		w.sleepUntil(70 * time.Second)

		shop := w.laptop.resolve("shop.china.test") // takes the label that was of www
		was, _ := w.gateway.labels.table.ByAddr(www)
		if n, ok := was.Next("hk-1"); ok {
			t.Errorf("the gateway still believes in %v", n)
		}
		if k := w.dial(40001, shop, "cn-1"); k.origin.Addr() != netip.MustParseAddr("198.51.100.10") {
			t.Errorf("shop leads to %v", k.origin)
		}
		if k := w.dial(40002, www, "cn-1"); k.origin != origin {
			t.Errorf("www leads to %v", k.origin)
		}
		// The connection of before would go another way: it ends.
		old.say(psh|ack, 100)
		old.resetNear(w.laptop.next(time.Second))
	})
}

// So with a connector, whose restart alone has the egress ask for its labels
// anew: a second egress may have been given them meanwhile.
func TestLostJournalOfConnector(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		www := w.laptop.resolve("www.china.test")
		w.sleepUntil(60 * time.Second)
		w.stops["cn-1"]()
		w.forget("cn-1", "leases")
		w.startConnector("cn-1")
		w.sleepUntil(70 * time.Second)

		other := w.connectors["cn-1"].table
		if l, err := other.Lease("shop.china.test", false, "", time.Now()); err != nil || l.Addr() != poolC(1)[0].Addr().Next() {
			t.Fatalf("the label that www had is not that of %v, %v", l, err)
		}
		if k := w.dial(40001, www, "cn-1"); k.origin != origin {
			t.Errorf("www leads to %v", k.origin)
		}
	})
}
