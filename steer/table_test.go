package steer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starferry/starferry/policy"
)

var start = time.Unix(1_800_000_000, 0)

// opened opens a table with a pool of each family that is not soon exhausted.
func opened(t testing.TB, change func(*Config)) *Table {
	t.Helper()
	cfg := Config{
		Path: filepath.Join(folder(t), "leases"),
		V4:   netip.MustParsePrefix("198.19.0.0/18"), V6: netip.MustParsePrefix("2001:2:0:1000::/52"),
	}
	if change != nil {
		change(&cfg)
	}
	table, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

func lease(t testing.TB, table *Table, name string, v6 bool) *Lease {
	t.Helper()
	l, err := table.Lease(name, v6, "", start)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLeases(t *testing.T) {
	table := opened(t, nil)
	a4, a6 := lease(t, table, "www.example.cn", false), lease(t, table, "www.example.cn", true)
	if a4.Addr() != netip.MustParseAddr("198.19.0.1") || a6.Addr() != netip.MustParseAddr("2001:2:0:1000::1") || a4.V6() || !a6.V6() {
		t.Errorf("%v %v", a4.Addr(), a6.Addr())
	}
	if again := lease(t, table, "www.example.cn", false); again != a4 {
		t.Errorf("a second lease: %v", again.Addr())
	}
	if l, ok := table.ByAddr(a6.Addr()); !ok || l != a6 || l.Name() != "www.example.cn" {
		t.Errorf("ByAddr: %v", l)
	}
	if l, ok := table.Peek("www.example.cn", false); !ok || l != a4 {
		t.Errorf("Peek: %v", l)
	}
	if _, ok := table.Peek("other.example.cn", false); ok {
		t.Error("a name that nobody asked for has a lease")
	}
	for _, a := range []string{"198.19.0.0", "198.19.0.2", "198.18.0.1", "198.19.64.1", "2001:2:0:1000::2", "2001:2:0:2000::1", "::198.19.0.1", "::ffff:198.19.0.1"} {
		if l, ok := table.ByAddr(netip.MustParseAddr(a)); ok {
			t.Errorf("%s is %s", a, l.Name())
		}
	}
	if _, ok := table.ByAddr(netip.Addr{}); ok {
		t.Error("no address has a name")
	}
	if _, err := table.Lease("", false, "", start); err == nil {
		t.Error("no name has a lease")
	}
	if v4, v6 := table.Stats(); v4.Used != 1 || v6.Used != 1 || v4.Capacity != 64*254 || v6.Capacity != 1<<20-1 {
		t.Errorf("%+v %+v", v4, v6)
	}
}

func TestPoolAddresses(t *testing.T) {
	for prefix, want := range map[string]int{
		"198.19.0.0/16": 256 * 254, "198.19.0.0/24": 254, "198.19.0.0/30": 3, "198.19.0.252/30": 2, "198.19.0.16/31": 1,
		"2001:2::/48": 1<<20 - 1, "2001:2::/112": 1<<16 - 1, "2001:2::a0/124": 15, "2001:2::/1": 1<<20 - 1,
	} {
		p, err := newPool(netip.MustParsePrefix(prefix))
		if err != nil || p.capacity != want {
			t.Errorf("%s: %v, want %d addresses", prefix, err, want)
			continue
		}
		got := 0
		for {
			i, ok := p.take()
			if !ok {
				break
			}
			got++
			a := p.addr(i)
			if back, ok := p.index(a); !ok || back != i || !p.prefix.Contains(a) {
				t.Fatalf("%s: %v has index %d, then %d", prefix, a, i, back)
			}
			if b := a.As16(); a.Is4() && (b[15] == 0 || b[15] == 255) {
				t.Fatalf("%s: gives out %v", prefix, a)
			}
		}
		if got != want {
			t.Errorf("%s: gives out %d, want %d", prefix, got, want)
		}
	}
	for _, prefix := range []string{"198.19.0.0/32", "2001:2::/128", "0.0.0.0/0"} {
		if _, err := newPool(netip.MustParsePrefix(prefix)); err == nil {
			t.Errorf("%s is a pool", prefix)
		}
	}
}

func TestConfig(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("198.19.0.0/18"), netip.MustParsePrefix("2001:2::/52")
	path := filepath.Join(t.TempDir(), "leases")
	for _, cfg := range []Config{{}, {Path: path}, {V4: v4}, {Path: path, V4: v6}, {Path: path, V6: v4}, {Path: "/no/such/folder/leases", V4: v4}} {
		if _, err := Open(cfg); err == nil {
			t.Errorf("%+v opens", cfg)
		}
	}
	table := opened(t, func(c *Config) { c.V6 = netip.Prefix{} })
	if _, err := table.Lease("a.test", true, "", start); !errors.Is(err, ErrNoPool) {
		t.Errorf("without a pool: %v", err)
	}
	if _, ok := table.ByAddr(netip.MustParseAddr("2001:2::1")); ok {
		t.Error("without a pool there is a lease")
	}
	if err := errors.Join(table.Close(), table.Close()); err != nil {
		t.Error(err)
	}
	if _, err := table.Lease("a.test", false, "", start); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestBudget(t *testing.T) {
	table := opened(t, func(c *Config) { c.Budget = 3 })
	ask := func(n int, by string, now time.Time) error {
		_, err := table.Lease(fmt.Sprintf("h%d.%s.test", n, by), false, by, now)
		return err
	}
	for i := range 3 {
		if err := ask(i, "alice", start); err != nil {
			t.Fatal(err)
		}
	}
	if err := ask(3, "alice", start.Add(59*time.Minute)); !errors.Is(err, ErrBudget) {
		t.Errorf("a fourth name gives %v", err)
	}
	if err := errors.Join(ask(0, "alice", start), ask(0, "bob", start), ask(3, "alice", start.Add(time.Hour))); err != nil {
		t.Error(err)
	}
	for i := range 10 {
		lease(t, table, fmt.Sprintf("anybody%d.test", i), false)
	}
}

func TestFullAndPressure(t *testing.T) {
	table := opened(t, func(c *Config) { c.V4, c.Budget = netip.MustParsePrefix("198.19.0.0/27"), -1 })
	at := func(d time.Duration, name string) error {
		_, err := table.Lease(name, false, "x", start.Add(d))
		return err
	}
	for i := range 31 {
		if err := at(0, fmt.Sprintf("h%d.test", i)); err != nil {
			t.Fatal(err)
		}
	}
	l, _ := table.Peek("h7.test", false)
	l.Touch(start)
	if err := at(time.Hour, "more.test"); !errors.Is(err, ErrFull) {
		t.Errorf("a full pool gives %v", err)
	}
	// After two hours those that carried nothing are laid to rest, after one more they are free.
	if err := at(2*time.Hour+time.Second, "more.test"); !errors.Is(err, ErrFull) {
		t.Errorf("resting addresses give %v", err)
	}
	if v4, _ := table.Stats(); v4.Resting != 30 {
		t.Errorf("%+v", v4)
	}
	if err := at(2*time.Hour+time.Minute, "h3.test"); err != nil {
		t.Errorf("a name does not get its address back: %v", err)
	}
	if err := at(3*time.Hour+time.Minute, "more.test"); err != nil {
		t.Error(err)
	}
	for _, n := range []string{"h7.test", "h3.test", "more.test"} {
		if _, ok := table.Peek(n, false); !ok {
			t.Errorf("%s has lost its lease", n)
		}
	}
	if v4, _ := table.Stats(); v4.Used != 3 {
		t.Errorf("%+v", v4)
	}
}

func TestHold(t *testing.T) {
	table := opened(t, func(c *Config) { c.Keep, c.Quarantine = 3*time.Hour, time.Hour })
	l := lease(t, table, "a.test", false)
	l.Release() // of nothing
	l.Hold()
	table.tend(start.Add(100 * time.Hour))
	if got, ok := table.ByAddr(l.Addr()); !ok || got != l {
		t.Fatal("a lease that a flow holds is gone")
	}
	l.Release()
	table.tend(start.Add(101 * time.Hour))
	if _, ok := table.ByAddr(l.Addr()); ok {
		t.Error("it does not rest")
	}
	l.Hold() // by who found it just before
	if _, ok := table.ByAddr(l.Addr()); !ok {
		t.Error("a flow took hold of it, and it is gone")
	}
	table.tend(start.Add(103 * time.Hour))
	if _, ok := table.Peek("a.test", false); !ok {
		t.Error("a flow took hold of it, and its address is free")
	}
	l.Release()
	table.tend(start.Add(104 * time.Hour))
	table.tend(start.Add(106 * time.Hour))
	if v4, _ := table.Stats(); v4.Used != 0 {
		t.Errorf("%+v", v4)
	}
}

func TestNexts(t *testing.T) {
	table := opened(t, nil)
	a, b := lease(t, table, "a.test", false), lease(t, table, "b.test", false)
	c1, c2 := netip.MustParseAddr("240.2.0.1"), netip.MustParseAddr("240.2.0.2")
	table.Learn(a, "cn-sha-1", Next{c1, 7, start})
	table.Learn(a, "cn-bjs-1", Next{c2, 8, start})
	table.Learn(b, "cn-bjs-1", Next{c1, 8, start})
	if n, ok := a.Next("cn-sha-1"); !ok || n != (Next{c1, 7, start}) || len(a.Nexts()) != 2 {
		t.Errorf("%v", a.Nexts())
	}
	for _, w := range []struct {
		node string
		addr netip.Addr
		want *Lease
	}{{"cn-sha-1", c1, a}, {"cn-bjs-1", c2, a}, {"cn-bjs-1", c1, b}, {"cn-sha-1", c2, nil}} {
		if l, _ := table.ByNext(w.node, w.addr); l != w.want {
			t.Errorf("%v of %s is %v", w.addr, w.node, l)
		}
	}
	table.Learn(a, "cn-sha-1", Next{c2, 7, start})
	if l, ok := table.ByNext("cn-sha-1", c1); ok {
		t.Errorf("an old label is still %s", l.Name())
	}
	table.Forget("cn-bjs-1")
	if _, ok := a.Next("cn-bjs-1"); ok || len(b.Nexts()) != 0 {
		t.Error("labels that were to be forgotten are known")
	}
	if _, ok := table.ByNext("cn-bjs-1", c1); ok {
		t.Error("a label that was to be forgotten is found")
	}
}

func TestRestart(t *testing.T) {
	var cfg Config
	table := opened(t, func(c *Config) { cfg = *c })
	l := lease(t, table, "www.example.cn", true)
	lease(t, table, "other.example.cn", false)
	facts := []policy.Hop{{Name: "www.example.cn"}, {Name: "cdn.example.cn", Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")}}}
	next := Next{netip.MustParseAddr("240.2.0.1"), 1<<63 + 5, start}
	table.SetFacts(l, facts)
	table.Learn(l, "cn-sha-1", next)
	l.Touch(start.Add(time.Hour))
	facts[1].Addrs[0] = netip.Addr{} // the table has its own copy
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Journal() != table.Journal() || again.Journal() == 0 {
		t.Errorf("journal %x, was %x", again.Journal(), table.Journal())
	}
	got, ok := again.ByNext("cn-sha-1", next.Addr)
	if !ok || got.Addr() != l.Addr() || got.Name() != "www.example.cn" || !got.carried.Load() || !got.LastUse().Equal(start.Add(time.Hour)) {
		t.Fatalf("%+v", got)
	}
	if !reflect.DeepEqual(got.Facts(), l.Facts()) || got.Facts()[1].Addrs[0] != netip.MustParseAddr("203.0.113.9") {
		t.Errorf("%v, want %v", got.Facts(), l.Facts())
	}
	if n, _ := got.Next("cn-sha-1"); n != next {
		t.Errorf("%v, want %v", n, next)
	}
	if l := lease(t, again, "new.example.cn", true); l.Addr() != netip.MustParseAddr("2001:2:0:1000::2") {
		t.Errorf("the next address is %v", l.Addr())
	}
}

// When a pool was moved, what does not lie in it is dropped, and the neighbours
// notice by the journal's id; once.
func TestMovedPool(t *testing.T) {
	table := opened(t, nil)
	lease(t, table, "a.test", false)
	lease(t, table, "a.test", true)
	cfg, id := table.cfg, table.Journal()
	cfg.V4 = netip.MustParsePrefix("203.0.113.0/24")
	for _, changes := range []bool{true, false} {
		table.Close()
		var err error
		if table, err = Open(cfg); err != nil {
			t.Fatal(err)
		}
		if (table.Journal() != id) != changes {
			t.Errorf("the id was %x, is %x", id, table.Journal())
		}
		id = table.Journal()
		if _, ok := table.Peek("a.test", false); ok {
			t.Error("a lease outside of the pool is there")
		}
		if _, ok := table.Peek("a.test", true); !ok {
			t.Error("a lease inside of the pool is gone")
		}
	}
	table.Close()
}

func TestConcurrentUse(t *testing.T) {
	table := opened(t, func(c *Config) { c.Budget = -1 })
	var wg sync.WaitGroup
	var byName sync.Map
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				l, err := table.Lease(fmt.Sprintf("h%d.test", i), i%2 == 0, "x", start)
				if err != nil {
					t.Error(err)
					return
				}
				if other, loaded := byName.LoadOrStore(l.Name(), l); loaded && other != l {
					t.Errorf("%s has two leases", l.Name())
				}
				l.Hold()
				l.Touch(start.Add(time.Duration(i) * time.Second))
				table.Learn(l, fmt.Sprint("n", g), Next{Addr: l.Addr(), Journal: uint64(i)})
				table.SetFacts(l, []policy.Hop{{Name: l.Name(), Addrs: []netip.Addr{l.Addr()}}})
				if got, ok := table.ByAddr(l.Addr()); !ok || got != l {
					t.Errorf("%v is not found", l.Addr())
				}
				table.ByNext(fmt.Sprint("n", (g+1)%8), l.Addr())
				l.Next("n0")
				l.Release()
				if i%20 == g {
					table.Forget(fmt.Sprint("n", g))
					if err := table.flush(); err != nil {
						t.Error(err)
					}
					table.tend(start)
				}
			}
		})
	}
	wg.Wait()
	sound(t, table)
}

// Run writes what changed twice a minute and lays to rest what is due.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cfg Config
		table := opened(t, func(c *Config) { c.Keep, c.Quarantine, cfg = 3*time.Hour, time.Hour, *c })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- table.Run(ctx) }()
		l, err := table.Lease("a.test", false, "x", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		l.Touch(time.Now())
		time.Sleep(flushEvery)
		synctest.Wait()
		if l.saved.use != l.use.Load() || !l.saved.carried {
			t.Errorf("after half a minute %v is written, want %v", l.saved.use, l.use.Load())
		}
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if _, ok := table.ByAddr(l.Addr()); ok {
			t.Error("it does not rest")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if v4, _ := table.Stats(); v4.Used != 0 {
			t.Errorf("%+v", v4)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		table.Close()
		again, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if len(again.names) != 0 {
			t.Error("a lease that ended is back")
		}
	})
}

// What was learnt is on disk within a moment, not only twice a minute.
func TestLearntIsWrittenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := opened(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- table.Run(ctx) }()
		l := lease(t, table, "a.test", false)
		table.Learn(l, "n", Next{Addr: l.Addr(), Journal: 7})
		time.Sleep(flushSoon)
		synctest.Wait()
		if l.dirty.Load() {
			t.Error("the label is not written")
		}
		cancel()
		<-done
		table.Close()
	})
}

func TestHotPathsAllocateNothing(t *testing.T) {
	table := opened(t, nil)
	l := lease(t, table, "a.test", false)
	a6 := lease(t, table, "a.test", true).Addr()
	table.Learn(l, "n", Next{Addr: a6})
	n := testing.AllocsPerRun(1000, func() {
		table.ByAddr(l.Addr())
		table.ByAddr(a6)
		l.Hold()
		l.Touch(start)
		l.Next("n")
		l.Release()
		table.ByNext("n", a6)
		if _, err := table.Lease("a.test", false, "x", start); err != nil {
			t.Error(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTable(b *testing.B) {
	table := opened(b, func(c *Config) { c.Budget = -1 })
	addrs, names := make([]netip.Addr, 1024), make([]string, 1024)
	for i := range addrs {
		names[i] = fmt.Sprintf("h%d.test", i)
		addrs[i] = lease(b, table, names[i], false).Addr()
	}
	i := 0
	b.Run("ByAddr", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			i++
			table.ByAddr(addrs[i&1023])
		}
	})
	b.Run("Hit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			i++
			lease(b, table, names[i&1023], false)
		}
	})
	b.Run("Touch", func(b *testing.B) {
		l := lease(b, table, names[0], false)
		b.ReportAllocs()
		for b.Loop() {
			l.Touch(start)
		}
	})
}

// Churn leases a new name each time: one asker waits for the disk, many share it.
func BenchmarkChurn(b *testing.B) {
	for _, askers := range []int{1, 64} {
		b.Run(fmt.Sprint(askers), func(b *testing.B) {
			table := opened(b, func(c *Config) {
				c.Path = filepath.Join(b.TempDir(), "leases") // on a disk
				c.V4, c.Budget = netip.MustParsePrefix("10.0.0.0/8"), -1
			})
			var n atomic.Int64
			b.SetParallelism(askers)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := table.Lease(fmt.Sprintf("h%d.test", n.Add(1)), false, "x", start); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
