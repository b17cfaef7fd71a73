package integration

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starferry/starferry/internal/needs"
	"github.com/starferry/starferry/steer/geo/geomake"
)

// A fleet is the whole of it in network namespaces. Lines are veth cables;
// wan and cn are switches.
//
//	                     wan 198.51.100.0/24
//	device .31 ──────────────┤                                        cn 203.0.113.0/24, 2001:2:0:f000::/64
//	public resolver .53 ─────┤                                          ├── resolver in China .53
//	office ── 192.168.1.0/24 ── gateway .1                              ├── origin .20 (web, ping)
//	                         ├── egress .2                              │
//	                         ├── connector 1 .11 ───────────────── .7 ──┤   kernel: TUN and masquerade
//	                         └── connector 2 .12 ───────────────── .8 ──┘   rootless: sockets of its own
//
// Nothing leads from wan to cn but the connectors, which dial the egress.
type fleet struct {
	*lab
	gateway, egress, connector1, connector2 *program
	keys                                    map[string]keyPair
	signed                                  string // files of the key of the public names; empty: they are not signed
	anchor                                  string // of it, as trust anchors are written
	wg                                      string // the device's interface; unique, for wireguard-go's socket is named by it
}

type keyPair struct{ private, public string }

const (
	egressAddr  = "198.51.100.2"
	gatewayDNS  = "100.72.0.1"
	originAddr  = "203.0.113.20"
	originAddr6 = "2001:2:0:f000::20"
)

var fleets atomic.Int32

func newFleet(t *testing.T) *fleet { return newFleetWith(t, func(*fleet) {}) }

// newFleetWith makes a fleet whose files change alters before anything reads them.
func newFleetWith(t *testing.T, change func(*fleet)) *fleet {
	needs.Root(t)
	needs.Tools(t, "ip", "dig", "curl", "wg", "wg-quick", "wireguard-go", "nft", "tcpdump", "ping", "traceroute")
	f := &fleet{lab: newLab(t), keys: map[string]keyPair{}}
	f.wg = fmt.Sprintf("%sw%d", f.id, fleets.Add(1))
	f.network()
	f.configure()
	change(f)
	f.outside()
	f.gateway = f.start("gateway", nil, binary, "gateway", "-c", f.path("gateway.yaml"))
	f.egress = f.start("egress", nil, binary, "egress", "-c", f.path("egress.yaml"))
	f.connector1 = f.start("connector1", nil, binary, "connector", "-c", f.path("connector1.yaml"))
	f.connector2 = f.start("connector2", nil, binary, "connector", "-c", f.path("connector2.yaml"))
	f.device()
	f.report(true)
	took := within(t, 20*time.Second, "the first answer through the chain", func() bool {
		out, err := f.try("device", "dig +short +tries=1 +timeout=1 www.listed-china.test @"+gatewayDNS)
		return err == nil && strings.HasPrefix(out, "198.19.")
	})
	t.Logf("first answer through the chain %v after all was started", took.Round(time.Millisecond))
	// A connector that began before the egress takes five seconds more: WireGuard
	// repeats a handshake that nobody heard no sooner.
	links := regexp.MustCompile(`(?s)cn-bjs-1 +connector +up.*cn-sha-1 +connector +up`)
	within(t, 20*time.Second, "both connectors", func() bool {
		return links.MatchString(f.in("egress", binary+" status -c "+f.path("egress.yaml")))
	})
	return f
}

func (f *fleet) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fleet) network() {
	f.bridge("wan")
	f.bridge("cn")
	f.host("device", "public", "office", "gateway", "egress", "connector1", "connector2", "china", "origin")
	f.cable("device", "eth0", "wan", "198.51.100.31/24")
	f.cable("public", "eth0", "wan", "198.51.100.53/24")
	f.cable("gateway", "eth0", "wan", "198.51.100.1/24")
	f.cable("egress", "eth0", "wan", "198.51.100.2/24")
	f.cable("connector1", "eth0", "wan", "198.51.100.11/24")
	f.cable("connector2", "eth0", "wan", "198.51.100.12/24")
	f.cable("connector1", "eth1", "cn", "203.0.113.7/24", "2001:2:0:f000::7/64")
	f.cable("connector2", "eth1", "cn", "203.0.113.8/24", "2001:2:0:f000::8/64")
	for _, c := range []string{"connector1", "connector2"} {
		f.in(c, "ip -6 route add default dev eth1")
	}
	f.cable("china", "eth0", "cn", "203.0.113.53/24")
	f.cable("origin", "eth0", "cn", originAddr+"/24", originAddr6+"/64")
	f.sh(fmt.Sprintf("ip link add eth1 netns %s type veth peer name eth0 netns %s", f.ns("gateway"), f.ns("office")))
	f.in("gateway", "ip addr add 192.168.1.1/24 dev eth1; ip link set eth1 up")
	f.in("office", "ip addr add 192.168.1.2/24 dev eth0; ip link set eth0 up; ip route add 198.19.0.0/18 via 192.168.1.1")
}

// outside starts what is not of the fleet: resolvers and the origin.
func (f *fleet) outside() {
	self, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	public := []string{self, "198.51.100.53:53"}
	role := roleEnv + "=dns"
	if f.signed != "" {
		public, role = append(public, f.signed), roleEnv+"=signed"
	}
	f.start("public", []string{role}, append(public,
		"www.allowed.test. 60 IN A 192.0.2.80",
		"www.blocked.test. 60 IN A 192.0.2.81",
		"www.answer-china.test. 60 IN A "+originAddr,
		"www.elsewhere.test. 60 IN A 192.0.2.99",
		"evil-rebind.test. 60 IN A 198.19.0.7",
	)...)
	f.start("china", []string{roleEnv + "=dns"}, self, "203.0.113.53:53",
		"www.listed-china.test. 60 IN CNAME edge.listed-china.test.",
		"edge.listed-china.test. 60 IN A "+originAddr,
		"edge.listed-china.test. 60 IN AAAA "+originAddr6,
		"v4only.listed-china.test. 60 IN A "+originAddr,
		"www.answer-china.test. 60 IN A "+originAddr,
		"www.guest-china.test. 60 IN A "+originAddr,
		"www.taobao.com. 60 IN A "+originAddr,
		"private.listed-china.test. 60 IN A 10.9.8.7",
	)
	f.start("origin", []string{roleEnv + "=origin"}, self, originAddr+":80", "["+originAddr6+"]:80", originAddr+":8080")
}

// device brings up the stock WireGuard client with the file that the program prints for it.
func (f *fleet) device() {
	keyFile := f.write("alice.key", f.keys["alice"].private+"\n")
	conf := f.in("gateway", fmt.Sprintf("%s device config alice-laptop -c %s --key %s --qr never", binary, f.path("gateway.yaml"), keyFile))
	path := f.write(f.wg+".conf", conf)
	// A wireguard-go that was killed leaves its socket behind, and wg(8) unlinks one
	// where nobody listens, also that of one that is about to: so it is looked for
	// and connected to here, before wg(8) is called.
	socket := filepath.Join("/var/run/wireguard", f.wg+".sock")
	os.Remove(socket)
	f.t.Cleanup(func() { os.Remove(socket) })
	f.start("device", []string{"WG_PROCESS_FOREGROUND=1", "LOG_LEVEL=error"}, "wireguard-go", "-f", f.wg)
	within(f.t, 5*time.Second, "the client's interface", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	f.in("device", "wg-quick strip "+path+" | wg setconf "+f.wg+" /dev/stdin")
	for _, line := range strings.Split(conf, "\n") {
		key, value, _ := strings.Cut(line, "=")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "Address":
			for _, a := range strings.Split(value, ",") {
				f.in("device", "ip addr add "+strings.TrimSpace(a)+" dev "+f.wg)
			}
		case "MTU":
			f.in("device", "ip link set "+f.wg+" mtu "+value)
		case "AllowedIPs":
			f.in("device", "ip link set "+f.wg+" up")
			for _, p := range strings.Split(value, ",") {
				f.in("device", "ip route replace "+strings.TrimSpace(p)+" dev "+f.wg)
			}
		}
	}
}

// report sends a posture report from the device, as its management agent does.
func (f *fleet) report(good bool) {
	f.t.Helper()
	firewall := "off"
	if good {
		firewall = "on"
	}
	body := f.write("report.json", fmt.Sprintf(`{"os":"linux","os_version":"6.12.0","disk_encryption":{"volumes":{"/":true,"/boot":false}},"firewall":%q}`, firewall))
	within(f.t, 15*time.Second, "a report taken", func() bool {
		_, err := f.try("device", fmt.Sprintf("curl -sS --fail --max-time 2 --data-binary @%s http://%s/v1/posture", body, gatewayDNS))
		return err == nil
	})
}

func (f *fleet) key(name string) keyPair {
	if k, ok := f.keys[name]; ok {
		return k
	}
	gen := exec.Command("wg", "genkey")
	private, err := gen.Output()
	if err != nil {
		f.t.Fatal(err)
	}
	pub := exec.Command("wg", "pubkey")
	pub.Stdin = strings.NewReader(string(private))
	public, err := pub.Output()
	if err != nil {
		f.t.Fatal(err)
	}
	k := keyPair{strings.TrimSpace(string(private)), strings.TrimSpace(string(public))}
	f.keys[name] = k
	f.write(name+".key", k.private+"\n")
	return k
}

// chinaList is the list of names hosted in China: the real one where it is at
// hand, else a small sample; the names of the tests are added.
func (f *fleet) chinaList() string {
	text := "server=/listed-china.test/114.114.114.114\nserver=/taobao.com/114.114.114.114\n"
	if os.Getenv("DATA") == "" && os.Getenv("CI") == "" {
		return text
	}
	b, err := os.ReadFile(filepath.Join(needs.Folder(f.t, "DATA"), "china", "accelerated-domains.china.conf"))
	if err != nil {
		f.t.Fatal(err)
	}
	return text + string(b)
}

func (f *fleet) configure() {
	mmdb, err := geomake.Make(map[netip.Prefix]string{
		netip.MustParsePrefix("203.0.113.0/24"): "CN", netip.MustParsePrefix("2001:2:0:f000::/52"): "CN", netip.MustParsePrefix("192.0.2.0/24"): "US",
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("country.mmdb", string(mmdb))
	f.write("lists/china-sites.conf", f.chinaList())
	f.write("devices.yaml", fmt.Sprintf(devicesYAML, f.key("alice").public, f.key("bob").public))
	f.write("policy.yaml", policyYAML("posture: managed-laptop"))
	f.write("egress-policy.yaml", policyYAML("posture: managed-laptop"))
	f.write("gateway.yaml", f.fill(gatewayYAML))
	f.write("egress.yaml", f.fill(egressYAML))
	f.write("connector1.yaml", f.fill(connectorYAML, "N", "1", "SLICE", "240.2.0.0/17, \"fd5f:57a6:7272:c000::/56\"", "FORWARD", "mode: kernel, tun: starferry0", "NAME", "cn-sha-1"))
	f.write("connector2.yaml", f.fill(connectorYAML, "N", "2", "SLICE", "240.2.128.0/17, \"fd5f:57a6:7272:c100::/56\"", "FORWARD", "mode: rootless", "NAME", "cn-bjs-1"))
}

// fill replaces @DIR@, @PUB:name@ and the given words.
func (f *fleet) fill(text string, words ...string) string {
	pairs := []string{"@DIR@", f.dir}
	for _, name := range []string{"gateway", "egress", "connector1", "connector2"} {
		pairs = append(pairs, "@PUB:"+name+"@", f.key(name).public)
	}
	for i := 0; i+1 < len(words); i += 2 {
		pairs = append(pairs, "@"+words[i]+"@", words[i+1])
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// policyYAML is the policy of both deciding nodes, with what it demands of
// devices that are steered to listed sites.
func policyYAML(demand string) string { return fmt.Sprintf(policyTemplate, demand) }

const devicesYAML = `
devices:
  - name: alice-laptop
    key: %q
    addresses: [100.72.1.10, "fd5f:57a6:7272:1::10"]
    groups: [staff]
    explain: true
  - name: bob-desktop
    key: %q
    addresses: [100.72.1.20, "fd5f:57a6:7272:1::20"]
    groups: [guests]
networks:
  - name: office
    addresses: [192.168.1.0/24]
    overlay: [100.72.8.0/24]
    groups: [staff]
    routes_pool: true
`

const policyTemplate = `
lists:
  china-sites: {file: lists/china-sites.conf, format: dnsmasq, min_labels: 2, except: [cn, xn--fiqs8s]}
geoip: {country: country.mmdb}
postures:
  managed-laptop:
    max_age: 15m
    checks:
      - disk_encryption: {volumes: all, except: [/boot]}
      - firewall: on
policies:
  - name: guest-china
    if: {name: {exact: [www.guest-china.test]}}
    then: {steer: hong-kong, ports: [tcp/80], no_way: block}
  - name: china-origins
    if:
      any:
        - name: {list: china-sites}
        - answer: {country: CN}
    require: {groups: [staff], identity: medium, %s}
    then: {steer: hong-kong, ports: [tcp/80, tcp/443, udp/443], when_down: block}
  - name: everything-else
    then: allow
`

const gatewayYAML = `
role: gateway
name: gw-sjc
state_dir: @DIR@/gateway
control: @DIR@/gateway.sock
policy: policy.yaml
devices: devices.yaml
address: [100.72.0.1, "fd5f:57a6:7272::1"]
slice: [100.72.0.0/20, "fd5f:57a6:7272::/52"]
pool: [198.19.0.0/18, "2001:2:0:1000::/52"]
dns: {listen: ["192.168.1.1:53"], special_use: {except: [test]}}
upstreams: {default: {servers: [198.51.100.53], timeout: 2s}}
wireguard: {private_key_file: gateway.key, listen: "0.0.0.0:51820", endpoint: "198.51.100.1:51820"}
lan: {tun: starferry0}
egresses:
  - name: hk-1
    public_key: "@PUB:egress@"
    endpoint: "198.51.100.2:51820"
    address: [100.72.128.1, "fd5f:57a6:7272:8000::1"]
    pool: [240.1.0.0/16, "fd5f:57a6:7272:b000::/52"]
    nodes: [100.72.160.0/24, "fd5f:57a6:7272:a000::/64"]
routes: {hong-kong: {egresses: [hk-1]}}
`

const egressYAML = `
role: egress
name: hk-1
state_dir: @DIR@/egress
control: @DIR@/egress.sock
policy: egress-policy.yaml
address: [100.72.128.1, "fd5f:57a6:7272:8000::1"]
pool: [240.1.0.0/16, "fd5f:57a6:7272:b000::/52"]
wireguard: {private_key_file: egress.key, listen: "0.0.0.0:51820"}
gateways:
  - {name: gw-sjc, public_key: "@PUB:gateway@", address: [100.72.0.1, "fd5f:57a6:7272::1"], slice: [100.72.0.0/20, "fd5f:57a6:7272::/52"]}
connectors:
  - {name: cn-sha-1, public_key: "@PUB:connector1@", address: [100.72.160.1, "fd5f:57a6:7272:a000::1"], pool: [240.2.0.0/17, "fd5f:57a6:7272:c000::/56"]}
  - {name: cn-bjs-1, public_key: "@PUB:connector2@", address: [100.72.160.2, "fd5f:57a6:7272:a000::2"], pool: [240.2.128.0/17, "fd5f:57a6:7272:c100::/56"]}
routes: {hong-kong: {connectors: [cn-sha-1, cn-bjs-1]}}
`

const connectorYAML = `
role: connector
name: @NAME@
state_dir: @DIR@/connector@N@
control: @DIR@/connector@N@.sock
address: [100.72.160.@N@, "fd5f:57a6:7272:a000::@N@"]
pool: [@SLICE@]
wireguard: {private_key_file: connector@N@.key}
egresses:
  - {name: hk-1, public_key: "@PUB:egress@", endpoint: "198.51.100.2:51820", address: [100.72.128.1, "fd5f:57a6:7272:8000::1"]}
slices: [100.72.0.0/20, "fd5f:57a6:7272::/52"]
resolver: {servers: [203.0.113.53], timeout: 2s}
forward: {@FORWARD@}
`
