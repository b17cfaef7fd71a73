package configs

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/upstream"
)

// china says where the demo's origins are.
var china = map[netip.Prefix]string{
	netip.MustParsePrefix("203.0.113.0/24"):     "CN",
	netip.MustParsePrefix("2001:2:0:f000::/52"): "CN",
	netip.MustParsePrefix("198.51.100.0/24"):    "US",
	netip.MustParsePrefix("2001:2:0:e000::/52"): "US",
}

// examples opens the example files, and a country database beside them.
func examples(path string) (io.ReadCloser, error) {
	if path == "country.mmdb" {
		return Countries(china)
	}
	return FS(Examples)(path)
}

func loadExample(t *testing.T, path string) *Set {
	t.Helper()
	s, err := Load(examples, path)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Warnings) > 0 {
		t.Errorf("%s: warnings: %v", path, s.Warnings)
	}
	return s
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func same[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestExampleGateway(t *testing.T) {
	s := loadExample(t, "gateway.yaml")
	g := s.Gateway
	same(t, "role", s.Role(), "gateway")
	same(t, "name", s.Node().Name, "gw-sjc")
	same(t, "address", g.Address, addrs("100.72.0.1", "fd5f:57a6:7272::1"))
	same(t, "slice", g.Slice, prefixes("100.72.0.0/20", "fd5f:57a6:7272::/52"))
	same(t, "pool", g.Pool, prefixes("198.19.0.0/18", "2001:2:0:1000::/52"))
	same(t, "mtu", g.MTU, 1380)
	same(t, "tun", g.TUN, "starferry0")
	same(t, "key file", g.WireGuard.PrivateKeyFile, "gateway.key")
	same(t, "posture drop", g.PostureDrop, "/var/lib/starferry/posture")
	same(t, "upstream servers", g.Upstreams[0].Servers, []upstream.Server{
		{Addr: netip.MustParseAddrPort("192.0.2.53:53")}, {Addr: netip.MustParseAddrPort("192.0.2.54:53")}})
	same(t, "upstream timeout", g.Upstreams[0].Timeout, 2*time.Second)
	same(t, "egress pool", g.Egresses[0].Pool, prefixes("240.1.0.0/16", "fd5f:57a6:7272:b000::/52"))
	same(t, "nodes behind", g.Egresses[0].Nodes, prefixes("100.72.160.0/24", "fd5f:57a6:7272:a000::/64"))
	same(t, "route", g.Routes[0].Via, []string{"hk-1"})
	same(t, "etcd", g.Etcd, nil)
	same(t, "files", slices.Sorted(slices.Values(s.Files)), []string{"country.mmdb", "devices.yaml", "gateway.yaml",
		"lists/china-networks.txt", "lists/china-sites.conf", "lists/phishing.rpz", "policy.yaml"})
}

func TestExampleEgress(t *testing.T) {
	s := loadExample(t, "egress.yaml")
	e := s.Egress
	same(t, "role", s.Role(), "egress")
	same(t, "gateway's slice", e.Gateways[0].Slice, prefixes("100.72.0.0/20", "fd5f:57a6:7272::/52"))
	same(t, "connectors", len(e.Connectors), 2)
	same(t, "connector pool", e.Connectors[1].Pool, prefixes("240.2.128.0/17", "fd5f:57a6:7272:c100::/56"))
	same(t, "route", e.Routes[0].Via, []string{"cn-sha-1", "cn-bjs-1"})
	if s.Policy == nil || s.Devices != nil {
		t.Errorf("policy %v, devices %v", s.Policy, s.Devices)
	}
}

func TestExampleConnector(t *testing.T) {
	s := loadExample(t, "connector.yaml")
	c := s.Connector
	same(t, "role", s.Role(), "connector")
	same(t, "kernel", c.Kernel, true)
	same(t, "tun", c.TUN, "starferry0")
	same(t, "resolver", c.Resolver.Servers[0].Addr, netip.MustParseAddrPort("223.5.5.5:53"))
	same(t, "endpoint", c.Egresses[0].Endpoint, "hk-1.example.com:51820")
	same(t, "slices", c.Slices, prefixes("100.72.0.0/20", "fd5f:57a6:7272::/52"))
	same(t, "a poison", c.Poison[0], netip.MustParsePrefix("4.36.66.178/32"))
}

func TestExampleDevices(t *testing.T) {
	s := loadExample(t, "gateway.yaml")
	alice, office := s.Devices[0], s.Devices[2]
	same(t, "machine", alice.ID, "alice-laptop")
	same(t, "evidence", alice.Kind, device.ByWireGuard)
	same(t, "overlay", alice.Overlay, prefixes("100.72.1.10/32", "fd5f:57a6:7272:1::10/128"))
	same(t, "explain", alice.Explain, true)
	same(t, "network", office.Kind, device.ByNetwork)
	same(t, "LAN", office.LAN, prefixes("192.168.1.0/24"))
	same(t, "overlay of the LAN", office.Overlay, prefixes("100.72.8.0/24"))
	same(t, "routes the pool", office.RoutesPool, true)
}

// The three node files describe one fleet.
func TestExamplesTogether(t *testing.T) {
	r := Check([]string{"."})
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	for _, w := range r.Warnings {
		if !strings.Contains(w.Msg, "country.mmdb is not here") {
			t.Errorf("warning: %v", w)
		}
	}
	for _, name := range []string{"gateway.yaml", "egress-policy.yaml", "lists/phishing.rpz"} {
		if !slices.Contains(r.Files, name) {
			t.Errorf("%s was not read; only %v were", name, r.Files)
		}
	}
}

// What the example policy decides for the names that the demo shows.
func TestExamplePolicy(t *testing.T) {
	s := loadExample(t, "gateway.yaml")
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	healthy := posture.Verdicts{"managed-laptop": {Result: posture.Passed, Expires: now.Add(time.Minute)}}
	failing := posture.Verdicts{"managed-laptop": {Result: posture.Failed, Reason: "firewall: off"}}
	alice, bob, office := s.Devices[0], s.Devices[1], s.Devices[2]
	for _, c := range []struct {
		name     string
		device   *device.Device
		verdicts posture.Verdicts
		addr     string
		want     string
		text     string
	}{
		{"www.allowed.test", alice, healthy, "198.51.100.7", "allow", ""},
		{"www.phishing.test", alice, healthy, "198.51.100.7", "block nxdomain", "policy phishing: Known phishing site"},
		{"phishing.test", office, nil, "198.51.100.7", "block nxdomain", ""},
		{"intranet.corp.test", alice, nil, "198.51.100.7", "override", ""},
		{"www.listed-china.test", alice, healthy, "198.51.100.7", "steer hong-kong", ""},
		{"www.listed-china.test", alice, failing, "", "deny refused", "posture managed-laptop failed: firewall: off"},
		{"www.listed-china.test", alice, nil, "", "deny refused", "no report"},
		{"www.listed-china.test", office, nil, "", "deny refused", "identity weak"},
		{"www.listed-china.test", bob, healthy, "", "deny refused", "not in group staff"},
		{"www.answer-china.test", alice, healthy, "203.0.113.9", "steer hong-kong", ""},
		{"www.answer-china.test", alice, healthy, "2001:2:0:f000::9", "steer hong-kong", ""},
		{"www.guest-china.test", office, nil, "203.0.113.9", "steer hong-kong", ""},
		{"www.guest-china.test", bob, nil, "203.0.113.9", "steer hong-kong", ""},
	} {
		q := &policy.Query{Name: c.name, Type: 1, Now: now,
			Asker: policy.Asker{Device: c.device, Kind: c.device.Kind, Verdicts: c.verdicts}}
		if c.addr != "" {
			q.Answered = true
			q.Answer = []policy.Hop{{Name: c.name, Addrs: addrs(c.addr)}}
		}
		d := s.Policy.Decide(q)
		if d.String() != c.want || !strings.Contains(d.Text(), c.text) {
			t.Errorf("%s for %s: %v (%s), want %s (%s)", c.name, c.device.ID, &d, d.Text(), c.want, c.text)
		}
	}
}

// The egress steers what the gateway steers, and nothing else.
func TestExampleEgressPolicy(t *testing.T) {
	s := loadExample(t, "egress.yaml")
	now := time.Now()
	facts := func(name, a string) []policy.Hop { return []policy.Hop{{Name: name, Addrs: addrs(a)}} }
	for _, c := range []struct {
		name, addr string
		want       bool
	}{
		{"www.listed-china.test", "198.51.100.7", true},
		{"www.answer-china.test", "203.0.113.9", true},
		{"www.guest-china.test", "203.0.113.9", true},
		{"www.allowed.test", "198.51.100.7", false},
	} {
		if got := s.Policy.CouldSteer(c.name, facts(c.name, c.addr), "hong-kong", now); got != c.want {
			t.Errorf("CouldSteer(%s at %s) = %v", c.name, c.addr, got)
		}
	}
}

// What names a policy uses is read here as package policy reads it.
func TestNamesUsed(t *testing.T) {
	for _, file := range []string{"policy.yaml", "egress-policy.yaml"} {
		src, err := Examples.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p, err := policy.Parse(file, src, examples)
		if err != nil {
			t.Fatal(err)
		}
		used := namesUsed(newFleet(examples).partsOf(openDoc(file, src)))
		var routes, groups []policy.Ref
		for _, n := range used.routes {
			routes = append(routes, policy.Ref{Name: n.Text(), Pos: n.Pos()})
		}
		for _, n := range used.groups {
			groups = append(groups, policy.Ref{Name: n.Text(), Pos: n.Pos()})
		}
		same(t, file+" routes", routes, p.Routes())
		same(t, file+" groups", groups, p.Groups())
	}
}

// Each folder in testdata/broken holds files with mistakes, and in "want" what
// is to be said of them. UPDATE=1 rewrites these.
func TestBroken(t *testing.T) {
	dirs, err := filepath.Glob("testdata/broken/*")
	if err != nil || len(dirs) < 20 {
		t.Fatalf("only %d folders: %v", len(dirs), err)
	}
	home, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Chdir(filepath.Join(home, dir))
			got := verdict(Check([]string{"."}))
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile("want", []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile("want")
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if !strings.Contains(got, ".yaml:") {
				t.Error("no mistake has a place")
			}
		})
	}
}

func verdict(r *Report) string {
	var b strings.Builder
	for _, err := range r.Mistakes {
		b.WriteString(err.Error() + "\n")
	}
	for _, w := range r.Warnings {
		b.WriteString("warning: " + w.String() + "\n")
	}
	return b.String()
}

// Whatever a file holds, reading it ends without a panic, and never gives both
// settings that are incomplete and no error.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"gateway.yaml", "egress.yaml", "connector.yaml", "devices.yaml"} {
		src, err := Examples.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		if g, err := ReadGateway("gateway.yaml", src); err == nil {
			if g.Name == "" || len(g.Address) == 0 || len(g.Pool) == 0 || len(g.Slice) == 0 || len(g.Upstreams) == 0 {
				t.Errorf("incomplete gateway without an error: %+v", g)
			}
		}
		if e, err := ReadEgress("egress.yaml", src); err == nil && (e.Name == "" || len(e.Pool) == 0) {
			t.Errorf("incomplete egress without an error: %+v", e)
		}
		if c, err := ReadConnector("connector.yaml", src); err == nil && (c.Name == "" || len(c.Slices) == 0 || len(c.Resolver.Servers) == 0) {
			t.Errorf("incomplete connector without an error: %+v", c)
		}
		if devices, err := ReadDevices("devices.yaml", src); err == nil {
			for _, d := range devices {
				if d.ID == "" || d.Kind == device.Unidentified || d.Kind == device.ByWireGuard && (d.Key.IsZero() || len(d.Overlay) == 0) || d.Kind == device.ByNetwork && len(d.LAN) == 0 {
					t.Errorf("incomplete device without an error: %+v", d)
				}
			}
		}
	})
}

// Whatever a policy file holds, and includes, comparing it with the other files
// ends without a panic: also where package policy has found mistakes in it.
func FuzzCompare(f *testing.F) {
	for _, name := range []string{"46-names-in-included-files/policy.yaml", "46-names-in-included-files/teams/lab.yaml", "47-what-only-gateways-do/egress-policy.yaml"} {
		src, err := os.ReadFile(filepath.Join("testdata/broken", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src, []byte("policies: [{include: policy.yaml}, {if: {flow: x, any: 1}, then: {steer: [a]}, ecs: {}}]\ndefaults: [{group: {}}]\n"))
	}
	f.Fuzz(func(t *testing.T, src, more []byte) {
		fleet := newFleet(func(path string) (io.ReadCloser, error) {
			switch path {
			case "policy.yaml":
				return io.NopCloser(bytes.NewReader(src)), nil
			case "more.yaml", "sales.yaml", "teams/lab.yaml":
				return io.NopCloser(bytes.NewReader(more)), nil
			}
			return examples(path)
		})
		fleet.lenient = true
		for _, name := range []string{"policy.yaml", "gateway.yaml", "egress.yaml"} {
			fleet.add(name)
		}
		fleet.settle()
		fleet.mistakes() //nolint:errcheck // that there are some is the rule
	})
}
