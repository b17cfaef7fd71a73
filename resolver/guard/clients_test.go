package guard

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func clients(t testing.TB, l ClientLimits) *Clients {
	t.Helper()
	c, err := NewClients(l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func address(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

func TestDefaultsLeaveAnOfficeInPeace(t *testing.T) {
	c, office := clients(t, ClientLimits{}), netip.MustParseAddr("203.0.113.9")
	for i := range 200 { // in flight at once
		if !c.Take(office, 0) {
			t.Fatalf("question %d of 200 at once was refused", i)
		}
	}
	r := rand.New(rand.NewPCG(1, 1))
	for now := int64(0); now < int64(time.Minute); now += r.Int64N(int64(2 * time.Second / 800)) { // 800 a second
		if !c.Take(office, now) {
			t.Fatalf("refused at %v", time.Duration(now))
		}
	}
}

// One who floods gets its rate, and its neighbour all that it asks.
func TestFairness(t *testing.T) {
	c := clients(t, ClientLimits{})
	loud, quiet := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	granted := 0
	for i := range 1_000_000 { // 100,000 a second for 10 s
		now := int64(i) * 10_000
		if c.Take(loud, now) {
			granted++
		}
		if i%1000 == 0 && !c.Take(quiet, now) {
			t.Fatalf("the neighbour was refused at %v", time.Duration(now))
		}
	}
	if granted < 11_900 || granted > 12_050 {
		t.Errorf("%d granted, want 2,000 and 1,000 a second", granted)
	}
	if s := c.Stats(); s.OverClient != uint64(1_000_000-granted) || s.OverPrefix != 0 || s.Displaced != 0 {
		t.Errorf("stats %+v", s)
	}
}

// Who invents ten million sources denies honest clients nothing, does not get
// those who are over their limit forgotten, and makes no memory grow.
func TestInventedSources(t *testing.T) {
	sources := 10_000_000
	if testing.Short() {
		sources = 1_000_000
	}
	// The smallest table, so that a million a second are more than it holds: in
	// one of the default size a bucket leaks out before its place is needed.
	c, r := clients(t, ClientLimits{Entries: 1 << 10}), rand.New(rand.NewPCG(1, 2))
	abuser, granted, asked := netip.MustParseAddr("198.51.100.1"), 0, 0
	spoof := func(i int) {
		now := int64(i) * 1000 // a million a second
		c.Take(address(r.Uint32()&0x7fffffff), now)
		if i%100 == 0 && !c.Take(address(0xc0000200+uint32(i/100)%200*256), now) { // 200 clients, 50 a second each
			t.Fatalf("an honest client was refused at %v", time.Duration(now))
		}
		if i%100 == 50 {
			if asked++; c.Take(abuser, now) {
				granted++
			}
		}
	}
	next := 0
	if n := testing.AllocsPerRun(1, func() {
		for ; next < sources/2; next++ {
			spoof(next)
		}
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
	for ; next < sources; next++ {
		spoof(next)
	}
	if most := 2000 + 1000*sources/1_000_000*102/100; granted > most {
		t.Errorf("the abuser got %d of %d, want at most %d", granted, asked, most)
	}
	if c.Stats().Displaced == 0 {
		t.Error("nobody was displaced: this tests nothing")
	}
}

// Forged questions of a network, or in the name of a client, take nothing from
// those that are proven.
func TestProvenAreCountedApart(t *testing.T) {
	c, victim := clients(t, ClientLimits{}), netip.MustParseAddr("192.0.2.1")
	for i := range uint32(100_000) {
		c.Take(victim, 0)
		c.Take(address(0xc0000200+i%256), 0)
	}
	if c.Take(victim, 0) || !c.TakeProven(victim, 0) {
		t.Error("want the forged refused and the proven answered")
	}
	if s := c.Stats(); s.OverClient == 0 || s.OverPrefix == 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestPrefixes(t *testing.T) {
	c := clients(t, ClientLimits{PerClient: Limit{1, 1}, PerPrefix: Limit{1, 2}, Exempt: Loopback()})
	for _, q := range []struct {
		addr string
		want bool
	}{
		{"192.0.2.1", true}, {"192.0.2.1", false}, {"::ffff:192.0.2.1", false}, {"192.0.2.2", true}, {"192.0.2.3", false}, {"192.0.3.1", true},
		{"2001:db8::1", true}, {"2001:db8::2", false}, {"2001:db8:0:1::1", true}, {"2001:db8:0:2::1", false}, {"2001:db8:0:100::1", true},
		{"127.0.0.1", true}, {"127.0.0.1", true}, {"::1", true}, {"::1", true},
	} {
		if got := c.Take(netip.MustParseAddr(q.addr), 5); got != q.want {
			t.Errorf("%s: %v, want %v", q.addr, got, q.want)
		}
	}
	none := clients(t, ClientLimits{PerClient: Limit{Rate: -1}, PerPrefix: Limit{Rate: -1}})
	for range 100_000 {
		if !none.Take(netip.MustParseAddr("192.0.2.1"), 0) {
			t.Fatal("refused without a limit")
		}
	}
}

// However many ask at once for one client, exactly its burst is granted.
func TestConcurrentTakes(t *testing.T) {
	c, a := clients(t, ClientLimits{}), netip.MustParseAddr("192.0.2.1")
	var granted atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if c.Take(a, 7) {
					granted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := granted.Load(); n != 2000 {
		t.Errorf("%d granted, want 2000", n)
	}
}

func TestTakeDoesNotAllocate(t *testing.T) {
	c, now := clients(t, ClientLimits{Exempt: Loopback()}), int64(0)
	a := netip.MustParseAddr("2001:db8::1")
	if n := testing.AllocsPerRun(1000, func() { now += 1000; c.Take(a, now); c.TakeProven(a, now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTake(b *testing.B) {
	for _, way := range []struct {
		name    string
		sources uint32
	}{{"one", 1}, {"10000", 10_000}, {"spoofed", 1 << 31}} {
		b.Run(way.name, func(b *testing.B) {
			c, now, n := clients(b, ClientLimits{Exempt: Loopback()}), int64(0), uint32(0)
			b.ReportAllocs()
			for b.Loop() {
				now += 10_000
				n = (n*1664525 + 1013904223) % way.sources
				c.Take(address(n), now)
			}
		})
	}
}
