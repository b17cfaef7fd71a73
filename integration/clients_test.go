package integration

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/integration/authority"
	"github.com/starferry/starferry/internal/needs"
)

const (
	officeDNS  = "192.168.1.1"
	serverName = "dns.starferry.test"
	resolved   = "/lib/systemd/systemd-resolved"
)

// A client is a program of an office machine, unmodified. It asks for three
// names: one that is allowed, one that is blocked, one that is steered.
type client struct {
	name  string
	start func(f *fleet) // what has to run beside it; may be nil
	ask   string         // how it asks for NAME
	says  [3]string      // regular expressions of what it then says of each
}

var askedNames = [3]string{"www.allowed.test", "www.blocked.test", "www.guest-china.test"}

// What programs say of the three names: in the form of dig, which they share,
// with and without DNSSEC that was validated; of drill; and of a browser that is
// shown the page.
var (
	digs      = [3]string{`\sA\s+192\.0\.2\.80\s`, `status: NXDOMAIN`, `\sA\s+198\.19\.\d+\.\d+\s`}
	validated = [3]string{`(?s)flags: qr[a-z ]* ad.*\sA\s+192\.0\.2\.80\s`, `status: NXDOMAIN`, `\sA\s+198\.19\.\d+\.\d+\s`}
	drills    = [3]string{digs[0], `rcode: NXDOMAIN`, digs[2]}
	pages     = [3]string{`origin page of www.allowed.test`, `(?i)resolve host|ERR_NAME_NOT_RESOLVED`, `origin page of www.guest-china.test, asked from 203\.0\.113\.[78]:`}
)

var clients = []client{
	{"dig", nil, "dig NAME @192.168.1.1", digs},
	{"dig over TCP", nil, "dig +tcp NAME @192.168.1.1", digs},
	{"kdig", nil, "kdig NAME @192.168.1.1", digs},
	{"kdig +tls", nil, "kdig +tls-ca=DIR/ca.pem +tls-hostname=" + serverName + " NAME @192.168.1.1", digs},
	{"kdig +https", nil, "kdig +tls-ca=DIR/ca.pem +tls-hostname=" + serverName + " +https=/dns-query NAME @192.168.1.1", digs},
	{"drill", nil, "drill NAME @192.168.1.1", drills},
	{"curl --doh-url", nil, "curl -sS --max-time 10 --cacert DIR/ca.pem --doh-url https://192.168.1.1/dns-query http://NAME/", pages},
	{"dnsmasq", startDnsmasq, "dig NAME @127.0.0.2", digs},
	{"unbound, validating", startUnbound, "dig NAME @127.0.0.3", validated},
	{"unbound, validating without anchors", startBareUnbound, "dig NAME @127.0.0.6", [3]string{validated[0], `status: SERVFAIL`, `status: SERVFAIL`}},
	{"BIND, validating", startBIND, "dig NAME @127.0.0.7", validated},
	{"systemd-resolved, validating", startResolved, "dig NAME @127.0.0.4", validated},
	{"stubby", startStubby, "dig NAME @127.0.0.5", digs},
	{"Chromium", nil, "unshare -m sh DIR/chromium.sh http://NAME/", pages},
}

// TestClients has the programs that people use ask the office listeners of a
// fleet, behind a signed zone.
func TestClients(t *testing.T) {
	needs.Tools(t, "dig", "kdig", "drill", "curl", "dnsmasq", "unbound", "named", resolved, "stubby", "chromium", "certutil", "unshare")
	f := newFleetWith(t, (*fleet).forClients)
	f.in("office", "ip addr add 192.0.2.80/32 dev lo")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f.start("office", []string{roleEnv + "=origin"}, self, "192.0.2.80:80")
	f.write("chromium.sh", f.fill(chromiumScript))
	f.write("anchor", f.anchor+"\n")
	for _, form := range []string{"unbound", "bind", "resolved"} {
		f.write("negative."+form, f.in("gateway", binary+" export trust-anchors -c "+f.path("gateway.yaml")+" --format "+form))
	}
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) { f.as(t, c.try) })
	}
}

func (c *client) try(t *testing.T, f *fleet) {
	if c.start != nil {
		c.start(f)
	}
	for i, name := range askedNames {
		line := strings.NewReplacer("NAME", name, "DIR", f.dir).Replace(c.ask)
		want, said := regexp.MustCompile(c.says[i]), ""
		limit := time.Now().Add(20 * time.Second) // a loaded machine takes its time to start things
		for said, _ = f.try("office", line); !want.MatchString(said) && time.Now().Before(limit); {
			said, _ = f.try("office", line)
		}
		if !want.MatchString(said) {
			t.Errorf("%s says nothing like %s:\n%s", line, want, said)
		}
	}
}

// forClients gives the gateway encrypted listeners and a policy that blocks a
// name, and has the public names signed.
func (f *fleet) forClients() {
	pem, err := authority.New(serverName, netip.MustParseAddr(officeDNS))
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("ca.pem", pem.CA)
	f.write("dns.pem", pem.Cert)
	f.write("dns.key", pem.Key)
	f.signed = f.path("zone")
	f.anchor = newZoneKey(f.t, "test.", f.signed)
	f.edit("gateway.yaml", `dns: {`, `dns: {tls: {listen: "192.168.1.1:853"}, https: {listen: "192.168.1.1:443"}, certificates: [{cert: dns.pem, key: dns.key}], `)
	f.edit("policy.yaml", "policies:\n", "policies:\n  - {name: blocked, if: {name: www.blocked.test}, then: {block: nxdomain}}\n")
}

// edit changes a file in one place.
func (f *fleet) edit(name, old, with string) {
	f.t.Helper()
	b, err := os.ReadFile(f.path(name))
	if err != nil || !strings.Contains(string(b), old) {
		f.t.Fatalf("%s does not hold %q: %v", name, old, err)
	}
	f.write(name, strings.Replace(string(b), old, with, 1))
}

func startDnsmasq(f *fleet) {
	f.start("office", nil, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--listen-address=127.0.0.2", "--bind-interfaces",
		"--no-resolv", "--no-hosts", "--server="+officeDNS, "--pid-file=", "--user=root", "--add-mac", "--add-subnet=32")
}

func startUnbound(f *fleet) {
	conf := f.write("unbound.conf", f.fill(unboundConf, "ANCHOR", f.anchor, "ADDRESS", "127.0.0.3")+`include: "`+f.path("negative.unbound")+`"`+"\n")
	f.start("office", nil, "unbound", "-d", "-c", conf)
}

// startBareUnbound starts one that takes for forged what the gateway makes.
func startBareUnbound(f *fleet) {
	conf := f.write("bare.conf", f.fill(unboundConf, "ANCHOR", f.anchor, "ADDRESS", "127.0.0.6"))
	f.start("office", nil, "unbound", "-d", "-c", conf)
}

func startBIND(f *fleet) {
	f.in("office", "ip addr add 127.0.0.7/8 dev lo") // it listens on no address that is not there
	ds := strings.Fields(f.anchor)
	conf := f.write("named.conf", f.fill(bindConf, "ANCHOR", fmt.Sprintf("%q static-ds %s %s %s %q", ds[0], ds[3], ds[4], ds[5], ds[6])))
	f.start("office", nil, "named", "-g", "-c", conf)
}

func startStubby(f *fleet) {
	conf := f.write("stubby.yml", f.fill(stubbyConf))
	f.start("office", nil, "stubby", "-C", conf)
}

func startResolved(f *fleet) {
	f.write("resolved.conf", resolvedConf)
	script := f.write("resolved.sh", f.fill(resolvedScript))
	f.start("office", nil, "unshare", "-m", "sh", script)
}

var unboundConf = fmt.Sprintf(`
server:
  directory: "@DIR@"
  username: ""
  chroot: ""
  pidfile: ""
  use-syslog: no
  interface: @ADDRESS@
  do-not-query-localhost: no
  module-config: "validator iterator"
  trust-anchor: "@ANCHOR@"
  local-zone: "test." nodefault
forward-zone:
  name: "."
  forward-addr: %s
remote-control:
  control-enable: no
`, officeDNS)

var bindConf = fmt.Sprintf(`
options {
  directory "@DIR@";
  listen-on { 127.0.0.7; };
  listen-on-v6 { none; };
  pid-file none;
  session-keyfile none;
  recursion yes;
  forwarders { %s; };
  forward only;
  dnssec-validation yes;
  include "@DIR@/negative.bind";
};
trust-anchors { @ANCHOR@; };
controls { };
`, officeDNS)

var stubbyConf = fmt.Sprintf(`
resolution_type: GETDNS_RESOLUTION_STUB
dns_transport_list: [GETDNS_TRANSPORT_TLS]
tls_authentication: GETDNS_AUTHENTICATION_REQUIRED
tls_ca_file: "@DIR@/ca.pem"
tls_query_padding_blocksize: 128
edns_client_subnet_private: 1
idle_timeout: 10000
listen_addresses: [127.0.0.5]
upstream_recursive_servers:
  - {address_data: %s, tls_auth_name: %q}
`, officeDNS, serverName)

var resolvedConf = fmt.Sprintf(`
[Resolve]
DNS=%s
FallbackDNS=
Domains=~.
DNSSEC=yes
DNSOverTLS=no
MulticastDNS=no
LLMNR=no
Cache=no
DNSStubListener=no
DNSStubListenerExtra=127.0.0.4
ReadEtcHosts=no
`, officeDNS)

// resolvedScript gives systemd-resolved a /run and settings of its own.
const resolvedScript = `
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/resolve /run/dnssec-trust-anchors.d
chown systemd-resolve:systemd-resolve /run/systemd/resolve
install -m 644 @DIR@/anchor /run/dnssec-trust-anchors.d/test.positive
install -m 644 @DIR@/negative.resolved /run/dnssec-trust-anchors.d/starferry.negative
install -m 644 @DIR@/resolved.conf /run/resolved.conf
mount --bind /run/resolved.conf /etc/systemd/resolved.conf
exec ` + resolved + `
`

// chromiumScript gives Chromium policies, an authority and a profile of its own,
// and prints the page that it makes of a URL.
const chromiumScript = `
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /etc/chromium
mkdir -p /etc/chromium/policies/managed @DIR@/home/.pki/nssdb
printf '{"DnsOverHttpsMode":"secure","DnsOverHttpsTemplates":"https://` + officeDNS + `/dns-query"}' > /etc/chromium/policies/managed/doh.json
cd @DIR@/home
[ -e .pki/nssdb/cert9.db ] || certutil -d sql:.pki/nssdb -N --empty-password
certutil -d sql:.pki/nssdb -A -t C,, -n test -i @DIR@/ca.pem
HOME=$PWD exec timeout 20 chromium --headless --no-sandbox --disable-gpu --disable-quic --user-data-dir=$PWD/profile --no-first-run \
  --disable-background-networking --disable-component-update --disable-sync --dump-dom "$1"
`
