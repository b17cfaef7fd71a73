package listen

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/starferry/starferry/internal/needs"
	"github.com/starferry/starferry/internal/netns"
)

// What the way to a peer cannot take in one piece arrives all the same, also if
// there is much of it for one peer.
func TestPostOverNarrowLinks(t *testing.T) {
	needs.Tools(t, "ip")
	v4 := [2]string{"192.0.2.1/24", "192.0.2.2/24"}
	v6 := [2]string{"2001:db8::1/64", "2001:db8::2/64"}
	for _, c := range []struct {
		name  string
		mtu   int
		ends  [2]string
		route string // how the far end is reached, if not just by the link
	}{
		{"a link of 576", 576, v4, ""},
		{"a link of 1280", 1280, v4, ""},
		{"a route of 600", 1500, v4, "192.0.2.2 dev near mtu 600"},
		{"a route of 600 that stays so", 1500, v4, "192.0.2.2 dev near mtu lock 600"},
		{"IPv6", 1280, v6, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			far, near := netns.New(t), netns.New(t)
			netns.Run(t, fmt.Sprintf("ip link add near mtu %d type veth peer name far mtu %d netns /proc/%d/fd/%d", c.mtu, c.mtu, unix.Getpid(), far))
			plug(t, "near", c.ends[0])
			if c.route != "" {
				netns.Run(t, "ip route add "+c.route)
			}
			far.Enter(t)
			plug(t, "far", c.ends[1])
			peers := newPeers(t, on(c.ends[1]))
			near.Enter(t)
			b := newPostbox(t, on(c.ends[0]), peers)
			meet(t, b.sock.kernel, peers[0])
			for i := range 60 {
				b.add(0, i, maxSegment)
				b.add(i%2, 100+i, 560)
			}
			if unsent := b.send(); unsent != 0 {
				t.Errorf("%d answers were not sent", unsent)
			}
			b.check()
		})
	}
}

// plug gives a link its address.
func plug(t *testing.T, link, address string) {
	t.Helper()
	more := ""
	if netip.MustParsePrefix(address).Addr().Is6() {
		more = " nodad"
	}
	netns.Run(t, "ip addr add "+address+" dev "+link+more)
	netns.Run(t, "ip link set "+link+" up")
}

// meet has a socket and its peer find each other's links, until when the kernel
// keeps only a few packets.
func meet(t *testing.T, c, peer *net.UDPConn) {
	t.Helper()
	if _, err := peer.WriteTo(make([]byte, 1), c.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, _, err := c.ReadFrom(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// on returns where to listen on an address.
func on(address string) string {
	return netip.AddrPortFrom(netip.MustParsePrefix(address).Addr(), 0).String()
}
