package policy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"testing"

	"github.com/starferry/starferry/policy"
)

// every has each key of policy files, most of them in all forms.
const every = head + `
  desk:
    max_age: 1h
    checks:
      - disk_encryption: {volumes: all, except: [/boot]}
      - os_version: {macos: ">= 15.0"}
        agent.version: ">= 1.2"
        apps: {present: [EDR], absent: [Dropbox]}
defaults:
  - {group: iot, then: block, learn: true}
  - {groups: [lab, iot], listener: ["192.0.2.1:53", link], then: {block: {address: 192.0.2.7}}}
  - {listener: link, then: {block: nxdomain}, learn: off}
default: allow
categories: {bad: phishing, worse: [phishing, china-sites]}
schedules:
  office: {zone: Asia/Shanghai, days: [mon-fri, sun], hours: ["08:00-12:00", "13:00-18:00"]}
  night: {zone: UTC, days: mon, hours: "22:00-06:00"}
policies:
  - name: all
    if:
      all: [{name: a.example}, {type: A}]
      any: [{name: [b.example, "*.c.example"]}, {type: [AAAA, TYPE65, https]}]
      not: {name: {exact: d.example, suffix: [e.example], pattern: "**.f.example", regexp: 'a.*', list: phishing, category: [bad]}}
      device: a
      devices: [a, b]
      group: a
      groups: [a]
      user: alice
      users: [bob, carol]
      platform: [linux]
      identity: medium
      kind: [wireguard, network]
      posture: {laptop: passed}
      network: [10.0.0.0/8, 192.0.2.1]
      listener: link
      transport: [udp, dot]
      schedule: [office, night]
      flow: {protocol: tcp, port: [443, 8000-8100], route: hong-kong}
    require: {groups: [a], devices: a, identity: strong, posture: [laptop], schedule: office, approval: {by: alice, until: 2026-12-31}}
    then: {steer: hong-kong, ports: [tcp/443, udp/8000-8100], when_down: servfail, no_way: direct, ttl: 30s, reason: Why}
    deny: {block: nodata, reason: No}
    mode: shadow
    log: sample(10)
    not_before: 2026-01-01
    not_after: 2026-12-31T18:00:00+08:00
  - {name: one, if: {answer: {country: [CN, NO]}}, then: block, ede: 16, reason: x, cname: ignore, mode: enforce}
  - {name: two, if: {answer: {continent: AS}}, then: {block: zero-ip, ede: censored}, log: all}
  - {name: three, if: {answer: {network: [china-networks, 192.0.2.0/24]}}, then: {block: {address: [192.0.2.7, "2001:db8::7"]}}}
  - {name: four, if: {answer: {cname: {suffix: x.example}}}, then: {block: truncate}}
  - {name: five, if: {any: [{answer: {mx: mx.example}}, {answer: {ns: [ns.example]}}, {answer: {ptr: p.example}}, {answer: {txt: {regexp: ['v=.*']}}}]}, then: {block: drop}}
  - {name: six, if: {schedule: {zone: UTC, days: [sat-sun]}, name: s.example}, then: {override: {a: 192.0.2.1, aaaa: ["2001:db8::1"], txt: [hi, ho], https: "1 . alpn=h2", ttl: 5m}}}
  - {name: seven, if: {name: t.example}, then: {override: {cname: u.example}}}
  - {name: nine, require: {schedule: {zone: UTC, hours: ["01:00-02:00"]}}, then: {resolve: inner}, ecs: client, ttl: {min: 60s, max: 1h}}
tests:
  - {device: alice, ask: www.example AAAA, posture: passing, time: 2026-05-04T12:00:00+02:00, answer: [192.0.2.1, {country: CN}], want: {steer: hong-kong}}
  - {device: {groups: [a], user: u, platform: linux, kind: network, network: 192.0.2.1}, ask: www.example, type: A, posture: {laptop: failing}, answer: none, listener: link, transport: udp, want: {deny: refused, policy: default}}
  - {device: {groups: a}, ask: www.example, flow: tcp/443, want: allow}
  - {ask: www.example MX, answer: {mx: [m.example]}, want: {override: [192.0.2.1, x.example]}}
  - {ask: www.example TXT, answer: [{txt: x}, {continent: AS}, {asn: 4134}], want: {block: nxdomain}}
  - {ask: www.example, type: NS, answer: {ns: n.example}, want: {block: nxdomain}}
  - {ask: www.example PTR, answer: {ptr: p.example}, want: {block: nxdomain}}
  - {ask: www.example, want: {decision: allow, policy: default}}
  - {device: {identity: weak}, ask: www.example, want: {resolve: inner}}
`

// A change is a part of a document that is replaced.
type change struct {
	at  string
	doc any
}

// changes returns doc with each of its parts replaced by values of other kinds,
// with each key left out, and with one more key in each mapping.
func changes(doc any) (out []change) {
	kinds := []any{nil, "word", "", 7, -1, 1.5, true, []any{}, map[string]any{}, []any{"word"}, []any{7}, []any{nil}, []any{[]any{"word"}}, []any{map[string]any{}}, map[string]any{"word": "word"}}
	var walk func(at string, v any, put func(any) any)
	walk = func(at string, v any, put func(any) any) {
		others := append(slices.Clone(kinds), []any{v})
		if l, ok := v.([]any); ok && len(l) > 0 {
			others = append(others, l[0])
		}
		for _, k := range others {
			out = append(out, change{fmt.Sprintf("%s = %v", at, k), put(k)})
		}
		switch v := v.(type) {
		case []any:
			for i := range v {
				walk(fmt.Sprintf("%s[%d]", at, i), v[i], func(k any) any {
					c := slices.Clone(v)
					c[i] = k
					return put(c)
				})
			}
		case map[string]any:
			with := func(key string, k any) any {
				c := maps.Clone(v)
				c[key] = k
				return put(c)
			}
			out = append(out, change{at + " + wurd", with("wurd", "word")})
			for _, key := range slices.Sorted(maps.Keys(v)) {
				c := maps.Clone(v)
				delete(c, key)
				out = append(out, change{at + " - " + key, put(c)})
				walk(at+"."+key, v[key], func(k any) any { return with(key, k) })
			}
		}
	}
	walk("", doc, func(k any) any { return k })
	return out
}

// The schema takes what the parser takes, and refuses what the parser refuses
// for its form.
func TestSchemaAgreesWithTheParser(t *testing.T) {
	whole := document(t, every).(map[string]any)
	parse(t, every)
	s := schema(t)
	ofForm := regexp.MustCompile(`want a (list|mapping|single value)|unknown (key|condition)|is missing|an empty list|no condition given|no action given`)
	for _, c := range everyChange(whole) {
		src, err := json.Marshal(c.doc)
		if err != nil {
			t.Fatal(err)
		}
		_, perr := policy.Parse("p", src, open)
		serr := s.Validate(decoded(t, src))
		switch {
		case perr == nil && serr != nil:
			t.Errorf("%s: the schema refuses what the parser takes: %v", c.at, serr)
		case perr != nil && serr == nil && ofForm.MatchString(perr.Error()):
			t.Errorf("%s: the schema takes it, the parser says: %v", c.at, perr)
		}
	}
}

// everyChange changes what policies need by itself, and each policy, test and
// default with only that, so that little is read for each change.
func everyChange(whole map[string]any) []change {
	base := maps.Clone(whole)
	keys := []string{"policies", "tests", "defaults"}
	for _, key := range keys {
		delete(base, key)
	}
	out := changes(base)
	for _, key := range keys {
		for _, member := range whole[key].([]any) {
			for _, c := range changes(map[string]any{key: []any{member}}) {
				if doc, ok := c.doc.(map[string]any); ok {
					for k, v := range base {
						if doc[k] == nil {
							doc[k] = v
						}
					}
				}
				out = append(out, c)
			}
		}
	}
	return out
}

func decoded(t *testing.T, src []byte) any {
	t.Helper()
	var v any
	d := json.NewDecoder(bytes.NewReader(src))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}
