package node

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/state"
	"github.com/starferry/starferry/steer"
	"github.com/starferry/starferry/tunnel"
)

func one[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// randomRules makes a policy of what flows can be judged by.
func randomRules(r *rand.Rand) string {
	b := strings.Builder{}
	b.WriteString("postures: {managed: {max_age: 15m, checks: [firewall: on]}}\npolicies:\n")
	for i := range 1 + r.IntN(6) {
		var conds []string
		for range r.IntN(3) {
			c := one(r, "name: {suffix: china.test}", "name: www.china.test", "name: cdn.test", "group: staff", "group: guests", "identity: strong", "type: AAAA",
				"answer: {network: 203.0.113.0/24}", "network: 192.168.1.0/24", "network: 100.72.0.0/20", "network: 'fd5f:57a6:7272::/52'", "posture: {managed: passed}",
				"flow: {protocol: tcp}", "flow: {port: 22}", "flow: {protocol: icmp}", "flow: {route: hong-kong}", "flow: {route: berlin, port: 443}", "listener: link")
			if r.IntN(5) == 0 {
				c = "not: {" + c + "}"
			}
			conds = append(conds, "{"+c+"}")
		}
		fmt.Fprintf(&b, "  - {name: p%d, if: {all: [%s]}", i, strings.Join(conds, ", "))
		if len(conds) == 0 {
			b.Reset()
			b.WriteString("postures: {managed: {max_age: 15m, checks: [firewall: on]}}\npolicies:\n")
			fmt.Fprintf(&b, "  - {name: p%d", i)
		}
		b.WriteString(one(r, "", "", ", require: {groups: staff}", ", require: {posture: managed}", ", require: {identity: strong}", ", mode: shadow"))
		b.WriteString(", then: " + one(r, "allow", "{block: nxdomain, reason: because}", "{steer: hong-kong}", "{steer: hong-kong, ports: [tcp/443, udp/443]}", "{steer: berlin}", "{override: {a: 10.0.0.1}}") + "}\n")
	}
	return b.String()
}

// senders are devices of all kinds, with the sources of their packets: at the
// gateway by IPv4 and by IPv6, and at the egress.
var senders = map[device.ID]struct {
	side    tunnel.Side
	gateway [2]string
	egress  [2]string
}{
	"alice-laptop": {tunnel.Link, [2]string{"100.72.1.10", "fd5f:57a6:7272:1::10"}, [2]string{"100.72.1.10", "fd5f:57a6:7272:1::10"}},
	"bob":          {tunnel.Link, [2]string{"100.72.1.11"}, [2]string{"100.72.1.11"}},
	"office":       {tunnel.LAN, [2]string{"192.168.1.1"}, [2]string{"100.72.8.1"}},
}

// flowWorld is a world with these devices, leases and facts, and two routes.
func flowWorld(t *testing.T) *world {
	w := newWorld(t, "cn-1")
	g, e := w.gateway, w.egress
	g.set.TUN = "starferry0"
	g.routes = append(slices.Clone(g.routes), configs.Route{Name: "berlin"})
	e.routes = append(slices.Clone(e.routes), configs.Route{Name: "berlin"})
	alice, _ := g.store.View().Device("alice-laptop")
	devices := []*device.Device{
		alice,
		{ID: "bob", Kind: device.ByWireGuard, Key: fixedKey(9).Public(), Overlay: prefixes("100.72.1.11/32"), Groups: []string{"guests"}},
		{ID: "office", Kind: device.ByNetwork, LAN: prefixes("192.168.1.0/24"), Overlay: prefixes("100.72.8.0/24"), RoutesPool: true, Groups: []string{"staff"}},
		{ID: "phone", Kind: device.ByServerName, Groups: []string{"staff"}},
	}
	if err := g.store.Update(func(tx state.Tx) error { return tx.ReplaceDevices(devices) }); err != nil {
		t.Fatal(err)
	}
	e.follow("gw-sjc", g.store.View().DirectoryRows(g.postures.opaque))
	for _, labels := range []*labels{g.labels, e.labels} {
		for name, facts := range map[string][]policy.Hop{
			"www.china.test": nil, "cdn.test": {{Name: "cdn.test"}, {Name: "x.china.test", Addrs: addrs("203.0.113.9", "198.51.100.1")}},
			"rest.test": {{Name: "rest.test", Addrs: addrs("198.51.100.2")}},
		} {
			for _, v6 := range []bool{false, true} {
				lease, err := labels.table.Lease(name, v6, "", time.Now())
				if err != nil {
					t.Fatal(err)
				}
				labels.table.SetFacts(lease, facts)
			}
		}
	}
	return w
}

// Of random policies: the flow that is explained is decided as its first packet
// is, at the gateway and at the egress.
func TestFlowsAreExplainedAsTheyAreJudged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := flowWorld(t)
		r, seen := rand.New(rand.NewPCG(5, 6)), map[string]int{}
		for n := range 400 {
			text := randomRules(r)
			p, err := policy.Parse("policy.yaml", []byte(text), nil)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			w.gateway.rules.current.Store(p)
			w.egress.rules.current.Store(p)
			if n%100 == 50 {
				verdict := posture.Verdicts{"managed": {Result: one(r, posture.Passed, posture.Failed), Reason: "firewall", Expires: time.Now().Add(time.Hour)}}
				if err := w.gateway.store.Update(func(tx state.Tx) error { return tx.PutVerdicts("bob", verdict, time.Now()) }); err != nil {
					t.Fatal(err)
				}
				w.egress.follow("gw-sjc", w.gateway.store.View().DirectoryRows(w.gateway.postures.opaque))
			}
			for range 10 {
				explainOne(t, w, r, text, seen)
			}
		}
		t.Log(seen)
		for _, what := range []string{"gateway steer", "gateway block", "gateway deny", "egress steer", "egress block", "egress deny", "dropped", "office", "icmp", "AAAA"} {
			if seen[what] == 0 {
				t.Errorf("none of %s", what)
			}
		}
	})
}

func explainOne(t *testing.T, w *world, r *rand.Rand, text string, seen map[string]int) {
	t.Helper()
	from := one(r, device.ID("alice-laptop"), "bob", "office")
	name, service, v6 := one(r, "www.china.test", "cdn.test", "rest.test"), one(r, "tcp/443", "udp/443", "tcp/22", "icmp"), from == "alice-laptop" && r.IntN(2) == 0
	q := control.Question{Name: name, Device: string(from), Type: "A", Flow: service}
	i := 0
	if v6 {
		q.Type, i = "AAAA", 1
	}
	at, table, judge, explain, src := "gateway", w.gateway.labels.table, w.gateway.judge, w.gateway.explain, senders[from].gateway[i]
	side := senders[from].side
	if r.IntN(2) == 0 {
		at, table, judge, explain, src = "egress", w.egress.labels.table, w.egress.judge, w.egress.explain, senders[from].egress[i]
		side = tunnel.Link
		q.Device = "gw-sjc/" + string(w.gateway.postures.opaque(from))
	}
	lease, ok := table.Peek(name, v6)
	if !ok {
		t.Fatalf("%s is not leased", name)
	}
	if r.IntN(2) == 0 {
		q.Name = lease.Addr().String()
		q.Type = one(r, q.Type, "")
	}
	_, value, err := explain(t.Context(), q)
	if err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	ruling := judge(packetTo(t, service, side, src, lease))
	x := value.(*Explanation)
	if dropped := strings.Contains(x.String(), "packets are dropped, as no-next-hop"); dropped || ruling.Meta == nil {
		if !dropped || ruling.Why != tunnel.DropNoNextHop || x.why != "" {
			t.Fatalf("%s: %+v\njudged %+v\nexplained\n%v\nby\n%s", at, q, ruling, x, text)
		}
		seen["dropped"]++
		return
	}
	route, _ := strings.CutPrefix(x.Decision, "steer ")
	if route == x.Decision {
		route = ""
	}
	if m := ruling.Meta; m == nil || m.Policy != x.Policy || m.Route != route || m.Name != x.Name || !strings.Contains(x.why, m.Reason) && route == "" {
		t.Fatalf("%s: %+v\njudged %+v, %+v\nexplained\n%v\nby\n%s", at, q, ruling, m, x, text)
	}
	if admitted := x.why == "" && !strings.Contains(x.String(), "the flow is denied"); admitted != (ruling.Outcome != tunnel.Deny) {
		t.Fatalf("%s: %+v: %v, explained\n%v", at, q, ruling.Outcome, x)
	}
	seen[at+" "+strings.Fields(x.Decision)[0]]++
	seen[string(from)]++
	seen[service]++
	seen[x.Type]++
}

// packetTo is the first packet of a flow.
func packetTo(t *testing.T, service string, side tunnel.Side, src string, lease *steer.Lease) *tunnel.First {
	t.Helper()
	to, err := policy.ParseService(service)
	if err != nil {
		t.Fatal(err)
	}
	if to.Proto == protoICMP && lease.V6() {
		to.Proto = protoICMPv6
	}
	return &tunnel.First{
		Side: side, Proto: to.Proto, Syn: true,
		Src: netip.AddrPortFrom(netip.MustParseAddr(src), 40000), Dst: netip.AddrPortFrom(lease.Addr(), to.Port),
	}
}

// What is said of a name without a lease is what a question makes of it.
func TestExplainFlow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := flowWorld(t)
		explain := func(q control.Question) string {
			text, value, err := w.gateway.explain(t.Context(), q)
			if err != nil {
				return err.Error()
			}
			if b, err := json.Marshal(value); err != nil || !strings.Contains(string(b), `"flow":"`+q.Flow+`"`) {
				t.Errorf("%s, %v", b, err)
			}
			return text
		}
		opaque := "gw-sjc/" + string(w.gateway.postures.opaque("alice-laptop"))
		q := control.Question{Name: "shop.china.test", Device: "alice-laptop", Flow: "tcp/443"}
		const head = "shop.china.test A, flow tcp/443 of alice-laptop (identity strong, by wireguard)\n" +
			"policy.yaml:5:5  china  yes: name under china.test; demands met: in group staff\ndecision: steer hong-kong\n"
		again := "way: the egress decides again, by its own policy: ask there for shop.china.test --flow tcp/443 --device " + opaque + "\n"
		if got, want := explain(q), head+"virtual address: none yet; a question for the name leases one\n"+
			"way: egress hk-1: up\nway: hk-1: connector cn-1: up\nway: hk-1: connector cn-2: DOWN\n"+again; got != want {
			t.Errorf("without a lease:\n%s\nwant\n%s", got, want)
		}
		if _, err := w.gateway.query(t.Context(), control.Question{Name: q.Name, Device: q.Device}); err != nil {
			t.Fatal(err)
		}
		lease, ok := w.gateway.labels.table.Peek(q.Name, false)
		if !ok {
			t.Fatal("a question leases nothing")
		}
		q.Name = lease.Addr().String()
		if got := explain(q); !strings.HasPrefix(got, head+"virtual address: "+q.Name+"\nway: egress hk-1: up, label 240.1.0.") || !strings.HasSuffix(got, again) {
			t.Errorf("with a lease:\n%s", got)
		}
		text, _, err := w.egress.explain(t.Context(), control.Question{Name: "shop.china.test", Device: opaque, Flow: "tcp/22"})
		if err != nil || !strings.Contains(text, "because: policy china: tcp/22 is not among its ports\ntold to the device: TCP reset\n") || !strings.Contains(text, "label: 240.1.0.") {
			t.Errorf("at the egress: %v\n%s", err, text)
		}

		for _, c := range []struct{ name, device, typ, flow, want string }{
			{"rest.test", "bob", "", "tcp/443", "virtual address: 198.19."},
			{"other.test", "bob", "", "tcp/443", "virtual address: none: a question for the name comes to block refused\n"},
			{"shop.china.test", "bob", "", "icmp", "told to the device: ICMP, administratively prohibited\n"},
			{"198.51.100.1", "bob", "", "tcp/443", "198.51.100.1 is not in the pool of this node (198.19.0.0/18, 2001:2:0:1000::/52): packets to it are dropped, as not-a-label"},
			{"198.19.63.1", "bob", "", "tcp/443", "198.19.63.1: no lease has it: packets to it are dropped, as never-leased"},
			{lease.Addr().String(), "bob", "AAAA", "tcp/443", lease.Addr().String() + " is of type A, not AAAA"},
			{"shop.china.test", "bob", "MX", "tcp/443", "a flow has no type MX"},
			{"shop.china.test", "bob", "", "tcp", `"tcp" says no port`},
			{"shop.china.test", "", "", "tcp/443", "whose flow? give --device: known are alice-laptop, bob, office, phone"},
			{"shop.china.test", "mallory", "", "tcp/443", `"mallory": no device of that name; known are alice-laptop`},
			{"shop.china.test", "phone", "", "tcp/443", "phone sends no flows of its own"},
			{"shop.china.test", "bob", "AAAA", "tcp/443", "bob sends no flows over IPv6"},
		} {
			if got := explain(control.Question{Name: c.name, Device: c.device, Type: c.typ, Flow: c.flow}); !strings.Contains(got, c.want) {
				t.Errorf("%+v:\n%s", c, got)
			}
		}
		for device, want := range map[string]string{"": "whose flow?", "gw-sjc/x": "an egress knows devices as GATEWAY/ID"} {
			if _, _, err := w.egress.explain(t.Context(), control.Question{Name: "shop.china.test", Device: device, Flow: "tcp/443"}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("at the egress, %q: %v", device, err)
			}
		}
		if text, _, err = w.egress.explain(t.Context(), control.Question{Name: "new.china.test", Device: opaque, Flow: "tcp/443"}); err != nil || !strings.Contains(text, "label: none yet: the flow is judged without the addresses") {
			t.Errorf("at the egress, without a lease: %v\n%s", err, text)
		}

		w.gateway.set.TUN = ""
		if got := explain(control.Question{Name: "shop.china.test", Device: "office", Flow: "tcp/443"}); !strings.Contains(got, "office sends no flows") {
			t.Errorf("without a LAN:\n%s", got)
		}
		w.stops["hk-1"]()
		w.until(time.Minute, "the egress is down", func() bool { return !w.gateway.neighbours.up("hk-1") })
		if got := explain(q); !strings.Contains(got, "no node of route hong-kong answers: the flow waits for one, 15s at most") {
			t.Errorf("the egress is down:\n%s", got)
		}
		w.until(time.Minute, "the egress is down for long", func() bool { return w.gateway.neighbours.allDownFor([]string{"hk-1"}) > linkPatience })
		if got := explain(q); !strings.Contains(got, "no node of route hong-kong answers: the flow is denied") {
			t.Errorf("the egress is down for long:\n%s", got)
		}
	})
}
