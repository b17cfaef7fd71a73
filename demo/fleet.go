package demo

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/demo/world"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/node"
	"github.com/starferry/starferry/resolver/upstream"
	"github.com/starferry/starferry/tunnel/link"
)

// Names of the example files that the demo brings to life.
const (
	deviceName    = "alice-laptop"
	connectorName = "cn-sha-1" // the other one of the files stays out
)

// A fleet is the nodes of the demo and its device.
type fleet struct {
	dir       string // of the files
	keys      keys
	gatewayAt netip.AddrPort // WireGuard
	egressAt  netip.AddrPort

	gateway   *node.Gateway
	egress    *node.Egress
	connector *node.Connector
	laptop    *laptop
}

type keys struct{ gateway, egress, connector, laptop link.PrivateKey }

func newKeys() keys {
	return keys{link.NewPrivateKey(), link.NewPrivateKey(), link.NewPrivateKey(), link.NewPrivateKey()}
}

// makeFleet makes all nodes from the example files.
func makeFleet(o *Options, w *world.World) (*fleet, error) {
	f := &fleet{dir: filepath.Join(o.Dir, "files"), keys: newKeys()}
	if err := writeFiles(f.dir); err != nil {
		return nil, err
	}
	var err error
	if f.gatewayAt, err = freePort(); err != nil {
		return nil, err
	}
	if f.egressAt, err = freePort(); err != nil {
		return nil, err
	}
	for _, part := range []func(*Options, *world.World) error{f.makeEgress, f.makeConnector, f.makeGateway} {
		if err := part(o, w); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// writeFiles puts the example files where they can be looked at, and changed:
// the nodes notice. The country database is the world's.
func writeFiles(dir string) error {
	if err := os.CopyFS(dir, configs.Examples); err != nil {
		return fmt.Errorf("writing the example files: %w", err)
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600) // embedded files are read-only
	})
	if err != nil {
		return fmt.Errorf("writing the example files: %w", err)
	}
	countries, err := world.Countries()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "country.mmdb"), countries, 0o600)
}

func (f *fleet) load(name string) (*configs.Set, error) {
	return configs.Load(configs.OS, filepath.Join(f.dir, name))
}

// settle gives a node what a machine of its own would have.
func settle(n *configs.Node, o *Options, role string, wg netip.AddrPort) {
	n.StateDir = filepath.Join(o.Dir, "state", role)
	n.Control = filepath.Join(o.Dir, role+".sock")
	n.Metrics = netip.AddrPort{}
	n.WireGuard.Listen = wg
}

func (f *fleet) makeEgress(o *Options, _ *world.World) error {
	set, err := f.load("egress.yaml")
	if err != nil {
		return err
	}
	e := set.Egress
	settle(&e.Node, o, "egress", f.egressAt)
	e.Gateways[0].PublicKey, e.Gateways[0].Endpoint = f.keys.gateway.Public(), ""
	e.Connectors = slices.DeleteFunc(e.Connectors, func(p configs.Peer) bool { return p.Name != connectorName })
	e.Connectors[0].PublicKey = f.keys.connector.Public()
	for i := range e.Routes {
		e.Routes[i].Via = []string{connectorName}
	}
	load := func() (*node.Loaded, error) {
		set, err := f.load("egress.yaml")
		if err != nil {
			return nil, err
		}
		return &node.Loaded{Policy: set.Policy, Files: set.Files}, nil
	}
	f.egress, err = node.NewEgress(e, f.keys.egress, load, node.Surroundings{Log: o.Log, Version: o.Version})
	return err
}

func (f *fleet) makeConnector(o *Options, w *world.World) error {
	set, err := f.load("connector.yaml")
	if err != nil {
		return err
	}
	c := set.Connector
	settle(&c.Node, o, "connector", netip.MustParseAddrPort("127.0.0.1:0"))
	c.Egresses[0].PublicKey, c.Egresses[0].Endpoint = f.keys.egress.Public(), f.egressAt.String()
	c.Resolver.Servers = []upstream.Server{{Addr: world.Resolver()}}
	c.Kernel = false
	f.connector, err = node.NewConnector(c, f.keys.connector, node.Surroundings{Log: o.Log, Version: o.Version, Dial: w.Dial, Ping: w.Ping})
	return err
}

func (f *fleet) makeGateway(o *Options, w *world.World) error {
	set, err := f.load("gateway.yaml")
	if err != nil {
		return err
	}
	office, err := netip.ParseAddrPort(o.LANDNS)
	if err != nil {
		return err // was checked with the ports
	}
	g := set.Gateway
	settle(&g.Node, o, "gateway", f.gatewayAt)
	g.Egresses[0].PublicKey, g.Egresses[0].Endpoint = f.keys.egress.Public(), f.egressAt.String()
	g.Upstreams = []configs.Upstream{{Name: "default", Servers: []upstream.Server{{Addr: w.Public()}}, Timeout: 2 * time.Second}}
	g.Listen = []netip.AddrPort{office}
	g.TUN, g.PostureDrop = "", ""
	if f.gateway, err = node.NewGateway(g, f.keys.gateway, f.loadGateway, node.Surroundings{Log: o.Log, Version: o.Version}); err != nil {
		return err
	}
	return f.makeLaptop(o, g, set)
}

// loadGateway reads the policy and the devices: the laptop with the key that it
// has today, and besides those of the file everybody on this machine, as an
// office that cannot send.
func (f *fleet) loadGateway() (*node.Loaded, error) {
	set, err := f.load("gateway.yaml")
	if err != nil {
		return nil, err
	}
	devices := slices.Clone(set.Devices)
	for i, d := range devices {
		if d.ID == deviceName {
			with := *d
			with.Key = f.keys.laptop.Public()
			devices[i] = &with
		}
	}
	devices = append(devices, &device.Device{
		ID: "this-machine", Kind: device.ByNetwork, Groups: []string{"staff"},
		LAN: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	})
	return &node.Loaded{Policy: set.Policy, Devices: devices, Files: set.Files}, nil
}

func (f *fleet) makeLaptop(o *Options, g *configs.Gateway, set *configs.Set) error {
	i := slices.IndexFunc(set.Devices, func(d *device.Device) bool { return d.ID == deviceName })
	if i < 0 {
		return fmt.Errorf("devices.yaml has no %s", deviceName)
	}
	var err error
	f.laptop, err = newLaptop(laptopConfig{
		key: f.keys.laptop, device: set.Devices[i], mtu: g.MTU, log: o.Log.With("node", deviceName),
		gateway: link.Peer{
			Name: g.Name, Key: f.keys.gateway.Public(), Endpoint: f.gatewayAt.String(), Keepalive: 20 * time.Second,
			AllowedIPs: slices.Concat(g.Pool, singles(g.Address)),
		},
		at: g.Address, pool: g.Pool,
	})
	return err
}

func singles(addrs []netip.Addr) (ps []netip.Prefix) {
	for _, a := range addrs {
		ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
	}
	return ps
}
