package resolver

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/cache"
	"github.com/starferry/starferry/resolver/local"
)

// Where upstream leaves a chain open, its end is asked for, judged, and given.
func TestOpenChains(t *testing.T) {
	for _, tt := range []struct{ records, asks, want, asked string }{
		{"open.test. 300 IN CNAME www.allowed.test.", "open.test", "NOERROR 300 CNAME www.allowed.test., www.allowed.test. 300 A 192.0.2.10", "A open.test., A www.allowed.test."},
		{"open.test. 300 IN CNAME www.allowed.test.", "open.test MX", "NOERROR 300 CNAME www.allowed.test. SOA 60", "MX open.test., MX www.allowed.test., A open.test., A www.allowed.test., AAAA open.test., AAAA www.allowed.test."},
		{"open.test. 300 IN CNAME www.allowed.test.", "open.test CNAME", "NOERROR 300 CNAME www.allowed.test.", "CNAME open.test., A open.test., A www.allowed.test., AAAA open.test., AAAA www.allowed.test."},
		{"open.test. 300 IN CNAME www.phishing.test.", "open.test", "NXDOMAIN SOA 10; EDE 15 policy phishing: Known phishing site", "A open.test., A www.phishing.test."},
		{"open.test. 300 IN CNAME nothing.test.", "open.test", "NXDOMAIN 300 CNAME nothing.test. SOA 60", "A open.test., A nothing.test."},
		{"open.test. 300 IN CNAME second.test.\nsecond.test. 300 IN CNAME www.allowed.test.", "open.test",
			"NOERROR 300 CNAME second.test., second.test. 300 CNAME www.allowed.test., www.allowed.test. 300 A 192.0.2.10", "A open.test., A second.test., A www.allowed.test."},
		{"open.test. 300 IN CNAME second.test.\nsecond.test. 300 IN CNAME open.test.", "open.test",
			"NOERROR 300 CNAME second.test.", "A open.test., A second.test."},
		{"", "round.test", "NOERROR 300 CNAME trip.test., trip.test. 300 CNAME round.test.", "A round.test."},
		{"open.test. 300 IN CNAME inside.lab.", "open.test", "SERVFAIL; EDE 0 rebinding: the answer holds 10.0.0.7, a private address*", "A open.test."},
		{"", "out.lab", "NOERROR 60 CNAME www.allowed.test., www.allowed.test. 300 A 192.0.2.10", "A www.allowed.test."},
		{"", "loop.lab", "SERVFAIL; EDE 0 a chain of CNAMEs here has no end", ""},
	} {
		f := newFleet(t)
		own := newZone(t, tt.records)
		f.Upstream = sourceOf(0, func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
			if m.Question[0].Name == "round.test." {
				f.up.asked = append(f.up.asked, "A round.test.")
				r := new(dns.Msg).SetReply(m)
				r.Answer = newZone(t, "round.test. 300 IN CNAME trip.test.\ntrip.test. 300 IN CNAME round.test.").records
				return r, nil
			}
			for _, rr := range own.records {
				if rr.Header().Name == m.Question[0].Name {
					f.up.asked = append(f.up.asked, dns.TypeToString[m.Question[0].Qtype]+" "+m.Question[0].Name)
					r := new(dns.Msg).SetReply(m)
					r.Answer = []dns.RR{rr}
					return r, nil
				}
			}
			return f.up.resolve(ctx, m)
		})
		f.Private = func(_ string, a netip.Addr) bool { return a.IsPrivate() }
		f.Local = func(name string, qtype uint16) (local.Answer, bool) {
			switch name {
			case "inside.lab":
				return local.Answer{Answer: newZone(t, "inside.lab. 60 IN A 10.0.0.7").records}, true
			case "out.lab":
				return local.Answer{Answer: newZone(t, "out.lab. 60 IN CNAME www.allowed.test.").records, Target: "www.allowed.test"}, true
			case "loop.lab":
				return local.Answer{Rcode: dns.RcodeServerFailure}, true
			}
			return local.Answer{}, false
		}
		got := f.dig(t, "alice", tt.asks)
		if want, partly := strings.CutSuffix(tt.want, "*"); got != tt.want && !(partly && strings.HasPrefix(got, want)) {
			t.Errorf("%q, %s:\n got %s\nwant %s", tt.records, tt.asks, got, tt.want)
		}
		if asked := f.up.took(); asked != tt.asked {
			t.Errorf("%q, %s: asked %s, want %s", tt.records, tt.asks, asked, tt.asked)
		}
	}
}

// A chain whose end is old is said to be, as an answer in one piece is.
func TestStaleEndsOfChains(t *testing.T) {
	for _, tt := range []struct{ end, want string }{
		{"www.allowed.test", "NOERROR 300 CNAME www.allowed.test., www.allowed.test. 300 A 192.0.2.10; EDE 3 upstream does not answer"},
		{"nothing.test", "NXDOMAIN 300 CNAME nothing.test. SOA 60; EDE 19 upstream does not answer"},
	} {
		f := newFleet(t)
		ask := sourceOf(0, f.up.resolve)
		f.Upstream = func(ctx context.Context, group string, q cache.Question) (cache.Reply, error) {
			r, err := ask(ctx, group, q)
			r.Stale, r.Kept = true, true
			return r, err
		}
		f.Local = func(name string, _ uint16) (local.Answer, bool) {
			return local.Answer{Answer: newZone(t, "out.lab. 300 IN CNAME "+tt.end+".").records, Target: tt.end}, name == "out.lab"
		}
		if got := f.dig(t, "alice", "out.lab"); got != tt.want {
			t.Errorf("got %s\nwant %s", got, tt.want)
		}
		if r := f.records[len(f.records)-1]; !r.Stale {
			t.Errorf("%s: the record does not say so", tt.end)
		}
	}
}

// The end of an open chain is asked for where the policy has its name asked for: who
// has to use a resolver that filters does so for all names, and what is known here is
// not told in its place.
func TestEndsOfChainsAreAskedWhereThePolicySays(t *testing.T) {
	for _, tt := range []struct{ policies, want string }{
		{`[{name: filtered, if: {group: staff}, then: {resolve: filtering}}]`, "filtering out.test, filtering end.test"},
		{`[{name: inside, if: {name: out.test}, then: {resolve: internal}}, {name: rest, then: allow}]`, "internal out.test"},
		{`[{name: inside, if: {name: out.test}, then: {resolve: internal}}]`, "internal out.test, internal end.test"}, // all else is blocked
		{`[{name: outside, if: {name: end.test}, then: {resolve: filtering}}, {name: inside, if: {name: out.test}, then: {resolve: internal}}]`, "internal out.test, filtering end.test"},
		{`[{name: inside, if: {name: out.test}, then: {resolve: internal}, cname: ignore}, {name: end, if: {name: end.test}, then: block}]`, "internal out.test, internal end.test"},
		{`[{name: all, then: allow}]`, " out.test"},
	} {
		f, p, asked := newFleet(t), parsePolicy(t, "policies: "+tt.policies), []string(nil)
		own := newZone(t, "out.test. 300 IN CNAME end.test.\nend.test. 300 IN A 192.0.2.10")
		f.Policy = func() *policy.Policy { return p }
		answer := sourceOf(0, func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
			r := new(dns.Msg).SetReply(m)
			for _, rr := range own.records {
				if rr.Header().Name == m.Question[0].Name {
					r.Answer = append(r.Answer, rr)
				}
			}
			return r, nil
		})
		f.Upstream = func(ctx context.Context, group string, q cache.Question) (cache.Reply, error) {
			name, _, _ := dns.UnpackDomainName([]byte(q.Name), 0)
			asked = append(asked, group+" "+strings.TrimSuffix(name, "."))
			return answer(ctx, group, q)
		}
		f.Local = func(name string, _ uint16) (local.Answer, bool) {
			return local.Answer{Answer: own.records[1:]}, name == "end.test"
		}
		const want = "NOERROR 300 CNAME end.test., end.test. 300 A 192.0.2.10"
		if got := f.dig(t, "alice", "out.test"); got != want {
			t.Errorf("%s: got %s", tt.policies, got)
		}
		if got := strings.Join(asked, ", "); got != tt.want {
			t.Errorf("%s: asked %q, want %q", tt.policies, got, tt.want)
		}
	}
}

// Who explains asks those whom the gateway asks.
func TestFactsAreAskedWhereThePolicySays(t *testing.T) {
	f, asked := newFleet(t), []string(nil)
	p := parsePolicy(t, `policies: [{name: shady, if: {answer: {network: 198.51.100.0/24}}, then: block}, {name: far, if: {group: staff}, then: {resolve: filtering}}]`)
	f.Policy = func() *policy.Policy { return p }
	answer := sourceOf(0, func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
		r := new(dns.Msg).SetReply(m)
		for _, rr := range newZone(t, "out.test. 300 IN CNAME end.test.\nend.test. 300 IN A 192.0.2.10").records {
			if rr.Header().Name == m.Question[0].Name {
				r.Answer = append(r.Answer, rr)
			}
		}
		return r, nil
	})
	f.Upstream = func(ctx context.Context, group string, q cache.Question) (cache.Reply, error) {
		asked = append(asked, group)
		return answer(ctx, group, q)
	}
	who := people["alice"].asker
	d := p.Decide(&policy.Query{Name: "out.test", Type: dns.TypeA, Asker: who, Now: start})
	facts := f.Facts(t.Context(), Question{Name: "out.test", Type: dns.TypeA, Class: dns.ClassINET}, who, &d)
	explained := strings.Join(asked, " ")
	asked = nil
	f.dig(t, "alice", "out.test")
	if got := strings.Join(asked, " "); explained != got || len(facts) != 2 || got != "filtering filtering" {
		t.Errorf("who explains asks %q and learns %v; the gateway asks %q", explained, facts, got)
	}
}
