//go:build unix

package upstream

import (
	"context"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/miekg/dns"
)

// echo answers every question over UDP with itself and one record, as fast as
// it can be done.
func echo(t testing.TB) string {
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	pc.SetReadBuffer(4 << 20)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			pc.WriteToUDPAddrPort(answered(buf[:n]), from)
		}
	})
	t.Cleanup(func() {
		pc.Close()
		wg.Wait()
	})
	return pc.LocalAddr().String()
}

// answered makes a query a reply: an address in front of the OPT record.
func answered(msg []byte) []byte {
	end, _ := skipName(msg, headerLen)
	end += 4
	opt := string(msg[end:])
	msg[2], msg[3], msg[7] = msg[2]|0x80, 0x80, 1
	msg = append(msg[:end], 0xc0, headerLen, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1)
	return append(msg, opt...)
}

// running runs a group until the test ends.
func running(t testing.TB, g *Group) *Group {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	for !g.life.on.Load() {
		g.rouse()
	}
	return g
}

var www = Question{Name: "\x03www\x07example\x03com\x00", Type: dns.TypeA, Class: dns.ClassINET}

func TestExchangeUDPAllocates(t *testing.T) {
	g := running(t, newGroup(t, Config{}, echo(t)))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ask := func() {
		if _, err := g.Exchange(ctx, www); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 * ports {
		ask()
	}
	most := 2.0
	if raced {
		most *= 2 // a sync.Pool then drops a quarter of what is put back
	}
	if n := testing.AllocsPerRun(200, ask); n > most {
		t.Errorf("%v allocations for a question", n)
	}
}

// cpu reports what the process takes of the processors for a question, that of
// the echo with it.
func cpu(b *testing.B) (report func()) {
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}

func BenchmarkExchangeUDP(b *testing.B) {
	g := running(b, newGroup(b, Config{}, echo(b)))
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.ReportAllocs()
	defer cpu(b)()
	for b.Loop() {
		if _, err := g.Exchange(ctx, www); err != nil {
			b.Fatal(err)
		}
	}
}

// Many questions at a time, all different.
func BenchmarkExchangeUDPParallel(b *testing.B) {
	g := running(b, newGroup(b, Config{}, echo(b)))
	b.ReportAllocs()
	b.SetParallelism(64)
	defer cpu(b)()
	b.RunParallel(func(pb *testing.PB) {
		q := www
		for i := 0; pb.Next(); i++ {
			q.Type = uint16(1000 + i%30000)
			if _, err := g.Exchange(b.Context(), q); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	sent := appendQuery(nil, &www, 1, manner{edns: true, mixed: true})
	reply := answered(append([]byte(nil), sent...))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := check(reply, sent, &www, false); err != nil {
			b.Fatal(err)
		}
	}
}
