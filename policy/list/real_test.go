package list

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// data returns the folder of lists as they are published.
func data(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("DATA")
	if dir == "" {
		t.Skip("DATA names no folder of lists")
	}
	return dir
}

// Lists as they are published: how many entries, how many that are left out.
func TestRealNames(t *testing.T) {
	dir := data(t)
	for _, l := range []struct {
		file, format               string
		entries, bad, unsaid, wide int
	}{
		{"china/accelerated-domains.china.conf", "dnsmasq", 110769, 0, 0, 6},
		{"china/apple.china.conf", "dnsmasq", 164, 0, 0, 0},
		{"china/google.china.conf", "dnsmasq", 112, 0, 0, 0},
		{"china/ns-whitelist.txt", "plain", 119, 0, 0, 1},
		{"bypass/crypt0rr_doh.list", "plain", 238, 0, 0, 0},
		{"bypass/hagezi_doh-vpn-proxy-bypass_2023.txt", "plain", 1425, 0, 0, 0},
		{"phish/KADomains.txt", "plain", 23672, 0, 0, 1},
		{"phish/KADhosts.txt", "hosts", 23655, 0, 0, 0},
		{"phish/durablenapkin_raw.txt", "hosts", 14949, 3, 0, 0},
		{"phish/durablenapkin_adguard.txt", "adblock", 949, 10, 9, 0},
		{"phish/blp_phishing-nl.txt", "plain", 190215, 0, 0, 0},
		{"block/perflyst_SmartTV.txt", "plain", 245, 0, 0, 0},
		{"block/perflyst_regex.list", "regexp", 14, 0, 0, 0},
		{"v2fly/jd.txt", "v2fly", 243, 0, 0, 0},
		{"v2fly/hikvision.txt", "v2fly", 8, 0, 0, 0},
		{"v2fly/tld-cn.txt", "v2fly", 49, 0, 0, 49},
		{"v2fly/category-doh.txt", "v2fly", 127, 0, 0, 0},
		{"v2fly/xiaomi.txt", "v2fly", 69, 2, 2, 0},
		{"v2fly/huawei.txt", "v2fly", 32, 2, 2, 0},
		{"v2fly/bytedance.txt", "v2fly", 365, 10, 10, 0},
		{"v2fly/category-ads-all.txt", "v2fly", 20, 12, 12, 0},
		{"v2fly/category-anticensorship.txt", "v2fly", 70, 13, 13, 0},
		{"v2fly/category-vpnservices.txt", "v2fly", 23, 16, 16, 0},
		{"v2fly/geolocation-cn.txt", "v2fly", 1581, 158, 158, 0},
		{"v2fly/geolocation-!cn.txt", "v2fly", 38, 212, 212, 0},
		{"lookalike/dnstwist_acme.com.cn.txt", "plain", 1012, 0, 0, 0},
		{"lookalike/dnstwist_example-corp.com.txt", "plain", 5769, 0, 0, 0},
		{"lookalike/dnstwist_jdcloud.com.txt", "plain", 2763, 0, 0, 0},
	} {
		f, err := os.Open(filepath.Join(dir, l.file))
		if err != nil {
			t.Fatal(err)
		}
		_, stats, err := Names(l.format, f, l.file)
		f.Close()
		if err != nil || stats.Entries != l.entries || stats.Bad != l.bad || stats.Unsaid != l.unsaid || stats.Wide != l.wide {
			t.Errorf("%s: %d entries, %d bad, %d unsaid, %d wide, %v, want %d, %d, %d, %d: %q", l.file, stats.Entries, stats.Bad, stats.Unsaid, stats.Wide, err, l.entries, l.bad, l.unsaid, l.wide, stats.Warnings())
		}
	}
}

func TestRealNetworks(t *testing.T) {
	dir := data(t)
	for _, l := range []struct {
		file, format, selects string
		entries               int
	}{
		{"china/chnroutes.txt", "cidr", "", 3912},
		{"china/chnroutes.mmdb", "mmdb", "CN", 3912},
		{"china/chnroutes.mmdb", "mmdb", "", 3912},
		{"china/bogus-nxdomain.china.conf", "dnsmasq", "", 165},
		{"phish/blp_malware.ip", "cidr", "", 20907},
		{"vpn/x4b_vpn_ipv4.txt", "cidr", "", 10862},
		{"vpn/x4b_vpn_ipv6.txt", "cidr", "", 498},
		{"vpn/x4b_datacenter_ipv4.txt", "cidr", "", 42566},
	} {
		f, err := os.Open(filepath.Join(dir, l.file))
		if err != nil {
			t.Fatal(err)
		}
		set, stats, err := Source{Name: l.file, Format: l.format, Select: strings.Fields(l.selects)}.Networks(f)
		f.Close()
		if err != nil || stats.Entries != l.entries || stats.Bad != 0 {
			t.Errorf("%s: %d entries of %d networks, %d bad, %v, want %d", l.file, stats.Entries, set.Len(), stats.Bad, err, l.entries)
		}
	}
}

// The whole of what is Chinese, with those lists that it includes and that are there.
func TestRealIncludes(t *testing.T) {
	dir := data(t)
	open := func(path string) (io.ReadCloser, error) { return os.Open(path) }
	load := func(file string, selects ...string) (*Set, Stats) {
		set, stats, _, err := (*Cache)(nil).Names(Source{Name: file, Format: "v2fly", Select: selects}, filepath.Join(dir, "v2fly", file), open)
		if err != nil {
			t.Fatal(file, err)
		}
		return set, stats
	}
	cn, stats := load("cn.txt")
	if stats.Wide != 49 || stats.Unsaid != 0 || stats.Entries < 1581+49 {
		t.Errorf("%+v %q", stats, stats.Warnings())
	}
	for name, want := range map[string]bool{"www.jd.com": true, "a.baidu": true, "hikvision.com": true, "www.google.com": false} {
		if _, ok := cn.Lookup(name); ok != want {
			t.Errorf("%s is Chinese: %v, want %v", name, ok, want)
		}
	}
	byName, same := load("", "geosite:cn")
	if same.Entries != stats.Entries || byName.Len() != cn.Len() {
		t.Errorf("by its name %+v, by its file %+v", same, stats)
	}
	// ByteDance has sites that are elsewhere: geolocation-cn leaves them out.
	_, all := load("bytedance.txt")
	_, abroad := load("bytedance.txt", "@!cn")
	_, home := load("bytedance.txt", "@-!cn")
	if abroad.Entries == 0 || abroad.Entries+home.Entries != all.Entries {
		t.Errorf("%d entries, %d of them elsewhere, %d not", all.Entries, abroad.Entries, home.Entries)
	}
}
