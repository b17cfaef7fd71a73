package netstack_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/starferry/starferry/tunnel/netstack"
)

// A fixture is a device behind a forwarder. What the device sends to origin4
// or origin6 is dialed on loopback.
type fixture struct {
	device *netstack.Stack
	fwd    *netstack.Forwarder
	reg    *prometheus.Registry

	mu  sync.Mutex
	raw [][]byte // ICMP that the forwarder sent
}

func onLoopback(ctx context.Context, network string, dst netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), dst.Port()).String())
}

func newFixture(t testing.TB, cfg netstack.ForwarderConfig) *fixture {
	t.Helper()
	f := &fixture{reg: prometheus.NewRegistry()}
	if cfg.Dial == nil {
		cfg.Dial = onLoopback
	}
	cfg.MTU, cfg.Metrics = 1380, f.reg
	cfg.Out = func(p []byte) {
		if p[0]>>4 == 4 && p[9] == 1 || p[0]>>4 == 6 && p[6] == 58 {
			f.mu.Lock()
			f.raw = append(f.raw, bytes.Clone(p))
			f.mu.Unlock()
		}
		f.device.Inject(p)
	}
	var err error
	if f.fwd, err = netstack.NewForwarder(cfg); err != nil {
		t.Fatal(err)
	}
	f.device = newStack(t, func(p []byte) { f.fwd.Inject(p) }, device4, device6)
	t.Cleanup(f.fwd.Close)
	return f
}

// flows returns a counter.
func (f *fixture) flows(t testing.TB, network, outcome string) float64 {
	t.Helper()
	all, err := f.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		for _, s := range m.Metric {
			if len(s.Label) == 2 && s.Label[0].GetValue() == network && s.Label[1].GetValue() == outcome {
				return s.Counter.GetValue()
			}
		}
	}
	return 0
}

// icmp waits for a packet of ICMP from the forwarder.
func (f *fixture) icmp(t testing.TB) []byte {
	t.Helper()
	var p []byte
	eventually(t, "ICMP from the forwarder", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.raw) > 0 {
			p, f.raw = f.raw[0], f.raw[1:]
		}
		return p != nil
	})
	return p
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// listen returns a kernel listener and the address at which the device finds it.
func listen(t testing.TB, at netip.Addr) (*net.TCPListener, netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener), netip.AddrPortFrom(at, l.Addr().(*net.TCPAddr).AddrPort().Port())
}

// connect opens a connection through the forwarder and returns both ends.
func (f *fixture) connect(t testing.TB) (device net.Conn, origin *net.TCPConn) {
	t.Helper()
	l, addr := listen(t, origin4)
	device, err := f.device.DialContext(within(t, 5*time.Second), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if origin, err = l.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.Close(); origin.Close() })
	end := time.Now().Add(10 * time.Second)
	if err := errors.Join(device.SetDeadline(end), origin.SetDeadline(end)); err != nil {
		t.Fatal(err)
	}
	return device, origin
}

func TestForwardTCP(t *testing.T) {
	for _, a := range []netip.Addr{origin4, origin6} {
		f := newFixture(t, netstack.ForwarderConfig{})
		l, addr := listen(t, a)
		go echo(l)
		c, err := f.device.DialContext(within(t, 5*time.Second), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, c, 3<<20) // ends one direction first
		c.Close()
		if n := f.flows(t, "tcp", "opened"); n != 1 {
			t.Errorf("%v flows opened", n)
		}
	}
}

func TestForwardHalfClose(t *testing.T) {
	f := newFixture(t, netstack.ForwarderConfig{})
	device, origin := f.connect(t)
	if err := origin.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(device); err != nil || len(b) != 0 {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := device.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	device.Close()
	if b, err := io.ReadAll(origin); err != nil || string(b) != "still here" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestForwardResetByOrigin(t *testing.T) {
	f := newFixture(t, netstack.ForwarderConfig{})
	device, origin := f.connect(t)
	if err := errors.Join(origin.SetLinger(0), origin.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := device.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the device read %v", err)
	}
}

func TestForwardResetByDevice(t *testing.T) {
	f := newFixture(t, netstack.ForwarderConfig{})
	_, origin := f.connect(t)
	f.device.Close() // resets what is open
	if _, err := origin.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the origin read %v", err)
	}
}

func TestForwardRefused(t *testing.T) {
	f := newFixture(t, netstack.ForwarderConfig{})
	l, addr := listen(t, origin4)
	l.Close()
	start := time.Now()
	_, err := f.device.DialContext(within(t, 5*time.Second), "tcp", addr)
	if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(start) > time.Second {
		t.Errorf("dialing a closed port: %v after %v", err, time.Since(start))
	}
	if n := f.flows(t, "tcp", "refused"); n != 1 {
		t.Errorf("%v flows refused", n)
	}
}

func TestForwardUnreachable(t *testing.T) {
	f := newFixture(t, netstack.ForwarderConfig{Dial: func(context.Context, string, netip.AddrPort) (net.Conn, error) {
		return nil, syscall.EHOSTUNREACH
	}})
	if _, err := f.device.DialContext(within(t, 5*time.Second), "tcp", netip.AddrPortFrom(origin4, 80)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialing: %v", err)
	}
	if n := f.flows(t, "tcp", "unreachable"); n != 1 {
		t.Errorf("%v flows unreachable", n)
	}
}

// The device's connection stands only when the origin's does. Meanwhile the
// limit of one source holds.
func TestForwardDialsFirst(t *testing.T) {
	defer goleak.VerifyNone(t)
	release, dialed := make(chan struct{}), make(chan netip.AddrPort, 10)
	f := newFixture(t, netstack.ForwarderConfig{MaxPerSource: 2, Dial: func(ctx context.Context, network string, dst netip.AddrPort) (net.Conn, error) {
		dialed <- dst
		select {
		case <-release:
			return onLoopback(ctx, network, dst)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}})
	l, addr := listen(t, origin4)
	go echo(l)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			c, err := f.device.DialContext(within(t, 20*time.Second), "tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			roundTrip(t, c, 1000)
			c.Close()
		})
	}
	for range 2 {
		if got := <-dialed; got != addr {
			t.Errorf("dialed %v, want %v", got, addr)
		}
	}
	eventually(t, "the third to be over the limit", func() bool { return f.flows(t, "tcp", "over_limit") > 0 })
	if n := f.flows(t, "tcp", "opened"); n != 0 {
		t.Errorf("%v flows opened before the origin answered", n)
	}
	close(release)
	wg.Wait() // the third comes again by itself
	l.Close()
	f.device.Close()
	f.fwd.Close()
}

// Close ends dials, half-open handshakes, connections and datagram flows.
func TestForwardCloseLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t)
	dialing := make(chan struct{}, 1)
	f := newFixture(t, netstack.ForwarderConfig{
		Dial: func(ctx context.Context, network string, dst netip.AddrPort) (net.Conn, error) {
			if dst.Port() == 9 {
				dialing <- struct{}{}
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return onLoopback(ctx, network, dst)
		},
		Ping: func(ctx context.Context, _ netip.Addr) error { <-ctx.Done(); return ctx.Err() },
	})
	f.connect(t)
	go f.device.DialContext(within(t, 20*time.Second), "tcp", netip.AddrPortFrom(origin4, 9))
	<-dialing
	u, addr := udpEcho(t)
	if _, err := exchange(t, f.device, addr, "hello"); err != nil {
		t.Error(err)
	}
	f.fwd.Inject(echoRequest(device4, origin4, "x"))
	// A handshake whose last packet never comes: a raw SYN.
	l, half := listen(t, origin4)
	f.fwd.Inject(syn(device4, half))
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ran <- f.fwd.Run(ctx) }()
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	f.fwd.Close()
	c.Close()
	l.Close()
	u.Close()
	f.device.Close()
	if all, err := f.reg.Gather(); err != nil || len(all) != 0 {
		t.Errorf("%d metrics remain, %v", len(all), err)
	}
}

// syn is a bare SYN from port 1000 of a device that has no such connection.
func syn(src netip.Addr, dst netip.AddrPort) []byte {
	b := make([]byte, 40)
	b[0], b[8], b[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(b[2:], 40)
	copy(b[12:], netip.MustParseAddr("100.72.1.99").AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^sum(b[:20]))
	binary.BigEndian.PutUint16(b[20:], 1000)
	binary.BigEndian.PutUint16(b[22:], dst.Port())
	b[32], b[33], b[34] = 5<<4, 2, 0xff
	pseudo := append(bytes.Clone(b[12:20]), 0, 6, 0, 20)
	binary.BigEndian.PutUint16(b[36:], ^sum(append(pseudo, b[20:]...)))
	return b
}

// sum is the Internet checksum, not complemented.
func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i]) << 8
		if i+1 < len(b) {
			s += uint32(b[i+1])
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func udpEcho(t testing.TB) (net.PacketConn, netip.AddrPort) {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, err = pc.WriteTo(buf[:n], from)
			if errors.Is(err, net.ErrClosed) {
				return // the test is over
			}
			if err != nil {
				t.Error(err)
			}
		}
	}()
	return pc, netip.AddrPortFrom(origin4, pc.LocalAddr().(*net.UDPAddr).AddrPort().Port())
}

// exchange sends one datagram from a new port and returns the answer.
func exchange(t testing.TB, s *netstack.Stack, addr netip.AddrPort, text string) (string, error) {
	t.Helper()
	c, err := s.DialContext(t.Context(), "udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte(text)); err != nil {
		return "", err
	}
	buf := make([]byte, 2000)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

func TestForwardUDP(t *testing.T) {
	defer goleak.VerifyNone(t)
	f := newFixture(t, netstack.ForwarderConfig{UDPIdle: 50 * time.Millisecond, MaxUDP: 1})
	u, addr := udpEcho(t)
	if got, err := exchange(t, f.device, addr, "hello"); got != "hello" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	// A flow that is silent ends, and then there is room for the next one.
	eventually(t, "the flow to end", func() bool {
		c, err := f.device.DialContext(t.Context(), "udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		before := f.flows(t, "udp", "opened")
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		return before == 1 && f.flows(t, "udp", "opened") == 2 || before > 1
	})
	u.Close()
	f.device.Close()
	f.fwd.Close()
}

func TestForwardUDPRefused(t *testing.T) {
	for _, a := range []netip.Addr{origin4, origin6} {
		f := newFixture(t, netstack.ForwarderConfig{})
		u, addr := udpEcho(t)
		u.Close()
		addr = netip.AddrPortFrom(a, addr.Port())
		c, err := f.device.DialContext(t.Context(), "udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		p := f.icmp(t)
		// gVisor wakes no reader for it, but tells the next one.
		eventually(t, "the device to know", func() bool {
			c.SetDeadline(time.Now().Add(10 * time.Millisecond))
			_, err := c.Read(make([]byte, 1))
			return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
		})
		c.Close()
		at, want := 20, "3/3"
		if a.Is6() {
			at, want = 40, "1/4"
		}
		if got := fmt.Sprintf("%d/%d", p[at], p[at+1]); got != want {
			t.Errorf("%v: ICMP %s, want %s", a, got, want)
		}
	}
}

// echoRequest builds an echo request with a right checksum.
func echoRequest(src, dst netip.Addr, text string) []byte {
	body := append([]byte{8, 0, 0, 0, 0x12, 0x34, 0, 1}, text...)
	var b []byte
	var pseudo []byte
	if src.Is4() {
		b = make([]byte, 20)
		b[0], b[8], b[9] = 0x45, 60, 1
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(body)))
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(b[10:], ^sum(b))
	} else {
		body[0] = 128
		b = make([]byte, 40)
		b[0], b[6], b[7] = 0x60, 58, 60
		binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
		pseudo = append(bytes.Clone(b[8:40]), 0, 0, 0, byte(len(body)), 0, 0, 0, 58)
	}
	binary.BigEndian.PutUint16(body[2:], ^sum(append(pseudo, body...)))
	return append(b, body...)
}

func TestForwardPing(t *testing.T) {
	for _, c := range []struct {
		name string
		ping func(context.Context, netip.Addr) error
		v4   string
		v6   string
	}{
		{"answered", func(context.Context, netip.Addr) error { return nil }, "0/0", "129/0"},
		{"no ping here", nil, "3/13", "1/1"},
		{"not allowed", func(context.Context, netip.Addr) error { return os.ErrPermission }, "3/13", "1/1"},
		{"unreachable", func(context.Context, netip.Addr) error { return syscall.ENETUNREACH }, "3/1", "1/3"},
	} {
		f := newFixture(t, netstack.ForwarderConfig{Ping: c.ping})
		for _, way := range []struct {
			src, dst netip.Addr
			want     string
			at       int
		}{{device4, origin4, c.v4, 20}, {device6, origin6, c.v6, 40}} {
			request := echoRequest(way.src, way.dst, "hello")
			f.fwd.Inject(request)
			p := f.icmp(t)
			if got := fmt.Sprintf("%d/%d", p[way.at], p[way.at+1]); got != way.want {
				t.Errorf("%s: %v answers %s, want %s", c.name, way.dst, got, way.want)
			}
			if bad := badChecksum(p); bad != "" {
				t.Errorf("%s: %v: %s", c.name, way.dst, bad)
			}
			src, _ := netip.AddrFromSlice(p[way.at-2*len(way.src.AsSlice()) : way.at-len(way.src.AsSlice())])
			if src != way.dst {
				t.Errorf("%s: from %v, want %v", c.name, src, way.dst)
			}
			if c.name == "answered" && string(p[way.at+8:]) != "hello" {
				t.Errorf("%v answered %q", way.dst, p[way.at+8:])
			}
		}
	}
}

// badChecksum says what is wrong with a packet of ICMP.
func badChecksum(p []byte) string {
	if p[0]>>4 == 4 {
		if sum(p[:20]) != 0xffff {
			return "wrong IP checksum"
		}
		if sum(p[20:]) != 0xffff {
			return "wrong ICMP checksum"
		}
		return ""
	}
	n := len(p) - 40
	if sum(append(append(bytes.Clone(p[8:40]), 0, 0, byte(n>>8), byte(n), 0, 0, 0, 58), p[40:]...)) != 0xffff {
		return "wrong ICMPv6 checksum"
	}
	return ""
}

func FuzzInject(f *testing.F) {
	f.Add(echoRequest(device4, origin4, "hello"))
	f.Add(echoRequest(device6, origin6, ""))
	f.Add(syn(device4, netip.AddrPortFrom(origin4, 80)))
	fwd, err := netstack.NewForwarder(netstack.ForwarderConfig{
		MTU: 1380,
		Out: func(p []byte) {
			if len(p) < 20 {
				f.Errorf("a packet of %d bytes", len(p))
			}
		},
		Dial: func(context.Context, string, netip.AddrPort) (net.Conn, error) { return nil, syscall.ECONNREFUSED },
		Ping: func(context.Context, netip.Addr) error { return nil },
	})
	if err != nil {
		f.Fatal(err)
	}
	defer fwd.Close()
	f.Fuzz(func(t *testing.T, p []byte) { fwd.Inject(p) })
}
