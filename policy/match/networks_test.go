package match

import (
	"net/netip"
	"testing"
)

func networks(t testing.TB, prefixes ...string) *Networks {
	t.Helper()
	var b NetworksBuilder
	for _, p := range prefixes {
		if err := b.Add(netip.MustParsePrefix(p)); err != nil {
			t.Fatal(err)
		}
	}
	return b.Build()
}

func TestNetworksCover(t *testing.T) {
	set := networks(t, "192.0.2.0/24", "192.0.2.128/25", "2001:db8::/32", "::ffff:198.51.100.0/120", "203.0.113.7/24")
	for a, want := range map[string]string{
		"192.0.2.1":          "192.0.2.0/24",
		"192.0.2.200":        "192.0.2.128/25",
		"192.0.3.1":          "",
		"::ffff:192.0.2.1":   "192.0.2.0/24",
		"198.51.100.9":       "198.51.100.0/24",
		"203.0.113.200":      "203.0.113.0/24",
		"2001:db8::1":        "2001:db8::/32",
		"2001:db8::1%eth0":   "2001:db8::/32",
		"2001:db9::1":        "",
		"::ffff:203.0.114.1": "",
	} {
		p, ok := set.Lookup(netip.MustParseAddr(a))
		if ok != (want != "") || ok && p.String() != want {
			t.Errorf("Lookup(%s) = %v, %v, want %q", a, p, ok, want)
		}
		if set.Contains(netip.MustParseAddr(a)) != ok {
			t.Errorf("Contains(%s) is not %v", a, ok)
		}
	}
	if set.Contains(netip.Addr{}) || set.Len() != 5 {
		t.Errorf("no address is covered, or %d prefixes, want 5", set.Len())
	}
}

func TestNoNetworks(t *testing.T) {
	var none *Networks
	for _, n := range []*Networks{none, {}, new(NetworksBuilder).Build()} {
		if n.Contains(netip.MustParseAddr("192.0.2.1")) || n.Len() != 0 {
			t.Error("the empty set covers an address")
		}
	}
}

func TestAddRange(t *testing.T) {
	for _, r := range [][3]string{
		{"192.0.2.3", "192.0.2.9", "192.0.2.2 192.0.2.10"},
		{"0.0.0.0", "255.255.255.255", ""},
		{"192.0.2.1", "192.0.2.1", "192.0.2.0 192.0.2.2"},
		{"2001:db8::5", "2001:db8::1:2", "2001:db8::4 2001:db8::1:3"},
		{"::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "192.0.2.1"},
	} {
		var b NetworksBuilder
		from, to := netip.MustParseAddr(r[0]), netip.MustParseAddr(r[1])
		if err := b.AddRange(from, to); err != nil {
			t.Fatal(err)
		}
		set := b.Build()
		if !set.Contains(from) || !set.Contains(to) {
			t.Errorf("%s-%s does not contain its ends", from, to)
		}
		if r[0] == "192.0.2.3" && set.Len() != 3 {
			t.Errorf("%d prefixes, want 192.0.2.3, .4/30, .8/31", set.Len())
		}
	}
	var b NetworksBuilder
	for _, r := range [][2]string{{"192.0.2.2", "192.0.2.1"}, {"192.0.2.2", "2001:db8::1"}} {
		if b.AddRange(netip.MustParseAddr(r[0]), netip.MustParseAddr(r[1])) == nil {
			t.Errorf("%s-%s is taken", r[0], r[1])
		}
	}
}

func FuzzAddRange(f *testing.F) {
	f.Add([]byte{192, 0, 2, 3, 192, 0, 2, 9}, []byte{192, 0, 2, 5})
	f.Fuzz(func(t *testing.T, ends, ask []byte) {
		if len(ends)%2 != 0 {
			return
		}
		from, ok1 := netip.AddrFromSlice(ends[:len(ends)/2])
		to, ok2 := netip.AddrFromSlice(ends[len(ends)/2:])
		a, ok3 := netip.AddrFromSlice(ask)
		var b NetworksBuilder
		if !ok1 || !ok2 || !ok3 || b.AddRange(from, to) != nil {
			return
		}
		from, to, a = from.Unmap(), to.Unmap(), a.Unmap()
		want := a.BitLen() == from.BitLen() && !a.Less(from) && !to.Less(a)
		if got := b.Build().Contains(a); got != want {
			t.Fatalf("%v in %v-%v: %v, want %v", a, from, to, got, want)
		}
	})
}

func TestContainsAllocatesNothing(t *testing.T) {
	set := networks(t, "192.0.2.0/24", "2001:db8::/32")
	a4, a6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db9::1")
	if n := testing.AllocsPerRun(1000, func() { set.Contains(a4); set.Contains(a6) }); n != 0 {
		t.Errorf("Contains allocates %v times", n)
	}
}

func BenchmarkNetworks(b *testing.B) {
	var build NetworksBuilder
	for i := range 1 << 16 {
		a := netip.AddrFrom4([4]byte{byte(20 + i>>12), byte(i >> 4), byte(i << 4), 0})
		_ = build.Add(netip.PrefixFrom(a, 21+i%4))
	}
	set := build.Build()
	a := netip.MustParseAddr("20.77.3.9")
	b.ReportAllocs()
	for b.Loop() {
		set.Contains(a)
		a = a.Next()
	}
}
