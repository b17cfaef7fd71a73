package policy_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/steer/geo/geomake"
)

// The company of these tests: its lists, its countries, its people.
var (
	noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

	files = map[string]string{
		"china.conf":    "server=/taobao.com/114.114.114.114\nserver=/jd.com/114.114.114.114\n",
		"phishing.txt":  "phish.example\nbad.example\n",
		"china-nets":    "203.0.113.0/24\n2001:db8:c::/48\n",
		"bogus.conf":    "bogus-nxdomain=198.51.100.66\n",
		"tlds.txt":      "cn\nexample.com\n",
		"broken.txt":    "good.example\nno name at all !\n",
		"notfound.html": "<html><body>404 not found</body></html>\n",
		"empty.txt":     "",
		"excepting.txt": "||test^\n@@||b.a.test^\n",
		"zone.rpz":      "$ORIGIN rpz.\n@ SOA a. b. 1 2 3 4 5\nd.test CNAME .\n*.a.test CNAME .\nc.b.a.test CNAME rpz-passthru.\n",
		"clients.rpz":   "$TTL 60\n@ SOA a. b. 1 2 3 4 5\n24.0.100.51.198.rpz-client-ip CNAME rpz-drop.\n32.66.100.51.198.rpz-client-ip CNAME rpz-passthru.\n8.0.0.0.10.rpz-client-ip CNAME .\n",
		"country.mmdb":  countries(),
		"asn.mmdb":      systems(),
	}
)

const head = `
lists:
  china-sites:    {file: china.conf, format: dnsmasq}
  china-networks: {file: china-nets, format: cidr}
  phishing:       {file: phishing.txt, format: plain}
geoip: {country: country.mmdb, asn: asn.mmdb}
postures:
  laptop:
    max_age: 15m
    checks: [firewall: on]
`

// more is what some files have besides.
const more = `
categories: {watched: [china-sites, phishing]}
schedules:
  office: {zone: Europe/Berlin, days: mon-fri, hours: ["08:00-12:00", "13:00-18:00"]}
  night:  {zone: Asia/Shanghai, hours: "22:30-06:00"}
`

func countries() string {
	b, err := geomake.Make(map[netip.Prefix]string{
		netip.MustParsePrefix("203.0.113.0/24"):  "CN",
		netip.MustParsePrefix("192.0.2.0/24"):    "US",
		netip.MustParsePrefix("2001:db8:c::/48"): "CN",
	})
	if err != nil {
		panic(err) // the entries above are constants
	}
	return string(b)
}

func systems() string {
	b, err := geomake.MakeASN(map[netip.Prefix]uint32{
		netip.MustParsePrefix("203.0.113.0/24"): 4134,
		netip.MustParsePrefix("10.0.0.0/8"):     64512,
	})
	if err != nil {
		panic(err) // the entries above are constants
	}
	return string(b)
}

func open(path string) (io.ReadCloser, error) {
	s, ok := files[path]
	if rules, is := strings.CutPrefix(path, "rules-"); is { // see fileOf
		b, err := hex.DecodeString(rules)
		s, ok = string(b), err == nil
	}
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return io.NopCloser(strings.NewReader(s)), nil
}

func parse(t testing.TB, src string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("policy.yaml", []byte(src), open)
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, src)
	}
	return p
}

// who makes an asker from words: a device's name, its groups after "in", its
// posture, and its evidence ("strong" unless said otherwise).
func who(words string) policy.Asker {
	a := policy.Asker{Kind: device.ByWireGuard, Source: netip.MustParseAddr("100.72.1.10")}
	for i, w := range strings.Fields(words) {
		switch w {
		case "nobody":
			a = policy.Asker{Source: netip.MustParseAddr("198.18.0.9")}
		case "office":
			a.Kind, a.Source = device.ByNetwork, netip.MustParseAddr("192.168.1.5")
		case "passing":
			a.Verdicts = posture.Verdicts{"laptop": {Result: posture.Passed, Expires: noon.Add(10 * time.Minute)}}
		case "stale":
			a.Verdicts = posture.Verdicts{"laptop": {Result: posture.Passed, Expires: noon}}
		case "failing":
			a.Verdicts = posture.Verdicts{"laptop": {Result: posture.Failed, Reason: "firewall: want on, report says off"}}
		case "sourceless":
			a.Source = netip.Addr{}
		default:
			if i == 0 {
				a.Device = &device.Device{ID: device.ID(w)}
			} else {
				a.Device.Groups = append(a.Device.Groups, w)
			}
		}
	}
	return a
}

// chain makes the names of an answer from words: "www.x cdn.x 192.0.2.1" is
// www.x, an alias of cdn.x, which has the address.
func chain(words string) (hops []policy.Hop) {
	for _, w := range strings.Fields(words) {
		if a, err := netip.ParseAddr(w); err == nil {
			last := &hops[len(hops)-1]
			last.Addrs = append(last.Addrs, a)
		} else {
			hops = append(hops, policy.Hop{Name: w})
		}
	}
	return hops
}

// flow makes a service from tcp/443, or nil from "".
func flow(s string) *policy.Service {
	if s == "" {
		return nil
	}
	var f policy.Service
	name, num, _ := strings.Cut(s, "/")
	f.Proto = map[string]uint8{"tcp": 6, "udp": 17, "icmp": 1, "icmp6": 58, "gre": 47}[name]
	fmt.Sscan(num, &f.Port)
	return &f
}

// outcome says what was decided, by which policy, and at which name if it is
// not the asked one.
func outcome(q *policy.Query, d *policy.Decision) string {
	s := d.String()
	if d.NeedAnswer {
		return s
	}
	by := "default"
	if d.Rule != nil {
		by = d.Rule.Name
	}
	s += " by " + by
	if d.Hop != q.Name {
		s += " at " + d.Hop
	}
	if d.Denied != "" {
		s += ": " + d.Denied
	}
	return s
}

// A question is what is asked, by whom, with what is known, and what is expected.
type question struct {
	ask    string // name, type after it
	by     string // see who
	answer string // see chain; "-" is an answer without names or addresses
	flow   string
	want   string // see outcome
}

func (tt question) query() *policy.Query {
	name, typ, _ := strings.Cut(tt.ask, " ")
	q := &policy.Query{Name: name, Type: map[string]uint16{"": 1, "AAAA": 28, "TXT": 16}[typ], Asker: who(tt.by), Flow: flow(tt.flow), Now: noon}
	if q.Answered = tt.answer != ""; q.Answered && tt.answer != "-" {
		q.Answer = chain(tt.answer)
	}
	return q
}

// check puts questions to a policy.
func check(t *testing.T, src string, questions []question) {
	t.Helper()
	p := parse(t, head+src)
	for _, tt := range questions {
		q := tt.query()
		d, trace := p.Explain(q)
		if got := outcome(q, &d); got != tt.want {
			t.Errorf("%s by %q, answer %q %s:\n got %s\nwant %s\n%v", tt.ask, tt.by, tt.answer, tt.flow, got, tt.want, trace)
		}
		if again := p.Decide(q); outcome(q, &again) != outcome(q, &d) || !again.Until.Equal(d.Until) {
			t.Errorf("%s: Explain and Decide differ", tt.ask)
		}
	}
}

func read(t *testing.T, p *policy.Policy, q *policy.Query) string {
	t.Helper()
	d, trace := p.Explain(q)
	var b bytes.Buffer
	fmt.Fprintf(&b, "%v\n", trace)
	if d.Text() != "" {
		fmt.Fprintf(&b, "text: %s\n", d.Text())
	}
	return b.String()
}
