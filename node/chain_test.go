package node

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// A question goes through gateway, egress and connector to a resolver in China,
// and a connection follows its answer.
func TestChain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		r, took, err := w.laptop.ask("www.china.test", dns.TypeA)
		if err != nil || r.Rcode != dns.RcodeSuccess || len(r.Answer) != 1 {
			t.Fatal(r, err)
		}
		same(t, "the first answer", took, 2*oneWay+lookup)
		label, _ := netip.AddrFromSlice(r.Answer[0].(*dns.A).A.To4())
		if !within(poolA, label) || r.Answer[0].Header().Ttl != 30 {
			t.Errorf("the answer is %v", r.Answer[0])
		}
		k := w.dial(40000, label, "cn-1")
		same(t, "a SYN", k.tookUp, oneWay)
		same(t, "its SYN-ACK", k.back, oneWay)
		if k.origin != origin || k.there != k.near {
			t.Errorf("the origin %v was reached from %v", k.origin, k.there)
		}
		// The connector remembers what the resolver has said.
		_, took, err = w.laptop.ask("www.china.test", dns.TypeA)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "the second answer", took, 2*oneWay)
	})
}

func TestChainOverIPv6(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		r, took, err := w.laptop.ask("six.china.test", dns.TypeAAAA)
		if err != nil || len(r.Answer) != 1 {
			t.Fatal(r, err)
		}
		same(t, "the answer", took, 2*oneWay+lookup)
		label, _ := netip.AddrFromSlice(r.Answer[0].(*dns.AAAA).AAAA)
		k := w.dial(40000, label, "cn-1")
		same(t, "a SYN", k.tookUp, oneWay)
		if !within(poolA, label) || k.origin.Addr() != netip.MustParseAddr("2001:db8:86::9") || k.there != k.near {
			t.Errorf("%v leads to %v from %v", label, k.origin, k.there)
		}
	})
}

// What does not exist in China does not exist here, in the same time.
func TestChainMirrorsNo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1", "cn-2")
		for _, tt := range []struct {
			name  string
			qtype uint16
			rcode int
		}{
			{"nothing.china.test", dns.TypeA, dns.RcodeNameError},
			{"nothing.china.test", dns.TypeAAAA, dns.RcodeNameError},
			{"www.china.test", dns.TypeAAAA, dns.RcodeSuccess},
			{"six.china.test", dns.TypeA, dns.RcodeSuccess},
		} {
			r, took, err := w.laptop.ask(tt.name, tt.qtype)
			if err != nil || r.Rcode != tt.rcode || len(r.Answer) != 0 || len(r.Ns) != 1 {
				t.Errorf("%s: %v, %v", tt.name, r, err)
			}
			same(t, tt.name, took, 2*oneWay+lookup)
		}
	})
}

// The far end is told by nobody that it may talk.
func TestNothingComesInUnasked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		k := w.dial(40000, w.laptop.resolve("www.china.test"), "cn-1")
		for _, flags := range []uint8{syn, syn | ack, ack, rst | ack} {
			w.mainland["cn-1"].in(pkt{src: origin, dst: netip.AddrPortFrom(laptopAddrs[0], 40001), proto: protoTCP, flags: flags}.bytes())
		}
		w.laptop.none(time.Second)
		w.mainland["cn-1"].none(time.Second)
		// From the laptop, a port that policy does not admit is reset.
		begin := w.at()
		w.laptop.out(pkt{src: k.near, dst: netip.AddrPortFrom(k.label.Addr(), 22), proto: protoTCP, flags: syn, seq: 7}.bytes())
		a := w.laptop.next(time.Second)
		if a.flags != rst|ack || a.ack != 8 {
			t.Errorf("%v has arrived, want a reset", a)
		}
		same(t, "the gateway's denial", a.at-begin, 2*toGateway)
		w.mainland["cn-1"].none(time.Second)
	})
}

// A verdict expires. The egress cuts the flow at that moment, by its own clock
// and policy, and without a word from the gateway, whose policy does not mind.
func TestVerdictExpires(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		begun := w.egressVerdict(t).Add(-15 * time.Minute).Sub(w.start)
		k := w.dial(40000, w.laptop.resolve("www.china.test"), "cn-1")
		w.sleepUntil(begun + 15*time.Minute - time.Second)
		k.exchange(1000)
		w.mu.Lock()
		told := w.told
		w.silent = true
		w.mu.Unlock()

		far, near := k.far.next(2*time.Second), w.laptop.next(2*time.Second)
		k.resetFar(far)
		k.resetNear(near)
		same(t, "the origin's reset", far.at-begun, 15*time.Minute+toChina)
		same(t, "the laptop's reset", near.at-begun, 15*time.Minute+toEgress+toGateway)

		// From then on a SYN is answered by the egress, and the origin does not see it.
		begin := w.at()
		k.near = netip.AddrPortFrom(k.near.Addr(), 40001)
		k.say(syn, 0)
		if a := w.laptop.next(time.Second); a.flags&rst == 0 || a.at-begin != 2*(toGateway+toEgress) {
			t.Errorf("%v has arrived after %v", a, a.at-begin)
		}
		k.far.none(10 * time.Second)
		if w.told != told {
			t.Error("the egress was told something")
		}

		// A new report opens the way again, at once here and one way later there.
		w.mu.Lock()
		w.silent = false
		w.mu.Unlock()
		w.report()
		took := w.until(time.Second, "the egress knows", func() bool { return w.egressVerdict(t).After(time.Now()) })
		if took > toEgress+gather {
			t.Errorf("the egress knows after %v", took)
		}
		w.dial(40002, k.label.Addr(), "cn-1")
	})
}

// A report says that not all is well. The egress hears of it, and cuts the flow
// as soon as it does.
func TestVerdictFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		k := w.dial(40000, w.laptop.resolve("www.china.test"), "cn-1")
		w.sleepUntil(time.Minute)
		if _, err := w.gateway.postures.take(t.Context(), "alice-laptop", []byte(`{"firewall": false}`), time.Now()); err != nil {
			t.Fatal(err)
		}
		far, near := k.far.next(time.Second), w.laptop.next(time.Second)
		k.resetFar(far)
		k.resetNear(near)
		same(t, "the origin's reset", far.at, time.Minute+toEgress+toChina)
		same(t, "the laptop's reset", near.at, time.Minute+2*toEgress+toGateway)
	})
}

// egressVerdict returns until when the egress takes the laptop for well.
func (w *world) egressVerdict(t *testing.T) time.Time {
	t.Helper()
	synctest.Wait()
	e, ok := w.egress.store.Directory().BySource(laptopAddrs[0])
	if !ok {
		t.Fatal("the egress does not know the laptop")
	}
	return e.Verdicts["managed"].Expires
}
