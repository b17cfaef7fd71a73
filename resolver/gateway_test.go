package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/resolver/upstream"
)

func TestGateway(t *testing.T) {
	const noWay = "no_way: no way to send: ask over WireGuard or from a network that routes the pool"
	tests := []struct{ who, asks, want string }{
		// Who may ask at all.
		{"a stranger", "www.allowed.test", "REFUSED; EDE 18 unknown network"},
		{"a stranger", "www.allowed.test +noedns", "REFUSED"},
		{"a stranger", "whoami.starferry CH TXT", "REFUSED; EDE 18 unknown network"},

		// What is allowed.
		{"alice", "www.allowed.test", "NOERROR 300 A 192.0.2.10"},
		{"alice", "www.allowed.test +dnssec", "NOERROR AD 300 A 192.0.2.10"},
		{"alice", "www.allowed.test +adflag", "NOERROR AD 300 A 192.0.2.10"},
		{"alice", "WWW.Allowed.Test TXT", `NOERROR 300 TXT "hello"`},
		{"alice", "www.allowed.test AAAA", "NOERROR SOA 60"},
		{"alice", "nothing.test", "NXDOMAIN SOA 60"},
		{"the office", "www.allowed.test", "NOERROR 300 A 192.0.2.10"},
		{"alice", "1.0.0.10.in-addr.arpa PTR", "NOERROR 60 PTR printer.test."},
		{"alice", "www.allowed.test ANY", `NOERROR 3600 HINFO "RFC8482" ""; EDE 30 ANY is answered with next to nothing (RFC 8482)`},
		{"alice", "www.allowed.test AXFR", "REFUSED; EDE 30 not a type to be asked for"},
		{"alice", "www.allowed.test NXNAME", "FORMERR; EDE 30 not a type to be asked for"},
		{"alice", "www.allowed.test HS", "REFUSED; EDE 18 no such class here"},

		// What is blocked, and how.
		{"alice", "www.phishing.test", "NXDOMAIN SOA 10; EDE 15 policy phishing: Known phishing site"},
		{"alice", "www.phishing.test +noedns", "NXDOMAIN SOA 10"},
		{"alice", "www.phishing.test +dnssec", "NXDOMAIN SOA 10; EDE 15 policy phishing: Known phishing site"},
		{"alice", "www.phishing.test HTTPS", "NXDOMAIN SOA 10; EDE 15 policy phishing: Known phishing site"},
		{"alice", "www.phishing.test ANY", "NXDOMAIN SOA 10; EDE 15 policy phishing: Known phishing site"},
		{"alice", "to-phishing.test", "NXDOMAIN SOA 10; EDE 15 policy phishing: Known phishing site"},
		{"alice", "empty.test", "NOERROR SOA 10; EDE 17 policy empty"},
		{"alice", "zero.test", "NOERROR 10 A 0.0.0.0; EDE 4 policy zero"},
		{"alice", "zero.test AAAA", "NOERROR 10 AAAA ::; EDE 4 policy zero"},
		{"alice", "zero.test MX", "NOERROR SOA 10; EDE 4 policy zero"},
		{"alice", "quiet.test", "silence"},
		{"alice", "closed.test", "REFUSED; EDE 16 policy closed"},
		{"alice", "page.test", "NOERROR 10 A 192.0.2.80; EDE 4 policy page"},
		{"alice", "page.test AAAA", "NOERROR SOA 10; EDE 4 policy page"},

		// What is overridden.
		{"alice", "intranet.corp.test", "NOERROR 60 A 10.1.2.3; EDE 4 policy corp"},
		{"alice", "intranet.corp.test AAAA", "NOERROR SOA 10; EDE 4 policy corp"},
		{"alice", "alias.corp.test", "NOERROR 60 CNAME www.allowed.test., www.allowed.test. 300 A 192.0.2.10; EDE 4 policy alias"},
		{"alice", "alias.corp.test TXT", `NOERROR 60 CNAME www.allowed.test., www.allowed.test. 300 TXT "hello"; EDE 4 policy alias`},
		{"alice", "alias.corp.test CNAME", "NOERROR 60 CNAME www.allowed.test.; EDE 4 policy alias"},
		{"alice", "records.corp.test TXT", `NOERROR 60 TXT "v=spf1 -all"; EDE 4 policy records`},
		{"alice", "records.corp.test HTTPS", `NOERROR 60 HTTPS 1 . alpn="h2"; EDE 4 policy records`},
		{"alice", "records.corp.test A", "NOERROR 60 A 10.1.2.4; EDE 4 policy records"},
		{"alice", "records.corp.test MX", "NOERROR SOA 10; EDE 4 policy records"},
		{"alice", "inward.corp.test", "SERVFAIL; EDE 0 rebinding: the override holds 198.19.0.7, an address of this network"},

		// What is steered.
		{"alice", "www.listed-china.test", "NOERROR 30 A 198.19.0.1; EDE 4 policy china-origins: steered by hong-kong"},
		{"alice", "www.listed-china.test +noedns", "NOERROR 30 A 198.19.0.1"},
		{"alice", "www.listed-china.test +dnssec", "NOERROR 30 A 198.19.0.1; EDE 4 policy china-origins: steered by hong-kong"},
		{"alice", "www.listed-china.test AAAA", "NOERROR 30 AAAA 2001:2:0:1000::1; EDE 4 policy china-origins: steered by hong-kong"},
		{"alice", "only-v4.listed-china.test AAAA", "NOERROR SOA 60"},
		{"alice", "nothing.listed-china.test", "NXDOMAIN SOA 60"},
		{"alice", "www.answer-china.test", "NOERROR 30 A 198.19.0.1; EDE 4 policy china-origins: steered by hong-kong"},
		{"alice", "cdn-china.test", "NOERROR 30 A 198.19.0.1; EDE 4 policy china-origins: steered by hong-kong"},
		{"alice", "mixed.test AAAA", "NOERROR 300 AAAA 2001:db8:1::1"},
		{"alice", "www.listed-china.test TXT", `NOERROR 3 TXT "from there"; EDE 4 policy china-origins: steered by hong-kong`},
		{"alice", "www.listed-china.test MX", "NOERROR 30 MX 10 mail.listed-china.test.; EDE 4 policy china-origins: steered by hong-kong"},
		{"alice", "www.listed-china.test RRSIG", "NOERROR SOA 60"},
		{"alice", "chained.listed-china.test CNAME", "NOERROR SOA 60"},
		{"alice", "www.listed-china.test ANY", `NOERROR 3600 HINFO "RFC8482" ""; EDE 30 ANY is answered with next to nothing (RFC 8482)`},
		{"alice", "www.answer-china.test TXT", `NOERROR 30 TXT "origin"; EDE 4 policy china-origins: steered by hong-kong`},

		// Service bindings of steered names.
		{"alice", "https.listed-china.test HTTPS", `NOERROR 30 HTTPS 1 . alpn="h2,h3"; EDE 4 policy china-origins: steered by hong-kong`},
		{"alice", "chained.listed-china.test HTTPS", `NOERROR 30 HTTPS 1 . alpn="h2,h3"; EDE 4 policy china-origins: steered by hong-kong`},
		{"alice", "www.answer-china.test HTTPS", `NOERROR 30 HTTPS 1 . alpn="h2,h3"; EDE 4 policy china-origins: steered by hong-kong`},
		{"bob", "www.guest-china.test HTTPS", `NOERROR 30 HTTPS 1 . mandatory="alpn" alpn="h2" port="443"; EDE 4 policy guest-china: steered by hong-kong`},
		{"bob", "short.guest-china.test HTTPS", "NOERROR SOA 10"},
		{"alice", "alias.listed-china.test HTTPS", "NOERROR SOA 10"},
		{"alice", "foreign.listed-china.test HTTPS", "NOERROR SOA 10"},
		{"alice", "ported.listed-china.test HTTPS", "NOERROR SOA 10"},

		// Demands that are not met.
		{"bob", "www.listed-china.test", "REFUSED; EDE 18 policy china-origins: *"},
		{"alice, failing", "www.listed-china.test", "REFUSED; EDE 18 policy china-origins: posture managed-laptop*"},
		{"alice, failing", "www.answer-china.test", "REFUSED; EDE 18 policy china-origins: posture managed-laptop*"},
		{"alice, failing", "www.listed-china.test +noedns", "REFUSED"},
		{"alice, silent", "www.listed-china.test", "REFUSED; EDE 18 policy china-origins: posture managed-laptop*"},
		{"the office", "www.listed-china.test", "REFUSED; EDE 18 policy china-origins: identity weak*"},

		// Nobody to send to.
		{"the office", "www.guest-china.test", "REFUSED; EDE 18 policy guest-china: " + noWay},
		{"the office", "www.guest-china.test TXT", "REFUSED; EDE 18 policy guest-china: " + noWay},
		{"the office", "www.soft-china.test", "NOERROR 300 A 203.0.113.50"},
		{"the office", "www.hard-china.test", "REFUSED; EDE 18 policy hard-china: " + noWay},

		// Addresses of the fleet in other people's answers.
		{"alice", "rebinding.test", "SERVFAIL; EDE 0 rebinding: the answer holds 198.19.0.1, an address of this network"},
		{"alice", "rebinding.test AAAA", "SERVFAIL; EDE 0 rebinding: the answer holds 198.19.0.1, an address of this network"},
		{"alice", "rebinding.test HTTPS", "SERVFAIL; EDE 0 rebinding: the answer holds 198.19.0.1, an address of this network"},
		{"alice", "rebinding.test +noedns", "SERVFAIL"},

		// What the gateway says of itself.
		{"alice", "whoami.starferry CH TXT", `NOERROR 0 CH TXT "device alice-laptop" "identity strong by wireguard" "source 100.72.1.10" "groups staff" "steering possible" "posture managed-laptop passed until 2026-09-07T13:00:00Z"`},
		{"the office", "whoami.starferry CH TXT", `NOERROR 0 CH TXT "device office" "identity weak by network" "source 192.168.1.7" "groups staff" "steering impossible: no way to send" "posture managed-laptop unknown: no report"`},
		{"alice, failing", "whoami.starferry CH TXT", `NOERROR 0 CH TXT "device alice-laptop" "identity strong by wireguard" "source 100.72.1.11" "groups staff" "steering possible" "posture managed-laptop failed: firewall: want on, report says off"`},
		{"alice", "whoami.starferry CH", "NOERROR SOA 10"},
		{"alice", "www.taobao.com.explain.starferry CH TXT", `NOERROR 0 CH TXT "first line for www.taobao.com" "` + strings.Repeat("x", 255) + `" "` + strings.Repeat("x", 45) + `" "back\\slash"`},
		{"bob", "www.taobao.com.explain.starferry CH TXT", "REFUSED; EDE 18 this device may not ask for explanations"},
		{"alice", "explain.starferry CH TXT", "REFUSED; EDE 18 nothing here by that name"},
		{"alice", "version.bind CH TXT", "REFUSED; EDE 18 nothing here by that name"},
		{"alice", "node.starferry CH TXT", "REFUSED; EDE 18 nothing here by that name"},
	}
	for _, tt := range tests {
		f := newFleet(t)
		got := f.dig(t, tt.who, tt.asks)
		if want, open := strings.CutSuffix(tt.want, "*"); got != tt.want && !(open && strings.HasPrefix(got, want)) {
			t.Errorf("%s asks %s:\n got %s\nwant %s", tt.who, tt.asks, got, tt.want)
		}
		if len(f.up.options) > 0 {
			t.Errorf("%s asks %s: options went upstream: %v", tt.who, tt.asks, f.up.options)
		}
		if len(f.records) != 1 {
			t.Errorf("%s asks %s: %d records", tt.who, tt.asks, len(f.records))
		}
	}
}

// What goes upstream tells what was asked: a demand that fails and a name that
// is blocked by name ask nothing.
func TestWhatGoesUpstream(t *testing.T) {
	tests := []struct{ who, asks, want string }{
		{"alice", "www.allowed.test", "A www.allowed.test."},
		{"alice", "www.phishing.test", ""},
		{"alice", "www.listed-china.test", ""},
		{"alice, failing", "www.listed-china.test", ""},
		{"the office", "www.guest-china.test", ""},
		{"alice", "www.answer-china.test AAAA", "AAAA www.answer-china.test."},
		{"alice", "www.answer-china.test HTTPS", "HTTPS www.answer-china.test., A www.answer-china.test., AAAA www.answer-china.test."},
		{"alice", "www.allowed.test ANY", "A www.allowed.test., AAAA www.allowed.test."},
		{"alice", "1.0.0.10.in-addr.arpa PTR", "PTR 1.0.0.10.in-addr.arpa."},
		{"alice", "1.0.19.198.in-addr.arpa PTR", ""},
		{"alice", "alias.corp.test AAAA", "AAAA www.allowed.test."},
		{"a stranger", "www.allowed.test", ""},
	}
	for _, tt := range tests {
		f := newFleet(t)
		f.dig(t, tt.who, tt.asks)
		if got := f.up.took(); got != tt.want {
			t.Errorf("%s asks %s: %q went upstream, want %q", tt.who, tt.asks, got, tt.want)
		}
	}
}

// The chain is told what the gateway judged by, each address with its owner.
func TestFactsOfAQuestion(t *testing.T) {
	tests := []struct{ asks, want string }{
		{"www.listed-china.test", "hong-kong []"},
		{"www.answer-china.test", "hong-kong [{www.answer-china.test [203.0.113.9]}]"},
		{"www.answer-china.test AAAA", "hong-kong [{www.answer-china.test [2001:db8:86::9]}]"},
		{"www.answer-china.test TXT", "hong-kong [{www.answer-china.test [203.0.113.9 2001:db8:86::9] [{16 origin}]}]"},
		{"cdn-china.test", "hong-kong [{cdn-china.test []} {edge.cdn.test [203.0.113.77]}]"},
	}
	for _, tt := range tests {
		f := newFleet(t)
		f.dig(t, "alice", tt.asks)
		if got := fmt.Sprint(f.route, " ", f.facts); got != tt.want {
			t.Errorf("%s was asked along with %s, want %s", tt.asks, got, tt.want)
		}
	}
	f := newFleet(t)
	q := Question{Name: "cdn-china.test", Type: dns.TypeA, Class: dns.ClassINET}
	if got, want := fmt.Sprint(f.Facts(t.Context(), q, people["alice"].asker, &policy.Decision{NeedAnswer: true})), "[{cdn-china.test []} {edge.cdn.test [203.0.113.77]}]"; got != want {
		t.Errorf("explaining by %s, want %s", got, want)
	}
}

func TestWhenTheChainFails(t *testing.T) {
	refusing := func(code uint16, rcode int, text string) func(Question) *dns.Msg {
		return func(q Question) *dns.Msg {
			m := new(dns.Msg).SetRcode(q.message(), rcode)
			if text != "" {
				m.SetEdns0(1232, false)
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: code, ExtraText: text}}
			}
			return m
		}
	}
	tests := []struct {
		what  string
		down  error
		reply func(Question) *dns.Msg
		full  bool
		asks  string
		want  string
	}{
		{"the link is down", fmt.Errorf("hk-1: %w", ErrLinkDown), nil, false, "www.listed-china.test", "REFUSED; EDE 23 policy china-origins: steered by hong-kong: hk-1: link down"},
		{"nobody answers", fmt.Errorf("hk-1: %w", ErrNoAnswer), nil, false, "www.listed-china.test", "REFUSED; EDE 22 policy china-origins: steered by hong-kong: hk-1: no node answers"},
		{"another error", errors.New("odd"), nil, false, "www.listed-china.test TXT", "REFUSED; EDE 22 policy china-origins: steered by hong-kong: odd"},
		{"down, and the policy says direct", ErrLinkDown, nil, false, "www.soft-china.test", "NOERROR 300 A 203.0.113.50"},
		{"down, and the policy says servfail", ErrLinkDown, nil, false, "www.hard-china.test", "SERVFAIL; EDE 23 policy hard-china: steered by hong-kong: link down"},
		{"the egress has no connector", nil, refusing(23, 2, "hk-1: no connector of hong-kong is up"), false, "www.listed-china.test", "REFUSED; EDE 23 policy china-origins: steered by hong-kong: hk-1: no connector of hong-kong is up"},
		{"no connector answers, and the policy says direct", nil, refusing(22, 2, "hk-1: silence"), false, "www.soft-china.test", "NOERROR 300 A 203.0.113.50"},
		{"the answer there is a lie", nil, refusing(0, 2, "cn-sha-1: not believed: 127.0.0.1: loopback"), false, "www.soft-china.test", "SERVFAIL; EDE 0 policy soft-china: steered by hong-kong: hk-1: cn-sha-1: not believed: 127.0.0.1: loopback"},
		{"SERVFAIL without a reason", nil, refusing(0, 2, ""), false, "www.listed-china.test", "SERVFAIL; EDE 0 policy china-origins: steered by hong-kong: hk-1: answered SERVFAIL"},
		{"the egress judges otherwise", nil, refusing(18, 5, "hk-1: no policy here steers this name by hong-kong"), false, "www.listed-china.test", "REFUSED; EDE 18 policy china-origins: steered by hong-kong: hk-1: no policy here steers this name by hong-kong"},
		{"the pool is full", nil, nil, true, "www.listed-china.test", "SERVFAIL; EDE 0 the pool of virtual addresses is full"},
		{"the pool is full, for another type", nil, nil, true, "www.listed-china.test MX", "NOERROR 30 MX 10 mail.listed-china.test.; EDE 4 policy china-origins: steered by hong-kong"},
	}
	for _, tt := range tests {
		f := newFleet(t)
		f.down, f.reply, f.full = tt.down, tt.reply, tt.full
		if got := f.dig(t, "alice", tt.asks); got != tt.want {
			t.Errorf("%s, asking %s:\n got %s\nwant %s", tt.what, tt.asks, got, tt.want)
		}
	}
}

// An override's CNAME may be for a name that is its target, and must not lead back.
func TestAliasOfItself(t *testing.T) {
	f := newFleet(t)
	f.up.records = newZone(t, "itself.corp.test. 60 IN A 192.0.2.7\nwww.allowed.test. 60 IN CNAME alias.corp.test.\nalias.corp.test. 60 IN A 192.0.2.8").records
	for asks, want := range map[string]string{
		"itself.corp.test":       "NOERROR 60 A 192.0.2.7",
		"itself.corp.test AAAA":  "NOERROR SOA 60",
		"itself.corp.test CNAME": "NOERROR SOA 60",
		"x.itself.corp.test":     "NOERROR 60 CNAME itself.corp.test., itself.corp.test. 60 A 192.0.2.7; EDE 4 policy itself",
		"alias.corp.test":        "SERVFAIL; EDE 0 policy alias: the CNAME leads back to alias.corp.test",
	} {
		if got := f.dig(t, "alice", asks); got != want {
			t.Errorf("%s:\n got %s\nwant %s", asks, got, want)
		}
	}
}

func TestWhenUpstreamFails(t *testing.T) {
	for asks, want := range map[string]string{
		"www.allowed.test":      "SERVFAIL; EDE 22 upstream does not answer",
		"alias.corp.test":       "SERVFAIL; EDE 22 upstream does not answer for www.allowed.test",
		"www.allowed.test TXT":  "SERVFAIL; EDE 22 upstream does not answer",
		"www.listed-china.test": "NOERROR 30 A 198.19.0.1; EDE 4 policy china-origins: steered by hong-kong",
	} {
		f := newFleet(t)
		f.up.broken["www.allowed.test."] = errors.New("down")
		if got := f.dig(t, "alice", asks); got != want {
			t.Errorf("%s:\n got %s\nwant %s", asks, got, want)
		}
	}
}

// An address inside that an IPv6 address carries is one inside.
func TestCarriedAddresses(t *testing.T) {
	const private = "; if that is meant, name it in dns.rebinding.except"
	for addr, want := range map[string]string{
		"64:ff9b::10.0.0.1":     "SERVFAIL; EDE 0 rebinding: the answer holds 64:ff9b::a00:1, a private address" + private,
		"2002:a00:1::1":         "SERVFAIL; EDE 0 rebinding: the answer holds 2002:a00:1::1, a private address" + private,
		"::10.0.0.1":            "SERVFAIL; EDE 0 rebinding: the answer holds ::a00:1, a private address" + private,
		"64:ff9b::198.19.0.1":   "SERVFAIL; EDE 0 rebinding: the answer holds 64:ff9b::c613:1, an address of this network",
		"64:ff9b::192.0.2.10":   "NOERROR 60 AAAA 64:ff9b::c000:20a",
		"2002:c000:20a::a00:1":  "NOERROR 60 AAAA 2002:c000:20a::a00:1",
		"2001:db8:1::10.0.0.1":  "NOERROR 60 AAAA 2001:db8:1::a00:1",
		"64:ff9b:1::10.0.0.1":   "SERVFAIL; EDE 0 rebinding: the answer holds 64:ff9b:1::a00:1, a private address" + private,
		"64:ff9b:1:7:a:0:100:0": "SERVFAIL; EDE 0 rebinding: the answer holds 64:ff9b:1:7:a:0:100:0, a private address" + private,
		"64:ff9b:1::198.19.0.1": "SERVFAIL; EDE 0 rebinding: the answer holds 64:ff9b:1::c613:1, an address of this network",
		"::ffff:0:10.0.0.1":     "SERVFAIL; EDE 0 rebinding: the answer holds ::ffff:0:a00:1, a private address" + private,
		// Teredo: the client 10.0.0.1, and the server 10.0.0.1.
		"2001:0:c000:201:0:ffff:f5ff:fffe": "SERVFAIL; EDE 0 rebinding: the answer holds 2001:0:c000:201:0:ffff:f5ff:fffe, a private address" + private,
		"2001:0:a00:1:0:ffff:3fff:fdf5":    "SERVFAIL; EDE 0 rebinding: the answer holds 2001:0:a00:1:0:ffff:3fff:fdf5, a private address" + private,
		"2001:0:c000:201:0:ffff:a00:1":     "NOERROR 60 AAAA 2001:0:c000:201:0:ffff:a00:1",
		// A prefix of one length, looked at as if it were of the other.
		"64:ff9b:1:0:c0:2:a00:0":  "NOERROR 60 AAAA 64:ff9b:1:0:c0:2:a00:0",
		"64:ff9b:1:a::192.0.2.10": "NOERROR 60 AAAA 64:ff9b:1:a::c000:20a",
	} {
		f := newFleet(t)
		f.Private = func(_ string, a netip.Addr) bool {
			return a.IsPrivate() || a.IsUnspecified() || a.IsLoopback() || netip.MustParsePrefix("0.0.0.0/8").Contains(a)
		}
		f.up.records = newZone(t, "carries.test. 60 IN AAAA "+addr+"\ncarries.test. 60 IN HTTPS 1 . ipv6hint="+addr).records
		if got := f.dig(t, "alice", "carries.test AAAA"); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
		if got := f.dig(t, "alice", "carries.test HTTPS"); strings.HasPrefix(want, "SERVFAIL") && got != want {
			t.Errorf("%s as a hint: got %s, want %s", addr, got, want)
		}
	}
}

// What does not exist is said with a SOA record, also where upstream gives none, or
// nothing that belongs to the question. An answer that ends in a CNAME denies nothing.
func TestDeniedWithSOA(t *testing.T) {
	for _, tt := range []struct {
		rcode        int
		answer, want string
	}{
		{dns.RcodeSuccess, "", "NOERROR www.allowed.test."},
		{dns.RcodeNameError, "", "NXDOMAIN www.allowed.test."},
		{dns.RcodeSuccess, "stray.test. 300 IN A 192.0.2.66", "NOERROR www.allowed.test."},
		{dns.RcodeNameError, "www.allowed.test. 300 IN CNAME gone.test.", "NXDOMAIN gone.test."},
		{dns.RcodeSuccess, "www.allowed.test. 300 IN CNAME elsewhere.test.", "NOERROR "},
		{dns.RcodeSuccess, "www.allowed.test. 300 IN A 192.0.2.10", "NOERROR "},
		{dns.RcodeServerFailure, "", "SERVFAIL "},
	} {
		f := newFleet(t)
		f.Upstream = sourceOf(0, func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
			r := new(dns.Msg).SetRcode(m, tt.rcode)
			if rr, _ := dns.NewRR(tt.answer); rr != nil {
				r.Answer = []dns.RR{rr}
			}
			return r, nil
		})
		_, req := packQuestion(t, "www.allowed.test.", dns.TypeA, nil)
		r, owner := new(dns.Msg), ""
		if err := r.Unpack(f.Handle(t.Context(), &listen.Client{Addr: people["alice"].from, Listener: "test"}, req)); err != nil {
			t.Fatal(err)
		}
		for _, rr := range r.Ns {
			if _, is := rr.(*dns.SOA); is {
				owner = rr.Header().Name
			}
		}
		if got := dns.RcodeToString[r.Rcode] + " " + owner; got != tt.want {
			t.Errorf("upstream says %s %q: got %q, want %q", dns.RcodeToString[tt.rcode], tt.answer, got, tt.want)
		}
	}
}

// The options of a forwarder count in questions of any class, and those of others in none.
func TestOptionsOfForwarders(t *testing.T) {
	for _, class := range []uint16{dns.ClassINET, dns.ClassCHAOS} {
		for _, forwards := range []bool{true, false} {
			f, read := newFleet(t), "nothing"
			f.Forwarder = func(netip.Addr) bool { return forwards }
			f.Identify = func(c *listen.Client, option func(uint16) []byte) (policy.Asker, bool) {
				if option != nil {
					read = string(option(65001))
				}
				return identify(c, option)
			}
			_, req := packQuestion(t, "whoami.starferry.", dns.TypeTXT, func(m *dns.Msg) {
				m.Question[0].Qclass = class
				m.SetEdns0(1232, false)
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("a MAC")}}
			})
			f.Handle(t.Context(), &listen.Client{Addr: people["alice"].from, Listener: "test"}, req)
			if want := map[bool]string{true: "a MAC", false: "nothing"}[forwards]; read != want {
				t.Errorf("class %d, of a forwarder %t: %q is read, want %q", class, forwards, read, want)
			}
		}
	}
}

// What upstream says is authentic is so only as it said it: not what was taken from
// its answer, nor what is made here.
func TestAuthenticAsItWasSaid(t *testing.T) {
	f := newFleet(t)
	f.Upstream = sourceOf(0, func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
		r, err := f.up.resolve(ctx, m)
		if err == nil && m.Question[0].Name == "www.allowed.test." {
			stray, _ := dns.NewRR("stray.test. 300 IN A 192.0.2.66")
			r.Answer = append(r.Answer, stray)
		}
		return r, err
	})
	for asks, want := range map[string]string{
		"www.allowed.test +dnssec":      "NOERROR 300 A 192.0.2.10",
		"alias.corp.test +dnssec":       "NOERROR 60 CNAME www.allowed.test., www.allowed.test. 300 A 192.0.2.10; EDE 4 policy alias",
		"www.listed-china.test +dnssec": "NOERROR 30 A 198.19.0.1; EDE 4 policy china-origins: steered by hong-kong",
		"www.listed-china.test +adflag": "NOERROR 30 A 198.19.0.1; EDE 4 policy china-origins: steered by hong-kong",
	} {
		if got := f.dig(t, "alice", asks); got != want {
			t.Errorf("%s:\n got %s\nwant %s", asks, got, want)
		}
	}
}

// Who asks again soon is told besides that nobody was asked again.
func TestAFailureThatWasKept(t *testing.T) {
	f := newFleet(t)
	f.Upstream = cached(f.up.resolve)
	f.up.broken["www.allowed.test."] = upstream.ErrNoAnswer
	const fresh = "SERVFAIL; EDE 22 upstream does not answer"
	for i, want := range []string{fresh, fresh + "; EDE 13 "} {
		if got := f.dig(t, "alice", "www.allowed.test"); got != want {
			t.Errorf("question %d gets %s, want %s", i, got, want)
		}
	}
}

// A virtual address has a name for those who would be steered for it, and for
// nobody else; and none of it goes upstream.
func TestReverseNames(t *testing.T) {
	f := newFleet(t)
	f.dig(t, "alice", "www.listed-china.test")
	f.dig(t, "bob", "www.guest-china.test")
	f.up.took()
	for _, tt := range []struct{ who, asks, want string }{
		{"alice", "1.0.19.198.in-addr.arpa PTR", "NOERROR 30 PTR www.listed-china.test."},
		{"alice, failing", "1.0.19.198.in-addr.arpa PTR", "NXDOMAIN SOA 10"},
		{"bob", "1.0.19.198.in-addr.arpa PTR", "NXDOMAIN SOA 10"},
		{"bob", "2.0.19.198.in-addr.arpa PTR", "NOERROR 30 PTR www.guest-china.test."},
		{"the office", "2.0.19.198.in-addr.arpa PTR", "NXDOMAIN SOA 10"},
		{"alice", "99.0.19.198.in-addr.arpa PTR", "NXDOMAIN SOA 10"},
		{"alice", "1.0.19.198.in-addr.arpa TXT", "NOERROR SOA 10"},
		{"bob", "1.0.19.198.in-addr.arpa TXT", "NXDOMAIN SOA 10"},
	} {
		if got := f.dig(t, tt.who, tt.asks); got != tt.want {
			t.Errorf("%s asks %s:\n got %s\nwant %s", tt.who, tt.asks, got, tt.want)
		}
	}
	if s := f.up.took(); s != "" {
		t.Errorf("%s went upstream", s)
	}
}

func TestOwnHints(t *testing.T) {
	f := newFleet(t)
	f.dig(t, "bob", "www.guest-china.test")
	want := `NOERROR 30 HTTPS 1 . mandatory="alpn" alpn="h2" port="443" ipv4hint="198.19.0.1"; EDE 4 policy guest-china: steered by hong-kong`
	if got := f.dig(t, "bob", "www.guest-china.test HTTPS"); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestAnswersHoldNothingThatWasNotJudged(t *testing.T) {
	f := newFleet(t)
	f.Upstream = cached(func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
		r, err := f.up.resolve(ctx, m)
		rr, _ := dns.NewRR("unasked.test. 60 IN A 203.0.113.66")
		r.Answer = append(r.Answer, rr)
		return r, err
	})
	if got, want := f.dig(t, "alice", "www.allowed.test"), "NOERROR 300 A 192.0.2.10"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestRecords(t *testing.T) {
	tests := []struct{ who, asks, want string }{
		{"alice", "www.allowed.test", "alice-laptop by wireguard: allow by everything-else, NOERROR, EDE -1, "},
		{"alice", "www.phishing.test +noedns", "alice-laptop by wireguard: block by phishing, NXDOMAIN, EDE 15, policy phishing: Known phishing site"},
		{"alice", "quiet.test", "alice-laptop by wireguard: block by quiet, silence, EDE 15, policy quiet"},
		{"alice", "www.listed-china.test", "alice-laptop by wireguard: steer by china-origins, NOERROR, EDE 4, policy china-origins: steered by hong-kong, hong-kong 198.19.0.1"},
		{"the office", "www.guest-china.test", "office by network: no-way by guest-china, REFUSED, EDE 18, policy guest-china: no_way: no way to send: ask over WireGuard or from a network that routes the pool, hong-kong invalid IP"},
		{"a stranger", "www.allowed.test", " by none: refuse by , REFUSED, EDE 18, unknown network"},
	}
	for _, tt := range tests {
		f := newFleet(t)
		f.dig(t, tt.who, tt.asks)
		r := f.records[0]
		rcode := "silence"
		if r.Rcode >= 0 {
			rcode = dns.RcodeToString[r.Rcode]
		}
		got := fmt.Sprintf("%s by %v: %s by %s, %s, EDE %d, %s", r.Asker, r.Kind, r.Action, r.Policy, rcode, r.EDE, r.Reason)
		if r.Route != "" {
			got += fmt.Sprintf(", %s %v", r.Route, r.Addr)
		}
		if got != tt.want || r.Client.Listener != "test" || !r.Time.Equal(start) {
			t.Errorf("%s asks %s:\n got %s\nwant %s", tt.who, tt.asks, got, tt.want)
		}
	}
}

func TestMalformedQuestions(t *testing.T) {
	f := newFleet(t)
	from := people["alice"].from
	good, _ := new(dns.Msg).SetQuestion("www.allowed.test.", dns.TypeA).Pack()
	twoOPT := new(dns.Msg).SetQuestion("www.allowed.test.", dns.TypeA)
	twoOPT.SetEdns0(1232, false)
	twoOPT.SetEdns0(1232, false)
	newer := new(dns.Msg).SetQuestion("www.allowed.test.", dns.TypeA)
	newer.SetEdns0(1232, false)
	newer.IsEdns0().SetVersion(1)
	pack := func(m *dns.Msg) []byte { b, _ := m.Pack(); return b }
	strange := append(pack(newer), 1, 2, 3) // options of a form to come
	strange[len(strange)-4] = 3
	for _, tt := range []struct {
		what  string
		req   []byte
		rcode int
		opt   bool
	}{
		{"cut", good[:20], dns.RcodeFormatError, false},
		{"two OPT records", pack(twoOPT), dns.RcodeFormatError, true},
		{"a version of EDNS to come", pack(newer), dns.RcodeBadVers, true},
		{"a version of EDNS to come, and its options", strange, dns.RcodeBadVers, true},
	} {
		var r dns.Msg
		if err := r.Unpack(f.Handle(t.Context(), &listen.Client{Addr: from, Listener: "test", Transport: listen.UDP}, tt.req)); err != nil || r.Rcode != tt.rcode {
			t.Errorf("%s: %v, %v; want %s", tt.what, r.Rcode, err, dns.RcodeToString[tt.rcode])
		}
		if opt := r.IsEdns0(); (opt != nil) != tt.opt || opt != nil && (opt.Version() != 0 || len(r.Question) != 1) {
			t.Errorf("%s: got %v", tt.what, &r)
		}
	}
}

func TestProbeOfTheGateway(t *testing.T) {
	f := newFleet(t)
	f.Node = func(a netip.Addr) (string, bool) { return "hk-1", a == netip.MustParseAddr("198.51.100.1") }
	f.Journal = func() uint64 { return 0x1234 }
	want := `NOERROR 0 CH TXT "name=gw-sjc" "role=gateway" "journal=0000000000001234" "version=1"; option 65311; option 3`
	if got := f.dig(t, "a stranger", "node.starferry CH TXT"); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got := f.dig(t, "alice", "node.starferry CH TXT"); !strings.HasPrefix(got, "REFUSED") {
		t.Errorf("a device got %s", got)
	}
}

func FuzzHandle(f *testing.F) {
	for _, q := range []string{"www.allowed.test.", "www.listed-china.test.", "www.phishing.test.", "cdn-china.test.", "1.0.19.198.in-addr.arpa."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeHTTPS, dns.TypePTR, dns.TypeANY} {
			m := new(dns.Msg).SetQuestion(q, qtype)
			m.SetEdns0(1232, true)
			b, _ := m.Pack()
			f.Add(b)
		}
	}
	fl := newFleet(f)
	fl.Record = nil
	from := people["alice"].from
	f.Fuzz(func(t *testing.T, req []byte) {
		b := fl.Handle(t.Context(), &listen.Client{Addr: from, Listener: "fuzz", Transport: listen.UDP}, req)
		if b == nil {
			return
		}
		var q, r dns.Msg
		if err := r.Unpack(b); err != nil {
			t.Fatalf("unreadable answer %x: %v", b, err)
		}
		if !r.Response || b[0] != req[0] || b[1] != req[1] {
			t.Fatalf("not an answer to this: %v", &r)
		}
		if err := q.Unpack(req); err == nil && r.Rcode != dns.RcodeFormatError && r.Question[0] != q.Question[0] {
			t.Fatalf("question %v, answer %v", q.Question[0], r.Question[0])
		}
	})
}

func BenchmarkHandleAllowed(b *testing.B) {
	f, req := cachedAllow(b)
	b.ReportAllocs()
	for b.Loop() {
		f.Handle(b.Context(), &listen.Client{Addr: people["alice"].from, Listener: "bench", Transport: listen.UDP}, req)
	}
}

// A cached answer that is allowed is what gateways do all day. The number is
// what it takes now, with a little air; most of it is the library's unpacking
// and packing.
func TestAllocationsOfAnAllow(t *testing.T) {
	f, req := cachedAllow(t)
	n := testing.AllocsPerRun(200, func() {
		f.Handle(t.Context(), &listen.Client{Addr: people["alice"].from, Listener: "bench", Transport: listen.UDP}, req)
	})
	if most := 32.0; n > most {
		t.Errorf("%v allocations, want at most %v", n, most)
	}
}
