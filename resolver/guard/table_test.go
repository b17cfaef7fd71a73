package guard

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// A modelBucket is a token bucket as one would write it down: tokens come with
// time and go with questions. It counts in ticks too, so that it agrees exactly.
type modelBucket struct{ tokens, last uint64 }

type model struct {
	clients, networks map[netip.Prefix]*modelBucket
	c                 *Clients
}

func newModel(c *Clients) *model {
	return &model{map[netip.Prefix]*modelBucket{}, map[netip.Prefix]*modelBucket{}, c}
}

func (m *model) take(a netip.Addr, now int64) bool {
	wide, narrow := 24, 32
	if a.Is6() {
		wide, narrow = 56, 64
	}
	return take(m.clients, netip.PrefixFrom(a, narrow), now, m.c.perClient) &&
		take(m.networks, netip.PrefixFrom(a, wide), now, m.c.perNetwork)
}

func take(all map[netip.Prefix]*modelBucket, p netip.Prefix, now int64, pace pace) bool {
	p = p.Masked()
	if all[p] == nil {
		all[p] = &modelBucket{pace.full, uint64(now) >> tickShift}
	}
	b := all[p]
	b.tokens = min(pace.full, b.tokens+uint64(now)>>tickShift-b.last)
	b.last = uint64(now) >> tickShift
	if b.tokens < pace.cost {
		return false
	}
	b.tokens -= pace.cost
	return true
}

// walk asks as the bytes say and compares each answer with the model's.
func walk(t *testing.T, steps []byte) {
	t.Helper()
	c, err := NewClients(ClientLimits{PerClient: Limit{10, 7}, PerPrefix: Limit{25, 30}})
	if err != nil {
		t.Fatal(err)
	}
	m, now := newModel(c), int64(0)
	for i := 0; i+1 < len(steps); i += 2 {
		now += int64(1) << (steps[i] % 36) // up to a minute
		a := netip.AddrFrom4([4]byte{192, 0, steps[i+1] & 3, steps[i+1] >> 2 & 7})
		if steps[i+1]&0x80 != 0 {
			a = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0, steps[i+1] & 1, steps[i+1] >> 1 & 1, 15: steps[i+1]})
		}
		if got, want := c.Take(a, now), m.take(a, now); got != want {
			t.Fatalf("step %d: take of %v at %v is %v, the model says %v", i/2, a, time.Duration(now), got, want)
		}
	}
}

func TestClientsEqualTheModel(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		steps := make([]byte, 20_000)
		for i := range steps {
			steps[i] = byte(r.Uint32())
			if i%2 == 0 && r.IntN(10) != 0 {
				steps[i] %= 27 // mostly up to a tenth of a second
			}
		}
		walk(t, steps)
	}
}

func FuzzClientsEqualTheModel(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 30, 0, 0, 128, 0, 129})
	f.Fuzz(walk)
}

// All goes on across the place where the ticks start anew, after 52 days.
func TestTimeComesRound(t *testing.T) {
	c, err := NewClients(ClientLimits{PerClient: Limit{10, 10}})
	if err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddr("192.0.2.1")
	granted := 0
	start := int64(1)<<(timeBits+tickShift) - int64(5*time.Second)
	for now := start; now < start+int64(10*time.Second); now += int64(time.Millisecond) {
		if c.Take(a, now) {
			granted++
		}
	}
	if granted < 10+99 || granted > 10+101 {
		t.Errorf("%d granted in 10 s, want 10 at once and 100", granted)
	}
}

func TestLimits(t *testing.T) {
	for _, bad := range []ClientLimits{
		{PerClient: Limit{200_000, 1}}, {PerPrefix: Limit{1, 100_000}}, {PerClient: Limit{5, -1}},
		{Client4: 33}, {Client6: -1}, {Prefix4: 129}, {Entries: 5}, {Entries: -1}, {Entries: 1 << 30},
		{Exempt: []netip.Prefix{{}}},
	} {
		if _, err := NewClients(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	for _, c := range []struct {
		limit Limit
		want  pace
	}{
		{Limit{}, pace{977, 977 * 2000}},
		{Limit{Rate: 10}, pace{97656, 97656 * 20}},
		{Limit{Burst: 5}, pace{977, 977 * 5}},
		{Limit{Rate: -1}, pace{}},
	} {
		if got, err := c.limit.pace(Limit{1000, 2000}); err != nil || got != c.want {
			t.Errorf("%+v is %+v and %v, want %+v", c.limit, got, err, c.want)
		}
	}
}

func TestDisplacedAreTheEmptiest(t *testing.T) {
	tab, err := newTable(1 << 10)
	if err != nil {
		t.Fatal(err)
	}
	p := pace{1000, 100_000}
	hash := func(tag uint64) uint64 { return tag<<(64-tagBits) | 5 } // all in one set
	for tag := range uint64(8) {
		for range 10 * (tag + 1) {
			if !tab.takeHash(hash(tag+1), 0, p) {
				t.Fatal("there was room")
			}
		}
	}
	if !tab.takeHash(hash(100), 0, p) {
		t.Error("a newcomer was refused")
	}
	if n := tab.displaced.Load(); n != 1 {
		t.Errorf("%d displaced, want 1", n)
	}
	for tag, want := range map[uint64]uint64{1: 0, 2: 20_000, 8: 80_000, 100: 1000} {
		if b := tab.find(hash(tag), 0, p.full); b.level != want {
			t.Errorf("level of %d is %d, want %d", tag, b.level, want)
		}
	}
}

func TestKeys(t *testing.T) {
	n, err := newNetworks([]netip.Prefix{
		netip.MustParsePrefix("192.0.2.7/24"), netip.MustParsePrefix("2001:db8::/33"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("203.0.113.1/32"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{
		"192.0.2.200": true, "::ffff:192.0.2.1": true, "192.0.3.1": false, "2001:db8:7fff::1": true, "2001:db8:8000::1": false,
		"::1": true, "::2": false, "203.0.113.1": true, "203.0.113.2": false,
	} {
		if got := n.contains(keyOf(netip.MustParseAddr(addr))); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	if keyOf(netip.MustParseAddr("fe80::1%eth0")) != keyOf(netip.MustParseAddr("fe80::1")) {
		t.Error("a zone makes another client")
	}
	keyOf(netip.Addr{}) // does not panic
}
