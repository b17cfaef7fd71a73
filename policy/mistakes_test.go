package policy_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy"
)

// TestGolden compares all that is said of broken files with what stands in
// testdata: each *.yaml with the *.txt beside it.
func TestGolden(t *testing.T) {
	dir, err := os.ReadDir("testdata/mistakes")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range dir {
		name, ok := strings.CutSuffix(e.Name(), ".yaml")
		if !ok {
			continue
		}
		src, err := os.ReadFile("testdata/mistakes/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		_, err = policy.Parse(e.Name(), src, open)
		if err == nil {
			t.Errorf("%s: no mistake found", e.Name())
			continue
		}
		golden := "testdata/mistakes/" + name + ".txt"
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, rerr := os.ReadFile(golden)
		if rerr != nil || err.Error()+"\n" != string(want) {
			t.Errorf("%s:\n%v\nwant (%v)\n%s", e.Name(), err, rerr, want)
		}
	}
}

// mistakes are one-line files and a part of what is said of each.
var mistakes = map[string]string{
	`polices: []`: `p:1:1: unknown key "polices"
    polices: []
    ^ did you mean "policies"?`,
	`policies: [{then: allow}]`:                                                           `key "name" is missing`,
	`policies: [{name: a}]`:                                                               `key "then" is missing`,
	`policies: [{name: a, then: allow, fi: {}}]`:                                          `unknown key "fi"`,
	`policies: [{name: "a b", then: allow}]`:                                              `name: "a b" is no name`,
	`policies: [{name: a, then: alow}]`:                                                   `did you mean "allow"?`,
	`policies: [{name: a, then: steer}]`:                                                  `steer needs a route`,
	`policies: [{name: a, then: {}}]`:                                                     `no action given`,
	`policies: [{name: a, then: {blok: drop}}]`:                                           `did you mean "block"?`,
	`policies: [{name: a, then: {block: nxdomian}}]`:                                      `did you mean "nxdomain"?`,
	`policies: [{name: a, then: {block: drop, steer: r}}]`:                                `block and steer in one`,
	`policies: [{name: a, then: {block: drop, ports: [tcp/1]}}]`:                          `p:1:42: ports goes with steer only`,
	`policies: [{name: a, then: {steer: r, ports: [tcp]}}]`:                               `"tcp" is no port`,
	`policies: [{name: a, then: {steer: r, ports: [tcp/0]}}]`:                             `"tcp/0" is no port`,
	`policies: [{name: a, then: {steer: r, ports: [tcp/9-1]}}]`:                           `"tcp/9-1" is no port`,
	`policies: [{name: a, then: {steer: r, ports: [sctp/9]}}]`:                            `"sctp/9" is no port`,
	`policies: [{name: a, then: {steer: r, ports: [tcp/65536]}}]`:                         `"tcp/65536" is no port`,
	`policies: [{name: a, then: {steer: r, ports: []}}]`:                                  `ports: an empty list`,
	`policies: [{name: a, then: {steer: r, ttl: 30}}]`:                                    `ttl: "30" is no time span`,
	`policies: [{name: a, then: {steer: r, ttl: 1500ms}}]`:                                `want whole seconds`,
	`policies: [{name: a, then: {steer: r, when_down: dirct}}]`:                           `did you mean "direct"?`,
	`policies: [{name: a, then: {steer: r, no_way: servfail}}]`:                           `"servfail" is none of block, direct`,
	`policies: [{name: a, then: {steer: r, ede: 15}}]`:                                    `ede goes with block only`,
	`policies: [{name: a, then: {block: drop, ede: 18}}]`:                                 `"18" is none of 15 (blocked)`,
	`policies: [{name: a, then: {block: drop, reason: x}, reason: y}]`:                    `reason stands beside then too`,
	`policies: [{name: a, then: resolve}]`:                                                `write {resolve: GROUP}`,
	`policies: [{name: a, then: {resolve: Corp}}]`:                                        `write corp`,
	`policies: [{name: a, then: {resolve: [a, b]}}]`:                                      `resolve: want a single value, got a list`,
	`policies: [{name: a, then: {resolve: a, ports: [tcp/1]}}]`:                           `ports goes with steer only`,
	`policies: [{name: a, then: {resolve: a, block: drop}}]`:                              `block and resolve in one`,
	`policies: [{name: a, then: {block: pgae}}]`:                                          `did you mean "page"?`,
	`policies: [{name: a, then: allow, log: sometimes}]`:                                  `"sometimes" is none of all, blocks, none, sample(N)`,
	`policies: [{name: a, then: allow, log: block}]`:                                      `did you mean "blocks"?`,
	`policies: [{name: a, then: allow, log: sample}]`:                                     `one in a hundred is sample(100)`,
	`policies: [{name: a, then: allow, log: sample(0)}]`:                                  `p:1:40: log: "sample(0)" is no sample`,
	`policies: [{name: a, then: allow, log: sample(x)}]`:                                  `"sample(x)" is no sample`,
	`policies: [{name: a, then: allow, log: sample 5}]`:                                   `"sample 5" is no sample`,
	`policies: [{name: a, then: allow, log: sample(1000001)}]`:                            `at most one in a million`,
	`policies: [{name: a, if: {name: x}, then: allow, cname: ignored}]`:                   `did you mean "ignore"?`,
	`policies: [{name: a, if: {group: x}, then: allow, cname: ignore}]`:                   `cname goes with conditions on names or answers`,
	`policies: [{name: a, then: allow, ecs: cleint}]`:                                     `did you mean "client"?`,
	`policies: [{name: a, then: allow, ecs: 203.0.113.1/24}]`:                             `the network is 203.0.113.0/24`,
	`policies: [{name: a, then: allow, ecs: 203.0.113/24}]`:                               `"203.0.113/24" is no network`,
	`policies: [{name: a, then: block, ecs: client}]`:                                     `p:1:35: ecs goes with allow and resolve only`,
	`policies: [{name: a, then: {steer: r}, ttl: {min: 1m}}]`:                             `ttl goes with allow and resolve only`,
	`policies: [{name: a, then: allow, ttl: 60s}]`:                                        `ttl: want a mapping`,
	`policies: [{name: a, then: allow, ttl: {}}]`:                                         `ttl: want min, max or both`,
	`policies: [{name: a, then: allow, ttl: {min: 2m, max: 1m}}]`:                         `ttl: min 2m0s is more than max 1m0s`,
	`policies: [{name: a, then: allow, ttl: {mim: 2m}}]`:                                  `did you mean "min"?`,
	`policies: [{name: a, then: allow, ttl: {max: 8000h}}]`:                               `want whole seconds, at most a week`,
	`tests: [{ask: x.y, want: {resolve: [a]}}]`:                                           `resolve: want a single value`,
	`policies: [{name: a, then: {block: {address: [x]}}}]`:                                `address: "x" is no address`,
	`policies: [{name: a, then: {block: {}}}]`:                                            `want a form or {address: [...]}`,
	`policies: [{name: a, then: {override: {a: "::1"}}}]`:                                 `a: "::1" is no IPv4 address`,
	`policies: [{name: a, then: {override: {aaaa: 1.2.3.4}}}]`:                            `aaaa: "1.2.3.4" is no IPv6 address`,
	`policies: [{name: a, then: {override: {cname: "a b"}}}]`:                             `"a b" is no name`,
	`policies: [{name: a, then: {override: {cname: x.y, a: 1.2.3.4}}}]`:                   `a cname stands alone`,
	`policies: [{name: a, then: {override: {ttl: 1s}}}]`:                                  `want a, aaaa, txt, https, cname or list`,
	`policies: [{name: a, then: allow, deny: {block: drop}}]`:                             `deny goes with require`,
	`policies: [{name: a, if: {}, then: allow}]`:                                          `no condition given`,
	`policies: [{name: a, if: , then: allow}]`:                                            `if: want a mapping, got nothing`,
	`policies: [{name: a, if: {any: []}, then: allow}]`:                                   `any: an empty list`,
	`policies: [{name: a, if: {nmae: x}, then: allow}]`:                                   `did you mean "name"?`,
	`policies: [{name: a, if: {name: {exact: "*.x"}}, then: allow}]`:                      `wildcards go under pattern:`,
	`policies: [{name: a, if: {name: {suffix: "*.x.y"}}, then: allow}]`:                   `a suffix is written as the name itself: x.y`,
	`policies: [{name: a, if: {name: {pattern: x.y}}, then: allow}]`:                      `a pattern begins with *. (one label)`,
	`policies: [{name: a, if: {name: "a.*.b"}, then: allow}]`:                             `a wildcard can only stand in front`,
	`policies: [{name: a, if: {name: "a..b"}, then: allow}]`:                              `an empty label`,
	`policies: [{name: a, if: {name: *.x.y}, then: allow}]`:                               `needs quotes: "*.example.com"`,
	`policies: [{name: a, if: {name: {list: chian}}, then: allow}]`:                       `unknown list "chian"`,
	`policies: [{name: a, if: {answer: {country: CN}}, then: allow}]`:                     `no country database is given`,
	`policies: [{name: a, if: {answer: {country: CHN}}, then: allow}]`:                    `"CHN" is no country`,
	`policies: [{name: a, if: {answer: {network: 10.0.0.1/8}}, then: allow}]`:             `the network is 10.0.0.0/8`,
	`policies: [{name: a, if: {answer: {network: 10.0.0/8}}, then: allow}]`:               `"10.0.0/8" is no network`,
	`policies: [{name: a, if: {answer: {network: nets}}, then: allow}]`:                   `unknown list "nets"`,
	`policies: [{name: a, if: {answer: {}}, then: allow}]`:                                `want one of country, continent, asn, network, cname, mx, ns, ptr, txt`,
	`policies: [{name: a, if: {answer: {country: CN, network: 1.0.0.0/8}}, then: allow}]`: `country and network in one`,
	`policies: [{name: a, if: {identity: hard}, then: allow}]`:                            `"hard" is none of none, weak, medium, strong`,
	`policies: [{name: a, if: {kind: wiregard}, then: allow}]`:                            `did you mean "wireguard"?`,
	`policies: [{name: a, if: {posture: {x: passed}}, then: allow}]`:                      `unknown posture "x"`,
	`policies: [{name: a, if: {type: [A, QUAD]}, then: allow}]`:                           `"QUAD" is no DNS type`,
	`policies: [{name: a, require: {}, then: allow}]`:                                     `require: nothing demanded`,
	`policies: [{name: a, require: {posture: x}, then: allow}]`:                           `unknown posture "x"`,
	`policies: [{name: a, require: {group: x}, then: allow}]`:                             `did you mean "groups"?`,
	`policies: [{name: a, if: {group: Staff}, then: allow}]`:                              `names are in lower case: write staff`,
	`policies: [{name: a, require: {groups: [x, "y:z"]}, then: allow}]`:                   `"y:z" is no name`,
	`policies: [{name: a, if: {device: alice@home}, then: allow}]`:                        `up to 63 of a-z, 0-9`,
	`policies: [{name: a, then: {steer: Hong-Kong}}]`:                                     `write hong-kong`,
	`policies: [{name: a, then: allow}, {name: a, then: block}]`:                          `policy "a" is given twice`,
	// Names by regular expressions and categories.
	`policies: [{name: a, if: {name: {regexp: "("}}, then: allow}]`:       `"(" is no regular expression: missing closing )`,
	`policies: [{name: a, if: {name: {regexp: "a)|(b"}}, then: allow}]`:   `unexpected )`,
	`policies: [{name: a, if: {name: {regexp: "(?!a)"}}, then: allow}]`:   `no lookahead and no backreferences`,
	`policies: [{name: a, if: {name: {regexp: "Ads[.]x"}}, then: allow}]`: `names are looked at in lower case`,
	`policies: [{name: a, if: {name: {regexp: ""}}, then: allow}]`:        `must not be empty`,
	`policies: [{name: a, if: {name: {category: ads}}, then: allow}]`:     `unknown category "ads"`,
	`categories: {ads: [none]}`:                                           `p:1:20: unknown list "none"`,
	`categories: {ads: []}`:                                               `ads: an empty list`,
	`categories: {"a b": x}`:                                              `"a b" is no name`,
	// Who asks, and how.
	`policies: [{name: a, if: {user: ""}, then: allow}]`:       `user: must not be empty`,
	`policies: [{name: a, if: {platform: []}, then: allow}]`:   `platform: an empty list`,
	`policies: [{name: a, if: {listener: lan}, then: allow}]`:  `write it as the gateway`,
	`policies: [{name: a, if: {transport: tls}, then: allow}]`: `"tls" is none of udp, tcp, dot, doh`,
	// Times.
	`policies: [{name: a, if: {schedule: office}, then: allow}]`: `unknown schedule "office"`,
	`schedules: {office: {zone: UTC, days: mon}}
policies: [{name: a, if: {schedule: ofice}, then: allow}]`: `did you mean "office"?`,
	`schedules: {office: {days: mon}}`:                                                  `key "zone" is missing`,
	`schedules: {office: {zone: UTC}}`:                                                  `want days, hours or both`,
	`schedules: {office: {zone: Mars/Base, days: mon}}`:                                 `"Mars/Base" is no time zone`,
	`schedules: {office: {zone: Local, days: mon}}`:                                     `a zone is a name of the IANA database`,
	`schedules: {office: {zone: UTC, days: monday}}`:                                    `"monday" is no day`,
	`schedules: {office: {zone: UTC, days: fri-nom}}`:                                   `days are written mon, tue`,
	`schedules: {office: {zone: UTC, hours: 08:00}}`:                                    `"08:00" is no span of hours`,
	`schedules: {office: {zone: UTC, hours: "08:00-08:00"}}`:                            `is no span of hours`,
	`schedules: {office: {zone: UTC, hours: "08:00-24:01"}}`:                            `is no span of hours`,
	`schedules: {office: {zone: UTC, hours: "24:00-08:00"}}`:                            `crosses midnight like "22:00-06:00"`,
	`schedules: {office: {zone: UTC, hours: "8-17"}}`:                                   `is no span of hours`,
	`schedules: {office: {zone: UTC, hour: "08:00-17:00", days: mon}}`:                  `did you mean "hours"?`,
	`policies: [{name: a, then: allow, not_before: tomorrow}]`:                          `"tomorrow" is no date`,
	`policies: [{name: a, then: allow, not_after: 2026-13-01}]`:                         `write it like 2026-12-31`,
	`policies: [{name: a, then: allow, not_before: 2026-05-02, not_after: 2026-05-01}]`: `not_after is before not_before`,
	`policies: [{name: a, require: {approval: {by: alice}}, then: allow}]`:              `key "until" is missing`,
	`policies: [{name: a, require: {approval: {by: alice, until: soon}}, then: allow}]`: `until: "soon" is no date`,
	`policies: [{name: a, require: {approval: yes}, then: allow}]`:                      `approval: want a mapping`,
	`policies: [{name: a, require: {schedule: office}, then: allow}]`:                   `unknown schedule "office"`,
	// After resolution.
	`policies: [{name: a, if: {answer: {continent: AS}}, then: allow}]`:    `no country database is given`,
	`policies: [{name: a, if: {answer: {continent: Asia}}, then: allow}]`:  `a continent is one of AF, AN`,
	`policies: [{name: a, if: {answer: {asn: 4134}}, then: allow}]`:        `add geoip: {asn: FILE.mmdb}`,
	`policies: [{name: a, if: {answer: {asn: telecom}}, then: allow}]`:     `write it like 4134 or AS4134`,
	`policies: [{name: a, if: {answer: {mx: "a..b"}}, then: allow}]`:       `an empty label`,
	`policies: [{name: a, if: {answer: {ns: {sufix: a.b}}}, then: allow}]`: `did you mean "suffix"?`,
	`policies: [{name: a, if: {answer: {txt: {}}}, then: allow}]`:          `key "regexp" is missing`,
	`policies: [{name: a, if: {answer: {mx: a.b, ns: a.b}}, then: allow}]`: `mx and ns in one`,
	// Flows.
	`policies: [{name: a, if: {flow: {}}, then: allow}]`:                                 `flow: want protocol, port or route`,
	`policies: [{name: a, if: {flow: {protocol: sctp}}, then: allow}]`:                   `"sctp" is none of tcp, udp, icmp`,
	`policies: [{name: a, if: {flow: {port: tcp/443}}, then: allow}]`:                    `write it like 443 or 8000-8100`,
	`policies: [{name: a, if: {flow: {protocol: [tcp, icmp], port: 443}}, then: allow}]`: `icmp has no ports`,
	`policies: [{name: a, if: {flow: {protocl: tcp}}, then: allow}]`:                     `did you mean "protocol"?`,
	// What is done, and by whom.
	`policies: [{name: a, then: allow, mode: shadows}]`:                       `did you mean "shadow"?`,
	`policies: [{name: a, then: {override: {https: h2}}}]`:                    `write it like "1 . alpn=h2"`,
	`policies: [{name: a, then: {override: {https: "x . alpn=h2"}}}]`:         `"x" is no priority`,
	`policies: [{name: a, then: {override: {https: "1 a..b"}}}]`:              `an empty label`,
	`policies: [{name: a, then: {override: {https: "0 x.y alpn=h2"}}}]`:       `an alias (priority 0) has no parameters`,
	`policies: [{name: a, then: {override: {https: "1 . alpm=h2"}}}]`:         `did you mean "alpn"?`,
	`policies: [{name: a, then: {override: {https: "1 . port=99999"}}}]`:      `"99999" is no value of parameter port`,
	`policies: [{name: a, then: {override: {https: "1 . ipv4hint=::1"}}}]`:    `no value of parameter ipv4hint`,
	`policies: [{name: a, then: {override: {https: "1 . alpn=h2 alpn=h3"}}}]`: `alpn is given twice`,
	`policies: [{name: a, then: {override: {txt: x, cname: y.z}}}]`:           `a cname stands alone`,
	`defaults: [{then: block}]`:                                               `the one for all is default:`,
	`defaults: [{group: iot}]`:                                                `key "then" is missing`,
	`defaults: [{group: iot, then: {steer: x}}]`:                              `key "block" is missing`,
	`defaults: [{group: iot, then: steer}]`:                                   `"steer" is none of allow, block`,
	`defaults: [{group: iot, then: block, learn: maybe}]`:                     `"maybe" is neither true nor false`,
	`defaults: [{listner: link, then: allow}]`:                                `did you mean "listener"?`,
	`default: steer`:                                                 `"steer" is none of allow, block`,
	`geoip: {}`:                                                      `key "country" is missing`,
	`geoip: {country: none.mmdb}`:                                    `open none.mmdb`,
	`geoip: {country: china.conf}`:                                   `p:1:18: country: opening country database`,
	`lists: {x: {file: none, format: plain}}`:                        `p:1:19: open none: file does not exist`,
	`lists: {x: {file: china.conf}}`:                                 `key "format" is missing`,
	`lists: {x: {file: china.conf, format: dnsmsaq}}`:                `did you mean "dnsmasq"?`,
	`lists: {x: {file: notfound.html, format: plain}}`:               `no entry in it`,
	`lists: {x: {file: china.conf, format: dnsmasq, min_labels: 0}}`: `"0" is no whole number`,
	`postures: {x: {checks: [firewall: on]}}`:                        `key "max_age" is missing`,
	`tests: [{ask: x.y}]`:                                            `key "want" is missing`,
	`tests: [{ask: x.y, want: alow}]`:                                `did you mean "allow"?`,
	`tests: [{ask: x.y, want: {stear: r}}]`:                          `did you mean "steer"?`,
	`tests: [{ask: x.y, want: allow, posture: bad}]`:                 `"bad" is none of passing, failing, unknown`,
}

func TestMistakes(t *testing.T) {
	for src, want := range mistakes {
		_, err := policy.Parse("p", []byte(src+"\n"), open)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v\nwant %s", src, err, want)
			continue
		}
		var e *yamlpos.Error
		if !errors.As(err, &e) || e.Pos.Line == 0 {
			t.Errorf("%s: no place in %v", src, err)
		}
	}
}

func TestListsOfTheOtherKind(t *testing.T) {
	for cond, want := range map[string]string{
		`{name: {list: china-networks}}`: `list "china-networks" holds networks, not names`,
		`{answer: {network: phishing}}`:  `list "phishing" holds names, not networks`,
		`{network: phishing}`:            `list "phishing" holds names, not networks`,
		`{network: china-network}`:       `did you mean "china-networks"?`,
		`{network: 10.0.0.0/33}`:         `"10.0.0.0/33" is no network`,
		`{name: {list: china-site}}`:     `did you mean "china-sites"?`,
		`{posture: {latop: passed}}`:     `did you mean "laptop"?`,
		`{posture: {laptop: passing}}`:   `"passing" is none of passed, failed, unknown`,
	} {
		_, err := policy.Parse("p", []byte(head+"policies: [{name: a, if: "+cond+", then: allow}]\n"), open)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", cond, err, want)
		}
	}
}

func TestWarnings(t *testing.T) {
	p := parse(t, `
lists:
  wide:   {file: tlds.txt, format: plain}
  meant:  {file: tlds.txt, format: plain, except: [cn]}
  broken: {file: broken.txt, format: plain}
  empty:  {file: empty.txt, format: plain}
  bogus:  {file: bogus.conf, format: dnsmasq}
postures: {idle: {max_age: 1m, checks: [firewall: on]}}
policies:
  - {name: a, if: {any: [name: {list: [wide, meant, broken, empty]}, answer: {network: bogus}]}, then: block}
  - {name: b, then: allow}
  - {name: c, if: {group: staff}, then: allow}
`)
	got := p.Warnings()
	want := []string{
		"policy.yaml:3:3: list wide: entries as wide as",
		"policy.yaml:5:3: list broken: entries that cannot be",
		"policy.yaml:6:3: list empty: empty.txt is empty:",
		"policy.yaml:8:18: posture idle is used nowhere",
		"policy.yaml:12:5: policy c is never looked at:",
	}
	for i := range want {
		if i >= len(got) || !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("warnings:\n%s\nwant\n%s", strings.Join(p.Warnings(), "\n"), strings.Join(want, "\n"))
			break
		}
	}
	if l := p.Lists(); len(l) != 5 || l[0].Name != "wide" || l[0].Entries != 2 || l[2].Bad != 1 || l[4].Entries != 1 {
		t.Errorf("lists: %+v", l)
	}
}

// A zone has rules for clients and for the addresses of answers. To look for one
// among the other is hardly meant.
func TestZonesOfTheOtherTrigger(t *testing.T) {
	for _, tt := range []struct{ text, selects, when, want string }{
		{"clients.rpz", "client-ip", "answer: {network: zone}", "policy.yaml:4:38: list zone takes the clients that its zone has rules for (select: client-ip), and is looked into for addresses of answers: answer: {network: zone} is for a list with select: [response-ip], network: zone is for a list with select: [client-ip]"},
		{"clients.rpz", "", "answer: {network: [192.0.2.0/24, zone]}", "policy.yaml:4:53: list zone is never true here: what its zone has rules for are clients (select: client-ip), and it is looked into for addresses of answers: "},
		{"answers.rpz", "", "network: zone", "policy.yaml:4:29: list zone takes the addresses of answers that its zone has rules for (select: response-ip), and is looked into for who asks: network: zone is for a list with select: [client-ip], answer"},
		{"answers.rpz", "client-ip", "network: zone", "policy.yaml:4:29: list zone is never true here: what its zone has rules for are addresses of answers (select: response-ip), and it is looked into for who asks: "},
		{"answers.rpz", "drop", "answer: {network: zone}", ""},
		{"clients.rpz", "client-ip", "network: zone", ""},
		{"both.rpz", "", "answer: {network: zone}", ""},
		{"both.rpz", "client-ip", "network: zone", ""},
		{"zone.rpz", "", "answer: {network: zone}", ""},
	} {
		zones := func(path string) (io.ReadCloser, error) {
			text := map[string]string{
				"answers.rpz": "32.7.2.0.192.rpz-ip CNAME rpz-drop.\n",
				"both.rpz":    "32.7.2.0.192.rpz-ip CNAME .\n8.0.0.0.10.rpz-client-ip CNAME .\n",
			}[path]
			if text == "" {
				return open(path)
			}
			return io.NopCloser(strings.NewReader(text)), nil
		}
		src := fmt.Sprintf("lists:\n  zone: {file: %s, format: rpz, select: [%s]}\npolicies:\n  - {name: p, if: {%s}, then: block}\n", tt.text, tt.selects, tt.when)
		if tt.selects == "" {
			src = strings.Replace(src, ", select: []", "", 1)
		}
		p, err := policy.Parse("policy.yaml", []byte(src), zones)
		if err != nil {
			t.Fatalf("%v\nin\n%s", err, src)
		}
		got := strings.Join(p.Warnings(), "\n")
		if !strings.Contains(got, tt.want) || tt.want == "" && strings.Contains(got, "looked into") {
			t.Errorf("%s, select [%s], %s: warned\n%s\nwant\n%s", tt.text, tt.selects, tt.when, got, tt.want)
		}
	}
}

func TestWhatThePolicyNames(t *testing.T) {
	p := parse(t, company)
	names := func(refs []policy.Ref) (out []string) {
		for _, r := range refs {
			out = append(out, r.Name+" "+r.Pos.String())
		}
		return out
	}
	if got := names(p.Routes()); !slices.Equal(got, []string{"hong-kong policy.yaml:22:19"}) {
		t.Errorf("routes: %q", got)
	}
	if got := names(parse(t, "policies: [{name: a, if: {name: x}, then: {resolve: corp}}, {name: b, then: {resolve: corp}}]\n").Upstreams()); !slices.Equal(got, []string{"corp policy.yaml:1:53", "corp policy.yaml:1:87"}) {
		t.Errorf("upstreams: %q", got)
	}
	if got := names(p.Groups()); !slices.Equal(got, []string{"staff policy.yaml:21:24", "guests policy.yaml:24:17"}) {
		t.Errorf("groups: %q", got)
	}
	if got := p.Profiles(); len(got) != 1 || got[0].Name != "laptop" || got[0].MaxAge != 15*time.Minute {
		t.Errorf("profiles: %+v", got)
	}
	if len(p.Rules()) != 4 || p.Rules()[1].Name != "china-origins" {
		t.Errorf("rules: %+v", p.Rules())
	}
}

// The version moves with any of the sources.
func TestVersion(t *testing.T) {
	a, b := parse(t, company).Version(), parse(t, company).Version()
	c := parse(t, company+"\n").Version()
	old := files["phishing.txt"]
	files["phishing.txt"] = old + "more.example\n"
	d := parse(t, company).Version()
	files["phishing.txt"] = old
	if a != b || a == c || a == d || len(a) != 16 {
		t.Errorf("versions %s %s %s %s", a, b, c, d)
	}
}

func TestThen(t *testing.T) {
	p := parse(t, `
policies:
  - {name: a, then: block}
  - {name: b, then: {block: zero-ip}}
  - {name: c, then: {block: {address: [192.0.2.1, "2001:db8::1"]}, reason: Walled}}
  - {name: d, then: {block: nxdomain, ede: censored}, reason: By order}
  - {name: e, then: {override: {cname: Portal.Example., ttl: 5m}}}
  - {name: f, then: {steer: r, when_down: servfail, no_way: direct, ttl: 10s}}
  - {name: g, then: {override: {a: 10.0.0.1}}}
  - {name: h, then: allow, require: {groups: g}, deny: {block: {address: 192.0.2.9}, reason: Ask}}
  - {name: i, then: {block: page}}
  - {name: j, then: {resolve: corp, reason: Ours}, ecs: client, ttl: {min: 60s, max: 1h}, log: sample(100)}
  - {name: k, then: allow, ecs: 203.0.113.0/24, ttl: {max: 5m}, log: blocks}
  - {name: l, then: allow, ecs: off, log: none}
  - {name: m, then: {block: page, ede: 17}, log: all}
`)
	r := p.Rules()
	for i, want := range []uint16{15, 4, 4, 16, 4, 4, 4, 0, 4, 0, 0, 0, 17} {
		if r[i].Then.EDE != want {
			t.Errorf("%s: EDE %d, want %d", r[i].Name, r[i].Then.EDE, want)
		}
	}
	if c := r[2].Then; len(c.A) != 1 || len(c.AAAA) != 1 || c.Reason != "Walled" || c.Block != policy.Address {
		t.Errorf("c: %+v", c)
	}
	if e := r[4].Then; e.CNAME != "portal.example" || e.TTL != 5*time.Minute {
		t.Errorf("e: %+v", e)
	}
	if f := r[5].Then; f.WhenDown != policy.FallServfail || f.NoWay != policy.FallDirect || f.TTL != 10*time.Second || f.Ports != nil {
		t.Errorf("f: %+v", f)
	}
	if g := r[6].Then; g.TTL != time.Minute {
		t.Errorf("g: %+v", g)
	}
	if j := r[9]; j.Then.String() != "resolve corp" || j.Then.Action != policy.Allow || j.Then.Reason != "Ours" ||
		j.Then.Forward != (policy.Forward{Upstream: "corp", ECS: policy.ECS{Client: true}, MinTTL: time.Minute, MaxTTL: time.Hour}) ||
		j.Log != (policy.Logging{Kind: policy.LogSample, N: 100}) {
		t.Errorf("j: %+v", j)
	}
	if k := r[10]; k.Then.ECS.Subnet.String() != "203.0.113.0/24" || k.Then.MinTTL != 0 || k.Then.MaxTTL != 5*time.Minute || k.Log.Kind != policy.LogBlocks {
		t.Errorf("k: %+v", k)
	}
	if l, m := r[11], r[12]; l.Then.Forward != (policy.Forward{}) || l.Log.Kind != policy.LogNone || m.Then.String() != "block page" {
		t.Errorf("l: %+v, m: %+v", l, m)
	}
	p = parse(t, "policies: [{name: h, then: allow, require: {groups: g}, deny: {block: {address: 192.0.2.9}, reason: Ask}}]\n")
	d := p.Decide(question{ask: "x", by: "bob"}.query())
	if d.Then.EDE != 18 || d.Then.Block != policy.Address || len(d.Then.A) != 1 || d.Text() != "policy h: not in group g: Ask" {
		t.Errorf("denial: %+v %q", d, d.Text())
	}
}

func FuzzParse(f *testing.F) {
	f.Add(company)
	f.Add(head + china)
	f.Add(fifty())
	for src := range mistakes {
		f.Add(src)
	}
	q := question{ask: "www.taobao.com", by: "alice staff passing", answer: "www.taobao.com cdn.example 203.0.113.9"}.query()
	f.Fuzz(func(t *testing.T, src string) {
		p, err := policy.Parse("f", []byte(src), open)
		if err != nil {
			_ = err.Error()
			return
		}
		d, trace := p.Explain(q)
		_, _ = d.Text(), trace.String()
		p.CouldSteer(q.Name, nil, "hong-kong", noon)
	})
}
