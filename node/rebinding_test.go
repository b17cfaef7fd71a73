package node

import (
	"net/netip"
	"testing"

	"github.com/starferry/starferry/configs"
)

func TestRebinding(t *testing.T) {
	groups := []configs.Upstream{{Name: "default"}, {Name: "internal", Domains: []string{"corp.example"}}}
	on := newRebinding(configs.Rebinding{Protect: true, Except: []string{"lab.example"}, Networks: prefixes("203.0.113.0/24")}, groups)
	off := newRebinding(configs.Rebinding{Networks: prefixes("203.0.113.0/24")}, groups)
	for _, tt := range []struct {
		name, addr string
		want       bool
	}{
		{"www.example", "192.168.1.5", true}, {"www.example", "127.0.0.1", true}, {"www.example", "0.0.0.0", true},
		{"www.example", "169.254.1.1", true}, {"www.example", "100.64.0.1", true}, {"www.example", "fd00::1", true},
		{"www.example", "fe80::1", true}, {"www.example", "::", true}, {"www.example", "::1", true},
		{"www.example", "fec0::1", true}, {"www.example", "ff00::1", false},
		{"www.example", "203.0.113.9", true},
		{"www.example", "192.0.2.1", false}, {"www.example", "2001:db8::1", false},
		{"lab.example", "192.168.1.5", false}, {"a.lab.example", "192.168.1.5", false}, {"notlab.example", "192.168.1.5", true},
		{"a.corp.example", "192.168.1.5", false}, {"corp.example.org", "192.168.1.5", true},
	} {
		addr := netip.MustParseAddr(tt.addr)
		if got := on.refuses(tt.name, addr); got != tt.want {
			t.Errorf("%s for %s is refused: %v", tt.addr, tt.name, got)
		}
		if off.refuses(tt.name, addr) {
			t.Errorf("%s for %s is refused where nothing is", tt.addr, tt.name)
		}
	}
}
