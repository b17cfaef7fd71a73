package node

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/internal/simnet"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/upstream"
	"github.com/starferry/starferry/state"
	"github.com/starferry/starferry/tunnel/link"
)

// How long a packet takes one way.
const (
	toGateway = 5 * time.Millisecond  // from the laptop, in the office
	toEgress  = 90 * time.Millisecond // from San Jose to Hong Kong
	toChina   = 20 * time.Millisecond // from Hong Kong to a connector
	lookup    = 10 * time.Millisecond // the resolver in China, there and back

	oneWay = toGateway + toEgress + toChina
)

const (
	gatewayPolicy = `
postures:
  managed: {max_age: 15m, checks: [firewall: on]}
policies:
  - name: china
    if: {name: {suffix: china.test}}
    require: {groups: [staff]}
    then: {steer: hong-kong, ports: [tcp/443, udp/443]}
`
	egressPolicy = `
postures:
  managed: {max_age: 15m, checks: [firewall: on]}
policies:
  - name: china
    if: {name: {suffix: china.test}}
    require: {groups: [staff], posture: managed}
    then: {steer: hong-kong, ports: [tcp/443, udp/443]}
`
)

// zone is what the resolvers in China know.
var zone = map[string][]string{
	"www.china.test.":  {"198.51.100.9"},
	"shop.china.test.": {"198.51.100.10"},
	"six.china.test.":  {"2001:db8:86::9"},
}

var (
	gatewayOuter = netip.MustParseAddrPort("192.0.2.1:51820")
	egressOuter  = netip.MustParseAddrPort("192.0.2.2:51820")
	gatewayAddrs = addrs("100.72.0.1", "fd5f:57a6:7272::1")
	egressAddrs  = addrs("100.72.128.1", "fd5f:57a6:7272:8000::1")
	laptopAddrs  = addrs("100.72.1.10", "fd5f:57a6:7272:1::10")
	slice        = prefixes("100.72.0.0/20", "fd5f:57a6:7272::/52")
	poolA        = prefixes("198.19.0.0/18", "2001:2:0:1000::/52")
	poolB        = prefixes("240.1.0.0/16", "fd5f:57a6:7272:b000::/52")
	origin       = netip.MustParseAddrPort("198.51.100.9:443")
	gatewayKey   = fixedKey(1)
	egressKey    = fixedKey(2)
	laptopKey    = fixedKey(3)
)

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func fixedKey(b byte) link.PrivateKey {
	k := link.PrivateKey(bytes.Repeat([]byte{b}, 32))
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

// bubble runs a test under a fake clock. The goroutine that waits for signals
// lives as long as the process: it must not begin inside.
func bubble(t *testing.T, test func(t *testing.T)) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	signal.Stop(hup)
	synctest.Test(t, test)
}

// A world is a fleet with one device, on a simulated network.
type world struct {
	t     *testing.T
	dir   string
	start time.Time
	net   *simnet.Net
	hosts map[string]*simnet.Host
	logs  *logs

	gateway    *Gateway
	egress     *Egress
	connectors map[string]*Connector
	stops      map[string]func()
	mainland   map[string]*far // behind each connector
	laptop     *laptop

	mu        sync.Mutex
	rows      []state.DirectoryRow // what the gateway has to say
	told      int                  // how often the egress was told
	silent    bool                 // the directory does not get through
	verdicts  map[device.ID]state.StoredVerdicts
	egressNow *Egress // that gets the directory
}

type logs struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

// newWorld starts everything, has the laptop report a good state, and returns
// when all links are up.
func newWorld(t *testing.T, connectors ...string) *world {
	w := &world{
		t: t, dir: t.TempDir(), start: time.Now(), net: simnet.New(1, simnet.Link{Delay: toChina}), hosts: map[string]*simnet.Host{}, logs: &logs{},
		connectors: map[string]*Connector{}, stops: map[string]func(){}, mainland: map[string]*far{}, verdicts: map[device.ID]state.StoredVerdicts{},
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(w.logs.String())
		}
	})
	w.host("gw-sjc", gatewayOuter.Addr().String())
	w.host("hk-1", egressOuter.Addr().String())
	w.host("laptop", "192.0.2.3")
	w.net.Connect(w.hosts["gw-sjc"], w.hosts["hk-1"], simnet.Link{Delay: toEgress})
	w.net.Connect(w.hosts["gw-sjc"], w.hosts["laptop"], simnet.Link{Delay: toGateway})
	w.startEgress()
	w.startGateway()
	for _, name := range connectors {
		w.host(name, "192.0.2."+fmt.Sprint(10+number(name)))
		w.startConnector(name)
	}
	w.startLaptop()
	w.until(5*time.Second, "the links are up", w.allUp)
	w.report()
	w.until(time.Second, "the egress knows that the laptop is well", func() bool {
		e, ok := w.egress.store.Directory().BySource(laptopAddrs[0])
		return ok && e.Verdicts["managed"].Result == posture.Passed
	})
	return w
}

func (w *world) host(name, addr string) { w.hosts[name] = w.net.Host(name, netip.MustParseAddr(addr)) }

// number is that of a connector: cn-1 is the first.
func number(connector string) int { return int(connector[len(connector)-1] - '0') }

// at is how long the world exists.
func (w *world) at() time.Duration { return time.Since(w.start) }

// sleepUntil sleeps until the world exists so long.
func (w *world) sleepUntil(at time.Duration) {
	w.t.Helper()
	if w.at() > at {
		w.t.Fatalf("it is %v already, %v is over", w.at(), at)
	}
	time.Sleep(at - w.at())
}

// until waits until something is so, and returns how long that took.
func (w *world) until(within time.Duration, what string, is func() bool) time.Duration {
	w.t.Helper()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		synctest.Wait()
		took := time.Since(begin)
		switch {
		case is():
			return took
		case took >= within:
			w.t.Fatalf("at %v: after %v it is still not so that %s", w.at(), took, what)
		}
	}
}

func (w *world) allUp() bool {
	for name := range w.connectors {
		if !w.egress.neighbours.up(name) || !w.connectors[name].neighbours.up("hk-1") {
			return false
		}
	}
	return w.gateway.neighbours.up("hk-1") && w.egress.neighbours.up("gw-sjc")
}

// run runs a node, or whatever runs, until its stop is called.
func (w *world) run(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	w.stops[name] = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
	})
	w.t.Cleanup(w.stops[name])
}

func (w *world) near(name string) Surroundings {
	mainland := w.mainland[name] // nil but for connectors
	n := Surroundings{
		Log:  slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelInfo})),
		Link: func(c *link.Config) { c.Bind = w.hosts[name].Bind() },
		Services: func(addrs []netip.Addr, _ int, out func([]byte)) (Services, error) {
			return newInet(addrs, out), nil
		},
		Dial: dialZone,
		Shared: func(context.Context) (*Shared, error) {
			return &Shared{
				PutVerdicts: w.putVerdicts, DeleteVerdicts: w.deleteVerdicts, FollowVerdicts: w.followVerdicts,
				SyncDirectory: w.syncDirectory, ServeDirectory: refuseAll, Close: func() error { return nil },
			}, nil
		},
	}
	if mainland != nil {
		n.LAN = mainland.open
	}
	return n
}

func (w *world) node(name string, addrs []netip.Addr, pool []netip.Prefix) configs.Node {
	return configs.Node{Name: name, StateDir: w.stateDir(name), Address: addrs, Pool: pool, MTU: 1380}
}

func (w *world) stateDir(name string) string { return filepath.Join(w.dir, name) }

func (w *world) startGateway() {
	set := &configs.Gateway{
		Node: w.node("gw-sjc", gatewayAddrs, poolA), Slice: slice, Routes: []configs.Route{{Name: "hong-kong", Via: []string{"hk-1"}}},
		Upstreams: []configs.Upstream{{Name: "default", Servers: []upstream.Server{{Addr: netip.MustParseAddrPort("192.0.2.53:53")}}, Timeout: time.Second}},
		Egresses: []configs.Peer{{Name: "hk-1", PublicKey: egressKey.Public(), Endpoint: egressOuter.String(), Address: egressAddrs, Pool: poolB,
			Nodes: prefixes("100.72.160.0/24", "fd5f:57a6:7272:a000::/64")}},
	}
	set.WireGuard.Listen = netip.AddrPortFrom(netip.Addr{}, gatewayOuter.Port())
	alice := &device.Device{ID: "alice-laptop", Kind: device.ByWireGuard, Key: laptopKey.Public(), Overlay: singles(laptopAddrs), Groups: []string{"staff"}}
	g, err := NewGateway(set, gatewayKey, w.load(gatewayPolicy, alice), w.near("gw-sjc"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.gateway = g
	w.run("gw-sjc", g.Run)
}

func (w *world) load(text string, devices ...*device.Device) func() (*Loaded, error) {
	return func() (*Loaded, error) {
		p, err := policy.Parse("policy.yaml", []byte(text), nil)
		return &Loaded{Policy: p, Devices: devices}, err
	}
}

func (w *world) startEgress() {
	set := &configs.Egress{Node: w.node("hk-1", egressAddrs, poolB)}
	set.WireGuard.Listen = netip.AddrPortFrom(netip.Addr{}, egressOuter.Port())
	set.Gateways = []configs.Peer{{Name: "gw-sjc", PublicKey: gatewayKey.Public(), Address: gatewayAddrs, Slice: slice}}
	route := configs.Route{Name: "hong-kong"}
	for n := 1; n <= 2; n++ {
		p := configs.Peer{Name: fmt.Sprint("cn-", n), PublicKey: fixedKey(byte(10 + n)).Public(), Address: connectorAddrs(n), Pool: poolC(n)}
		set.Connectors = append(set.Connectors, p)
		route.Via = append(route.Via, p.Name)
	}
	set.Routes = []configs.Route{route}
	e, err := NewEgress(set, egressKey, w.load(egressPolicy), w.near("hk-1"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.egress = e
	w.run("hk-1", func(ctx context.Context) error {
		following := make(chan struct{})
		go func() { w.follow(ctx, e); close(following) }()
		defer func() { <-following }()
		return e.Run(ctx)
	})
}

func connectorAddrs(n int) []netip.Addr {
	return addrs(fmt.Sprint("100.72.160.", n), fmt.Sprint("fd5f:57a6:7272:a000::", n))
}

func poolC(n int) []netip.Prefix {
	return prefixes(fmt.Sprint("240.2.", 128*(n-1), ".0/17"), fmt.Sprintf("fd5f:57a6:7272:c%d00::/56", n-1))
}

func (w *world) startConnector(name string) {
	n := number(name)
	set := &configs.Connector{Node: w.node(name, connectorAddrs(n), poolC(n)), Slices: slice}
	set.Egresses = []configs.Peer{{Name: "hk-1", PublicKey: egressKey.Public(), Endpoint: egressOuter.String(), Address: egressAddrs}}
	set.Resolver = configs.Upstream{Name: "china", Servers: []upstream.Server{{Addr: netip.MustParseAddrPort("192.0.2.54:53")}}, Timeout: time.Second}
	if w.mainland[name] == nil {
		w.mainland[name] = &far{w: w, inbox: newInbox(w)}
	}
	c, err := NewConnector(set, fixedKey(byte(10+n)), w.near(name))
	if err != nil {
		w.t.Fatal(err)
	}
	w.connectors[name] = c
	w.run(name, c.Run)
}

// The shared state of the gateway, which survives it. The directory reaches the
// egress as it would over the link: one way after the link is up, or after the change.

func (w *world) putVerdicts(_ context.Context, id device.ID, v posture.Verdicts, received time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.verdicts[id] = state.StoredVerdicts{Verdicts: v, Received: received}
	return nil
}

func (w *world) deleteVerdicts(_ context.Context, id device.ID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.verdicts, id)
	return nil
}

func (w *world) followVerdicts(ctx context.Context, apply func(map[device.ID]state.StoredVerdicts, []device.ID)) error {
	w.mu.Lock()
	all, ids := map[device.ID]state.StoredVerdicts{}, []device.ID{}
	for id, v := range w.verdicts {
		all[id], ids = v, append(ids, id)
	}
	w.mu.Unlock()
	apply(all, ids)
	<-ctx.Done()
	return nil
}

func (w *world) syncDirectory(_ context.Context, _ string, rows []state.DirectoryRow) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rows = rows
	time.AfterFunc(toEgress, func() { w.tell(rows) })
	return nil
}

func (w *world) tell(rows []state.DirectoryRow) {
	w.mu.Lock()
	e, silent := w.egressNow, w.silent
	if e != nil && !silent {
		w.told++
	}
	w.mu.Unlock()
	if e != nil && !silent {
		e.follow("gw-sjc", rows)
	}
}

// follow has an egress told from when its link to the gateway is open: a
// connection over TCP, a request and its answer take two round trips.
func (w *world) follow(ctx context.Context, e *Egress) {
	for wait := time.Duration(0); wait < 4*toEgress; {
		wait = time.Millisecond
		if w.opened(e.trunk.wires[0].dev, "gw-sjc") > 0 {
			wait = 4 * toEgress
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
	w.mu.Lock()
	w.egressNow = e
	rows := w.rows
	w.mu.Unlock()
	w.tell(rows)
	<-ctx.Done()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.egressNow = nil
}

func refuseAll(ctx context.Context, l net.Listener, _ func(netip.Addr) (string, bool), _ *slog.Logger) error {
	<-ctx.Done()
	return l.Close()
}

// report has the laptop say that all is well with it.
func (w *world) report() {
	w.t.Helper()
	if _, err := w.gateway.postures.take(w.t.Context(), "alice-laptop", []byte(`{"firewall": true}`), time.Now()); err != nil {
		w.t.Fatal(err)
	}
}

// dialZone reaches a resolver that knows the zone.
func dialZone(_ context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	if network != "udp" {
		return nil, fmt.Errorf("%s to %v: nobody there", network, to)
	}
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		buf := make([]byte, 4096)
		for {
			n, err := far.Read(buf)
			if err != nil {
				return
			}
			time.Sleep(lookup)
			var q dns.Msg
			if q.Unpack(buf[:n]) != nil {
				return
			}
			b, err := answer(&q).Pack()
			if err != nil {
				return
			}
			if _, err := far.Write(b); err != nil {
				return
			}
		}
	}()
	return near, nil
}

func answer(q *dns.Msg) *dns.Msg {
	r := new(dns.Msg).SetReply(q)
	origins, ok := zone[strings.ToLower(q.Question[0].Name)]
	if !ok {
		r.Rcode = dns.RcodeNameError
	}
	h := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 600}
	for _, o := range origins {
		switch a := netip.MustParseAddr(o); {
		case a.Is4() && h.Rrtype == dns.TypeA:
			r.Answer = append(r.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
		case a.Is6() && h.Rrtype == dns.TypeAAAA:
			r.Answer = append(r.Answer, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	return r
}
