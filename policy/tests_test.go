package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
)

// tested is the company with a few policies more.
var tested = strings.Replace(company, "  - name: china-origins\n", `  - {name: intranet, if: {name: intranet.example}, then: {override: {a: 10.1.2.3}}}
  - {name: corp, if: {name: corp.example}, then: {resolve: internal}}
  - name: china-origins
`, 1)

// staffed are the devices that tests name.
var staffed = []*device.Device{
	{ID: "alice-laptop", Kind: device.ByWireGuard, Groups: []string{"staff"}, Overlay: []netip.Prefix{netip.MustParsePrefix("100.72.1.10/32")}},
	{ID: "office", Kind: device.ByNetwork, Groups: []string{"staff"}, LAN: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}},
}

// What each test of a policy file comes to: empty is as wanted.
func TestRunTests(t *testing.T) {
	for _, tt := range []struct{ test, err string }{
		{`{device: alice-laptop, ask: www.taobao.com, want: {steer: hong-kong}}`, ""},
		{`{device: alice-laptop, ask: www.taobao.com AAAA, want: {steer: hong-kong, policy: china-origins}}`, ""},
		{`{device: alice-laptop, ask: www.taobao.com, want: {policy: china-origins}}`, ""},
		{`{device: alice-laptop, posture: failing, ask: www.taobao.com, want: {block: refused}}`, ""},
		{`{device: alice-laptop, posture: unknown, ask: www.taobao.com, want: {deny: refused}}`, ""},
		{`{device: alice-laptop, posture: {laptop: failing}, ask: www.taobao.com, want: deny}`, ""},
		{`{device: {groups: [staff]}, ask: www.taobao.com, want: {steer: hong-kong}}`, ""},
		{`{device: {groups: [staff], identity: weak}, ask: www.taobao.com, want: deny}`, ""},
		{`{device: {groups: [staff], kind: token}, ask: www.taobao.com, want: {steer: hong-kong}}`, ""},
		{`{device: office, ask: www.taobao.com, want: deny}`, ""},
		{`{device: {groups: guests, network: 192.168.1.7}, ask: x.example, answer: none, want: {decision: allow, policy: everything-else}}`, ""},
		{`{device: {groups: guests, network: 10.0.0.0/8}, ask: x.example, answer: none, want: {block: nodata}}`, ""},
		{`{device: alice-laptop, ask: x.example, answer: 203.0.113.9, want: {steer: hong-kong}}`, ""},
		{`{device: alice-laptop, ask: x.example, answer: {country: CN}, want: {steer: hong-kong}}`, ""},
		{`{device: alice-laptop, ask: x.example, answer: [{country: US}, 192.0.2.7], want: {decision: allow}}`, ""},
		{`{device: alice-laptop, ask: x.example, answer: [cdn.example, 203.0.113.9], want: {steer: hong-kong}}`, ""},
		{`{device: alice-laptop, ask: x.example, answer: [www.phish.example], want: {block: nxdomain, policy: phishing}}`, ""},
		{`{ask: www.phish.example, want: block}`, ""},
		{`{device: alice-laptop, ask: www.taobao.com, flow: tcp/443, want: {steer: hong-kong}}`, ""},
		{`{device: alice-laptop, ask: www.taobao.com, flow: tcp/80, want: {block: refused}}`, ""},
		{`{ask: intranet.example, want: {override: 10.1.2.3}}`, ""},
		{`{ask: intranet.example, want: {override: 10.1.2.4}}`, "want override 10.1.2.4, got override 10.1.2.3 by policy intranet"},
		{`{ask: corp.example, want: {resolve: internal}}`, ""},
		{`{ask: corp.example, want: allow}`, ""},
		{`{ask: www.phish.example, want: allow}`, "want allow, got block nxdomain by policy phishing"},
		{`{ask: www.phish.example, want: deny}`, "want deny, got block nxdomain by policy phishing"},
		{`{ask: www.phish.example, want: {block: nxdomain, policy: guests}}`, "by policy guests, got"},
		{`{device: alice-laptop, posture: failing, ask: www.taobao.com, want: {steer: hong-kong}}`, "got deny refused by policy china-origins: posture laptop failed: assumed"},
		{`{ask: x.example, want: allow}`, "policy china-origins looks at the answer, and the test gives none"},
		{`{device: alice-laptop, ask: x.example, flow: tcp/443, want: block}`, "policy china-origins looks at the answer"},
		{`{device: mallory, ask: x.example, want: allow}`, `there is no device "mallory"`},
		{`{device: alice-laptpo, ask: x.example, want: allow}`, `did you mean "alice-laptop"?`},
	} {
		p := parse(t, tested+"tests: ["+tt.test+"]\n")
		got := p.RunTests(staffed, noon)
		if len(got) != 1 || got[0].At.Line == 0 || got[0].OK() != (tt.err == "") || !strings.Contains(got[0].Err, tt.err) {
			t.Errorf("%s\n%+v, want %q", tt.test, got, tt.err)
		}
	}
}

// Addresses in countries are assumed also where the database knows none.
func TestRunTestsWithoutDatabase(t *testing.T) {
	p := parse(t, `
geoip: {country: country.mmdb}
policies:
  - {name: far, if: {answer: {country: [KP, IR]}}, then: block}
  - {name: rest, then: allow}
tests:
  - {ask: x.example, answer: {country: KP}, want: block}
  - {ask: x.example, answer: {country: [FR, DE]}, want: allow}
  - {ask: x.example, answer: [{country: FR}, 203.0.113.1], want: allow}
  - {device: bob, ask: x.example, answer: none, want: allow}
`)
	err := policy.TestsErr(p.RunTests(nil, noon))
	want := "1 of 4 test fails:\npolicy.yaml:10:5: x.example A by bob: no devices are known here: describe bob, device: {groups: [...]}"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if p := parse(t, "policies: []\n"); policy.TestsErr(p.RunTests(nil, noon)) != nil {
		t.Error("no tests fail")
	}
}

// What tests say of how is asked, and of answers that are more than addresses in
// countries.
func TestRunTestsOfAllThatPoliciesLookAt(t *testing.T) {
	for _, tt := range []struct{ test, err string }{
		{`{ask: a.example, answer: {country: CN}, want: {policy: continent}}`, ""},
		{`{ask: a.example, answer: {continent: AS}, want: {policy: continent}}`, ""},
		{`{ask: a.example, answer: [{continent: EU}, {country: US}], want: {policy: default}}`, ""},
		{`{ask: a.example, answer: {asn: AS4134}, want: {policy: system}}`, ""},
		{`{ask: a.example, answer: 203.0.113.9, want: {policy: continent}}`, ""}, // as the file's databases have it
		{`{ask: a.example, answer: [10.0.0.1, {country: FR}], want: {policy: default}}`, ""},
		{`{ask: a.example MX, answer: {mx: [a.example, mx.bad.example]}, want: {policy: mail}}`, ""},
		{`{ask: a.example TXT, answer: [cdn.example, {txt: "v=1"}], want: {policy: text}}`, ""},
		{`{ask: a.example TXT, answer: {txt: "w=1"}, want: {policy: default}}`, ""},
		{`{ask: l.example, listener: link, answer: none, want: {policy: linked}}`, ""},
		{`{ask: l.example, answer: none, want: {policy: default}}`, ""},
		{`{ask: l.example, device: {groups: [a]}, answer: none, want: {policy: linked}}`, ""}, // with a link of its own
		{`{ask: l.example, device: alice-laptop, listener: "192.0.2.1:53", answer: none, want: {policy: default}}`, ""},
		{`{ask: l.example, device: alice-laptop, flow: tcp/443, answer: none, want: {policy: default}}`, ""},
		{`{ask: t.example, transport: doh, answer: none, want: {policy: quiet}}`, ""},
	} {
		p := parse(t, head+`
policies:
  - {name: continent, if: {answer: {continent: AS}}, then: {steer: there}}
  - {name: system, if: {answer: {asn: 4134}}, then: block}
  - {name: mail, if: {answer: {mx: {suffix: bad.example}}}, then: block}
  - {name: text, if: {answer: {txt: {regexp: 'v=.*'}}}, then: block}
  - {name: linked, if: {name: l.example, listener: link}, then: {block: drop}}
  - {name: quiet, if: {name: t.example, transport: doh}, then: {block: drop}}
tests: [`+tt.test+"]\n")
		if got := p.RunTests(staffed, noon); len(got) != 1 || got[0].Err != tt.err {
			t.Errorf("%s\n%+v, want %q", tt.test, got, tt.err)
		}
	}
}

// Tests that say too much, or what cannot be, are mistakes of the file.
func TestTestMistakes(t *testing.T) {
	for test, want := range map[string]string{
		`{ask: x.example a b, want: allow}`:                                    "no question",
		`{ask: x.example BB, want: allow}`:                                     "no DNS type",
		`{ask: x.example A, type: A, want: allow}`:                             "the type stands in ask too",
		`{ask: x.example, want: {}}`:                                           "or the policy",
		`{ask: x.example, want: {steer: a, block: drop}}`:                      "steer and block in one",
		`{ask: x.example, want: {decision: allow, block: drop}}`:               "says the decision",
		`{ask: x.example, want: {policy: guest}}`:                              `did you mean "guests"?`,
		`{ask: x.example, answer: [], want: allow}`:                            "an empty list",
		`{ask: x.example, answer: 203.0.113.400, want: allow}`:                 "neither an address nor a name",
		`{ask: x.example, answer: {country: China}, want: allow}`:              "is no country",
		`{ask: x.example, answer: {country: CN, asn: 4134}, want: allow}`:      "several in one",
		`{ask: x.example, answer: {}, want: allow}`:                            "want one of country, continent, asn, mx, ns, ptr, txt",
		`{ask: x.example, answer: {continent: XX}, want: allow}`:               "is no continent",
		`{ask: x.example, answer: {mx: mx.example}, want: allow}`:              "the answer to a question of type A holds no MX records",
		`{ask: x.example NS, answer: [y.example, {txt: a}], want: allow}`:      "the answer to a question of type NS holds no TXT records",
		`{ask: x.example, flow: tcp/80, listener: link, want: allow}`:          "a flow has no listener",
		`{ask: x.example, transport: tls, want: allow}`:                        `"tls"`,
		`{ask: x.example, time: noon, want: allow}`:                            "is no time",
		`{ask: x.example, flow: tcp/80-90, want: allow}`:                       "more than one port",
		`{ask: x.example, device: {group: a}, want: allow}`:                    `unknown key "group"`,
		`{ask: x.example, device: {identity: weak, kind: token}, want: allow}`: "identity and kind in one",
		`{ask: x.example, posture: {desktop: passing}, want: allow}`:           `unknown posture "desktop"`,
	} {
		_, err := policy.Parse("policy.yaml", []byte(tested+"tests: ["+test+"]\n"), open)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", test, err, want)
		}
	}
}

// What an override answers with is told whatever its type, so that a change of
// it is one.
func TestRecordsAreTold(t *testing.T) {
	p := parse(t, `
policies:
  - {name: o, if: {name: a.example}, then: {override: {txt: hello}}}
tests:
  - {ask: a.example TXT, want: allow}
`)
	if got := p.RunTests(nil, noon); len(got) != 1 || !strings.Contains(got[0].Err, "got override TXT hello by policy o") {
		t.Errorf("%+v", got)
	}
}
