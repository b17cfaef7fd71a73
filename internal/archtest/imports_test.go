package archtest

import (
	"slices"
	"strings"
	"testing"
)

// layers lists, from the bottom up, which packages stand on one level.
// A package may import what is below it, and what is under the same entry.
var layers = [][]string{
	{"internal", "policy/match", "tunnel/packet"},
	{"device", "steer/geo", "dex/stats"},
	{"policy"},
	{"state"},
	{"steer"},
	{"resolver", "tunnel", "dex", "fetch"},
	{"configs", "control", "console"},
	{"node"},
	{"demo"},
	{"cmd", "integration", "bench", "docs"},
}

// homes names the only places that may import a library, so that each can be
// replaced, and found, in one place. Tests may import all.
var homes = map[string][]string{
	"gopkg.in/yaml.v3":                                        {"internal/yamlpos"},
	"github.com/hashicorp/go-memdb":                           {"state"},
	"go.etcd.io":                                              {"state"},
	"golang.zx2c4.com/wireguard":                              {"tunnel/link", "tunnel/netstack", "tunnel/lan", "internal/simnet"},
	"gvisor.dev/gvisor":                                       {"tunnel/netstack"},
	"github.com/miekg/dns":                                    {"resolver", "node", "demo", "cmd", "dex/probe"},
	"github.com/gaissmai/bart":                                {"policy/match", "state"},
	"github.com/oschwald/maxminddb-golang":                    {"steer/geo"},
	"github.com/maxmind/mmdbwriter":                           {"steer/geo/geomake"},
	"github.com/coreos/go-systemd":                            {"resolver/listen"},
	"github.com/dchest/siphash":                               {"resolver/cookie"},
	"github.com/dnstap/golang-dnstap":                         {"resolver/querylog"},
	"github.com/farsightsec/golang-framestream":               {"resolver/querylog"},
	"google.golang.org/protobuf":                              {"resolver/querylog"},
	"github.com/spf13/cobra":                                  {"cmd"},
	"github.com/rogpeppe/go-internal":                         nil, // tests only, as the next
	"go.uber.org/goleak":                                      nil,
	"github.com/mdp/qrterminal":                               {"cmd"},
	"github.com/google/nftables":                              {"tunnel/lan"},
	"github.com/vishvananda/netlink":                          {"tunnel/lan"},
	"github.com/fsnotify/fsnotify":                            {"node"},
	"github.com/prometheus/client_golang/prometheus/promhttp": {"node", "console"},
}

// level returns the level of the package, and the entry of layers that it is
// or lies under: the longest one.
func level(pkg string) (lvl int, top string) {
	lvl = -1
	for i, names := range layers {
		for _, n := range names {
			if within(pkg, n) && len(n) > len(top) {
				lvl, top = i, n
			}
		}
	}
	return lvl, top
}

func TestImports(t *testing.T) {
	for _, f := range goFiles(t) {
		from, top := level(f.dir)
		if from < 0 {
			t.Errorf("%s: %s has no place in layers", f.name, f.dir)
		}
		for _, imp := range f.imports() {
			pkg, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			if to, other := level(pkg); to >= from && other != top {
				t.Errorf("%s (level %d) imports %s (level %d)", f.name, from, pkg, to)
			}
		}
	}
}

func TestLibraries(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, imp := range f.imports() {
			for lib, dirs := range homes {
				if within(imp, lib) && !f.test() && !slices.ContainsFunc(dirs, func(d string) bool { return within(f.dir, d) }) {
					t.Errorf("%s imports %s, whose home is %q", f.name, lib, dirs)
				}
			}
		}
	}
}
