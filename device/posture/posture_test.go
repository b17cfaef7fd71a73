package posture_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/internal/yamlpos"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func profile(t testing.TB, checks string) *posture.Profile {
	t.Helper()
	f, m, err := yamlpos.Open("p.yaml", []byte("max_age: 15m\nchecks:\n"+checks))
	if err != nil {
		t.Fatal(err)
	}
	p := posture.ReadProfile(m)
	if err := f.Err(); err != nil {
		t.Fatal(err)
	}
	return p
}

// judgements are checks, reports, and what is wrong with the report: "" is passed.
var judgements = []struct{ checks, report, wrong string }{
	{"- firewall: on", `{"firewall": true}`, ""},
	{"- firewall: on", `{"firewall": "on"}`, ""},
	{"- firewall: on", `{"firewall": "off"}`, "firewall: want on, report says off"},
	{"- firewall: on", `{"firewall": false}`, "firewall: want on, report says off"},
	{"- firewall: on", `{}`, "firewall: want on, report does not say"},
	{"- firewall: on", `{"firewall": null}`, "firewall: want on, report does not say"},
	{"- firewall: on", `{"firewall": {"on": true}}`, "firewall: want on, report says an object"},
	{"- firewall: on", `{"firewall": ""}`, "firewall: want on, report says nothing"},
	{"- remote_login: off", `{"remote_login": false}`, ""},
	{"- remote_login: off", `{}`, "remote_login: want off, report does not say"},
	{"- agent: present", `{"agent": 0}`, ""},
	{"- agent: present", `{}`, "agent: want present, report does not say"},
	{"- jailbreak: absent", `{}`, ""},
	{"- jailbreak: absent", `{"jailbreak": "Cydia Impactor"}`, `jailbreak: want absent, report says "Cydia Impactor"`},

	{"- disk_encryption: on", `{"disk_encryption": true}`, ""},
	{"- disk_encryption: {volumes: all, except: [/boot]}", `{"disk_encryption": {"volumes": {"/": true, "/boot": false}}}`, ""},
	{"- disk_encryption: {volumes: all, except: [/boot]}", `{"disk_encryption": {"volumes": {"/": true, "/home": "off", "/data": 1}}}`,
		"disk_encryption: want on, report does not say so of /data, /home"},
	{"- disk_encryption: {volumes: all}", `{"disk_encryption": true}`, ""},
	{"- disk_encryption: {volumes: all}", `{"disk_encryption": "on"}`, ""},
	{"- disk_encryption: {volumes: all}", `{"disk_encryption": "off"}`, "disk_encryption: want on, report says off"},
	{"- disk_encryption: {volumes: all}", `{"disk_encryption": {"volumes": {}}}`, "disk_encryption: want on, report names no volumes"},
	{"- disk_encryption: {volumes: all, except: [/boot]}", `{"disk_encryption": {"volumes": {"/boot": true}}}`, "disk_encryption: want on, report names no volumes"},
	{"- disk_encryption: {volumes: all}", `{}`, "disk_encryption: want on, report does not say"},
	{"- disk_encryption: {volumes: [/]}", `{"disk_encryption": {"volumes": {"/": true, "/x": false}}}`, ""},
	{"- disk_encryption: {volumes: [/, C]}", `{"disk_encryption": {"volumes": {"/": true}}}`, "disk_encryption: want on, report does not say so of C"},

	{`- os_version: {macos: ">= 15.0", linux: ">= 6.1"}`, `{"os": "linux", "os_version": "6.12.3-amd64"}`, ""},
	{`- os_version: {macos: ">= 15.0", linux: ">= 6.1"}`, `{"os": "darwin", "os_version": "15"}`, ""},
	{`- os_version: {macos: ">= 15.0", linux: ">= 6.1"}`, `{"os": "macOS", "os_version": "14.7.1"}`, "os_version: macos want >= 15.0, report says 14.7.1"},
	{`- os_version: {macos: ">= 15.0", linux: ">= 6.1"}`, `{"os": "windows", "os_version": "11"}`, "os_version: want one of linux, macos, report says windows"},
	{`- os_version: {macos: ">= 15.0"}`, `{"os": "macos"}`, "os_version: macos want >= 15.0, report does not say"},
	{`- os_version: {macos: ">= 15.0"}`, `{"os_version": "15.1"}`, "os_version: want the system in field os, report does not say"},
	{`- os_version: {windows: ">= 10.0.22631"}`, `{"os": "windows", "os_version": "10.0.22631.4169"}`, ""},
	{`- os_version: {windows: ">= 10.0.22631"}`, `{"os": "windows", "os_version": "10.0.9999"}`, "os_version: windows want >= 10.0.22631, report says 10.0.9999"},

	{`- agent.version: ">= 1.2, < 2"`, `{"agent": {"version": "v1.10.0"}}`, ""},
	{`- agent.version: ">= 1.2, < 2"`, `{"agent.version": 1.3}`, ""},
	{`- agent.version: ">= 1.2, < 2"`, `{"agent": {"version": "2.0"}}`, "agent.version: want >= 1.2, < 2, report says 2.0"},
	{`- agent.version: ">= 1.2"`, `{"agent": "1.3"}`, "agent.version: want >= 1.2, report does not say"},
	{`- agent.version: ">= 1.2"`, `{"agent": {"version": "none"}}`, "agent.version: want >= 1.2, report says none"},
	{`- v: "!= 3.1"`, `{"v": "3.1.0"}`, "v: want != 3.1, report says 3.1.0"},
	{`- v: "= 3"`, `{"v": "003.000"}`, ""},
	{`- v: "> 99999999999999999999"`, `{"v": "100000000000000000000"}`, ""},

	{"- channel: {in: [stable, beta]}", `{"channel": "Stable"}`, ""},
	{"- channel: {in: [stable, beta]}", `{"channel": "dev"}`, "channel: want one of stable, beta, report says dev"},
	{"- channel: {in: [stable, beta]}", `{}`, "channel: want in stable, beta, report does not say"},
	{"- channel: {in: [stable]}", `{"channel": []}`, "channel: want one of stable, report says nothing"},
	{"- channel: {in: [\"3\"]}", `{"channel": 3}`, ""},
	{"- channel: {not_in: dev}", `{"channel": "dev"}`, "channel: want no dev, report has it"},
	{"- apps: {absent: [Dropbox, uTorrent]}", `{"apps": ["Slack", "utorrent"]}`, "apps: want no utorrent, report has it"},
	{"- apps: {absent: [Dropbox, uTorrent]}", `{"apps": []}`, ""},
	{"- apps: {absent: [Dropbox, uTorrent]}", `{}`, "apps: want absent Dropbox, uTorrent, report does not say"},
	{"- apps: {absent: [Dropbox]}", `{"apps": [{"name": "Dropbox", "version": "1"}]}`, "apps: want no Dropbox, report has it"},
	{"- apps: {absent: [Dropbox]}", `{"apps": [[1]]}`, "apps: report holds something that is no list of words"},
	{"- apps: {present: [EDR], absent: [Dropbox]}", `{"apps": {"EDR": "7.1"}}`, ""},
	{"- apps: {present: [EDR]}", `{"apps": ["Slack"]}`, "apps: want EDR, report does not have it"},

	{"- firewall: on\n- apps: {present: [EDR]}\n- v: on", `{"apps": [], "v": true}`, "firewall: want on, report does not say; apps: want EDR, report does not have it"},
}

func TestJudge(t *testing.T) {
	for _, tt := range judgements {
		r, err := posture.ParseReport([]byte(tt.report))
		if err != nil {
			t.Fatal(err)
		}
		p := profile(t, tt.checks)
		for range 2 { // judging changes nothing
			v := p.Judge(r, noon)
			if v.Reason != tt.wrong || (v.Result == posture.Passed) != (tt.wrong == "") || v.Result == posture.Unknown {
				t.Errorf("%s by %s: %v %q, want %q", tt.report, tt.checks, v.Result, v.Reason, tt.wrong)
			}
			if !v.Expires.Equal(noon.Add(15 * time.Minute)) {
				t.Errorf("expires %v", v.Expires)
			}
		}
	}
}

func TestPassedVerdictExpires(t *testing.T) {
	r, _ := posture.ParseReport([]byte(`{"firewall": true}`))
	v := profile(t, "- firewall: on").Judge(r, noon)
	if got := v.At(noon.Add(15*time.Minute - 1)); got.Result != posture.Passed {
		t.Errorf("before: %v", got)
	}
	if got := v.At(noon.Add(15 * time.Minute)); got.Result != posture.Failed || got.Reason == "" {
		t.Errorf("after: %v", got)
	}
	if got := (posture.Verdict{}).At(noon); got.Result != posture.Unknown {
		t.Errorf("no report: %v", got)
	}
}

func TestZeroProfilePassesNobody(t *testing.T) {
	if v := new(posture.Profile).Judge(nil, noon); v.Result != posture.Failed {
		t.Errorf("%v", v)
	}
}

func TestProfileMistakes(t *testing.T) {
	for src, want := range map[string]string{
		"checks: [firewall: on]":                                                    `p:1:1: key "max_age" is missing`,
		"max_age: 5m":                                                               `p:1:1: key "checks" is missing`,
		"{max_age: 5m, checks: []}":                                                 `p:1:23: checks: none given`,
		"{max_age: soon, checks: [firewall: on]}":                                   `p:1:11: max_age: "soon" is no time span`,
		"{max_age: 5m, checks: [firewall: 'of']}":                                   `p:1:34: firewall: "of" is none of on, off, present, absent`,
		"{max_age: 5m, checks: [v: '>= x']}":                                        `p:1:27: v: ">= x" is no comparison of versions`,
		"{max_age: 5m, checks: [v: '>= 1..2']}":                                     `p:1:27: v: ">= 1..2" is no comparison of versions`,
		"{max_age: 5m, checks: [v: '>= 1.2,']}":                                     `is no comparison of versions`,
		"{max_age: 5m, checks: [os_version: {mac: '>= 1'}]}":                        `p:1:37: os_version: unknown system "mac"`,
		"{max_age: 5m, checks: [os_version: {}]}":                                   `os_version: no system given`,
		"{max_age: 5m, checks: [apps: {abscent: [x]}]}":                             `p:1:31: unknown key "abscent"`,
		"{max_age: 5m, checks: [apps: {in: []}]}":                                   `in: nothing listed`,
		"{max_age: 5m, checks: [disk_encryption: {volumes: [/], except: [/boot]}]}": `except goes with volumes: all`,
		"{max_age: 5m, checks: [.x: on]}":                                           `".x" is no field of a report`,
		"{max_age: 5m, checks: [{}]}":                                               `no check given`,
		"{max_age: 5m, chekcs: [v: on]}":                                            `did you mean "checks"?`,
		"{max_age: 5m, checks: [v: [on]]}":                                          `v: want a single value, got a list`,
	} {
		f, m, err := yamlpos.Open("p", []byte(src))
		if err != nil {
			t.Fatal(err)
		}
		posture.ReadProfile(m)
		if err := f.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", src, err, want)
		}
	}
}

func TestReportBounds(t *testing.T) {
	for _, bad := range []string{
		"", "null", "[]", "1", "{", `{"a": 1} x`, `{"a": 1}{}`,
		`{"a": "` + strings.Repeat("x", 300<<10) + `"}`,
		`{"a": ` + strings.Repeat("[", 17) + strings.Repeat("]", 17) + `}`,
		`{"a": ` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`,
	} {
		if _, err := posture.ParseReport([]byte(bad)); err == nil {
			t.Errorf("%.40q was read", bad)
		}
	}
	if _, err := posture.ParseReport([]byte(`{"a": [[[{"b": 1}]]]}`)); err != nil {
		t.Error(err)
	}
}

func TestVerdictsAsJSON(t *testing.T) {
	in := posture.Verdicts{"laptop": {Result: posture.Passed, Expires: noon}}
	b, err := json.Marshal(in)
	if err != nil || !strings.Contains(string(b), `"passed"`) {
		t.Fatalf("%s %v", b, err)
	}
	var out posture.Verdicts
	if err := json.Unmarshal(b, &out); err != nil || out["laptop"] != in["laptop"] {
		t.Errorf("%v %v", out, err)
	}
}

func FuzzReport(f *testing.F) {
	for _, tt := range judgements {
		f.Add([]byte(tt.report))
	}
	p := profile(f, `- disk_encryption: {volumes: all, except: [/boot]}
- os_version: {macos: ">= 15.0", linux: ">= 6.1"}
- a.b: on
- apps: {absent: [x], present: [y], in: [z], not_in: [w]}
- v: ">= 1.2"
- agent: absent
`)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := posture.ParseReport(b)
		if err != nil {
			return
		}
		if v := p.Judge(r, noon); v.Result == posture.Unknown || len(v.Reason) > 4000 {
			t.Errorf("%v", v)
		}
	})
}

func FuzzProfile(f *testing.F) {
	for _, tt := range judgements {
		f.Add(tt.checks)
	}
	f.Fuzz(func(t *testing.T, checks string) {
		file, m, err := yamlpos.Open("p", []byte("max_age: 15m\nchecks:\n"+checks))
		if err != nil {
			return
		}
		p := posture.ReadProfile(m)
		if file.Err() == nil {
			for _, tt := range judgements[:12] {
				r, _ := posture.ParseReport([]byte(tt.report))
				p.Judge(r, noon)
			}
		}
	})
}
