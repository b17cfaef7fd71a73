package tunnel

import (
	"net/netip"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starferry/starferry/tunnel/packet"
)

const ackF, synF, finF, rstF = packet.ACK, packet.SYN, packet.FIN, packet.RST

func TestCarries(t *testing.T) {
	for _, c := range []struct {
		name        string
		side        Side
		there, xthe pkt
		back, xback pkt
	}{
		{"TCP", Link,
			tcp(up, near, synF, 1, 0, 0), tcp(up, beyon, synF, 1, 0, 0),
			tcp(beyon, up, synF|ackF, 5, 2, 0), tcp(near, up, synF|ackF, 5, 2, 0)},
		{"UDP", Link,
			udp(up, near, 10), udp(up, beyon, 10), udp(beyon, up, 900), udp(near, up, 900)},
		{"ping", Link,
			echo(alice+":77", "198.19.0.7:0"), echo(alice+":77", "240.1.0.7:0"),
			echo("240.1.0.7:0", alice+":77"), echo("198.19.0.7:0", alice+":77")},
		{"UDP from the office", LAN,
			udp(upLAN, near, 10), udp("100.72.8.5:40000", beyon, 10),
			udp(beyon, "100.72.8.5:40000", 20), udp(near, upLAN, 20)},
		{"TCP over IPv6", Link,
			tcp("["+alice6+"]:40000", "[2001:2:0:1000::7]:443", synF, 1, 0, 0), tcp("["+alice6+"]:40000", "[fd5f:57a6:7272:b000::7]:443", synF, 1, 0, 0),
			tcp("[fd5f:57a6:7272:b000::7]:443", "["+alice6+"]:40000", synF|ackF, 1, 0, 0), tcp("[2001:2:0:1000::7]:443", "["+alice6+"]:40000", synF|ackF, 1, 0, 0)},
		{"ping over IPv6", Link,
			echo("["+alice6+"]:9", "[2001:2:0:1000::7]:0"), echo("["+alice6+"]:9", "[fd5f:57a6:7272:b000::7]:0"),
			echo("[fd5f:57a6:7272:b000::7]:0", "["+alice6+"]:9"), echo("[2001:2:0:1000::7]:0", "["+alice6+"]:9")},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.want(w.in(Link, c.back)) // not before somebody asked
			w.want(w.in(c.side, c.there, c.there), out(Link, c.xthe), out(Link, c.xthe))
			w.want(w.in(Link, c.back), out(c.side, c.xback))
			if n := w.questions(); n != 2 {
				t.Errorf("judged %d times, want once there and once back", n)
			}
			w.wantDrops(map[Drop]uint64{DropNoFlow: 1})
		})
	}
}

func TestRefusesAndCounts(t *testing.T) {
	for _, c := range []struct {
		name string
		side Side
		p    pkt
		want Drop
	}{
		{"an unknown source", Link, udp("100.72.2.9:1", near, 0), DropUnknownSource},
		{"an office's source from the link", Link, udp("100.72.8.5:1", near, 0), DropForgedSource},
		{"a device's source from the office", LAN, udp(up, near, 0), DropForgedSource},
		{"a label that was never leased", Link, udp(up, "198.19.0.8:443", 0), DropNeverLeased},
		{"another device", Link, udp(up, "100.72.1.11:443", 0), DropNotALabel},
		{"another node", Link, udp(up, hongKong+":53", 0), DropNotALabel},
		{"the open internet", Link, udp(up, "203.0.113.1:53", 0), DropNotALabel},
		{"the next hop, unasked", Link, udp(beyon, up, 0), DropNoFlow},
		{"a connection from the next hop", Link, tcp(beyon, up, synF, 1, 0, 0), DropNoFlow},
		{"a ping from the next hop", Link, echo("240.1.0.7:5", alice+":0"), DropNoFlow},
		{"an echo reply to a label", Link, echo(alice+":0", "198.19.0.7:5"), DropNoFlow},
		{"an error about nothing", Link, failed("240.1.0.7", alice, 3, 1, udp(up, beyon, 0)), DropNoFlow},
		{"a port that is not allowed", Link, tcp(up, "198.19.0.7:22", rstF, 1, 0, 0), DropDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.leased = map[netip.Addr]bool{ip("198.19.0.7"): true}
			w.want(w.in(c.side, c.p))
			w.wantDrops(map[Drop]uint64{c.want: 1})
			if len(w.ended()) != 0 && c.want != DropDenied {
				t.Error("a record of what never was a flow")
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	w := newWorld(t, nil)
	whole := udp(up, near, 100).bytes()
	later := append([]byte(nil), whole...)
	later[7] = 1
	sctp := append([]byte(nil), whole...)
	sctp[9] = 132
	redirect := echo(alice+":1", "198.19.0.7:0").bytes()
	redirect[20] = 5
	w.Input(Link, [][]byte{whole[:10], later, sctp, redirect, nil, {0x45}}, 0)
	w.Input(Local, [][]byte{{1}}, 0)
	w.want(w.taken())
	w.wantDrops(map[Drop]uint64{DropMalformed: 3, DropFragment: 1, DropProtocol: 2})
}

func TestServices(t *testing.T) {
	w := newWorld(t, nil)
	ask := udp(up, nodeA+":53", 30)
	ask.ttl = 1
	w.want(w.in(Link, ask), sent{Local, ask})
	later := udp(up, nodeA+":53", 30).bytes()
	later[7], later[11] = 1, later[11]-1 // the checksum is one less for the offset of one
	w.Input(Link, [][]byte{later}, 0)
	if got := w.taken(); len(got) != 1 || got[0].side != Local {
		t.Fatalf("a fragment for the node itself: %v", got)
	}
	answer := udp(nodeA+":53", up, 60)
	w.want(w.in(Local, answer), sent{Link, answer})
	toOffice := udp(nodeA+":53", upLAN, 60)
	w.want(w.in(Local, toOffice), sent{LAN, toOffice})
	w.want(w.in(Local, udp("[fe80::1]:1", "[ff02::2]:1", 0)))
	tooBig := failed(alice, nodeA, 3, 4, answer)
	w.want(w.in(Link, tooBig), sent{Local, tooBig})
	w.wantDrops(map[Drop]uint64{DropNotALabel: 1})
}

func TestClampsBothWays(t *testing.T) {
	w := newWorld(t, nil)
	syn := tcp(up, near, synF, 1, 0, 0)
	syn.mss = 1460
	x := tcp(up, beyon, synF, 1, 0, 0)
	x.mss = 1340
	w.want(w.in(Link, syn), out(Link, x))
	if got := w.in(Link, syn)[0].pkt.mss; got != 1340 {
		t.Error("SYN:", got)
	}
	back := tcp(beyon, up, synF|ackF, 1, 2, 0)
	back.mss = 9000
	if got := w.in(Link, back)[0].pkt.mss; got != 1340 {
		t.Error("SYN-ACK:", got)
	}
}

func TestExpiredPackets(t *testing.T) {
	w := newWorld(t, nil)
	expired := func(p pkt) pkt { p.ttl = 1; return p }
	exceeded := func(p pkt, from, to string) sent { return made(Link, failed(from, to, 11, 0, p)) }
	// Judged by the device, not by the port; and no flow comes of it.
	ssh := expired(udp(up, "198.19.0.7:22", 0))
	w.want(w.in(Link, ssh), exceeded(ssh, nodeA, alice))
	if len(w.Flows()) != 0 {
		t.Error("an expired packet made a flow")
	}
	probe := expired(echo(alice+":9", "198.19.0.7:0"))
	w.want(w.in(Link, probe), exceeded(probe, nodeA, alice))
	w.want(w.in(Link, expired(udp("100.72.2.9:1", near, 0)))) // unknown sources get nothing
	w.want(w.in(Link, expired(udp(beyon, up, 0))))            // nor does what comes back to no flow
	// In an open flow, both ways.
	w.in(Link, udp(up, near, 0))
	w.want(w.in(Link, expired(udp(up, near, 0))), exceeded(expired(udp(up, near, 0)), nodeA, alice))
	w.want(w.in(Link, expired(udp(beyon, up, 0))), exceeded(expired(udp(beyon, up, 0)), nodeA, "240.1.0.7"))
	// And beside a denial.
	w.in(Link, udp(up, "198.19.0.7:22", 0))
	w.want(w.in(Link, ssh), exceeded(ssh, nodeA, alice))
	w.set(func() { w.refuse = true })
	w.want(w.in(Link, expired(udp(alice+":5", near, 0))))
	w.wantDrops(map[Drop]uint64{DropTTL: 6, DropUnknownSource: 2, DropDenied: 1})
}

func TestTooBig(t *testing.T) {
	w := newWorld(t, nil)
	fits, big := udp(up, near, 1380-28), udp(up, near, 1380-27)
	x := fits
	x.dst = ap(beyon)
	w.want(w.in(Link, fits), out(Link, x))
	w.want(w.in(Link, big)) // it might be fragmented, but not here
	big.df = true
	got := w.in(Link, big)
	if len(got) != 1 || got[0].pkt.typ != [2]uint8{3, 4} || got[0].pkt.dst.Addr() != ip(alice) {
		t.Fatal(got)
	}
	w.wantDrops(map[Drop]uint64{DropTooBig: 2})
}

func TestTranslatesErrors(t *testing.T) {
	w := newWorld(t, nil)
	there, xthe := udp(up, near, 30), udp(up, beyon, 30)
	back := udp(beyon, up, 40)
	w.in(Link, there)
	w.in(Link, back)
	office, xoffice := udp(upLAN, near, 30), udp("100.72.8.5:40000", beyon, 30)
	w.in(LAN, office)
	xback := udp(near, upLAN, 9)
	w.in(Link, udp(beyon, "100.72.8.5:40000", 9))
	for _, c := range []struct {
		name    string
		side    Side
		p, want pkt
		out     Side
	}{
		{"from the far end", Link, failed("240.1.0.7", alice, 3, 3, xthe), failed("198.19.0.7", alice, 3, 3, there), Link},
		{"from a node of the fleet", Link, failed(hongKong, alice, 11, 0, xthe), failed(hongKong, alice, 11, 0, there), Link},
		{"about the office", Link, failed("240.1.0.7", "100.72.8.5", 3, 4, xoffice), failed("198.19.0.7", "192.168.1.5", 3, 4, office), LAN},
		{"from the machine in the office", LAN, failed("192.168.1.5", "198.19.0.7", 3, 3, xback), failed("100.72.8.5", "240.1.0.7", 3, 3, udp(beyon, "100.72.8.5:40000", 9)), Link},
		{"from a router in the office", LAN, failed("192.168.1.1", "198.19.0.7", 3, 4, xback), failed(nodeA, "240.1.0.7", 3, 4, udp(beyon, "100.72.8.5:40000", 9)), Link},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			w.want(w.in(c.side, c.p), out(c.out, c.want))
		})
	}
	w.t = t
	w.want(w.in(Link, failed("100.72.1.11", "198.19.0.7", 3, 4, udp(near, up, 9))))     // bob meddles with alice's flow
	w.want(w.in(Link, failed("240.1.0.7", "100.72.1.11", 3, 4, xthe)))                  // about a packet that bob did not send
	w.want(w.in(Link, failed("240.1.0.7", alice, 3, 4, udp(alice+":40001", beyon, 0)))) // about one that nobody sent
	w.wantDrops(map[Drop]uint64{DropForgedSource: 1, DropMalformed: 1, DropNoFlow: 1})
}

// A router that is not of the fleet is heard from a LAN only, whichever of a
// node's links it may come by.
func TestErrorsOfRoutersByEachLink(t *testing.T) {
	w := newWorld(t, nil)
	for side, want := range map[Side]netip.Addr{Link: {}, LinkSide(1): {}, LinkSide(2): {}, LAN: ip(nodeA)} {
		if got := w.errorSource(side, ip("192.168.1.1"), ip("240.1.0.7"), ip("198.19.0.7")); got != want {
			t.Errorf("by %v: shown as %v, want %v", side, got, want)
		}
	}
}

func TestTableFull(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxFlows = 4 })
	for i := range 6 {
		p := udp(up, near, 0)
		p.src = netip.AddrPortFrom(p.src.Addr(), uint16(1000+i))
		w.in(Link, p)
	}
	w.wantDrops(map[Drop]uint64{DropTableFull: 2})
	// Denials leave half of the table to others, and are answered all the same.
	w = newWorld(t, func(c *Config) { c.MaxFlows = 4 })
	for i := range 6 {
		p := tcp(up, "198.19.0.7:22", synF, 1, 0, 0)
		p.src = netip.AddrPortFrom(p.src.Addr(), uint16(1000+i))
		if got := w.in(Link, p); len(got) != 1 || got[0].pkt.flags != rstF|ackF {
			t.Errorf("%d: %v", i, got)
		}
	}
	if n := len(w.Flows()); n != 2 {
		t.Errorf("%d denials are remembered, want 2", n)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	w := newWorld(t, func(c *Config) { c.Metrics = reg })
	w.in(Link, udp(up, near, 72), udp("100.72.2.9:1", near, 0))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"starferry_packets_dropped_total unknown-source": 1,
		"starferry_packets_dropped_total denied":         0,
		"starferry_packets_total in link":                2,
		"starferry_packets_total out link":               1,
		"starferry_packet_bytes_total out link":          100,
		"starferry_flows open":                           1,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v %v, want %v", name, v, ok, want)
		}
	}
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	name := func(s string) {
		if s == "" || seen[s] {
			t.Errorf("%q is empty or there twice", s)
		}
		seen[s] = true
	}
	for d := range drops {
		name(d.String())
	}
	clear(seen)
	for c := range closes {
		name(c.String())
	}
	if id := flowID(ip(alice), 40000, 443, 6, "www.listed-china.test"); len(id.String()) != 16 ||
		id == flowID(ip(alice), 40000, 443, 6, "www.allowed.test") || id == flowID(ip(alice), 40001, 443, 6, "www.listed-china.test") {
		t.Error("flow ids do not tell flows apart")
	}
}

func discard(cfg *Config) {
	cfg.Emit = func(Side, []byte) {}
	cfg.Ended = nil
}

// fastPath returns a batch of the segments of some flows and what puts it in.
func fastPath(t testing.TB, flows, n int, v6 bool) func() {
	w := newWorld(t, discard)
	var raw, orig [][]byte
	for i := range n {
		p := tcp(up, near, ackF, 1, 1, 1200)
		if v6 {
			p = tcp("["+alice6+"]:40000", "[2001:2:0:1000::7]:443", ackF, 1, 1, 1200)
		}
		p.src = netip.AddrPortFrom(p.src.Addr(), uint16(1000+i%flows))
		raw, orig = append(raw, p.bytes()), append(orig, p.bytes())
	}
	return func() {
		for i := range raw {
			copy(raw[i][:60], orig[i]) // what the last round changed
		}
		w.Input(Link, raw, 0)
	}
}

func TestFastPathAllocatesNothing(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		round := fastPath(t, 16, 128, v6)
		round()
		if n := testing.AllocsPerRun(50, round); n != 0 {
			t.Errorf("v6 %v: %v allocations per batch", v6, n)
		}
	}
}

func BenchmarkInput128(b *testing.B) {
	for _, c := range []struct {
		name  string
		flows int
		v6    bool
	}{{"one flow", 1, false}, {"128 flows", 128, false}, {"128 flows, IPv6", 128, true}} {
		b.Run(c.name, func(b *testing.B) {
			round := fastPath(b, c.flows, 128, c.v6)
			round()
			b.ReportAllocs()
			for b.Loop() {
				round()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/128, "ns/packet")
		})
	}
}
