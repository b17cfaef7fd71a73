package netstack_test

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/internal/needs"
	"github.com/starferry/starferry/internal/netns"
	"github.com/starferry/starferry/tunnel/netstack"
)

// The range of groups that may ping is a setting of each network namespace, so
// the test makes one.
func TestPingUnprivileged(t *testing.T) {
	needs.Tools(t, "ip")
	netns.New(t)
	netns.Run(t, "ip link set lo up")
	const setting = "/proc/sys/net/ipv4/ping_group_range"
	if err := os.WriteFile(setting, []byte("1 0"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := netstack.PingUnprivileged(); err == nil || !strings.Contains(err.Error(), "ping_group_range") {
		t.Errorf("where no group may ping: %v", err)
	}
	if err := os.WriteFile(setting, []byte("0 0"), 0o644); err != nil {
		t.Fatal(err)
	}
	ping, err := netstack.PingUnprivileged()
	if err != nil {
		t.Fatal(err)
	}
	for _, self := range []string{"127.0.0.1", "::1"} {
		if err := ping(within(t, 5*time.Second), netip.MustParseAddr(self)); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ping(ctx, netip.MustParseAddr("127.0.0.1")); err == nil {
		t.Error("a ping that was called off got an answer")
	}
	if err := ping(within(t, 5*time.Second), netip.MustParseAddr("192.0.2.1")); err == nil {
		t.Error("an address without a route answered")
	}
}
