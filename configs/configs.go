// Package configs holds the example files and reads the settings of nodes.
//
// A node file says what one node is: its `role:` is gateway, egress or
// connector. A gateway and an egress name besides a policy file, a gateway a
// file of devices. [Load] reads a node file with all that it names, [Check]
// reads any number of files together and finds what only shows when they lie
// side by side: pools that overlap, a peer that is described differently by
// both ends, a group that no device has.
//
// Reading is strict, and says everything at once: an unknown key, a bad value
// and a clash between files are all mistakes with a place ([yamlpos.Error]).
// What depends on the machine and not on the files (whether a private key is
// there, whether a port is free) is no concern of this package.
//
// Paths in a file are relative to the folder of that file. What comes out of a
// reader is complete: defaults are filled in, and nothing has to be parsed again.
package configs

import (
	"net/netip"
	"path/filepath"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/resolver/upstream"
)

// The defaults of what may be left out of a node file.
const (
	DefaultStateDir = "/var/lib/starferry"
	DefaultFolder   = "/etc/starferry"
	DefaultMTU      = 1380 // what WireGuard leaves of 1500 over IPv6, less some for PPPoE and the like
	DefaultTUN      = "starferry0"
	defaultTimeout  = 2 * time.Second
)

// defaultListen is WireGuard's own port on every address.
var defaultListen = netip.AddrPortFrom(netip.IPv6Unspecified(), 51820)

// DefaultControl returns where a node of the role has its control socket.
func DefaultControl(role string) string { return "/run/starferry/" + role + ".sock" }

// A Node is what nodes of all roles have.
type Node struct {
	File      string // where it is written
	Name      string
	StateDir  string
	Control   string         // path of the control socket
	Metrics   netip.AddrPort // where /metrics and /healthz are served; zero: nowhere
	Address   []netip.Addr   // the node's own, inside the fleet; at most one of a family
	Pool      []netip.Prefix // of its labels; at most one of a family
	MTU       int            // of what is inside the links
	WireGuard WireGuard
}

// ListsDir returns the folder of the copies of lists that were fetched.
func (n *Node) ListsDir() string { return filepath.Join(n.StateDir, "lists") }

// WireGuard is a node's own end of its links.
type WireGuard struct {
	PrivateKeyFile string
	PublicKey      device.Key     // zero if it is not written down; the key file knows it anyhow
	Listen         netip.AddrPort // of gateways and egresses
	Endpoint       string         // host:port under which others reach it; may be empty
}

// A Peer is another node that a node has a link to.
type Peer struct {
	Name      string
	PublicKey device.Key
	Endpoint  string         // host:port to dial; empty: it dials us
	Address   []netip.Addr   // its node address
	Pool      []netip.Prefix // of its labels; none of a gateway, which hands its labels to devices only
	Slice     []netip.Prefix // of a gateway: the sources that flows from it may have
	Nodes     []netip.Prefix // of an egress: addresses of nodes behind it, which may send ICMP errors
	At        yamlpos.Pos
}

// A Route is a way that policies steer by.
type Route struct {
	Name string
	Via  []string // names of peers: egresses at a gateway, connectors at an egress; best first
	At   yamlpos.Pos
}

// An Upstream is a group of resolvers that are asked for a node.
type Upstream struct {
	Name      string
	Servers   []upstream.Server
	Strategy  upstream.Strategy
	Timeout   time.Duration    // of one question
	Bootstrap []netip.AddrPort // who knows the addresses of servers without one
	TrustAD   bool             // what they say is authentic is passed on as such
	Domains   []string         // names below them are asked here unless a policy says otherwise
	At        yamlpos.Pos
}

// The strategies of a group.
const (
	Fastest  = "fastest"  // the server that answered fastest lately, and another one if it is late
	Parallel = "parallel" // all at once; the first answer counts
	Failover = "failover" // in the order in which they are written, those that failed lately last
)

// Etcd says where an external etcd cluster is.
type Etcd struct {
	Endpoints     []string
	CA, Cert, Key string // files in PEM
}

// A Gateway is the settings of the node that devices ask.
type Gateway struct {
	Node
	Policy      string // path
	Devices     string // path
	PostureDrop string // folder in which report files are left; empty: none
	Slice       []netip.Prefix
	DNS
	QueryLog  *QueryLog  // nil: none
	Upstreams []Upstream // one is named default
	TUN       string     // towards LANs that route the pool here; empty: none
	Egresses  []Peer
	Routes    []Route
	Etcd      *Etcd // nil: embedded
}

// An Egress is the settings of the node that decides a second time.
type Egress struct {
	Node
	Policy     string // path
	Gateways   []Peer
	Connectors []Peer
	Routes     []Route
}

// A Connector is the settings of the node at the far end.
type Connector struct {
	Node
	Egresses     []Peer         // it dials all of them
	Slices       []netip.Prefix // sources that it takes, and routes back
	Resolver     Upstream       // the resolver in China
	AllowPrivate []netip.Prefix // private origins that answers may name
	Poison       []netip.Prefix // addresses that are never believed
	Kernel       bool           // forward by TUN and masquerade, as root; else by sockets of its own
	TUN          string         // of Kernel
}

// ReadDevices reads the machines and networks of a file of devices. Its error is
// every mistake of the file; the clashes with other files are found by [Load].
func ReadDevices(name string, src []byte) ([]*device.Device, error) {
	d, err := readAlone(name, src, devicesFile)
	return d.devices, err
}

// ReadGateway is like [ReadDevices] for the settings of a gateway.
func ReadGateway(name string, src []byte) (*Gateway, error) {
	d, err := readAlone(name, src, gatewayFile)
	return d.gateway, err
}

// ReadEgress is like [ReadDevices] for the settings of an egress.
func ReadEgress(name string, src []byte) (*Egress, error) {
	d, err := readAlone(name, src, egressFile)
	return d.egress, err
}

// ReadConnector is like [ReadDevices] for the settings of a connector.
func ReadConnector(name string, src []byte) (*Connector, error) {
	d, err := readAlone(name, src, connectorFile)
	return d.connector, err
}

func readAlone(name string, src []byte, want kind) (*doc, error) {
	d := openDoc(name, src)
	d.expect(want)
	d.read()
	settle([]*doc{d})
	return d, d.mistakes()
}
