package node

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/steer"
	"github.com/starferry/starferry/tunnel"
)

// newShelf makes labels of which hk-1 is the next hop, with a lease of www.
func newShelf(t *testing.T, answer *resolver.NodeReply) (*labels, *steer.Lease) {
	t.Helper()
	started := time.Now()
	table, err := steer.Open(steer.Config{Path: filepath.Join(t.TempDir(), "leases"), V4: poolA[0], V6: poolA[1], Keep: time.Hour, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	l := newLabels(table, started, newWorker())
	l.nexts = []configs.Peer{{Name: "hk-1", Pool: poolB}}
	l.wake, l.voided = func(netip.Addr) {}, func() {}
	l.ask = func(context.Context, string, string, resolver.Question, resolver.Facts) (*resolver.NodeReply, error) {
		return answer, nil
	}
	lease, err := table.Lease("www.china.test", false, "", started)
	if err != nil {
		t.Fatal(err)
	}
	return l, lease
}

func reply(journal uint64, addr string) *resolver.NodeReply {
	return &resolver.NodeReply{Msg: new(dns.Msg), Journal: journal, Addrs: addrs(addr)}
}

// A node that names what is not its own (here a device) gets no flows sent there,
// whether a question of a device or a flow has it asked.
func TestLabelOfAnotherIsRefused(t *testing.T) {
	for addr, want := range map[string]error{"240.1.0.7": nil, "100.72.1.20": errNotItsOwn, "240.2.0.7": errNotItsOwn} {
		l, lease := newShelf(t, reply(1, addr))
		if _, err := l.refresh(t.Context(), lease, "hk-1", "hong-kong"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", addr, err, want)
		}
		if _, known := lease.Next("hk-1"); known != (want == nil) {
			t.Errorf("%s is kept: %v", addr, known)
		}
	}
}

// A label that is learnt after its journal was found to be lost is not used.
func TestLabelOfLostJournalIsNotUsed(t *testing.T) {
	l, lease := newShelf(t, nil)
	if _, err := l.learn(lease, "hk-1", reply(1, "240.1.0.7")); err != nil {
		t.Fatal(err)
	}
	if a, what := l.find(lease, "hk-1", "hong-kong", time.Now()); what != found || a != netip.MustParseAddr("240.1.0.7") {
		t.Fatalf("got %v, %v", a, what)
	}
	l.heard("hk-1", 2)
	l.table.Learn(lease, "hk-1", steer.Next{Addr: netip.MustParseAddr("240.1.0.7"), Journal: 1, Asked: time.Now()}) // it was under way
	if a, what := l.find(lease, "hk-1", "hong-kong", time.Now()); what != askedFor {
		t.Errorf("got %v, %v of a journal that is lost", a, what)
	}
}

// A flow stays where it is only if the route that the policy in force names
// still goes there.
func TestFlowKeepsToItsRoute(t *testing.T) {
	l, lease := newShelf(t, nil)
	label, err := l.learn(lease, "hk-1", reply(1, "240.1.0.7"))
	if err != nil {
		t.Fatal(err)
	}
	f := &tunnel.First{Path: &tunnel.Path{NewDst: label}, Meta: &tunnel.Meta{Far: "hk-1"}}
	if !keeps(f, lease, []string{"hk-2", "hk-1"}) {
		t.Error("it leaves a node of its route")
	}
	if keeps(f, lease, []string{"hk-2"}) {
		t.Error("it stays with a node that its route has no more")
	}
}

// After a restart a connection is not taken up towards a network that may not
// send here in the first place.
func TestReverseOnlyToNetworksThatRouteThePool(t *testing.T) {
	o := newOffice(t)
	o.set.Egresses = []configs.Peer{{Name: "hk-1", Pool: poolB, Address: egressAddrs}}
	o.labels.nexts = o.set.Egresses
	lease, err := o.labels.lease(resolver.Question{Name: "www.china.test", Type: dns.TypeA}, "", []policy.Hop{{Name: "www.china.test"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.labels.learn(lease, "hk-1", reply(1, "240.1.0.7")); err != nil {
		t.Fatal(err)
	}
	back := &tunnel.First{Reverse: true, Proto: protoTCP, Src: netip.MustParseAddrPort("240.1.0.7:443"), Dst: netip.MustParseAddrPort("100.72.8.9:40000")}
	for _, routes := range []bool{true, false} {
		o.network(t, routes)
		if r := o.judge(back); (r.Outcome == tunnel.Refuse) == routes {
			t.Errorf("routes_pool %v: outcome %v, %v", routes, r.Outcome, r.Why)
		}
	}
}
