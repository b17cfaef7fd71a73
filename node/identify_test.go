package node

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/state"
)

// A crowd is who may ask in these tests, and the identifier that tells them
// apart at a time of the test's choice.
type crowd struct {
	identifier
	t     testing.TB
	store *state.Store
	clock time.Time
	seen  map[device.ID]time.Time // last handshakes
}

func newCrowd(t testing.TB) *crowd {
	c := &crowd{t: t, store: state.New(), clock: time.Unix(1e9, 0), seen: map[device.ID]time.Time{}}
	forwarders, err := newForwarders([]netip.Prefix{netip.MustParsePrefix("10.1.0.53/32"), netip.MustParsePrefix("fd00::53/128")})
	if err != nil {
		t.Fatal(err)
	}
	c.identifier = identifier{
		directory: c.store.Directory, bindings: new(bindings), forwarders: forwarders, suffix: ".dns.example.com", lan: true,
		handshake: func(id device.ID) time.Time { return c.seen[id] },
		now:       func() time.Time { return c.clock },
	}
	c.enroll(
		machineOf("laptop", device.Marks{Token: device.HashToken("laptop-token"), ServerName: "laptop"}, "100.72.1.1/32"),
		machineOf("phone", device.Marks{Token: device.HashToken("phone-token"), ServerName: "phone", MAC: device.MAC{2, 0, 0, 0, 0, 0xfe}}),
		machineOf("tablet", device.Marks{Token: device.HashToken("tablet-token"), ServerName: "tablet", CPE: "desk 7"}),
		machineOf("printer", device.Marks{MAC: device.MAC{2, 0, 0, 0, 0, 0xaf}}),
		&device.Device{ID: "office", Kind: device.ByNetwork, LAN: prefixList("10.1.0.0/16"), Overlay: prefixList("100.73.0.0/16"), RoutesPool: true},
		&device.Device{ID: "branch", Kind: device.ByNetwork, LAN: prefixList("10.2.0.0/16", "fd00::/64")},
	)
	return c
}

func prefixList(ss ...string) (out []netip.Prefix) {
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func machineOf(id device.ID, m device.Marks, overlay ...string) *device.Device {
	d := &device.Device{ID: id, Kind: m.Evidence(), Marks: m, Overlay: prefixList(overlay...)}
	if len(overlay) > 0 {
		d.Kind, d.Key = device.ByWireGuard, device.Key{1, overlay[0][len(overlay[0])-4]}
	}
	return d
}

func (c *crowd) enroll(devices ...*device.Device) {
	c.t.Helper()
	if err := c.store.Update(func(tx state.Tx) error { return tx.ReplaceDevices(devices) }); err != nil {
		c.t.Fatal(err)
	}
}

// A question is what the listener and the question itself tell of who asks.
type question struct {
	from, listener, token, name string
	opts                        map[uint16]string
}

func (q question) client() *listen.Client {
	return &listen.Client{Addr: netip.AddrPortFrom(netip.MustParseAddr(q.from), 5353), Listener: q.listener, Token: q.token, ServerName: q.name}
}

func (q question) option(code uint16) []byte {
	if s, ok := q.opts[code]; ok {
		return []byte(s)
	}
	return nil
}

// who says who asks in one line: the device, the evidence, and the way.
func (c *crowd) who(q question) string {
	a, way := c.identify(q.client(), q.option)
	if a.Source != netip.MustParseAddr(q.from) {
		c.t.Errorf("%+v: the source is %v", q, a.Source)
	}
	if a.Device == nil {
		if a.Kind != device.Unidentified || way || a.Verdicts != nil {
			c.t.Errorf("%+v: nobody, but by %v with way %v", q, a.Kind, way)
		}
		return "nobody"
	}
	s := fmt.Sprintf("%s by %v", a.Device.ID, a.Kind)
	if way {
		s += ", can send"
	}
	return s
}

const abroad = "203.0.113.9" // an address that nothing is known of

var rawMAC = string([]byte{2, 0, 0, 0, 0, 0xaf})

func TestIdentify(t *testing.T) {
	for _, test := range []struct {
		what string
		q    question
		want string
	}{
		{"a device on its link", question{from: "100.72.1.1", listener: onLink}, "laptop by wireguard, can send"},
		{"the link is above all else", question{from: "100.72.1.1", listener: onLink, token: "phone-token", name: "phone.dns.example.com"}, "laptop by wireguard, can send"},
		{"a node on the link", question{from: "100.72.128.1", listener: onLink}, "nobody"},
		{"an office's address on the link", question{from: "100.73.0.7", listener: onLink}, "nobody"},
		{"a stranger on the link with a token", question{from: "100.72.1.9", listener: onLink, token: "phone-token"}, "nobody"},
		{"an overlay address off the link", question{from: "100.72.1.1"}, "nobody"},

		{"a token", question{from: abroad, token: "phone-token"}, "phone by token"},
		{"a token before a server name", question{from: abroad, token: "phone-token", name: "tablet.dns.example.com"}, "phone by token"},
		{"a token before a network", question{from: "10.2.0.1", token: "phone-token"}, "phone by token"},
		{"a token in an office that routes the pool", question{from: "10.1.0.1", token: "phone-token"}, "phone by token, can send"},
		{"an unknown token is none", question{from: abroad, token: "guess"}, "nobody"},
		{"an unknown token leaves the network", question{from: "10.2.0.1", token: "guess"}, "branch by network"},
		{"an unknown token leaves the server name", question{from: abroad, token: "guess", name: "tablet.dns.example.com"}, "tablet by server-name"},
		{"the hash of a token is no token", question{from: abroad, token: device.HashToken("phone-token").String()}, "nobody"},

		{"a server name", question{from: abroad, name: "tablet.dns.example.com"}, "tablet by server-name"},
		{"a server name before an option", question{from: "10.1.0.53", name: "tablet.dns.example.com", opts: map[uint16]string{65001: rawMAC}}, "tablet by server-name, can send"},
		{"the gateway's own name", question{from: "10.2.0.1", name: "dns.example.com"}, "branch by network"},
		{"an unknown name", question{from: "10.2.0.1", name: "mallory.dns.example.com"}, "branch by network"},
		{"two labels", question{from: abroad, name: "a.tablet.dns.example.com"}, "nobody"},
		{"a name elsewhere", question{from: abroad, name: "tablet.dns.example.org"}, "nobody"},
		{"a name that only ends alike", question{from: abroad, name: "tablet-dns.example.com"}, "nobody"},

		{"a MAC address", question{from: "10.1.0.53", opts: map[uint16]string{65001: rawMAC}}, "printer by edns-option, can send"},
		{"by a forwarder of a network that routes nothing", question{from: "fd00::53", opts: map[uint16]string{65001: rawMAC}}, "printer by edns-option"},
		{"in base64", question{from: "fd00::53", opts: map[uint16]string{65073: base64.StdEncoding.EncodeToString([]byte(rawMAC))}}, "printer by edns-option"},
		{"in hex", question{from: "fd00::53", opts: map[uint16]string{65073: "02:00:00:00:00:AF"}}, "printer by edns-option"},
		{"a CPE id", question{from: "fd00::53", opts: map[uint16]string{65074: "desk 7"}}, "tablet by edns-option"},
		{"the MAC address before the CPE id", question{from: "fd00::53", opts: map[uint16]string{65074: "desk 7", 65073: "02:00:00:00:00:fe"}}, "phone by edns-option"},
		{"an unknown MAC address leaves the CPE id", question{from: "fd00::53", opts: map[uint16]string{65001: "xxxxxx", 65073: "02:00:00:00:00:00", 65074: "desk 7"}}, "tablet by edns-option"},
		{"a short MAC address", question{from: "fd00::53", opts: map[uint16]string{65001: rawMAC[:5], 65073: "02:00:00:00:00"}}, "branch by network"},
		{"no MAC address", question{from: "fd00::53", opts: map[uint16]string{65001: "\x00\x00\x00\x00\x00\x00", 65073: "02-00-00-00-00-AF", 65074: ""}}, "branch by network"},
		{"no options", question{from: "fd00::53"}, "branch by network"},

		{"a network", question{from: "10.2.0.1"}, "branch by network"},
		{"a network that routes the pool", question{from: "10.1.0.1"}, "office by network, can send"},
		{"nobody", question{from: abroad}, "nobody"},
	} {
		if got := newCrowd(t).who(test.q); got != test.want {
			t.Errorf("%s: %s, want %s", test.what, got, test.want)
		}
	}
}

// Whoever is no forwarder is not listened to, and not even looked at.
func TestOptionsOfOthers(t *testing.T) {
	c := newCrowd(t)
	for _, from := range []string{"10.1.0.54", abroad, "10.2.0.1"} {
		c.identify(question{from: from}.client(), func(uint16) []byte {
			t.Errorf("the options of %s are read", from)
			return []byte(rawMAC)
		})
	}
	if a, _ := c.identify(question{from: "fd00::53"}.client(), nil); a.Device.ID != "branch" {
		t.Errorf("without options: %v", a.Device.ID)
	}
}

func TestUnknownToken(t *testing.T) {
	c := newCrowd(t)
	for token, want := range map[string]bool{"": false, "phone-token": false, "guess": true} {
		if got := c.unknownToken(question{from: abroad, token: token}.client()); got != want {
			t.Errorf("%q is unknown: %v", token, got)
		}
	}
}

// A device can send while its link is up, however it asks.
func TestWayOfLink(t *testing.T) {
	c := newCrowd(t)
	ask := question{from: abroad, token: "laptop-token"}
	step := func(age time.Duration, want string) {
		t.Helper()
		c.seen["laptop"] = c.clock.Add(-age)
		if got := c.who(ask); got != want {
			t.Errorf("a handshake %v ago: %s, want %s", age, got, want)
		}
	}
	if got := c.who(ask); got != "laptop by token" {
		t.Errorf("no handshake: %s", got)
	}
	step(0, "laptop by token, can send")
	step(handshakeAge-1, "laptop by token, can send")
	step(handshakeAge, "laptop by token")
	c.seen["phone"] = c.clock // has no key: somebody else's handshake
	if got := c.who(question{from: abroad + "9", token: "phone-token"}); got != "phone by token" {
		t.Errorf("without a key: %s", got)
	}
	c.lan = false
	if got := c.who(question{from: "10.1.0.1"}); got != "office by network" {
		t.Errorf("without a LAN: %s", got)
	}
}

// What a token has shown of an address holds for plain questions from there.
func TestBoundSource(t *testing.T) {
	c := newCrowd(t)
	plain := question{from: abroad}
	expect := func(what string, q question, want string) {
		t.Helper()
		if got := c.who(q); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	expect("before", plain, "nobody")
	expect("the token", question{from: abroad, token: "phone-token"}, "phone by token")
	expect("after", plain, "phone by bound-source")
	expect("with its own server name", question{from: abroad, name: "phone.dns.example.com"}, "phone by bound-source")
	expect("behind another one's server name", question{from: abroad, name: "tablet.dns.example.com"}, "tablet by server-name")
	expect("with a server name of nobody", question{from: abroad, name: "mallory.dns.example.com"}, "phone by bound-source")
	expect("elsewhere", question{from: "203.0.113.10"}, "nobody")
	c.clock = c.clock.Add(bindingAge - 1)
	expect("at last", plain, "phone by bound-source")
	c.clock = c.clock.Add(1)
	expect("too late", plain, "nobody")

	c.bindings.Bind(netip.MustParseAddr(abroad), "tablet", c.clock) // by a report
	expect("by a report", plain, "tablet by bound-source")
	c.bindings.Bind(netip.MustParseAddr(abroad), "phone", c.clock)
	expect("two at once", plain, "nobody")
	expect("two in an office", question{from: "10.1.0.1"}, "office by network, can send")
	c.enroll(machineOf("phone", device.Marks{CPE: "p"}))
	c.clock = c.clock.Add(time.Second)
	c.bindings.Bind(netip.MustParseAddr("203.0.113.11"), "tablet", c.clock)
	expect("of one that has gone", question{from: "203.0.113.11"}, "nobody")
}

// Addresses of this machine that a process has to choose are like any others; those
// that it has without choosing are everybody's.
func TestLoopbackIsNotBound(t *testing.T) {
	for from, want := range map[string]string{"127.0.0.1": "nobody", "::1": "nobody", "127.0.0.2": "phone by bound-source"} {
		c := newCrowd(t)
		c.who(question{from: from, token: "phone-token"})
		if got := c.who(question{from: from}); got != want {
			t.Errorf("%s: %s, want %s", from, got, want)
		}
	}
}

// Whoever remembers what an address stands for is told when that changes, and not
// when a claim is only made again.
func TestChangesOfBindings(t *testing.T) {
	b, now, from := new(bindings), time.Unix(1e9, 0), netip.MustParseAddr(abroad)
	bind := func(id device.ID, after time.Duration) uint64 {
		before := b.changes.Load()
		now = now.Add(after)
		b.Bind(from, id, now)
		return b.changes.Load() - before
	}
	if bind("phone", 0) == 0 || bind("phone", time.Second) > 0 || bind("phone", refreshAfter) > 0 ||
		bind("tablet", time.Second) == 0 || bind("tablet", bindingAge) == 0 {
		t.Error("told too much, or too little")
	}
	bind("phone", time.Second)
	for _, id := range []device.ID{"tablet", "phone", "tablet"} { // two who share an address, as behind a NAT
		if bind(id, time.Second) > 0 {
			t.Errorf("%s has claimed an address that stood for nobody, and does", id)
		}
	}
}

// A forwarder's address is bound to nobody: behind the same NAT as a phone, it
// would ask for everybody in the phone's name.
func TestForwarderIsNotBound(t *testing.T) {
	c := newCrowd(t)
	if got := c.who(question{from: "10.1.0.53", token: "phone-token"}); got != "phone by token, can send" {
		t.Error(got)
	}
	c.bindings.Bind(netip.MustParseAddr("10.1.0.53"), "phone", c.clock)
	if got := c.who(question{from: "10.1.0.53"}); got != "office by network, can send" {
		t.Error(got)
	}
}

// A model of bindings keeps every claim there ever was.
type bindingsModel map[netip.Addr]map[device.ID]time.Time

func (m bindingsModel) lookup(from netip.Addr, now time.Time) (who device.ID, ok bool) {
	for id, at := range m[from] {
		if now.Sub(at) >= bindingAge {
			continue
		}
		if ok {
			return "", false
		}
		who, ok = id, true
	}
	return who, ok
}

func TestBindingsAgainstModel(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		b, m, now := new(bindings), bindingsModel{}, time.Unix(1e9, 0)
		for step := range 500 {
			from := netip.AddrFrom4([4]byte{203, 0, 113, byte(rnd.IntN(3))})
			id := device.ID(fmt.Sprint("device-", rnd.IntN(4)))
			now = now.Add(refreshAfter + time.Duration(rnd.IntN(100))*time.Second)
			if rnd.IntN(2) == 0 {
				b.Bind(from, id, now)
				if m[from] == nil {
					m[from] = map[device.ID]time.Time{}
				}
				m[from][id] = now
			}
			got, ok := b.Lookup(from, now)
			if want, is := m.lookup(from, now); got != want || ok != is {
				t.Fatalf("seed %d, step %d: %v is %q %v, want %q %v", seed, step, from, got, ok, want, is)
			}
		}
	}
}

// A binding is not made anew with each question, and is never kept too long for it.
func TestBindingsAreRefreshed(t *testing.T) {
	b, now, from := new(bindings), time.Unix(1e9, 0), netip.MustParseAddr(abroad)
	for range 600 {
		b.Bind(from, "phone", now)
		now = now.Add(time.Second)
	}
	if _, ok := b.Lookup(from, now.Add(bindingAge-refreshAfter-time.Second)); !ok {
		t.Error("a device that goes on asking is lost")
	}
	if _, ok := b.Lookup(from, now.Add(bindingAge)); ok {
		t.Error("kept too long")
	}
}

func TestBindingsAreBounded(t *testing.T) {
	b, now := new(bindings), time.Unix(1e9, 0)
	at := func(i int) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 1, 13: byte(i >> 16), byte(i >> 8), byte(i)})
	}
	for i := range maxBindings + 100 {
		b.Bind(at(i), "phone", now)
	}
	if n := len(b.claimed); n != maxBindings {
		t.Fatalf("%d addresses", n)
	}
	if _, ok := b.Lookup(at(0), now); !ok {
		t.Error("a new address pushes out another")
	}
	if _, ok := b.Lookup(at(maxBindings), now); ok {
		t.Error("a full table takes one more")
	}
	b.Bind(at(0), "tablet", now)
	if _, ok := b.Lookup(at(0), now); ok {
		t.Error("a full table does not hear of a rival")
	}
	now = now.Add(bindingAge)
	b.Bind(at(maxBindings), "phone", now)
	if _, ok := b.Lookup(at(maxBindings), now); !ok || len(b.claimed) != 1 {
		t.Errorf("what has aged makes no room: %d addresses", len(b.claimed))
	}
}

func TestBindingsAtOnce(t *testing.T) {
	c := newCrowd(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 500 {
				from := fmt.Sprint("203.0.113.", n%7)
				c.identify(question{from: from, token: []string{"phone-token", "tablet-token", "", "x"}[i]}.client(), nil)
			}
		})
	}
	wg.Wait()
}

func TestIdentifyDoesNotAllocate(t *testing.T) {
	c := newCrowd(t)
	c.bindings.Bind(netip.MustParseAddr(abroad), "phone", c.clock)
	for _, q := range []question{
		{from: "100.72.1.1", listener: onLink},
		{from: "10.1.0.1"},
		{from: abroad},
		{from: "203.0.113.10", token: "phone-token"},
		{from: "203.0.113.11", token: "guess"},
		{from: "203.0.113.12", name: "tablet.dns.example.com"},
		{from: "fd00::53", opts: map[uint16]string{65001: rawMAC}},
		{from: "fd00::53", opts: map[uint16]string{65073: "02:00:00:00:00:AF"}},
		{from: "fd00::53", opts: map[uint16]string{65073: "AgAAAACv"}},
		{from: "fd00::53", opts: map[uint16]string{65074: "desk 7"}},
	} {
		client, opts := q.client(), map[uint16][]byte{}
		for code, s := range q.opts {
			opts[code] = []byte(s)
		}
		get := func(code uint16) []byte { return opts[code] }
		if n := testing.AllocsPerRun(100, func() { c.identify(client, get) }); n != 0 {
			t.Errorf("%+v: %v allocations", q, n)
		}
	}
}

func BenchmarkIdentify(b *testing.B) {
	c := newCrowd(b)
	for _, bench := range []struct {
		name  string
		q     question
		bound int // addresses that are bound
	}{
		{"link", question{from: "100.72.1.1", listener: onLink}, 0},
		{"network", question{from: "10.1.0.1"}, 0},
		{"network-bindings", question{from: "10.1.0.1"}, 1000},
		{"bound", question{from: "198.51.100.1"}, 1000},
		{"token", question{from: abroad, token: "phone-token"}, 0},
		{"server-name", question{from: "203.0.113.10", name: "tablet.dns.example.com"}, 0},
		{"option", question{from: "fd00::53", opts: map[uint16]string{65001: rawMAC}}, 0},
	} {
		b.Run(bench.name, func(b *testing.B) {
			c.bindings = new(bindings)
			for i := range bench.bound {
				c.bindings.Bind(netip.AddrFrom4([4]byte{198, 51, 100 + byte(i>>8), byte(i)}), "phone", c.clock)
			}
			client, mac := bench.q.client(), []byte(rawMAC)
			opts := func(uint16) []byte { return mac }
			b.ReportAllocs()
			for b.Loop() {
				c.identify(client, opts)
			}
		})
	}
}
