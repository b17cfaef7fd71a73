package node

import (
	"os"
	"strings"
	"testing"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/internal/netns"
	"github.com/starferry/starferry/policy"
)

// A gateway with a TUN makes its machine forward, and leaves it as it was.
func TestGatewayForwards(t *testing.T) {
	netns.New(t)
	const v4, v6 = "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"
	for _, path := range []string{v4, v6} {
		if err := os.WriteFile(path, []byte("0"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(want4, want6 string) {
		t.Helper()
		for path, want := range map[string]string{v4: want4, v6: want6} {
			if b, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(b)) != want {
				t.Errorf("%s is %q, want %s (%v)", path, b, want, err)
			}
		}
	}
	for _, c := range []struct{ pool, want4, want6 string }{{"198.19.0.0/18", "1", "0"}, {"2001:2:0:1000::/52", "0", "1"}} {
		set := &configs.Gateway{Node: configs.Node{Name: "gw", StateDir: t.TempDir(), Address: gatewayAddrs, Pool: prefixes(c.pool), MTU: 1380}}
		set.TUN = "starferry0"
		set.Upstreams = []configs.Upstream{{Name: "default"}}
		load := func() (*Loaded, error) {
			p, err := policy.Parse("policy.yaml", []byte("policies: []\n"), nil)
			return &Loaded{Policy: p}, err
		}
		g, err := NewGateway(set, gatewayKey, load, Surroundings{})
		if err != nil {
			t.Fatal(err)
		}
		undo, err := g.openLAN()
		if err != nil {
			t.Fatal(err)
		}
		holds(c.want4, c.want6)
		undo()
		holds("0", "0")
		g.labels.table.Close()
	}
}
