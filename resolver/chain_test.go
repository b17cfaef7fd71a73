package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/resolver/upstream"
)

// serve runs a handler on a loopback socket for UDP and TCP.
func serve(t *testing.T, name string, h listen.Handler) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Skipf("the port of TCP is taken for UDP: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &listen.Server{Handle: h}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.ServeUDP(ctx, pc, name); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		if err := s.ServeTCP(ctx, l, name); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return netip.MustParseAddrPort(l.Addr().String())
}

func dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr.String())
}

// handle makes a handler of a zone.
func (z *zone) handle(ctx context.Context, _ *listen.Client, req []byte) []byte {
	m := new(dns.Msg)
	if m.Unpack(req) != nil {
		return nil
	}
	r, err := z.resolve(ctx, m)
	if err != nil {
		return nil
	}
	b, _ := r.Pack()
	return b
}

// outside asks one resolver.
func outside(t *testing.T, addr netip.AddrPort) *upstream.Group {
	t.Helper()
	g, err := upstream.New(upstream.Config{Servers: []upstream.Server{{Addr: addr}}, Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// A question passes three nodes and two resolvers over real sockets:
//
//	device ─► gateway ─► egress ─► connector ─► the resolver in China
//	             └─► the public resolver
func TestTheWholeChain(t *testing.T) {
	p, ep := parsePolicy(t, testPolicy), parsePolicy(t, egressPolicy)
	public := newZone(t, testZone)
	china := newZone(t, testZone+bigTXT())
	publicAddr, chinaAddr := serve(t, "public", public.handle), serve(t, "china", china.handle)
	loopback := func(name string) func(netip.Addr) (string, bool) {
		return func(a netip.Addr) (string, bool) { return name, a.IsLoopback() }
	}
	connector := &Connector{
		Name: "cn-sha-1", Upstream: loopback("hk-1"), HasIPv6: func() bool { return true }, Journal: func() uint64 { return 3 },
		Resolve: outside(t, chinaAddr).Resolve,
		Believe: func(netip.Addr) error { return nil },
		Lease: func(Question, []netip.Addr, time.Duration) (netip.Addr, error) {
			return netip.MustParseAddr("240.2.0.1"), nil
		},
	}
	connectorAddr := serve(t, "connector", connector.Handle)
	var next sync.Map
	var ran atomic.Uint64
	egress := &Egress{
		Ran:  func(_ string, run uint64) { ran.Store(run) },
		Name: "hk-1", Gateway: loopback("gw-sjc"), Policy: func() *policy.Policy { return ep }, Journal: func() uint64 { return 2 },
		Connectors: func(string) []string { return []string{"cn-sha-1"} },
		Ask: func(ctx context.Context, _ string, q Question) (*NodeReply, error) {
			return AskNode(ctx, dial, connectorAddr, q, "", nil)
		},
		Lease: func(q Question, facts Facts, replies map[string]*NodeReply) (netip.Addr, error) {
			for c, r := range replies {
				next.Store("B", fmt.Sprintf("%s %s %v %d", c, r.Node, r.Addrs, r.Journal))
			}
			return netip.MustParseAddr("240.1.0.1"), nil
		},
	}
	egressAddr := serve(t, "egress", egress.Handle)
	t.Cleanup(egress.Wait)
	gateway := &Gateway{
		Name: "gw-sjc", Policy: func() *policy.Policy { return p },
		Identify: func(c *listen.Client, _ func(uint16) []byte) (policy.Asker, bool) {
			a := people["alice"].asker
			a.Source = c.Addr.Addr()
			return a, c.Addr.Addr().IsLoopback()
		},
		Upstream: cached(outside(t, publicAddr).Resolve),
		Ask: func(ctx context.Context, route string, q Question, facts Facts) (*NodeReply, error) {
			return AskNode(ctx, dial, egressAddr, q, route, facts)
		},
		Lease: func(q Question, _ policy.Asker, _ Facts, r *NodeReply) (netip.Addr, error) {
			next.Store("A", fmt.Sprintf("%s %v %d", r.Node, r.Addrs, r.Journal))
			return netip.MustParseAddr("198.19.0.1"), nil
		},
		Forbidden: func(netip.Addr) bool { return false },
		Now:       func() time.Time { return start },
	}
	gatewayAddr := serve(t, "gateway", gateway.Handle)

	tests := []struct {
		network, name string
		qtype         uint16
		want          string
	}{
		{"udp", "www.listed-china.test.", dns.TypeA, "NOERROR 30 A 198.19.0.1; EDE 4 policy china-origins: steered by hong-kong"},
		{"tcp", "www.answer-china.test.", dns.TypeA, "NOERROR 30 A 198.19.0.1; EDE 4 policy china-origins: steered by hong-kong"},
		{"udp", "cdn-china.test.", dns.TypeA, "NOERROR 30 A 198.19.0.1; EDE 4 policy china-origins: steered by hong-kong"},
		{"udp", "nothing.listed-china.test.", dns.TypeA, "NXDOMAIN SOA 60"},
		{"udp", "www.listed-china.test.", dns.TypeMX, "NOERROR SOA 60"},
		{"udp", "www.allowed.test.", dns.TypeA, "NOERROR 300 A 192.0.2.10"},
		{"tcp", "www.phishing.test.", dns.TypeA, "NXDOMAIN SOA 10; EDE 15 policy phishing: Known phishing site"},
	}
	for _, tt := range tests {
		m := new(dns.Msg).SetQuestion(tt.name, tt.qtype)
		m.SetEdns0(1232, false)
		client := dns.Client{Net: tt.network, Timeout: 10 * time.Second}
		r, _, err := client.Exchange(m, gatewayAddr.String())
		if err != nil {
			t.Errorf("%s over %s: %v", tt.name, tt.network, err)
			continue
		}
		b, _ := r.Pack()
		if got := render(t, m, b); got != tt.want {
			t.Errorf("%s over %s:\n got %s\nwant %s", tt.name, tt.network, got, tt.want)
		}
	}
	a, _ := next.Load("A")
	b, _ := next.Load("B")
	if a != "hk-1 [240.1.0.1] 2" || b != "cn-sha-1 cn-sha-1 [240.2.0.1] 3" {
		t.Errorf("A stands for %v, B for %v", a, b)
	}

	// Too long for UDP on each of the ways.
	m := new(dns.Msg).SetQuestion("big.listed-china.test.", dns.TypeTXT)
	r, _, err := (&dns.Client{Net: "udp", Timeout: 10 * time.Second}).Exchange(m, gatewayAddr.String())
	if err != nil || !r.Truncated {
		t.Errorf("over UDP: %v, %v; want it truncated", r, err)
	}
	r, _, err = (&dns.Client{Net: "tcp", Timeout: 10 * time.Second}).Exchange(m, gatewayAddr.String())
	if err != nil || len(r.Answer) != 20 {
		t.Errorf("over TCP: %v, %v; want 20 records", r, err)
	}
	info, err := Probe(t.Context(), dial, egressAddr, 7)
	if err != nil || info.Name != "hk-1" || info.Role != "egress" || info.Journal != 2 {
		t.Errorf("the egress says of itself %+v, %v", info, err)
	}
	if got := ran.Load(); got != 7 {
		t.Errorf("the egress was told of run %d, want 7", got)
	}
}

func bigTXT() string {
	var b strings.Builder
	for i := range 20 {
		fmt.Fprintf(&b, "big.listed-china.test. 300 IN TXT \"%d %s\"\n", i, strings.Repeat("y", 200))
	}
	return b.String()
}
