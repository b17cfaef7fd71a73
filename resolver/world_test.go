package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/listen"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/cache"
)

// A zone is a resolver that knows some records, follows CNAMEs, and counts
// what it is asked.
type zone struct {
	mu      sync.Mutex
	records []dns.RR
	broken  map[string]error // by name
	asked   []string
	options []dns.EDNS0 // that came with questions
}

func newZone(t testing.TB, text string) *zone {
	t.Helper()
	z := &zone{broken: map[string]error{}}
	p := dns.NewZoneParser(strings.NewReader(text), "", "")
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		z.records = append(z.records, rr)
	}
	if err := p.Err(); err != nil {
		t.Fatal(err)
	}
	return z
}

func (z *zone) resolve(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	q := m.Question[0]
	z.asked = append(z.asked, dns.TypeToString[q.Qtype]+" "+q.Name)
	if o := m.IsEdns0(); o != nil {
		z.options = append(z.options, o.Option...)
	}
	if err := z.broken[q.Name]; err != nil {
		return nil, err
	}
	r := new(dns.Msg).SetReply(m)
	r.AuthenticatedData = true
	exists := false
	for name := q.Name; name != ""; {
		next := ""
		for _, rr := range z.records {
			if !strings.EqualFold(rr.Header().Name, name) {
				continue
			}
			exists = true
			if c, ok := rr.(*dns.CNAME); ok {
				next = c.Target
			}
			if t := rr.Header().Rrtype; t == q.Qtype || t == dns.TypeCNAME {
				r.Answer = append(r.Answer, dns.Copy(rr))
			}
		}
		name = next
	}
	if !exists {
		r.Rcode = dns.RcodeNameError
	}
	if len(r.Answer) == 0 || r.Answer[len(r.Answer)-1].Header().Rrtype == dns.TypeCNAME {
		soa, _ := dns.NewRR("test. 60 IN SOA ns.test. host.test. 1 2 3 4 60")
		r.Ns = []dns.RR{soa}
	}
	return r, nil
}

// sourceOf returns a source that asks a resolver in the library's form, with a
// cache of so many bytes.
func sourceOf(bytes int, resolve func(context.Context, *dns.Msg) (*dns.Msg, error)) func(context.Context, string, cache.Question) (cache.Reply, error) {
	s := &cache.Source{Cache: cache.New(bytes), TrustAD: true, Ask: asks(resolve)}
	return func(ctx context.Context, _ string, q cache.Question) (cache.Reply, error) { return s.Resolve(ctx, q) }
}

func asks(resolve func(context.Context, *dns.Msg) (*dns.Msg, error)) cache.Ask {
	return func(ctx context.Context, q cache.Question) ([]byte, error) {
		m := new(dns.Msg)
		name, _, err := dns.UnpackDomainName([]byte(q.Name), 0)
		if err != nil {
			return nil, err
		}
		m.SetQuestion(name, q.Type)
		m.Question[0].Qclass, m.CheckingDisabled = q.Class, q.CD
		if q.DO {
			m.SetEdns0(udpSize, true)
		}
		r, err := resolve(ctx, m)
		if err != nil {
			return nil, err
		}
		return r.Pack()
	}
}

func cached(resolve func(context.Context, *dns.Msg) (*dns.Msg, error)) func(context.Context, string, cache.Question) (cache.Reply, error) {
	return sourceOf(1<<20, resolve)
}

// took returns what was asked since it was last called.
func (z *zone) took() string {
	z.mu.Lock()
	defer z.mu.Unlock()
	s := strings.Join(z.asked, ", ")
	z.asked = nil
	return s
}

const testPolicy = `
postures:
  managed-laptop: {max_age: 15m, checks: [{firewall: on}]}
policies:
  - name: phishing
    if: {name: {suffix: phishing.test}}
    then: {block: nxdomain, reason: Known phishing site}
  - {name: empty, if: {name: empty.test}, then: {block: nodata, ede: 17}}
  - {name: zero, if: {name: zero.test}, then: {block: zero-ip}}
  - {name: quiet, if: {name: quiet.test}, then: {block: drop}}
  - {name: closed, if: {name: closed.test}, then: {block: refused, ede: 16}}
  - {name: page, if: {name: page.test}, then: {block: {address: [192.0.2.80]}}}
  - name: corp
    if: {name: intranet.corp.test}
    then: {override: {a: [10.1.2.3]}}
  - name: alias
    if: {name: alias.corp.test}
    then: {override: {cname: www.allowed.test}}
  - {name: itself, if: {name: {suffix: itself.corp.test}}, then: {override: {cname: itself.corp.test}}}
  - name: records
    if: {name: records.corp.test}
    then: {override: {a: 10.1.2.4, txt: ["v=spf1 -all"], https: "1 . alpn=h2"}}
  - name: inward
    if: {name: inward.corp.test}
    then: {override: {a: [198.19.0.7]}}
  - name: guest-china
    if: {name: [www.guest-china.test, short.guest-china.test]}
    then: {steer: hong-kong, ports: [tcp/443]}
  - name: soft-china
    if: {name: www.soft-china.test}
    then: {steer: hong-kong, no_way: direct, when_down: direct}
  - name: hard-china
    if: {name: www.hard-china.test}
    then: {steer: hong-kong, when_down: servfail}
  - name: china-origins
    if:
      any:
        - name: {suffix: listed-china.test}
        - answer: {network: [203.0.113.0/24, "2001:db8:86::/48"]}
    require: {groups: [staff], identity: medium, posture: managed-laptop}
    then: {steer: hong-kong, ports: [tcp/80, tcp/443, udp/443], when_down: block}
  - name: everything-else
    then: allow
`

const testZone = `
www.allowed.test. 300 IN A 192.0.2.10
www.allowed.test. 300 IN TXT "hello"
www.phishing.test. 300 IN A 192.0.2.66
to-phishing.test. 300 IN CNAME www.phishing.test.
www.soft-china.test. 300 IN A 203.0.113.50
www.listed-china.test. 300 IN A 203.0.113.9
www.answer-china.test. 300 IN A 203.0.113.9
www.answer-china.test. 300 IN AAAA 2001:db8:86::9
www.answer-china.test. 300 IN HTTPS 1 . alpn=h2,h3 ipv4hint=203.0.113.9 ech=AAAA
www.answer-china.test. 300 IN TXT "origin"
mixed.test. 300 IN A 203.0.113.9
mixed.test. 300 IN AAAA 2001:db8:1::1
cdn-china.test. 300 IN CNAME edge.cdn.test.
edge.cdn.test. 60 IN A 203.0.113.77
rebinding.test. 60 IN A 198.19.0.1
rebinding.test. 60 IN AAAA ::ffff:198.19.0.1
rebinding.test. 60 IN HTTPS 1 . ipv4hint=198.19.0.1
1.0.0.10.in-addr.arpa. 60 IN PTR printer.test.
`

func parsePolicy(t testing.TB, src string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("policy.yaml", []byte(src), func(string) (io.ReadCloser, error) { return nil, errors.New("no files") })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var start = time.Date(2026, 9, 7, 12, 0, 0, 0, time.UTC)

// The askers of the tests, by the address they ask from.
var (
	alice   = &device.Device{ID: "alice-laptop", Kind: device.ByWireGuard, Groups: []string{"staff"}, Explain: true}
	bob     = &device.Device{ID: "bob-phone", Kind: device.ByWireGuard, Groups: []string{"guests"}}
	office  = &device.Device{ID: "office", Kind: device.ByNetwork, Groups: []string{"staff"}}
	passed  = posture.Verdicts{"managed-laptop": {Result: posture.Passed, Expires: start.Add(time.Hour)}}
	failing = posture.Verdicts{"managed-laptop": {Result: posture.Failed, Reason: "firewall: want on, report says off"}}
)

type person struct {
	from  netip.AddrPort
	asker policy.Asker
	way   bool
}

var people = map[string]person{
	"alice":          {netip.MustParseAddrPort("100.72.1.10:5353"), policy.Asker{Device: alice, Kind: device.ByWireGuard, Verdicts: passed}, true},
	"alice, failing": {netip.MustParseAddrPort("100.72.1.11:5353"), policy.Asker{Device: alice, Kind: device.ByWireGuard, Verdicts: failing}, true},
	"alice, silent":  {netip.MustParseAddrPort("100.72.1.12:5353"), policy.Asker{Device: alice, Kind: device.ByWireGuard}, true},
	"bob":            {netip.MustParseAddrPort("100.72.1.20:5353"), policy.Asker{Device: bob, Kind: device.ByWireGuard}, true},
	"the office":     {netip.MustParseAddrPort("192.168.1.7:5353"), policy.Asker{Device: office, Kind: device.ByNetwork}, false},
	"a stranger":     {netip.MustParseAddrPort("198.51.100.1:5353"), policy.Asker{}, false},
}

func identify(c *listen.Client, _ func(uint16) []byte) (policy.Asker, bool) {
	from := c.Addr
	for _, p := range people {
		if p.from == from {
			a := p.asker
			a.Source = from.Addr()
			return a, p.way
		}
	}
	return policy.Asker{Source: from.Addr()}, false
}

// A fleet is a gateway with everything around it made up: a zone upstream,
// and a chain of nodes that answers from another one.
type fleet struct {
	*Gateway
	up, china *zone
	down      error // what asking the chain fails with
	reply     func(q Question) *dns.Msg
	full      bool // the pool
	leases    map[string]netip.Addr
	facts     Facts  // that the chain was asked with last
	route     string // by which it was asked last
	records   []*Record
}

func newFleet(t testing.TB) *fleet {
	f := &fleet{up: newZone(t, testZone), leases: map[string]netip.Addr{}}
	f.china = newZone(t, testZone+`
only-v4.listed-china.test. 300 IN A 203.0.113.10
www.guest-china.test. 300 IN A 203.0.113.11
www.guest-china.test. 300 IN HTTPS 1 . alpn=h3,h2 port=443 ipv4hint=203.0.113.11 ipv6hint=2001:db8:86::11 ech=AAAA mandatory=alpn,ech
short.guest-china.test. 300 IN HTTPS 1 . alpn=h3 no-default-alpn=""
www.hard-china.test. 300 IN A 203.0.113.12
www.listed-china.test. 300 IN AAAA 2001:db8:86::9
www.listed-china.test. 3 IN TXT "from there"
www.listed-china.test. 300 IN MX 10 mail.listed-china.test.
https.listed-china.test. 300 IN HTTPS 1 . alpn=h2,h3 ipv4hint=203.0.113.9 ipv6hint=2001:db8:86::9 ech=AAAA
alias.listed-china.test. 300 IN HTTPS 0 www.elsewhere.test.
foreign.listed-china.test. 300 IN HTTPS 1 www.elsewhere.test. alpn=h2
ported.listed-china.test. 300 IN HTTPS 1 . alpn=h2 port=8443
chained.listed-china.test. 300 IN CNAME https.listed-china.test.
`)
	p := parsePolicy(t, testPolicy)
	f.Gateway = &Gateway{
		Name: "gw-sjc", Version: "1", Identify: identify,
		Policy: func() *policy.Policy { return p }, Upstream: sourceOf(0, f.up.resolve),
		Ask: f.ask, Lease: f.lease, Peek: f.peek, PTR: f.ptr,
		Forbidden: func(a netip.Addr) bool { return netip.MustParsePrefix("198.19.0.0/16").Contains(a) },
		Explain: func(name string, qtype uint16, a policy.Asker) []string {
			return []string{"first line for " + name, strings.Repeat("x", 300), `back\slash`}
		},
		Record: func(r *Record) { f.records = append(f.records, r) },
		Now:    func() time.Time { return start },
	}
	return f
}

func (f *fleet) ask(ctx context.Context, route string, q Question, facts Facts) (*NodeReply, error) {
	if f.down != nil {
		return nil, f.down
	}
	f.route, f.facts = route, facts
	var m *dns.Msg
	if f.reply != nil {
		m = f.reply(q)
	} else {
		m, _ = f.china.resolve(ctx, q.message())
	}
	r := &NodeReply{Msg: m, Node: "hk-1", Journal: 7}
	for _, rr := range m.Answer {
		if a, ok := addressOf(rr); ok {
			r.Addrs = append(r.Addrs, a)
		}
	}
	return r, nil
}

func leaseKey(name string, v6 bool) string { return fmt.Sprint(name, v6) }

func (f *fleet) lease(q Question, _ policy.Asker, _ Facts, _ *NodeReply) (netip.Addr, error) {
	if f.full {
		return netip.Addr{}, errors.New("the pool of virtual addresses is full")
	}
	v6 := q.Type == dns.TypeAAAA
	a := netip.AddrFrom4([4]byte{198, 19, 0, byte(len(f.leases) + 1)})
	if v6 {
		a = netip.MustParseAddr("2001:2:0:1000::1")
	}
	if old, ok := f.leases[leaseKey(q.Name, v6)]; ok {
		return old, nil
	}
	f.leases[leaseKey(q.Name, v6)] = a
	return a, nil
}

func (f *fleet) peek(name string, v6 bool) (netip.Addr, bool) {
	a, ok := f.leases[leaseKey(name, v6)]
	return a, ok
}

func (f *fleet) ptr(addr netip.Addr) (name string, pool, ok bool) {
	if !netip.MustParsePrefix("198.19.0.0/16").Contains(addr) {
		return "", false, false
	}
	for k, a := range f.leases {
		if a == addr {
			return strings.TrimSuffix(k, "false"), true, true
		}
	}
	return "", true, false
}

// dig asks the gateway as somebody and writes the answer down. The question is
// as dig takes it: a name, then perhaps a type, CH, +dnssec, +noedns, +adflag.
func (f *fleet) dig(t testing.TB, who, question string) string {
	t.Helper()
	m := new(dns.Msg)
	words := strings.Fields(question)
	m.SetQuestion(dns.Fqdn(words[0]), dns.TypeA)
	edns, do := true, false
	for _, w := range words[1:] {
		switch w {
		case "CH":
			m.Question[0].Qclass = dns.ClassCHAOS
		case "HS":
			m.Question[0].Qclass = dns.ClassHESIOD
		case "+dnssec":
			do = true
		case "+noedns":
			edns = false
		case "+adflag":
			m.AuthenticatedData = true
		default:
			m.Question[0].Qtype = dns.StringToType[w]
		}
	}
	if edns {
		m.SetEdns0(1232, do)
		for _, code := range []uint16{optionFacts, optionJournal, optionRoute, 65001} {
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_LOCAL{Code: code, Data: []byte("xxxxxxxx")})
		}
	}
	p, ok := people[who]
	if !ok {
		t.Fatalf("who is %s?", who)
	}
	req, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return render(t, m, f.Handle(t.Context(), &listen.Client{Addr: p.from, Listener: "test", Transport: listen.UDP}, req))
}

// render writes an answer down in a line, and checks what must hold of all.
func render(t testing.TB, q *dns.Msg, b []byte) string {
	t.Helper()
	if b == nil {
		return "silence"
	}
	r := new(dns.Msg)
	if err := r.Unpack(b); err != nil {
		t.Fatalf("unreadable answer: %v", err)
	}
	if r.Id != q.Id || !r.Response || r.Authoritative || len(r.Question) != 1 || r.Question[0] != q.Question[0] {
		t.Errorf("the answer does not fit the question: %v", r)
	}
	var parts []string
	for _, rr := range r.Answer {
		s := strings.Join(strings.Fields(rr.String()), " ")
		s = strings.Replace(s, " IN", "", 1)
		if sameName(rr.Header().Name, strings.TrimSuffix(q.Question[0].Name, ".")) {
			_, s, _ = strings.Cut(s, " ")
		}
		parts = append(parts, s)
	}
	slices.Sort(parts)
	out := dns.RcodeToString[r.Rcode]
	if r.AuthenticatedData {
		out += " AD"
	}
	if len(parts) > 0 {
		out += " " + strings.Join(parts, ", ")
	}
	for _, rr := range r.Ns {
		out += fmt.Sprintf(" %s %d", dns.TypeToString[rr.Header().Rrtype], rr.Header().Ttl)
	}
	opt := r.IsEdns0()
	if (opt != nil) != (q.IsEdns0() != nil) {
		t.Errorf("EDNS in the question is %t, in the answer %t", q.IsEdns0() != nil, opt != nil)
	}
	if opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				out += fmt.Sprintf("; EDE %d %s", e.InfoCode, e.ExtraText)
			} else {
				out += fmt.Sprintf("; option %d", o.Option())
			}
		}
	}
	return out
}
