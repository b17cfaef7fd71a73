package node

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/resolver/local"
)

// localTTL is what records of zones and hosts files live where they say nothing.
const localTTL = 5 * time.Minute

// localNames reads the zones and hosts files of the settings. A domain that a
// group of resolvers has is no special-use name, nor is one that the settings
// except.
func (g *Gateway) localNames() (*local.Table, error) {
	set := &g.set.DNS.Local
	var from local.Sources
	for _, z := range set.Zones {
		zone, err := readZone(z)
		if err != nil {
			return nil, fmt.Errorf("dns.zones: %w", err)
		}
		from.Zones = append(from.Zones, zone)
	}
	hosts, err := local.NewHosts(localTTL)
	if err != nil {
		return nil, err
	}
	for _, path := range set.Hosts {
		if err := readHosts(hosts, path); err != nil {
			return nil, fmt.Errorf("dns.hosts: %w", err)
		}
	}
	from.Hosts, from.Claims = hosts, set.Except
	for _, u := range g.set.Upstreams {
		from.Claims = append(from.Claims, u.Domains...)
	}
	if !set.SpecialUse {
		from.Claims = nil
		for name := range local.SpecialUse() {
			from.Claims = append(from.Claims, name)
		}
	}
	t, err := local.New(from)
	if err != nil {
		return nil, err
	}
	for _, w := range append(hosts.Warnings(), t.Warnings()...) {
		g.log.Warn(w)
	}
	return t, nil
}

func readZone(z configs.Zone) (*local.Zone, error) {
	f, err := os.Open(z.File)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := local.NewZone(z.Name, localTTL)
	if err != nil {
		return nil, err
	}
	b.Read(z.File, f)
	return b.Build()
}

func readHosts(h *local.Hosts, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return h.Read(path, f)
}

// A rebinding tells addresses that answers from outside must not hold.
type rebinding struct {
	off    bool
	except []string // names and all under them
	more   []netip.Prefix
}

// inside are the networks that are no part of the Internet beside those that
// netip knows (RFC 6890, and RFC 3879 for what was site-local).
var inside = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fec0::/10")}

// newRebinding takes what the settings except, and the domains of groups of
// resolvers: those are asked for what is inside.
func newRebinding(set configs.Rebinding, groups []configs.Upstream) *rebinding {
	r := &rebinding{off: !set.Protect, except: set.Except, more: set.Networks}
	for _, g := range groups {
		r.except = append(r.except, g.Domains...)
	}
	return r
}

func (r *rebinding) refuses(name string, a netip.Addr) bool {
	if r.off || !a.IsPrivate() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsUnspecified() && !within(inside, a) && !within(r.more, a) {
		return false
	}
	for _, e := range r.except {
		if rest, ok := strings.CutSuffix(name, e); ok && (rest == "" || strings.HasSuffix(rest, ".")) {
			return false
		}
	}
	return true
}
