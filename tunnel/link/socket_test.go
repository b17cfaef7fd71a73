package link_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.zx2c4.com/wireguard/conn"

	"github.com/starferry/starferry/tunnel/link"
)

func loopback(t testing.TB, s string) netip.AddrPort {
	t.Helper()
	addr := netip.AddrPortFrom(netip.MustParseAddr(s), 0)
	pc, err := net.ListenPacket("udp", addr.String())
	if err != nil {
		t.Skipf("this machine has no %s: %v", s, err)
	}
	pc.Close()
	return addr
}

// Two nodes on real sockets: own binds of both families, and WireGuard's own.
func TestSockets(t *testing.T) {
	defer goleak.VerifyNone(t)
	for name, listen := range map[string]netip.AddrPort{
		"IPv4": loopback(t, "127.0.0.1"), "IPv6": loopback(t, "::1"), "all": {},
	} {
		t.Run(name, func(t *testing.T) {
			dial := listen
			if name == "all" {
				dial = loopback(t, "127.0.0.1")
			}
			far := run(t, egressInner, link.Config{Key: egressKey, Listen: dial}, toConnector())
			if far.LocalPort() == 0 {
				t.Fatal("the port is not known")
			}
			peer := toEgress()
			peer.Endpoint = netip.AddrPortFrom(dial.Addr(), far.LocalPort()).String()
			near := run(t, connectorInner, link.Config{Key: connectorKey, Listen: listen}, peer)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := near.ask(ctx, egressInner); err != nil {
				t.Fatal(err)
			}
			if near.LocalPort() == 0 {
				t.Error("the port is not known while running")
			}
			if got := far.Status()[0].Endpoint.Addr(); got != dial.Addr() {
				t.Errorf("it came from %v, want %v", got, dial.Addr())
			}
			far.stop()
			near.stop()
		})
	}
}

func TestPortInUse(t *testing.T) {
	defer goleak.VerifyNone(t)
	listen := loopback(t, "127.0.0.1")
	pc, err := net.ListenPacket("udp", listen.String())
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	taken := pc.LocalAddr().(*net.UDPAddr).AddrPort()
	for _, listen := range []netip.AddrPort{taken, netip.AddrPortFrom(netip.IPv4Unspecified(), taken.Port())} {
		_, err := link.New(link.Config{Key: egressKey, Listen: listen, Port: link.NewPort(1380, nil)})
		if err == nil || !strings.Contains(err.Error(), "address already in use") {
			t.Errorf("listening on %v: %v", listen, err)
		}
	}
}

func TestCloseWithoutRun(t *testing.T) {
	defer goleak.VerifyNone(t)
	cfg := link.Config{Key: egressKey, Listen: loopback(t, "127.0.0.1"), Port: link.NewPort(1380, nil)}
	d, err := link.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen = netip.AddrPortFrom(cfg.Listen.Addr(), d.LocalPort())
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Run(t.Context()); err == nil {
		t.Error("a closed device runs")
	}
	again, err := link.New(cfg)
	if err != nil {
		t.Fatalf("the port was not given back: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := link.New(link.Config{Port: link.NewPort(1380, nil)}); err == nil {
		t.Error("a device without a key")
	}
	if _, err := link.New(link.Config{Key: egressKey}); err == nil {
		t.Error("a device without a port")
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	n := run(t, egressInner, link.Config{Key: egressKey, Listen: loopback(t, "127.0.0.1"), Metrics: reg}, toConnector())
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range all {
		names = append(names, m.GetName())
		if len(m.Metric) != 1 {
			t.Errorf("%s has %d series for one peer", m.GetName(), len(m.Metric))
		}
	}
	want := []string{
		"starferry_link_dropped_packets_total", "starferry_link_endpoint_changes_total", "starferry_link_forged_sources_total",
		"starferry_link_handshakes_rejected_total", "starferry_link_last_handshake_seconds",
		"starferry_link_received_bytes_total", "starferry_link_sent_bytes_total",
	}
	if !slices.Equal(names, want) {
		t.Errorf("metrics %q, want %q", names, want)
	}
	n.stop()
	if all, err := reg.Gather(); err != nil || len(all) != 0 {
		t.Errorf("%d metrics remain after the end, %v", len(all), err)
	}
}

// A batch larger than one system call takes, in both families.
func TestOwnBindBatches(t *testing.T) {
	for _, s := range []string{"127.0.0.1", "::1"} {
		listen := loopback(t, s)
		a, b := link.NewBind(listen.Addr()), link.NewBind(listen.Addr())
		_, _, err := a.Open(0)
		if err != nil {
			t.Fatal(err)
		}
		receive, port, err := b.Open(0)
		if err != nil {
			t.Fatal(err)
		}
		var bufs [][]byte
		for i := range 300 {
			bufs = append(bufs, binary.BigEndian.AppendUint32(bytes.Repeat([]byte{7}, i), uint32(i)))
		}
		ep, err := a.ParseEndpoint(netip.AddrPortFrom(listen.Addr(), port).String())
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Send(bufs, ep); err != nil {
			t.Fatal(err)
		}
		in, sizes, eps := make([][]byte, a.BatchSize()), make([]int, a.BatchSize()), make([]conn.Endpoint, a.BatchSize())
		for i := range in {
			in[i] = make([]byte, 2000)
		}
		for got := 0; got < len(bufs); {
			n, err := receive[0](in, sizes, eps)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				if !bytes.Equal(in[i][:sizes[i]], bufs[got]) || eps[i].DstIP() != listen.Addr() {
					t.Fatalf("datagram %d arrived as %d bytes from %v", got, sizes[i], eps[i].DstIP())
				}
				got++
			}
		}
		a.Close()
		b.Close()
		if _, err := receive[0](in, sizes, eps); err == nil {
			t.Error("a closed bind receives")
		}
		if err := a.Send(bufs[:1], ep); err == nil {
			t.Error("a closed bind sends")
		}
	}
}

func TestPortAllocations(t *testing.T) {
	p := link.NewPort(1380, nil)
	pkt, buf, sizes := make([]byte, 1380), [][]byte{make([]byte, 2048)}, make([]int, 1)
	round := func() { p.Send(pkt); p.Read(buf, sizes, 16) }
	for range 4096 {
		round()
	}
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
	for range 5000 {
		p.Send(pkt)
	}
	if p.Dropped() != 5000-4096 {
		t.Errorf("%d dropped, want %d", p.Dropped(), 5000-4096)
	}
	p.Close()
	p.Close()
	if _, err := p.Read(buf, sizes, 16); err == nil {
		t.Error("a closed port gives packets")
	}
}

// BenchmarkPortToPort sends packets of 1380 bytes from one port to another
// over two devices on loopback.
func BenchmarkPortToPort(b *testing.B) {
	for name, listen := range map[string]netip.AddrPort{"own-bind": loopback(b, "127.0.0.1"), "default-bind": {}} {
		b.Run(name, func(b *testing.B) { benchmarkPorts(b, listen) })
	}
}

func benchmarkPorts(b *testing.B, listen netip.AddrPort) {
	var got atomic.Int64
	moved := make(chan struct{}, 1)
	to := link.NewPort(1380, func(pkts [][]byte, _ int) {
		got.Add(int64(len(pkts)))
		select {
		case moved <- struct{}{}:
		default:
		}
	})
	from := link.NewPort(1380, nil)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(b.Context())
	defer wg.Wait()
	defer cancel()
	start := func(cfg link.Config, p link.Peer) *link.Device {
		d, err := link.New(cfg)
		if err == nil {
			err = d.SetPeers([]link.Peer{p})
		}
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			if err := d.Run(ctx); err != nil {
				b.Error(err)
			}
		})
		return d
	}
	far := start(link.Config{Key: egressKey, Listen: listen, Port: to}, toConnector())
	for far.LocalPort() == 0 { // known once it is up
		<-time.After(time.Millisecond)
	}
	peer := toEgress()
	peer.Endpoint = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), far.LocalPort()).String()
	start(link.Config{Key: connectorKey, Listen: listen, Port: from}, peer)

	pkt := append(packet(connectorInner, egressInner, 0), make([]byte, 1352)...)
	binary.BigEndian.PutUint16(pkt[2:], uint16(len(pkt)))
	from.Send(pkt)
	<-moved
	got.Store(0)
	b.SetBytes(int64(len(pkt)))
	b.ReportAllocs()
	b.ResetTimer()
	const window = 1500 // packets on the way, so that none is dropped where it would not be counted
	for sent := range b.N {
		for int64(sent)-got.Load() >= window {
			select {
			case <-moved:
			case <-time.After(20 * time.Millisecond): // loss in a socket's buffer
				got.Add(window / 2)
			}
		}
		from.Send(pkt)
	}
}
