package lan

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/starferry/starferry/internal/needs"
	"github.com/starferry/starferry/internal/netns"
)

const patience = 10 * time.Second

// newHost makes a host with what the tests need, and puts the test into it.
func newHost(t testing.TB) netns.Host {
	t.Helper()
	needs.Tools(t, "ip", "nft")
	h := netns.New(t)
	netns.Run(t, "ip link set lo up")
	return h
}

func prefixes(texts ...string) (ps []netip.Prefix) {
	for _, s := range texts {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// open opens a TUN; what the kernel sends comes as copies.
func open(t testing.TB, name string) (*TUN, <-chan []byte) {
	t.Helper()
	got := make(chan []byte, 256)
	tun, err := OpenTUN(name, 1380, func(pkts [][]byte, off int) {
		for _, p := range pkts {
			select {
			case got <- bytes.Clone(p[off:]):
			default:
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tun.Close() })
	return tun, got
}

// start runs the TUN until stop, which checks that it ended well.
func start(t testing.TB, tun *TUN) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tun.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the end of %s: %v", tun.Name(), err)
		}
	}
}

// settings are all that a masquerade may change, and must put back.
func settings(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, pattern := range []string{"ipv4/ip_forward", "ipv4/conf/*/forwarding", "ipv4/conf/*/rp_filter",
		"ipv4/conf/*/accept_redirects", "ipv6/conf/*/forwarding", "ipv6/conf/*/accept_ra"} {
		paths, err := filepath.Glob(sysctls + pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("no settings %s: %v", pattern, err)
		}
		for _, p := range paths {
			value, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			b.WriteString(p + " = " + string(value))
		}
	}
	return b.String()
}

const (
	device4, device6 = "100.72.1.10", "fd5f:57a6:7272:1::a"
	near4, near6     = "203.0.113.1", "2001:db8:1::1"
	origin4, origin6 = "203.0.113.9", "2001:db8:1::9"
)

// mainland makes a connector's host, with an origin at the other end of a
// cable, and enters the first. The origin echoes UDP and reports who asked.
func mainland(t *testing.T) (origin netip.AddrPort, seen <-chan netip.AddrPort, far netns.Host) {
	t.Helper()
	far = newHost(t)
	echo, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echo.Close() })
	askers := make(chan netip.AddrPort, 16)
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := echo.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			askers <- netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
			echo.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	near := newHost(t)
	netns.Run(t, "ip link add wan0 type veth peer name origin0")
	far.Enter(t)
	take(t, far, near, "origin0")
	netns.Run(t, "ip addr add "+origin4+"/24 dev origin0; ip addr add "+origin6+"/64 dev origin0 nodad; ip link set origin0 up")
	near.Enter(t)
	netns.Run(t, "ip addr add "+near4+"/24 dev wan0; ip addr add "+near6+"/64 dev wan0 nodad; ip link set wan0 up")
	return echo.LocalAddr().(*net.UDPAddr).AddrPort(), askers, far
}

// take moves an interface of another host to h.
func take(t *testing.T, h, from netns.Host, name string) {
	t.Helper()
	from.Enter(t)
	defer h.Enter(t)
	// The command runs with the namespace as its third descriptor.
	cmd := exec.Command("sh", "-c", "ip link set "+name+" netns /proc/self/fd/3")
	fd, err := unix.Dup(int(h))
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "netns")
	defer file.Close()
	cmd.ExtraFiles = []*os.File{file}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("moving %s: %v\n%s", name, err, out)
	}
}

// datagram is a UDP packet.
func datagram(src, dst netip.AddrPort, payload string) []byte {
	l4 := binary.BigEndian.AppendUint16(nil, src.Port())
	l4 = binary.BigEndian.AppendUint16(l4, dst.Port())
	l4 = binary.BigEndian.AppendUint16(l4, uint16(8+len(payload)))
	l4 = append(append(l4, 0, 0), payload...)
	pseudo := append(append(src.Addr().AsSlice(), dst.Addr().AsSlice()...), 0, 17, l4[4], l4[5])
	binary.BigEndian.PutUint16(l4[6:], ^sum(append(pseudo, l4...)))
	if src.Addr().Is6() {
		h := []byte{0x60, 0, 0, 0, l4[4], l4[5], 17, 64}
		return append(append(append(h, src.Addr().AsSlice()...), dst.Addr().AsSlice()...), l4...)
	}
	h := []byte{0x45, 0, 0, byte(20 + len(l4)), 0, 1, 0, 0, 64, 17, 0, 0}
	h = append(append(h, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], ^sum(h))
	return append(h, l4...)
}

func sum(b []byte) uint16 {
	var s uint32
	for i, c := range b {
		s += uint32(c) << (8 * (1 - i%2))
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// ask sends a question of a device until the answer comes out of the TUN, and
// returns who asked as the origin saw it. (The first questions may be lost to
// neighbour discovery.)
func ask(t *testing.T, tun *TUN, got <-chan []byte, seen <-chan netip.AddrPort, device, origin string, port uint16) netip.Addr {
	t.Helper()
	src := netip.AddrPortFrom(netip.MustParseAddr(device), 40000)
	dst := netip.AddrPortFrom(netip.MustParseAddr(origin), port)
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	limit := time.After(patience)
	var asker netip.Addr
	for {
		select {
		case <-again.C:
			tun.Send(datagram(src, dst, "four"))
		case a := <-seen:
			asker = a.Addr()
		case p := <-got:
			if want := datagram(dst, src, "four"); len(p) == len(want) && bytes.HasSuffix(p, want[len(want)-12:]) && bytes.Contains(p, src.Addr().AsSlice()) {
				return asker
			}
		case <-limit:
			t.Fatalf("no answer from %s to %s; the origin saw %v", origin, device, asker)
		}
	}
}

func TestMasquerade(t *testing.T) {
	origin, seen, _ := mainland(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	tun, got := open(t, "starferry0")
	sources := prefixes("100.72.0.0/20", "fd5f:57a6:7272::/52")
	netns.Run(t, "echo 1 >/proc/sys/net/ipv6/conf/wan0/accept_ra; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding; echo 0 >/proc/sys/net/ipv4/ip_forward")
	netns.Run(t, "echo 1 >/proc/sys/net/ipv4/conf/starferry0/rp_filter; echo 1 >/proc/sys/net/ipv4/conf/wan0/forwarding; echo 0 >/proc/sys/net/ipv4/conf/all/accept_redirects")
	netns.Run(t, "nft 'add table inet starferry_test; add chain inet starferry_test stale; add rule inet starferry_test stale drop'")
	before := settings(t)
	away, err := tun.Setup(Setup{Routes: sources})
	if err != nil {
		t.Fatal(err)
	}
	stop := start(t, tun)
	undo, err := Masquerade(Config{TUN: "starferry0", Sources: sources, Table: "starferry_test"})
	if err != nil {
		t.Fatal(err)
	}
	if rules := netns.Run(t, "nft list ruleset"); strings.Contains(rules, "stale") {
		t.Errorf("the stale table is still there:\n%s", rules)
	}
	if ra := netns.Run(t, "cat /proc/sys/net/ipv6/conf/wan0/accept_ra"); ra != "2\n" {
		t.Errorf("a forwarding host stopped to learn its IPv6 routes: accept_ra %s", ra)
	}
	for _, c := range []struct{ device, origin, near string }{{device4, origin4, near4}, {device6, origin6, near6}} {
		if asker := ask(t, tun, got, seen, c.device, c.origin, origin.Port()); asker.String() != c.near {
			t.Errorf("the origin saw %s, want %s\n%s", asker, c.near, netns.Run(t, "nft list ruleset"))
		}
	}
	if testing.Verbose() {
		t.Log(netns.Run(t, "nft list ruleset"))
	}
	for range 2 {
		if err := undo(); err != nil {
			t.Error(err)
		}
	}
	if rules := netns.Run(t, "nft list ruleset"); rules != "" {
		t.Errorf("the undo left\n%s", rules)
	}
	if after := settings(t); after != before {
		t.Errorf("settings before:\n%s\nafter:\n%s", before, after)
	}
	stop()
	if err := away(); err != nil {
		t.Errorf("undoing the setup of a closed TUN: %v", err)
	}
}

// Connection tracking does not translate what it calls invalid: it must not
// leave with the device's address.
func TestInvalidStays(t *testing.T) {
	origin, seen, far := mainland(t)
	near := netns.Here(t)
	far.Enter(t)
	pings, err := net.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		t.Fatal(err)
	}
	defer pings.Close()
	near.Enter(t)
	tun, got := open(t, "starferry0")
	sources := prefixes("100.72.0.0/20")
	if _, err := tun.Setup(Setup{Routes: sources}); err != nil {
		t.Fatal(err)
	}
	defer start(t, tun)()
	undo, err := Masquerade(Config{TUN: "starferry0", Sources: sources, Table: "t"})
	if err != nil {
		t.Fatal(err)
	}
	defer undo()
	ask(t, tun, got, seen, device4, origin4, origin.Port())
	tun.Send(answerToNobody())
	ask(t, tun, got, seen, device4, origin4, origin.Port()) // what was sent before has arrived
	pings.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, from, err := pings.ReadFrom(make([]byte, 1500)); err == nil {
		t.Errorf("the origin saw a packet of %v", from)
	}
}

// A machine beside the connector sends with a device's address, by way of the
// connector: the masquerade is not for it.
func TestForgedSourcesStay(t *testing.T) {
	_, _, far := mainland(t)
	near := netns.Here(t)
	tun, _ := open(t, "starferry0")
	sources := prefixes("100.72.0.0/20")
	if _, err := tun.Setup(Setup{Routes: sources}); err != nil {
		t.Fatal(err)
	}
	defer start(t, tun)()
	beyond, got := open(t, "beyond0") // where the connector's host forwards to
	if _, err := beyond.Setup(Setup{Routes: prefixes("198.51.100.0/24")}); err != nil {
		t.Fatal(err)
	}
	defer start(t, beyond)()
	undo, err := Masquerade(Config{TUN: "starferry0", Sources: sources, Table: "t"})
	if err != nil {
		t.Fatal(err)
	}
	defer undo()
	netns.Run(t, "echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter; echo 0 >/proc/sys/net/ipv4/conf/wan0/rp_filter")

	far.Enter(t)
	netns.Run(t, "ip addr add "+device4+"/32 dev lo; ip route add 198.51.100.0/24 via "+near4)
	for _, source := range []string{device4, origin4} {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(source + ":1000"))}
		c, err := d.Dial("udp", "198.51.100.7:2000")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("from " + source)); err != nil {
			t.Fatal(err)
		}
	}
	near.Enter(t)
	limit := time.After(patience)
	for {
		select {
		case p := <-got:
			if bytes.Contains(p, []byte("from "+device4)) {
				t.Fatal("a forged packet was forwarded")
			}
			if bytes.Contains(p, []byte("from "+origin4)) { // sent after it, so that one is gone
				return
			}
		case <-limit:
			t.Fatal("nothing was forwarded")
		}
	}
}

// answerToNobody is an ICMP echo reply of the device that nobody asked for.
func answerToNobody() []byte {
	pkt := datagram(netip.MustParseAddrPort(device4+":0"), netip.MustParseAddrPort(origin4+":0"), "")
	pkt[9] = 1
	clear(pkt[20:])
	binary.BigEndian.PutUint16(pkt[22:], ^sum(pkt[20:]))
	clear(pkt[10:12])
	binary.BigEndian.PutUint16(pkt[10:], ^sum(pkt[:20]))
	return pkt
}

// A strict reverse path filter for all interfaces is not to be seen from the TUN.
func TestStrictFilterForAll(t *testing.T) {
	newHost(t)
	tun, _ := open(t, "starferry0")
	netns.Run(t, "echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter; echo 1 >/proc/sys/net/ipv4/ip_forward")
	before := settings(t)
	undo, err := Masquerade(Config{TUN: tun.Name(), Sources: prefixes("100.72.0.0/20"), Table: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if got := netns.Run(t, "cat /proc/sys/net/ipv4/conf/starferry0/rp_filter"); got != "2\n" {
		t.Errorf("rp_filter %s, want 2: loose", got)
	}
	if rules := netns.Run(t, "nft list ruleset"); strings.Contains(rules, "ip6") {
		t.Errorf("rules for a family that has no sources:\n%s", rules)
	}
	if err := undo(); err != nil {
		t.Error(err)
	}
	if after := settings(t); after != before {
		t.Errorf("settings before:\n%s\nafter:\n%s", before, after)
	}
}

// Forwarding alone touches the families that it is asked for, writes no rules,
// and its undo puts back what was found even if the TUN has gone before.
func TestForward(t *testing.T) {
	newHost(t)
	for _, c := range []struct {
		behind     string
		want4      string
		want6      string
		closeFirst bool
	}{
		{"198.19.0.0/18", "1\n", "0\n", false},
		{"2001:2:0:1000::/52", "0\n", "1\n", false},
		{"198.19.0.0/18 2001:2:0:1000::/52", "1\n", "1\n", true},
	} {
		netns.Run(t, "echo 0 >/proc/sys/net/ipv6/conf/all/forwarding; echo 0 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter")
		without := settings(t)
		tun, _ := open(t, "starferry0")
		before := settings(t)
		undo, err := Forward(tun.Name(), prefixes(strings.Fields(c.behind)...))
		if err != nil {
			t.Fatal(err)
		}
		got4, got6 := netns.Run(t, "cat /proc/sys/net/ipv4/ip_forward"), netns.Run(t, "cat /proc/sys/net/ipv6/conf/all/forwarding")
		if got4 != c.want4 || got6 != c.want6 {
			t.Errorf("behind %s: forwarding %q and %q, want %q and %q", c.behind, got4, got6, c.want4, c.want6)
		}
		if got := netns.Run(t, "cat /proc/sys/net/ipv4/conf/starferry0/rp_filter"); got != "2\n" {
			t.Errorf("behind %s: rp_filter %s, want 2: loose", c.behind, got)
		}
		if c.closeFirst {
			tun.Close()
			before = without
		}
		if err := undo(); err != nil {
			t.Errorf("behind %s: %v", c.behind, err)
		}
		if after := settings(t); after != before {
			t.Errorf("behind %s: settings before:\n%s\nafter:\n%s", c.behind, before, after)
		}
		tun.Close()
	}
	if rules := netns.Run(t, "nft list ruleset"); rules != "" {
		t.Errorf("left\n%s", rules)
	}
	if _, err := Forward("nowhere0", prefixes("198.19.0.0/18")); err == nil {
		t.Error("forwarding from an interface that is not there")
	}
}

func TestMasqueradeThatFailsLeavesNothing(t *testing.T) {
	newHost(t)
	before := settings(t)
	if _, err := Masquerade(Config{TUN: "nowhere0", Sources: prefixes("100.72.0.0/20"), Table: "t"}); err == nil {
		t.Error("masquerading for an interface that is not there")
	}
	if rules := netns.Run(t, "nft list ruleset"); rules != "" {
		t.Errorf("left\n%s", rules)
	}
	if after := settings(t); after != before {
		t.Errorf("settings before:\n%s\nafter:\n%s", before, after)
	}
}

func TestSetup(t *testing.T) {
	newHost(t)
	tun, _ := open(t, "starferry0")
	undo, err := tun.Setup(Setup{
		Addresses: prefixes("100.72.0.1/32", "fd5f:57a6:7272::1/128"),
		Routes:    prefixes("198.19.0.0/18", "2001:2:0:1000::/52"),
	})
	if err != nil {
		t.Fatal(err)
	}
	show := "ip -o addr show dev starferry0; ip route; ip -6 route; ip -o link show dev starferry0"
	have := netns.Run(t, show)
	for _, want := range []string{"100.72.0.1/32", "fd5f:57a6:7272::1/128", "198.19.0.0/18 dev starferry0", "2001:2:0:1000::/52 dev starferry0", "mtu 1380", ",UP"} {
		if !strings.Contains(have, want) {
			t.Errorf("want %q in\n%s", want, have)
		}
	}
	if strings.Contains(have, "fe80") {
		t.Errorf("the kernel made an address of its own:\n%s", have)
	}
	if err := undo(); err != nil {
		t.Error(err)
	}
	for _, gone := range []string{"100.72.0.1", "fd5f", "198.19", "2001:2", ",UP"} {
		if have := netns.Run(t, show); strings.Contains(have, gone) {
			t.Errorf("%q is left in\n%s", gone, have)
		}
	}
}

func TestSetupRefusesRoutesThatLeadElsewhere(t *testing.T) {
	newHost(t)
	tun, _ := open(t, "starferry0")
	netns.Run(t, "ip link add other0 type veth peer name other1; ip link set other1 up; ip addr add 192.0.2.1/24 dev other0; ip link set other0 up")
	for _, c := range []struct{ add, route, want string }{
		{"ip route add 198.19.0.0/18 via 192.0.2.9", "198.19.0.0/18", "198.19.0.0/18 exists already, via 192.0.2.9 dev other0"},
		{"ip route add 198.20.0.0/18 dev other0 metric 77", "198.20.0.0/18", "198.20.0.0/18 exists already, dev other0"},
		{"ip route add blackhole 240.1.0.0/16", "240.1.0.0/16", "240.1.0.0/16 exists already, of type 6"},
		{"ip -6 route add 2001:2:0:1000::/52 dev other0", "2001:2:0:1000::/52", "2001:2:0:1000::/52 exists already, dev other0"},
	} {
		netns.Run(t, c.add)
		_, err := tun.Setup(Setup{Addresses: prefixes("100.72.0.1/32"), Routes: prefixes("203.0.113.0/24", c.route)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
		if have := netns.Run(t, "ip -o addr show dev starferry0; ip route show dev starferry0"); have != "" {
			t.Errorf("%s left\n%s", c.route, have)
		}
	}
}

func TestInterfaceTakenAway(t *testing.T) {
	newHost(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	tun, _ := open(t, "starferry0")
	if _, err := tun.Setup(Setup{Addresses: prefixes("100.72.0.1/24")}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- tun.Run(t.Context()) }()
	netns.Run(t, "ip link del starferry0")
	select {
	case err := <-done:
		if err == nil {
			t.Error("Run says nothing of an interface that went away")
		}
	case <-time.After(patience):
		t.Error("Run goes on without an interface")
	}
}

func TestCloseWithoutRun(t *testing.T) {
	newHost(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	tun, _ := open(t, "starferry0")
	for range 20 { // more events than the library's channel holds
		netns.Run(t, "ip link set starferry0 up; ip link set starferry0 down")
	}
	for range 2 {
		if err := tun.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := tun.Run(t.Context()); err != nil {
		t.Errorf("Run of a closed TUN: %v", err)
	}
	tun.Send([]byte{0x45})
	if tun.Dropped() != 1 {
		t.Errorf("dropped %d, want 1", tun.Dropped())
	}
}

func TestRefusedWritesAreCounted(t *testing.T) {
	newHost(t)
	tun, _ := open(t, "starferry0") // down
	defer start(t, tun)()
	pkt := datagram(netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2"), "x")
	pkt[9] = 253 // a protocol that is not joined (RFC 3692)
	for range 3 {
		tun.Send(pkt)
	}
	limit := time.After(patience)
	for tun.Dropped() != 3 {
		select {
		case <-limit:
			t.Fatalf("dropped %d, want 3", tun.Dropped())
		default:
			runtime.Gosched()
		}
	}
}
