package simnet_test

import (
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/starferry/starferry/internal/simnet"
)

var (
	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("192.0.2.2")
	addrC = netip.MustParseAddr("192.0.2.3")
)

// A got is a datagram with the moment of its arrival.
type got struct {
	at   time.Duration
	from netip.AddrPort
	text string
}

// collect opens a socket and returns what arrives, read with all().
func collect(t *testing.T, h *simnet.Host, port uint16) (b *simnet.Bind, all func() []got) {
	t.Helper()
	b = h.Bind()
	fns, _, err := b.Open(port)
	if err != nil {
		t.Fatal(err)
	}
	var list []got
	start := time.Now()
	go func() {
		bufs, sizes, eps := [][]byte{make([]byte, 100)}, []int{0}, []conn.Endpoint{nil}
		for {
			if _, err := fns[0](bufs, sizes, eps); err != nil {
				return
			}
			list = append(list, got{time.Since(start), eps[0].(*conn.StdNetEndpoint).AddrPort, string(bufs[0][:sizes[0]])})
		}
	}()
	t.Cleanup(func() { b.Close() })
	return b, func() []got { synctest.Wait(); return list }
}

func to(addr netip.Addr, port uint16) conn.Endpoint {
	return &conn.StdNetEndpoint{AddrPort: netip.AddrPortFrom(addr, port)}
}

func send(t *testing.T, b *simnet.Bind, ep conn.Endpoint, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if err := b.Send([][]byte{[]byte(s)}, ep); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDelayAndOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(1, simnet.Link{Delay: 90 * time.Millisecond})
		a, b := n.Host("a", addrA), n.Host("b", addrB)
		sa, _ := collect(t, a, 1)
		_, atB := collect(t, b, 2)
		send(t, sa, to(addrB, 2), "one", "two", "three")
		n.Connect(a, b, simnet.Link{Delay: 10 * time.Millisecond})
		send(t, sa, to(addrB, 2), "four")
		time.Sleep(time.Second)
		from := netip.AddrPortFrom(addrA, 1)
		want := []got{{90e6, from, "one"}, {90e6, from, "two"}, {90e6, from, "three"}, {90e6, from, "four"}}
		if !slices.Equal(atB(), want) {
			t.Errorf("arrived %v, want %v", atB(), want)
		}
	})
}

func TestDownMoveCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(1, simnet.Link{Delay: 10 * time.Millisecond})
		a, b := n.Host("a", addrA), n.Host("b", addrB)
		sa, _ := collect(t, a, 1)
		_, atB := collect(t, b, 2)
		step := func(text string, before func()) {
			before()
			send(t, sa, to(addrB, 2), text)
			time.Sleep(time.Second)
		}
		step("down", b.Down)
		step("up", b.Up)
		step("cut", func() { n.OneWay(a, b, simnet.Link{Cut: true}) })
		step("other way cut", func() { n.OneWay(a, b, simnet.Link{}); n.OneWay(b, a, simnet.Link{Cut: true}) })
		step("from elsewhere", func() { a.Move(addrC) })
		step("sender down", a.Down)
		step("to an old address", func() { a.Up(); b.Move(addrA) })
		var texts []string
		for _, g := range atB() {
			texts = append(texts, g.text+" "+g.from.Addr().String())
		}
		want := []string{"up 192.0.2.1", "other way cut 192.0.2.1", "from elsewhere 192.0.2.3"}
		if !slices.Equal(texts, want) {
			t.Errorf("arrived %q, want %q", texts, want)
		}
		if got, want := n.Stats(), (simnet.Stats{Sent: 6, Delivered: 3, Lost: 3}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

func TestLossIsSeeded(t *testing.T) {
	run := func(seed uint64) (texts []string) {
		synctest.Test(t, func(t *testing.T) {
			n := simnet.New(seed, simnet.Link{Loss: 0.3})
			sa, _ := collect(t, n.Host("a", addrA), 1)
			_, atB := collect(t, n.Host("b", addrB), 2)
			for i := range 1000 {
				send(t, sa, to(addrB, 2), string(rune('a'+i%26)))
			}
			time.Sleep(time.Second)
			for _, g := range atB() {
				texts = append(texts, g.text)
			}
		})
		return texts
	}
	one, again, other := run(1), run(1), run(2)
	if !slices.Equal(one, again) || slices.Equal(one, other) {
		t.Error("what is lost does not follow from the seed alone")
	}
	if len(one) < 650 || len(one) > 750 {
		t.Errorf("%d of 1000 arrived at a loss of 30 %%", len(one))
	}
}

func TestPorts(t *testing.T) {
	n := simnet.New(1, simnet.Link{})
	h := n.Host("a", addrA)
	one, two := h.Bind(), h.Bind()
	if _, port, err := one.Open(0); err != nil || port == 0 {
		t.Errorf("port %d, %v", port, err)
	}
	if _, _, err := two.Open(49152); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a taken port: %v", err)
	}
	if err := one.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := two.Open(49152); err != nil {
		t.Error(err)
	}
	if err := two.Send(nil, to(netip.MustParseAddr("2001:db8::1"), 1)); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("sending to a family without an address: %v", err)
	}
}
