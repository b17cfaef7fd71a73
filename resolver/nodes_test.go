package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/listen"

	"github.com/starferry/starferry/policy"
)

const egressPolicy = `
policies:
  - name: china-origins
    if:
      any:
        - name: {suffix: listed-china.test}
        - answer: {network: [203.0.113.0/24]}
    then: {steer: hong-kong}
`

var (
	gatewayAddr   = netip.MustParseAddrPort("100.72.0.1:40000")
	connectorAddr = netip.MustParseAddrPort("100.72.160.1:40000")
	strangerAddr  = netip.MustParseAddrPort("100.72.1.10:40000")
)

// A said is what one made-up connector says, and how long it takes for it.
type said struct {
	after time.Duration
	addr  string // a label; "" and no other: NODATA
	rcode int
	ede   string // of SERVFAIL, with code 22
	err   error
}

func (s said) reply(q Question) (*NodeReply, error) {
	if s.err != nil {
		return nil, s.err
	}
	r := &NodeReply{Msg: new(dns.Msg).SetRcode(q.message(), s.rcode), Journal: 9}
	if s.ede != "" {
		r.Msg.SetEdns0(1232, false)
		r.Msg.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: 22, ExtraText: s.ede}}
	}
	if s.addr != "" {
		a := netip.MustParseAddr(s.addr)
		r.Addrs = []netip.Addr{a}
		r.Msg.Answer = []dns.RR{q.address(a, steeredTTL)}
	}
	return r, nil
}

type egressWorld struct {
	*Egress
	mu      sync.Mutex
	asked   []string
	learnt  []string
	leased  []string
	records []*Record
	full    error
}

func newEgress(t testing.TB, says map[string]said) *egressWorld {
	w := &egressWorld{}
	p := parsePolicy(t, egressPolicy)
	var names []string
	for n := range says {
		names = append(names, n)
	}
	slices.Sort(names)
	w.Egress = &Egress{
		Name: "hk-1", Version: "1",
		Gateway:    func(a netip.Addr) (string, bool) { return "gw-sjc", a == gatewayAddr.Addr() },
		Node:       func(a netip.Addr) (string, bool) { return "cn-sha-1", a == connectorAddr.Addr() },
		Policy:     func() *policy.Policy { return p },
		Connectors: func(route string) []string { return names },
		Ask: func(ctx context.Context, connector string, q Question) (*NodeReply, error) {
			w.note(&w.asked, connector)
			s := says[connector]
			if s.after > 0 {
				select {
				case <-time.After(s.after):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			return s.reply(q)
		},
		Lease: func(q Question, facts Facts, replies map[string]*NodeReply) (netip.Addr, error) {
			for c, r := range replies {
				w.note(&w.leased, fmt.Sprint(c, " ", r.Addrs[0], " ", facts))
			}
			return netip.MustParseAddr("240.1.0.1"), w.full
		},
		Learn: func(q Question, connector string, r *NodeReply) {
			w.note(&w.learnt, fmt.Sprint(connector, " ", r.Addrs[0]))
		},
		Journal: func() uint64 { return 0xb },
		Record:  func(r *Record) { w.records = append(w.records, r) },
	}
	return w
}

func (w *egressWorld) note(to *[]string, s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*to = append(*to, s)
}

// nodeAsks packs a question as a node asks it.
func nodeAsks(t testing.TB, name string, qtype uint16, p private) (*dns.Msg, []byte) {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name+".", qtype)
	m.SetEdns0(1232, false)
	m.IsEdns0().Option = p.options()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return m, b
}

func (w *egressWorld) dig(t testing.TB, from netip.AddrPort, name string, qtype uint16, p private) string {
	t.Helper()
	m, b := nodeAsks(t, name, qtype, p)
	return render(t, m, w.Handle(t.Context(), &listen.Client{Addr: from, Listener: "link", Transport: listen.UDP}, b))
}

func TestEgress(t *testing.T) {
	const sig = "; option 65311; option 3"
	china := private{route: "hong-kong"}
	tests := []struct {
		what string
		says map[string]said
		want string
		took time.Duration
		more string // what was leased with, and learnt later
	}{
		{"one says yes", map[string]said{"sha": {addr: "240.2.0.1"}}, "NOERROR 30 A 240.1.0.1" + sig, 0, "[sha 240.2.0.1 []] []"},
		{"the first yes answers, the second is learnt", map[string]said{"sha": {addr: "240.2.0.1", after: 2 * time.Second}, "bjs": {addr: "240.2.128.1", after: 100 * time.Millisecond}},
			"NOERROR 30 A 240.1.0.1" + sig, 100 * time.Millisecond, "[bjs 240.2.128.1 []] [sha 240.2.0.1]"},
		{"yes outruns no", map[string]said{"sha": {rcode: 3}, "bjs": {addr: "240.2.128.1", after: time.Second}},
			"NOERROR 30 A 240.1.0.1" + sig, time.Second, "[bjs 240.2.128.1 []] []"},
		{"all say no", map[string]said{"sha": {rcode: 3}, "bjs": {rcode: 3, after: time.Second}},
			"NXDOMAIN SOA 10" + sig, time.Second, "[] []"},
		{"NODATA outweighs NXDOMAIN", map[string]said{"sha": {rcode: 3}, "bjs": {}},
			"NOERROR SOA 10" + sig, 0, "[] []"},
		{"no, and silence", map[string]said{"sha": {rcode: 3}, "bjs": {after: time.Hour}},
			"NXDOMAIN SOA 10" + sig, badNews, "[] []"},
		{"no, and a yes that comes too late", map[string]said{"sha": {rcode: 3}, "bjs": {addr: "240.2.128.1", after: 3 * time.Second}},
			"NXDOMAIN SOA 10" + sig, badNews, "[] [bjs 240.2.128.1]"},
		{"no outweighs a failure", map[string]said{"sha": {rcode: 2, ede: "sha: broken"}, "bjs": {rcode: 3}},
			"NXDOMAIN SOA 10" + sig, 0, "[] []"},
		{"a failure that says why", map[string]said{"sha": {rcode: 2, ede: "sha: the resolver is down"}, "bjs": {err: errors.New("bjs: no node answers")}},
			"SERVFAIL" + sig + "; EDE 22 hk-1: sha: the resolver is down", 0, "[] []"},
		{"errors alone", map[string]said{"sha": {err: errors.New("no node answers")}},
			"SERVFAIL" + sig + "; EDE 22 hk-1: sha: no node answers", 0, "[] []"},
		{"silence alone", map[string]said{"sha": {after: time.Hour}},
			"SERVFAIL" + sig + "; EDE 22 hk-1: no connector answered in time", badNews, "[] []"},
		{"no connector", map[string]said{},
			"SERVFAIL" + sig + "; EDE 23 hk-1: no connector of hong-kong is up", 0, "[] []"},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newEgress(t, tt.says)
				begin := time.Now()
				if got := w.dig(t, gatewayAddr, "www.listed-china.test", dns.TypeA, china); got != tt.want {
					t.Errorf("got %s\nwant %s", got, tt.want)
				}
				if took := time.Since(begin); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				w.Wait()
				if waited := time.Since(begin); waited > lateYes {
					t.Errorf("asked for %v", waited)
				}
				if got := fmt.Sprint(w.leased, " ", w.learnt); got != tt.more {
					t.Errorf("leased and learnt %s, want %s", got, tt.more)
				}
			})
		})
	}
}

func TestWhoMayAskAnEgress(t *testing.T) {
	const sig = "; option 65311; option 3"
	facts := func(a string) private {
		return private{route: "hong-kong", facts: Facts{{Name: "www.answer-china.test", Addrs: []netip.Addr{netip.MustParseAddr(a)}}}}
	}
	china := private{route: "hong-kong"}
	tests := []struct {
		what, name string
		from       netip.AddrPort
		qtype      uint16
		p          private
		want       string
	}{
		{"a device", "www.listed-china.test", strangerAddr, dns.TypeA, china, "REFUSED; EDE 18 not a gateway of this egress"},
		{"a connector", "www.listed-china.test", connectorAddr, dns.TypeA, china, "REFUSED" + sig + "; EDE 18 not a gateway of this egress"},
		{"a gateway without a route", "www.listed-china.test", gatewayAddr, dns.TypeA, private{}, "REFUSED" + sig + "; EDE 18 hk-1: no route was asked for"},
		{"a gateway by another route", "www.listed-china.test", gatewayAddr, dns.TypeA, private{route: "tokyo"}, "REFUSED" + sig + "; EDE 18 hk-1: no policy here steers this name by tokyo"},
		{"a name that is steered by nothing", "www.example.com", gatewayAddr, dns.TypeA, private{route: "hong-kong", facts: Facts{{Name: "www.example.com"}}}, "REFUSED" + sig + "; EDE 18 hk-1: no policy here steers this name by hong-kong"},
		{"a name steered by its answer", "www.answer-china.test", gatewayAddr, dns.TypeA, facts("203.0.113.9"), "NOERROR 30 A 240.1.0.1" + sig},
		{"a name with an answer elsewhere", "www.answer-china.test", gatewayAddr, dns.TypeA, facts("192.0.2.1"), "REFUSED" + sig + "; EDE 18 hk-1: no policy here steers this name by hong-kong"},
		{"ANY", "www.listed-china.test", gatewayAddr, dns.TypeANY, china, "REFUSED" + sig + "; EDE 18 hk-1: not a question for an egress"},
	}
	for _, tt := range tests {
		w := newEgress(t, map[string]said{"sha": {addr: "240.2.0.1"}})
		if got := w.dig(t, tt.from, tt.name, tt.qtype, tt.p); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.what, got, tt.want)
		}
		w.Wait()
		if len(w.records) != 1 {
			t.Errorf("%s: %d records", tt.what, len(w.records))
		}
	}
}

func TestBadOptionsAreFormatErrors(t *testing.T) {
	w := newEgress(t, nil)
	m, _ := nodeAsks(t, "a", 1, private{})
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: optionFacts, Data: []byte{9}}}
	b, _ := m.Pack()
	var r dns.Msg
	if err := r.Unpack(w.Handle(t.Context(), &listen.Client{Addr: gatewayAddr, Listener: "link", Transport: listen.UDP}, b)); err != nil || r.Rcode != dns.RcodeFormatError {
		t.Errorf("got %v, %v", r.Rcode, err)
	}
}

// A gateway that asks again while its question is in work gets the same answer.
func TestAnEgressAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newEgress(t, map[string]said{"sha": {addr: "240.2.0.1", after: 2 * time.Second}})
		w.Record = nil
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				<-time.After(time.Duration(i) * 800 * time.Millisecond / 2)
				if got := w.dig(t, gatewayAddr, "www.listed-china.test", dns.TypeA, private{route: "hong-kong"}); !strings.HasPrefix(got, "NOERROR 30 A 240.1.0.1") {
					t.Errorf("got %s", got)
				}
			})
		}
		wg.Wait()
		w.Wait()
		if len(w.asked) != 1 || len(w.leased) != 1 {
			t.Errorf("asked %v, leased %v", w.asked, w.leased)
		}
	})
}

func TestAFullEgress(t *testing.T) {
	w := newEgress(t, map[string]said{"sha": {addr: "240.2.0.1"}})
	w.full = errors.New("the pool of labels is full")
	got := w.dig(t, gatewayAddr, "www.listed-china.test", dns.TypeA, private{route: "hong-kong"})
	if want := "SERVFAIL; option 65311; option 3; EDE 0 hk-1: the pool of labels is full"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	w.Wait()
}

func TestConnector(t *testing.T) {
	const sig = "; option 65311; option 3"
	tests := []struct {
		what, name string
		qtype      uint16
		v6         bool
		want       string
		leased     string
	}{
		{"an address", "www.taobao.test", dns.TypeA, true, "NOERROR 30 A 240.2.0.1" + sig, "[203.0.113.9 203.0.113.10] 5m0s"},
		{"the end of a chain", "chain.test", dns.TypeA, true, "NOERROR 20 A 240.2.0.1" + sig, "[203.0.113.11] 20s"},
		{"IPv6", "www.taobao.test", dns.TypeAAAA, true, "NOERROR 30 AAAA fd5f:57a6:7272:c000::1" + sig, "[2001:db8:86::9] 5m0s"},
		{"IPv6, where there is none", "www.taobao.test", dns.TypeAAAA, false, "NOERROR SOA 10" + sig, ""},
		{"nothing of this type", "chain.test", dns.TypeAAAA, true, "NOERROR SOA 60" + sig, ""},
		{"no such name", "nothing.test", dns.TypeA, true, "NXDOMAIN SOA 60" + sig, ""},
		{"no such name, where there is no IPv6", "nothing.test", dns.TypeAAAA, false, "NXDOMAIN SOA 60" + sig, ""},
		{"a lie", "poisoned.test", dns.TypeA, true, "SERVFAIL" + sig + "; EDE 0 cn-sha-1: not believed: 127.0.0.1: loopback", ""},
		{"a lie among truths", "half.test", dns.TypeA, true, "NOERROR 30 A 240.2.0.1" + sig, "[203.0.113.12] 5m0s"},
		{"IPv4 dressed as IPv6", "dressed.test", dns.TypeAAAA, true, "NOERROR SOA 10" + sig, ""},
		{"a resolver that is silent", "silent.test", dns.TypeA, true, "SERVFAIL" + sig + "; EDE 22 cn-sha-1: no server answered", ""},
		{"another type", "www.taobao.test", dns.TypeTXT, true, `NOERROR 300 TXT "v=spf1"` + sig, ""},
		{"ANY", "www.taobao.test", dns.TypeANY, true, "REFUSED" + sig + "; EDE 18 cn-sha-1: not a question for a connector", ""},
	}
	for _, tt := range tests {
		z := newZone(t, `
www.taobao.test. 300 IN A 203.0.113.9
www.taobao.test. 400 IN A 203.0.113.10
www.taobao.test. 300 IN AAAA 2001:db8:86::9
www.taobao.test. 300 IN TXT "v=spf1"
chain.test. 20 IN CNAME end.test.
end.test. 300 IN A 203.0.113.11
poisoned.test. 300 IN A 127.0.0.1
half.test. 300 IN A 127.0.0.1
half.test. 300 IN A 203.0.113.12
dressed.test. 300 IN AAAA ::ffff:203.0.113.9
`)
		z.broken["silent.test."] = errors.New("no server answered")
		leased := ""
		c := &Connector{
			Name: "cn-sha-1", Resolve: z.resolve,
			Upstream: func(a netip.Addr) (string, bool) { return "hk-1", a == gatewayAddr.Addr() },
			Believe: func(a netip.Addr) error {
				if a.IsLoopback() {
					return errors.New("loopback")
				}
				return nil
			},
			Lease: func(q Question, origins []netip.Addr, ttl time.Duration) (netip.Addr, error) {
				leased = fmt.Sprint(origins, " ", ttl)
				if q.Type == dns.TypeAAAA {
					return netip.MustParseAddr("fd5f:57a6:7272:c000::1"), nil
				}
				return netip.MustParseAddr("240.2.0.1"), nil
			},
			HasIPv6: func() bool { return tt.v6 },
			Journal: func() uint64 { return 0xc },
		}
		m, b := nodeAsks(t, tt.name, tt.qtype, private{route: "hong-kong"})
		if got := render(t, m, c.Handle(t.Context(), &listen.Client{Addr: gatewayAddr, Listener: "link", Transport: listen.UDP}, b)); got != tt.want || leased != tt.leased {
			t.Errorf("%s:\n got %s, leased for %s\nwant %s, leased for %s", tt.what, got, leased, tt.want, tt.leased)
		}
		if got := render(t, m, c.Handle(t.Context(), &listen.Client{Addr: strangerAddr, Listener: "link", Transport: listen.UDP}, b)); got != "REFUSED; EDE 18 not an egress of this connector" {
			t.Errorf("%s, asked by a stranger: %s", tt.what, got)
		}
		if len(z.options) > 0 {
			t.Errorf("%s: options went out: %v", tt.what, z.options)
		}
		q := Question{Name: tt.name, Type: tt.qtype, Class: dns.ClassINET}
		if err := c.Refresh(t.Context(), q); (err == nil) != (tt.leased != "") {
			t.Errorf("%s, asked again: %v, want leased: %t", tt.what, err, tt.leased != "")
		}
	}
}

func FuzzEgressAndConnector(f *testing.F) {
	_, b := nodeAsks(f, "www.listed-china.test", dns.TypeA, private{route: "hong-kong", facts: Facts{{Name: "a"}}})
	f.Add(b)
	w := newEgress(f, map[string]said{"sha": {addr: "240.2.0.1"}})
	w.Record = nil
	z := newZone(f, testZone)
	c := &Connector{Name: "c", Resolve: z.resolve, Upstream: w.Gateway, HasIPv6: func() bool { return true },
		Believe: func(netip.Addr) error { return nil },
		Lease: func(Question, []netip.Addr, time.Duration) (netip.Addr, error) {
			return netip.IPv6LinkLocalAllNodes(), nil
		}}
	f.Fuzz(func(t *testing.T, req []byte) {
		for _, b := range [][]byte{w.Handle(t.Context(), &listen.Client{Addr: gatewayAddr, Listener: "fuzz", Transport: listen.UDP}, req), c.Handle(t.Context(), &listen.Client{Addr: gatewayAddr, Listener: "fuzz", Transport: listen.UDP}, req)} {
			var r dns.Msg
			if b == nil {
				continue
			}
			if err := r.Unpack(b); err != nil || !r.Response || b[0] != req[0] || b[1] != req[1] {
				t.Fatalf("bad answer %v, %v", &r, err)
			}
		}
	})
}
