package netstack_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starferry/starferry/tunnel/netstack"
)

var (
	device4, device6 = netip.MustParseAddr("100.72.1.10"), netip.MustParseAddr("fd5f:57a6:7272:1::10")
	origin4, origin6 = netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")
)

func newStack(t testing.TB, out func([]byte), addrs ...netip.Addr) *netstack.Stack {
	t.Helper()
	s, err := netstack.New(netstack.Config{Addrs: addrs, MTU: 1380, Out: out})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// pair joins two stacks directly, and sees that they talk of nothing that
// nobody asked for: no neighbours, routers or multicast groups.
func pair(t testing.TB) (device, origin *netstack.Stack) {
	to := func(far **netstack.Stack) func([]byte) {
		return func(p []byte) {
			if p[0]>>4 == 6 && p[6] != 6 && p[6] != 17 {
				t.Errorf("a packet of itself: %x", p)
			}
			(*far).Inject(p)
		}
	}
	device = newStack(t, to(&origin), device4, device6)
	origin = newStack(t, to(&device), origin4, origin6)
	return device, origin
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// echo serves a listener until it is closed, and returns what comes.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c) // the client sees what went wrong
		}()
	}
}

// roundTrip sends bytes through an echo service and ends its direction.
func roundTrip(t testing.TB, c net.Conn, size int) {
	t.Helper()
	sent := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range sent {
		sent[i] = byte(r.Uint32())
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Write(sent); err != nil {
			t.Error(err)
		}
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(c)
	wg.Wait()
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
	}
}

func TestTCP(t *testing.T) {
	defer goleak.VerifyNone(t)
	device, origin := pair(t)
	defer device.Close()
	defer origin.Close()
	for _, a := range []netip.Addr{origin4, origin6} {
		addr := netip.AddrPortFrom(a, 80)
		l, err := origin.ListenTCP(addr)
		if err != nil {
			t.Fatal(err)
		}
		go echo(l)
		c, err := device.DialContext(within(t, 5*time.Second), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, c, 3<<20)
		c.Close()
		l.Close()

		_, err = device.DialContext(within(t, 5*time.Second), "tcp", netip.AddrPortFrom(a, 81))
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dialing a closed port: %v", err)
		}
	}
}

func TestUDP(t *testing.T) {
	defer goleak.VerifyNone(t)
	device, origin := pair(t)
	defer device.Close()
	defer origin.Close()
	for _, a := range []netip.Addr{origin4, origin6} {
		addr := netip.AddrPortFrom(a, 53)
		pc, err := origin.ListenUDP(addr)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			buf := make([]byte, 2000)
			n, from, err := pc.ReadFrom(buf)
			if err == nil {
				_, err = pc.WriteTo(buf[:n], from)
			}
			if err != nil {
				t.Error(err)
			}
		}()
		c, err := device.DialContext(t.Context(), "udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 100)
		if _, err := c.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "question" {
			t.Errorf("%q, %v", buf[:n], err)
		}
		c.Close()
		pc.Close()
	}
}

// The same by way of WireGuard's interface, in batches.
func TestTUN(t *testing.T) {
	defer goleak.VerifyNone(t)
	device, origin := newStack(t, nil, device4), newStack(t, nil, origin4)
	a, b := device.TUN(), origin.TUN()
	if a.BatchSize() != 128 {
		t.Errorf("batches of %d", a.BatchSize())
	}
	var wg sync.WaitGroup
	for _, way := range [][2]interface {
		Read([][]byte, []int, int) (int, error)
		Write([][]byte, int) (int, error)
	}{{a, b}, {b, a}} {
		wg.Go(func() {
			bufs, sizes, full := make([][]byte, 128), make([]int, 128), make([][]byte, 128)
			for i := range bufs {
				full[i] = make([]byte, 2000)
			}
			for {
				n, err := way[0].Read(full, sizes, 16)
				if err != nil {
					return
				}
				for i := range n {
					bufs[i] = full[i][:16+sizes[i]]
				}
				if _, err := way[1].Write(bufs[:n], 16); err != nil {
					t.Error(err)
				}
			}
		})
	}
	addr := netip.AddrPortFrom(origin4, 80)
	l, err := origin.ListenTCP(addr)
	if err != nil {
		t.Fatal(err)
	}
	go echo(l)
	c, err := device.DialContext(within(t, 5*time.Second), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c, 3<<20)
	for range 2 {
		if err := errors.Join(a.Close(), b.Close()); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	l.Close()
	device.Close()
	origin.Close()
}

func TestNewRefuses(t *testing.T) {
	for _, cfg := range []netstack.Config{
		{MTU: 1279},
		{MTU: 1380, Addrs: []netip.Addr{{}}},
		{MTU: 1380, Addrs: []netip.Addr{netip.MustParseAddr("::ffff:1.2.3.4")}},
	} {
		if _, err := netstack.New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
	s := newStack(t, nil, device4)
	if _, err := s.DialContext(t.Context(), "sctp", netip.AddrPortFrom(origin4, 1)); err == nil || !strings.Contains(err.Error(), "sctp") {
		t.Errorf("dialing sctp: %v", err)
	}
}

// A delayed link: packets come out after a while, in order.
type delayed struct {
	queue chan arrival
	to    func([]byte)
}

type arrival struct {
	due time.Time
	pkt []byte
}

func (d *delayed) run() {
	for a := range d.queue {
		<-time.After(time.Until(a.due))
		d.to(a.pkt)
	}
}

// BenchmarkLongLink sends over a link of 150 ms, 64 MB at a time, slow start
// included.
func BenchmarkLongLink(b *testing.B) {
	var device, origin *netstack.Stack
	there := &delayed{make(chan arrival, 1<<16), func(p []byte) { origin.Inject(p) }}
	back := &delayed{make(chan arrival, 1<<16), func(p []byte) { device.Inject(p) }}
	out := func(d *delayed) func([]byte) {
		return func(p []byte) { d.queue <- arrival{time.Now().Add(75 * time.Millisecond), bytes.Clone(p)} }
	}
	device, origin = newStack(b, out(there), device4), newStack(b, out(back), origin4)
	go there.run()
	go back.run()
	benchmarkUpload(b, device, origin, 64<<20)
}

// BenchmarkDirect is the cost of both stacks alone.
func BenchmarkDirect(b *testing.B) {
	device, origin := pair(b)
	benchmarkUpload(b, device, origin, 64<<20)
}

func benchmarkUpload(b *testing.B, device, origin *netstack.Stack, size int64) {
	addr := netip.AddrPortFrom(origin4, 80)
	l, err := origin.ListenTCP(addr)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	b.SetBytes(size)
	for b.Loop() {
		go func() {
			c, err := device.DialContext(context.Background(), "tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			chunk := make([]byte, 1<<16)
			for range size / int64(len(chunk)) {
				if _, err := c.Write(chunk); err != nil {
					b.Error(err)
					return
				}
			}
		}()
		c, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, c); n != size || err != nil {
			b.Fatalf("%d bytes, %v", n, err)
		}
		c.Close()
	}
}
