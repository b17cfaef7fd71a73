package configs

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/resolver/upstream"
)

func listens(list ...string) (out []netip.AddrPort) {
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

const smallFile = `role: gateway
name: gw
policy: policy.yaml
devices: devices.yaml
address: 100.72.0.1
slice: 100.72.0.0/20
pool: 198.19.0.0/18
wireguard: {private_key_file: gateway.key}
`

// smallGateway is a file with no more than is needed, and what is added to it.
func smallGateway(t *testing.T, more string) *Gateway {
	t.Helper()
	g, err := ReadGateway("etc/gateway.yaml", []byte(smallFile+more))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

var plainUpstreams = "upstreams: {default: {servers: [192.0.2.53, \"[2001:db8::53]:5353\"], timeout: 1s}}\n"

// What a file does not say is as the example says that it is.
func TestDefaultsAreTheExample(t *testing.T) {
	example := loadExample(t, "gateway.yaml").Gateway.DNS
	small := smallGateway(t, plainUpstreams).DNS
	same(t, "listeners", small.Listen, nil)
	small.Listen, small.Local.Except = example.Listen, example.Local.Except
	small.Rebinding.Except, small.Rebinding.Networks = example.Rebinding.Except, example.Rebinding.Networks
	small.HTTPS.Path = example.HTTPS.Path
	same(t, "dns", small, example)
	same(t, "cache", small.Cache, Cache{
		Size: 64 << 20, MaxTTL: 24 * time.Hour, MaxNegative: time.Hour,
		ServeStale: 24 * time.Hour, StaleTTL: 30 * time.Second, Prefetch: true,
	})
	same(t, "limits", small.Limits, Limits{1232, 1024, 256, 1024, 128, 64, 10 * time.Second})
	same(t, "rate limit", small.RateLimit, RateLimit{Client: Rate{1000, 2000}, Network: Rate{10000, 20000}, Responses: 200, Slip: 2})
	same(t, "rebinding", smallGateway(t, plainUpstreams).Rebinding, Rebinding{Protect: true})
}

// The form of files before there were groups.
func TestPlainForm(t *testing.T) {
	g := smallGateway(t, "dns: {listen: 0.0.0.0:53}\n"+plainUpstreams)
	same(t, "listen", g.Listen, listens("0.0.0.0:53"))
	u := g.Upstreams[0]
	same(t, "servers", u.Servers, []upstream.Server{{Addr: netip.MustParseAddrPort("192.0.2.53:53")}, {Addr: netip.MustParseAddrPort("[2001:db8::53]:5353")}})
	same(t, "strategy", u.Strategy, upstream.Failover)
	same(t, "timeout", u.Timeout, time.Second)
	same(t, "query log", g.QueryLog, nil)
}

// commented are the lines of the example that are YAML behind a "#".
var commented = regexp.MustCompile(`(?m)^( *)# ((?:  )*(?:- \{)?[a-z_]+:( .*)?)$`)

// What the example only shows is true as well.
func TestExampleCommentedOut(t *testing.T) {
	src, err := Examples.ReadFile("gateway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := commented.ReplaceAllString(string(src), "$1$2")
	text = strings.Replace(text, "    servers: [192.0.2.53, \"192.0.2.54:53\"]\n", "", 1) // said twice now
	g, err := ReadGateway("etc/gateway.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "tls", g.TLS, listens("0.0.0.0:853", "[::]:853"))
	same(t, "https", g.HTTPS, HTTPS{
		Listen: listens("0.0.0.0:443", "[::]:443"), Path: "/dns-query",
		BehindProxy: listens("127.0.0.1:8053"), TrustedProxies: prefixes("127.0.0.1/32"),
	})
	same(t, "certificate", g.Certificates[0].Cert+" "+g.Certificates[0].Key, "etc/dns.pem etc/dns.key")
	same(t, "server name", g.ServerName, "dns.example.com")
	same(t, "forwarders", g.Forwarders, prefixes("10.0.0.53/32"))
	same(t, "rate limit", g.RateLimit, RateLimit{
		Client: Rate{1000, 2000}, Network: Rate{10000, 20000}, Responses: 200, Slip: 2, Exempt: prefixes("127.0.0.0/8", "::1/128", "10.0.0.53/32"),
	})
	same(t, "zone", g.Local.Zones[0].Name+" "+g.Local.Zones[0].File, "lab.example etc/lab.zone")
	same(t, "hosts", g.Local.Hosts, []string{"/etc/hosts"})
	same(t, "block page", g.BlockPage, BlockPage{addrs("192.0.2.10", "2001:db8::10"), listens("0.0.0.0:80"), "it@example.com"})
	same(t, "query log", *g.QueryLog, QueryLog{
		File: "/var/log/starferry/queries.jsonl", MaxSize: 100 << 20, MaxAge: 7 * 24 * time.Hour, Keep: 10, Compress: true,
		Dnstap: Dnstap{"unix", "/run/dnstap.sock"}, Privacy: "hash", KeyFile: "etc/querylog.key",
	})
	same(t, "servers", fmt.Sprint(g.Upstreams[0].Servers), "[tls://dns.example@192.0.2.53 https://dns.example/dns-query]")
	same(t, "domains", g.Upstreams[1].Domains, []string{"corp.example", "10.in-addr.arpa"})
	same(t, "etcd", len(g.Etcd.Endpoints), 2)
}

// What the example shows of machines without a link.
func TestExampleMarks(t *testing.T) {
	src, err := Examples.ReadFile("devices.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^  # ((?:- |  )[a-z_]+:( .*)?)$`).ReplaceAllString(string(src), "  $1")
	devices, err := ReadDevices("devices.yaml", []byte(text))
	if err != nil || len(devices) != 4 {
		t.Fatalf("%d devices: %v", len(devices), err)
	}
	phone := devices[2]
	same(t, "kind", phone.Kind, device.ByToken)
	same(t, "marks", phone.Marks, device.Marks{
		Token: device.HashToken("test"), ServerName: "alice-phone", MAC: device.MAC{2, 0, 0x5e, 0x10, 0, 1}, CPE: "desk-7",
	})
}

func TestKindOfMarks(t *testing.T) {
	for mark, want := range map[string]device.Kind{
		`key: "TfgIWGySF6SzBZHpvs7ZFdLR31mdWLYr+4qbG7igPFc=", addresses: 100.72.1.10, cpe_id: a`: device.ByWireGuard,
		"token: sha256:" + strings.Repeat("0f", 32) + ", server_name: a":                         device.ByToken,
		"server_name: other, cpe_id: a":                                                          device.ByServerName,
		"mac: 02-00-5E-10-00-01":                                                                 device.ByOption,
		"cpe_id: a":                                                                              device.ByOption,
	} {
		devices, err := ReadDevices("devices.yaml", []byte("devices: [{name: a, "+mark+"}]\n"))
		if err != nil || devices[0].Kind != want {
			t.Errorf("%s: %+v, %v, want %v", mark, devices, err, want)
		}
	}
}

// A policy's groups of upstreams are those of its gateway.
func TestUpstreamsOfPolicies(t *testing.T) {
	files := fstest.MapFS{
		"gateway.yaml": {Data: []byte(smallFile + "dns: {cache: off}\nupstreams: {default: {servers: 192.0.2.53}, partner: {servers: 192.0.2.54}}\n")},
		"devices.yaml": {Data: []byte("devices: [{name: a, cpe_id: a}]\n")},
		"policy.yaml":  {Data: []byte("policies: [{name: a, then: {resolve: partner}}, {name: b, then: {resolve: partnr}}]\n")},
	}
	_, err := Load(FS(files), "gateway.yaml")
	if err == nil || !strings.Contains(err.Error(), `gateway.yaml has no upstream group "partnr"`) || !strings.Contains(err.Error(), `did you mean "partner"?`) ||
		strings.Contains(err.Error(), `group "partner"`) {
		t.Error(err)
	}
}

// A machine that can only be known by what its gateway does not look at is warned of.
func TestMarksThatNobodyLooksAt(t *testing.T) {
	for _, c := range []struct {
		dns, mark string
		want      int
	}{
		{"{forwarders: 10.0.0.53}", "cpe_id: a", 0},
		{"{listen: 0.0.0.0:53}", "cpe_id: a", 1},
		{"{https: {behind_proxy: 127.0.0.1:8053, trusted_proxies: 127.0.0.1}}", "token: sha256:" + strings.Repeat("0f", 32), 0},
		{"{https: {behind_proxy: 127.0.0.1:8053, trusted_proxies: 127.0.0.1}}", "server_name: on", 1},
		{"{tls: {listen: 0.0.0.0:853}, certificates: [{cert: a, key: b}], server_name: dns.example}", "server_name: on", 0},
		{"{tls: {listen: 0.0.0.0:853}, certificates: [{cert: a, key: b}]}", "server_name: on", 1},
		{"{listen: 0.0.0.0:53}", `cpe_id: a, key: "TfgIWGySF6SzBZHpvs7ZFdLR31mdWLYr+4qbG7igPFc=", addresses: 100.72.1.10`, 0},
	} {
		s, err := Load(FS(fstest.MapFS{
			"gateway.yaml": {Data: []byte(smallFile + "dns: " + c.dns + "\n" + plainUpstreams)},
			"devices.yaml": {Data: []byte("devices: [{name: a, " + c.mark + "}]\n")},
			"policy.yaml":  {Data: []byte("policies: [{name: a, then: allow}]\n")},
		}), "gateway.yaml")
		if err != nil || len(s.Warnings) != c.want {
			t.Errorf("%s at %s: %v, %v", c.mark, c.dns, s, err)
		}
	}
}

func TestSwitches(t *testing.T) {
	off := smallGateway(t, "dns: {rate_limit: off, cookies: off, cache: off, special_use: off, rebinding: off}\n"+plainUpstreams)
	same(t, "cookies", off.Cookies, Cookies{})
	same(t, "cache", off.Cache, Cache{})
	same(t, "local", off.Local, Local{})
	same(t, "rebinding", off.Rebinding, Rebinding{})
	same(t, "rate limit", off.RateLimit, RateLimit{})
	on := smallGateway(t, "dns: {rate_limit: {client: {rate: 7}}, cookies: {secret_file: a}, rebinding: {protect: off}, limits: {in_work: 100}}\n"+plainUpstreams)
	same(t, "cookies", on.Cookies, Cookies{true, "etc/a"})
	same(t, "rate limit", on.RateLimit, RateLimit{Client: Rate{7, 14}})
	same(t, "rebinding", on.Rebinding, Rebinding{})
	same(t, "one client's share", on.Limits.InWorkByClient, 100)
	same(t, "rate limit on", smallGateway(t, "dns: {rate_limit: on}\n"+plainUpstreams).RateLimit.Responses, 200)
	for text, want := range map[string]string{"": "[] true", ", exempt: []": "[] false", ", exempt: 10.0.0.53": "[10.0.0.53/32] false"} {
		got := smallGateway(t, "dns: {rate_limit: {client: {rate: 7}"+text+"}}\n"+plainUpstreams).RateLimit.Exempt
		same(t, "exempt"+text, fmt.Sprint(got, got == nil), want)
	}
	same(t, "rate limit of nothing", smallGateway(t, "dns: {rate_limit: ~}\n"+plainUpstreams).RateLimit, RateLimit{})
}

func TestSizesAndSpans(t *testing.T) {
	for in, want := range map[string]int64{"1": 1, "512B": 512, "64KiB": 64 << 10, "100 MiB": 100 << 20, "8GiB": 8 << 30, "": 0, "0": 0, "MiB": 0, "1.5GiB": 0, "64M": 0, "999999999999999GiB": 0} {
		if got, err := parseSize(in); got != want || (err == nil) != (want != 0) {
			t.Errorf("size %q = %d, %v", in, got, err)
		}
	}
	for in, want := range map[string]time.Duration{
		"0s": 0, "90s": 90 * time.Second, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "0d": 0,
		"": -1, "d": -1, "1w": -1, "-1s": -1, "1d-1s": -1, "1d1d": -1, "99999d2562047h": -1,
	} {
		if got, err := ParseSpan(in); (err == nil) != (want >= 0) || err == nil && got != want {
			t.Errorf("span %q = %v, %v", in, got, err)
		}
	}
}

func FuzzSpan(f *testing.F) {
	f.Add("1d12h")
	f.Add("64MiB")
	f.Fuzz(func(t *testing.T, in string) {
		if d, err := ParseSpan(in); err == nil && d < 0 {
			t.Errorf("span %q = %v", in, d)
		}
		if n, err := parseSize(in); err == nil && n <= 0 {
			t.Errorf("size %q = %d", in, n)
		}
	})
}
