package policy_test

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy"
)

// lintHead has lists that say what they are for.
const lintHead = `
lists:
  phishing:       {file: phishing.txt, format: plain, use: block}
  bad-hosts:      {file: bad-hosts.txt, format: plain, use: block}
  bad-networks:   {file: china-nets, format: cidr, use: block}
  known:          {file: china.conf, format: dnsmasq, use: allow}
  remedy-hosts:   {file: remedy.txt, format: plain}
  remedy-more:    {file: remedy-more.txt, format: plain}
  remedy-networks: {file: remedy-nets.txt, format: cidr}
geoip: {country: country.mmdb}
schedules:
  day:   {zone: UTC, hours: "08:00-18:00"}
  early: {zone: UTC, hours: "04:00-09:00"}
  night: {zone: UTC, hours: "18:00-08:00"}
  far:   {zone: Asia/Tokyo, hours: "18:00-08:00"}
postures:
  laptop: {max_age: 15m, checks: [firewall: on]}
  phone:  {max_age: 15m, checks: [lock: on]}
`

// openListed opens the files of the lists above, and those of the company.
func openListed(path string) (io.ReadCloser, error) {
	text, ok := map[string]string{
		"bad-hosts.txt":   "=evil.example\n",
		"okta.txt":        "login.okta.example\n",
		"remedy.txt":      "# who helps\nfix.example\n*.update.example\n",
		"remedy-more.txt": "fix.example\nmend.example\n",
		"remedy-nets.txt": "198.51.100.0/24\n",
	}[path]
	if !ok {
		return open(path)
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

func lint(t testing.TB, policies string) (*policy.Policy, []policy.Finding) {
	t.Helper()
	src := lintHead + "policies:\n" + policies + "  - {name: lists, if: {any: [{name: {list: [phishing, bad-hosts, known, remedy-hosts]}}, {answer: {network: [bad-networks, remedy-networks]}}]}, then: {override: {a: 10.0.0.1}}}\n"
	p, err := policy.Parse("policy.yaml", []byte(src), openListed)
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, src)
	}
	var out []policy.Finding
	for _, f := range p.Lint(openListed) {
		if f.Policy != "lists" {
			out = append(out, f)
		}
	}
	return p, out
}

// The mistakes in examples that Cloudflare has published for its own product, as
// they would be written here; each is found, and the finding names the fix.
var published = []struct{ name, policies, flaw, msg, hint string }{
	{"a negation of each list, united: a quarantine that nothing gets out of", `
  - name: quarantine
    if:
      group: quarantined
      any:
        - not: {answer: {network: remedy-networks}}
        - not: {name: {list: remedy-hosts}}
        - not: {name: {suffix: help.example}}
    then: block
`, "always true", "always true: any of (not (name in list remedy-hosts), not (name under help.example)", "not: {any: [...]}"},
	{"the same for devices that are not in order", `
  - name: not-in-order
    if:
      posture: {laptop: failed}
      any:
        - not: {answer: {network: remedy-networks}}
        - not: {name: {list: remedy-hosts}}
        - not: {name: {suffix: update.example}}
    then: {block: page}
`, "any of negations", "is true of what is in one of them", "not: {any: [...]}"},
	{"an allow of what is in a list of what is bad", `
  - name: known-good
    if: {name: {list: phishing}}
    then: allow
`, "use contradicted", "list phishing is for use: block, and this policy, which does allow, is true of what is in it", "name the list that is meant"},
	{"block lists of addresses and names joined by and", `
  - name: internet-blocklist
    if:
      all:
        - answer: {network: bad-networks}
        - name: {list: bad-hosts}
        - name: {list: phishing}
    then: block
`, "never true", "all of (name in list bad-hosts, name in list phishing, answer in list bad-networks)", "any: [...]"},
	{"the same of lists that share something", `
  - name: internet-blocklist
    if: {answer: {network: bad-networks}, name: {list: bad-hosts}}
    then: block
`, "all of lists", "blocks only what is in all of its lists", "any: [...]"},
	{"the word or in a regular expression", `
  - name: top-levels
    if: {name: {regexp: '.*[.](cn|ru)$ or .*[.](rest|hair|top)$ or .*[.](zip|mobi)$'}}
    then: block
`, "dead branch", "matches no name: no name has a space", "is written |"},
	{"the same as it was published, for a product where expressions match anywhere", `
  - name: top-levels
    if: {name: {regexp: '[.](cn|ru)$ or [.](rest|hair|top|live|cfd|boats|beauty|mom|skin|okinawa)$ or [.](zip|mobi)$'}}
    then: block
`, "dead branch", "matches no name: no name has a space", "is written |"},
	{"an expression of the end of names", `
  - name: top-levels
    if: {name: {regexp: '[.](zip|mobi)$'}}
    then: block
`, "dead branch", "no name begins with a dot", "begin it with .*"},
	{"bars that are escaped in a group", `
  - name: phishing-words
    if: {name: {regexp: '.*(okta|mfa\|sso).*'}}
    then: block
`, "dead branch", `"mfa\|sso" matches no name: an escaped bar`, "without the backslash"},
	{"a negation of each posture, united: devices that have one system fail that of the other", `
  - name: not-in-order
    if: {any: [{not: {posture: {laptop: passed}}}, {not: {posture: {phone: passed}}}]}
    then: block
`, "any of negations", "is true of what is in one of them and not in all: this one is posture laptop passed", "not: {any: [...]}"},
	{"a negation of each group, united", `
  - name: outsiders
    if: {name: wiki.example, any: [{not: {group: staff}}, {not: {group: partners}}]}
    then: block
`, "any of negations", "this one is in group staff", "not: {any: [...]}"},
	{"lists without a use joined by and", `
  - name: internet-blocklist
    if: {all: [{name: {list: remedy-hosts}}, {name: {list: remedy-more}}]}
    then: block
`, "all of lists", "blocks only what is in all of its lists", "any: [...]"},
	{"bars that are escaped", `
  - name: phishing-words
    if: {name: {regexp: '.*okta.*\|.*cloudflare.*\|.*mfa.*'}}
    then: block
`, "dead branch", "an escaped bar is a character", "without the backslash"},
	{"a list of what is bad where one of what is good belongs", `
  - name: lookalikes
    if: {name: {pattern: "**.okta.example"}, not: {name: {list: okta-phishing}}}
    then: block
`, "use contradicted", "list okta-phishing is for use: block, and this policy, which does block, excepts what is in it", "name the list that is meant"},
}

func TestLintPublished(t *testing.T) {
	for _, tt := range published {
		t.Run(tt.name, func(t *testing.T) {
			policies := tt.policies
			if strings.Contains(policies, "okta-phishing") {
				src := "lists: {okta-phishing: {file: okta.txt, format: plain, use: block}}\npolicies:\n" + policies
				p, err := policy.Parse("policy.yaml", []byte(src), openListed)
				if err != nil {
					t.Fatal(err)
				}
				expectFinding(t, p.Lint(openListed), tt.flaw, tt.msg, tt.hint)
				return
			}
			_, found := lint(t, policies)
			expectFinding(t, found, tt.flaw, tt.msg, tt.hint)
		})
	}
}

func expectFinding(t *testing.T, found []policy.Finding, flaw, msg, hint string) {
	t.Helper()
	if len(found) != 1 {
		t.Fatalf("%d findings, want one: %s", len(found), said(found))
	}
	f := &found[0]
	if string(f.Flaw) != flaw || !strings.Contains(f.Msg, msg) || !strings.Contains(f.Hint, hint) || f.Example == "" || f.At.Line == 0 {
		t.Errorf("%s: %v\nwant %s: %s; %s", f.Flaw, f, flaw, msg, hint)
	}
}

func said(found []policy.Finding) string {
	var b strings.Builder
	for i := range found {
		fmt.Fprintf(&b, "\n%s", &found[i])
	}
	return b.String()
}

// What is found, and what is not.
var lints = []struct{ policies, want string }{
	{`{name: p, if: {any: [{not: {name: a.example}}, {not: {name: b.example}}]}, then: block}`, `policy.yaml:20:5: policy p: always true: any of (not (name being a.example), not (name being b.example))
    example: a.example A, by somebody (wireguard): block refused by policy p
    nothing is all of them at once; to except them all write not: {any: [...]}, or one not: with a list of values`},
	{`{name: p, if: {all: [{name: a.example}, {name: {suffix: b.example}}]}, then: allow}`, `policy.yaml:20:5: policy p: never true: all of (name being a.example, name under b.example)
    example: a.example A, by somebody (wireguard): block refused by policy default
    nothing is all of them at once; if one of them is meant write any: [...], or one condition with a list of values`},
	{`{name: p, if: {all: [{type: A}, {type: AAAA}, {name: x.example}]}, then: allow}`, "never true"},
	{`{name: p, if: {all: [{type: [A, TXT]}, {type: [AAAA, TXT]}, {name: x.example}]}, then: allow}`, ""},
	{`{name: p, if: {kind: token, identity: strong, name: x.example}, then: allow}`, "never true"},
	{`{name: p, if: {identity: none, name: x.example}, then: allow}`, "always true: identity at least none"},
	{`{name: p, if: {all: [{network: 10.0.0.0/8}, {network: 192.168.0.0/16}]}, then: allow}`, "never true"},
	{`{name: p, if: {all: [{network: 10.0.0.0/8}, {network: 10.1.0.0/16}]}, then: allow}`, ""},
	{`{name: p, if: {all: [{answer: {network: 10.0.0.0/8}}, {answer: {network: 192.168.0.0/16}}]}, then: allow}`, ""}, // of two addresses
	{`{name: p, if: {all: [{group: a}, {group: b}]}, then: allow}`, ""},
	{`{name: p, if: {all: [{device: a}, {device: b}]}, then: allow}`, "never true"},
	{`{name: p, if: {any: [{posture: {laptop: passed}}, {not: {posture: {laptop: passed}}}]}, then: allow}`, "always true"},
	{`{name: p, if: {any: [{not: {posture: {laptop: passed}}}, {not: {group: a}}]}, then: block}`, ""},
	{`{name: p, if: {any: [{not: {schedule: day}}, {not: {schedule: early}}]}, then: block}`, ""}, // days and hours
	{`{name: p, if: {name: x.example, not: {all: [{group: a}, {group: b}]}}, then: block}`, ""},   // both are demanded, and said so
	{`{name: p, if: {all: [{name: {list: known}}, {name: {list: remedy-hosts}}]}, then: allow}`, "never true: all of (name in list known, name in list remedy-hosts)"},
	{`{name: p, if: {all: [{name: {list: known}}, {name: www.jd.com}]}, then: allow}`, ""},
	{`{name: p, if: {all: [{name: {list: remedy-hosts}}, {not: {name: {list: remedy-hosts}}}]}, then: allow}`, "never true"},
	{`{name: p, if: {any: [{not: {name: {list: remedy-hosts}}}, {not: {name: {list: remedy-hosts}}}]}, then: allow}`, ""},
	{`{name: p, if: {name: {suffix: a.example}}, then: block}
  - {name: q, if: {name: www.a.example}, then: allow}`, `policy.yaml:21:5: policy q: never decides: p above it, in line 20, is true of all that it is true of
    example: www.a.example A, by somebody (wireguard): block refused by policy p
    put it above p, or leave it out`},
	{`{name: p, if: {name: {suffix: a.example}, type: A}, then: block}
  - {name: q, if: {name: www.a.example}, then: allow}`, ""},
	{`{name: p, if: {name: {suffix: a.example}}, then: block, cname: ignore}
  - {name: q, if: {name: www.a.example}, then: allow}`, ""},
	{`{name: p, if: {group: [a, b]}, then: block}
  - {name: q, if: {group: a, name: x.example}, then: allow}`, "shadowed by p"},
	{`{name: p, if: {group: a}, then: block}
  - {name: q, if: {group: [a, b], name: x.example}, then: allow}`, ""},
	{`{name: p, if: {name: {list: known}}, then: allow}
  - {name: q, if: {name: www.taobao.com}, then: {override: {a: 10.0.0.1}}}`, "shadowed by p"},
	{`{name: p, if: {answer: {country: CN}}, then: {steer: hong-kong}}
  - {name: q, if: {name: {suffix: secret.example}}, then: block}`, `policy.yaml:21:5: policy q: the question goes upstream before it decides by the name: p above it, in line 20, looks at the answer
    example: secret.example A, by somebody (wireguard): ask upstream; with an answer of no address: block refused by policy q
    put it above p if nothing is to be asked upstream for these names`},
	{`{name: p, if: {answer: {country: CN}}, then: {steer: hong-kong}}
  - {name: q, if: {name: {suffix: free.example}}, then: allow}`, ""},
	{`{name: q, if: {name: {suffix: secret.example}}, then: block}
  - {name: p, if: {answer: {country: CN}}, then: {steer: hong-kong}}`, ""},
	{`{name: p, if: {flow: {port: 22}, answer: {country: CN}}, then: block}
  - {name: q, if: {name: {suffix: a.example}}, then: {steer: hong-kong}}`, `policy.yaml:20:5: policy p: is true of no flow to names that q below it, in line 21, steers: it decides by the name, so that nothing is asked upstream and no address is known
    example: a flow to a.example tcp/22, by somebody (wireguard), answer in CN: block refused by policy p; and as it is, with no address known: steer hong-kong by policy q
    put a policy on the answer above q that steers such names with the ports they shall have`},
	{`{name: p, if: {flow: {port: 22}, answer: {country: CN}}, then: block}
  - {name: q, if: {name: {suffix: a.example}, answer: {continent: AS}}, then: {steer: hong-kong}}`, ""},
	{`{name: p, if: {flow: {port: 22}, answer: {country: CN}}, then: block}
  - {name: q, if: {name: {suffix: a.example}}, then: {steer: hong-kong, ports: [tcp/443]}}`, ""},
	{`{name: p, if: {all: [{user: alice}, {user: bob}]}, then: allow}`, `policy.yaml:20:5: policy p: never true: all of (user alice, user bob)
    example: www.example.com A, by somebody of user alice (wireguard): block refused by policy default`},
	{`{name: p, if: {all: [{user: alice}, {not: {user: [alice, bob]}}]}, then: allow}`, "never true"},
	{`{name: p, if: {all: [{user: [alice, bob]}, {user: bob}]}, then: allow}`, ""},
	{`{name: p, if: {all: [{platform: macos}, {platform: Windows}]}, then: allow}`, "by somebody on macos (wireguard)"},
	{`{name: p, if: {all: [{platform: macos}, {platform: MacOS}]}, then: allow}`, ""},
	{`{name: p, if: {any: [{platform: macos}, {not: {platform: MACOS}}]}, then: allow}`, "always true wherever it is known: any of (platform macos, not (platform MACOS))"},
	{`{name: p, if: {all: [{listener: link}, {listener: "192.0.2.1:53"}]}, then: allow}`, "to listener link: block refused by policy default"},
	{`{name: p, if: {all: [{transport: udp}, {transport: [dot, doh]}]}, then: allow}`, "never true"},
	{`{name: p, if: {all: [{transport: [udp, dot]}, {transport: [dot, doh]}]}, then: allow}`, ""},
	{`{name: p, if: {listener: link, flow: {protocol: tcp}}, then: allow}`, "never true: all of (flow tcp, listener link)"},
	{`{name: p, if: {type: TXT, flow: {protocol: tcp}}, then: block}`, "never true"},
	{`{name: p, if: {all: [{flow: {protocol: tcp}}, {flow: {port: 443}}]}, then: block}`, ""},
	{`{name: p, if: {all: [{flow: {port: 80}}, {flow: {port: "443-8000"}}]}, then: block}`, "a flow to www.example.com tcp/80"},
	{`{name: p, if: {all: [{schedule: day}, {schedule: night}]}, then: allow}`, "never true: all of (schedule day, schedule night)"},
	{`{name: p, if: {all: [{schedule: day}, {schedule: early}]}, then: allow}`, ""},
	{`{name: p, if: {all: [{schedule: day}, {schedule: far}]}, then: allow}`, ""}, // by clocks of two zones
	{`{name: p, if: {any: [{schedule: day}, {not: {schedule: [early, day]}}, {schedule: early}]}, then: allow}`, "always true: any of"},
	{`{name: p, if: {all: [{answer: {continent: AS}}, {not: {answer: {continent: [AS, EU]}}}]}, then: allow}`, "answer in AE"},
	{`{name: p, if: {all: [{answer: {continent: AS}}, {answer: {continent: EU}}]}, then: allow}`, ""}, // of two addresses
	{`{name: p, if: {name: {list: phishing}}, then: block}`, ""},
	{`{name: p, if: {name: {list: phishing}}, then: allow}`, "list phishing is for use: block, and this policy, which does allow, is true of what is in it"},
	{`{name: p, if: {name: {list: known}}, then: block}`, "list known is for use: allow"},
	{`{name: p, if: {answer: {network: bad-networks}}, then: allow}`, "list bad-networks is for use: block"},
	{`{name: p, if: {network: bad-networks}, then: allow}`, "list bad-networks is for use: block"},
	{`{name: p, if: {network: bad-networks, name: {list: phishing}}, then: block}`, ""}, // who asks, and what for
	{`{name: p, if: {network: bad-networks, any: [{network: 10.0.0.0/8}, {type: A}]}, then: block}`, ""},
	{`{name: p, if: {not: {name: {list: known}}, group: a}, then: block}`, ""},
	{`{name: p, if: {not: {name: {list: phishing}}, group: a}, then: allow}`, ""},
}

func TestLint(t *testing.T) {
	for _, tt := range lints {
		_, found := lint(t, "  - "+tt.policies+"\n")
		got := said(found)
		if by, ok := strings.CutPrefix(tt.want, "shadowed by "); ok {
			tt.want = "never decides: " + by + " above it"
		}
		if (tt.want == "") != (len(found) == 0) || len(found) > 1 || !strings.Contains(got, tt.want) {
			t.Errorf("%s\nfound %s\nwant %s", tt.policies, got, tt.want)
		}
	}
}

// A short list counts as the names that stand in it.
func TestLintShortLists(t *testing.T) {
	for _, tt := range []struct{ policies, want string }{
		{"- {name: p, if: {name: {suffix: example}}, then: allow}\n  - {name: q, if: {name: {list: remedy-hosts}}, then: block}", "policy q: never decides: p above it"},
		{"- {name: p, if: {name: {list: remedy-more}}, then: allow}\n  - {name: q, if: {name: [fix.example, www.mend.example]}, then: block}", "policy q: never decides: p above it"},
		{"- {name: p, if: {name: {list: remedy-more}}, then: allow}\n  - {name: q, if: {name: [fix.example, spend.example]}, then: block}", ""},
		{"- {name: p, if: {name: {pattern: '*.update.example'}}, then: allow}\n  - {name: q, if: {name: {list: remedy-hosts}}, then: block}", ""},
		{"- {name: p, if: {name: {suffix: fix.example}}, then: allow}\n  - {name: q, if: {name: {list: remedy-hosts}}, then: block}", ""},
		{"- {name: p, if: {name: {list: remedy-hosts}, not: {name: {suffix: [fix.example, update.example]}}}, then: block}", "never true"},
	} {
		_, found := lint(t, "  "+tt.policies+"\n")
		if got := said(found); (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s\nfound %s\nwant %s", tt.policies, got, tt.want)
		}
	}
}

// Expressions with parts that no name can match.
func TestDeadBranches(t *testing.T) {
	for expr, want := range map[string]string{
		`.*okta.*|.*sso.*`:            "",
		`.*okta.*\|.*sso.*`:           `an escaped bar`,
		`a\.example|b\.example or c`:  "no name has a space",
		`(a|b c|d)\.example`:          "no name has a space",
		`.*(okta|sso\|vpn|(x|y z)).*`: `an escaped bar is a character, and no name has one; no name has a space`,
		`[.](cn|ru)$ or [.](zip)$`:    "no name has a space",
		`[.](zip|mobi)$`:              "no name begins with a dot",
		`^(\.|www\.)?x\.example\.`:    "without their final dot",
		`(^|\.)x\.example$`:           "no name begins with a dot",
		`(a|\.b)?(\.c|d)`:             "no name begins with a dot",
		`x(\.|-)y\.(z|w)`:             "",
		`(a b|c d)\.example`:          "no name has a space",
		`(?i)WWW\.example`:            "",
		`www\\.example`:               "no name has a backslash",
		`[^a-z0-9._-]+`:               "no name has",
		`(x y)*a`:                     "",
		`(x y){2}a`:                   "no name has a space",
		`www[.]example`:               "",
		`(`:                           "",
	} {
		got := strings.Join(policy.DeadBranches(expr), "; ")
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}

func FuzzDeadBranches(f *testing.F) {
	for _, s := range []string{`.*okta.*\|.*sso.*`, `a or b`, `(?i)a[^b]{2,3}`, `(^|\.)a(\.|b)$`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		re, err := regexp.Compile(`\A(?:` + expr + `)\z`)
		if err != nil || len(expr) > 100 {
			return
		}
		names := policy.MatchedNames(expr)
		for _, n := range names {
			if !re.MatchString(n) {
				t.Errorf("%q does not match %q", expr, n)
			}
		}
		if len(names) > 0 && policy.AllDead(expr) {
			t.Errorf("%q matches %q and is said to match nothing", expr, names)
		}
	})
}
