package posture

import (
	"strings"
	"time"

	"github.com/starferry/starferry/internal/yamlpos"
)

// A Profile is a list of checks that a report must pass, and how long a report
// is good for. Values are shared and must not be modified.
type Profile struct {
	Name   string
	MaxAge time.Duration
	At     yamlpos.Pos // where it is written

	checks []check
}

// A check is a demand on one field of the report.
type check struct {
	field string
	// test returns what is wrong with the value, "" if nothing is. A field
	// that the report lacks comes as nil.
	test func(v any, r Report) string
}

// Judge returns the verdict on a report that was received at the given time.
// The reason of a failure names all checks that failed.
func (p *Profile) Judge(r Report, received time.Time) Verdict {
	v := Verdict{Result: Passed, Expires: received.Add(p.MaxAge)}
	var wrong []string
	for _, c := range p.checks {
		val, _ := r.Field(c.field)
		if s := c.test(val, r); s != "" {
			wrong = append(wrong, c.field+": "+s)
		}
	}
	if len(p.checks) == 0 { // a profile that was not read from a file
		wrong = []string{"the profile has no checks"}
	}
	if len(wrong) > 0 {
		v.Result, v.Reason = Failed, strings.Join(wrong, "; ")
	}
	return v
}

// ReadProfile reads a profile: max_age and a list of checks.
//
//	max_age: 15m
//	checks:
//	  - disk_encryption: {volumes: all, except: [/boot]}
//	  - firewall: on                              # or off, present, absent
//	  - os_version: {macos: ">= 15.0", linux: ">= 6.1"}
//	  - agent.version: ">= 1.2, < 2"              # a path to a nested field
//	  - channel: {in: [stable, beta]}             # or not_in
//	  - apps: {absent: [Dropbox], present: [EDR]} # members of a list
//
// Mistakes are recorded in the file. The name is left to the caller.
func ReadProfile(m *yamlpos.Map) *Profile {
	p := &Profile{At: m.Pos(), MaxAge: yamlpos.Read(m, "max_age", 0, yamlpos.Duration)}
	m.Require("max_age", "checks")
	n := m.Node("checks")
	if n != nil {
		items := n.Items()
		for _, item := range items {
			p.checks = append(p.checks, readChecks(item.AsMap())...)
		}
		if len(items) == 0 && n.Kind == yamlpos.List {
			n.Errorf("", "none given")
		}
	}
	m.Done()
	return p
}

func readChecks(m *yamlpos.Map) []check {
	var out []check
	if len(m.Keys()) == 0 {
		m.Errorf("", "no check given")
	}
	for _, field := range m.Keys() {
		if strings.Trim(field, ".") != field || field == "" {
			m.KeyErrorf(field, "", "%q is no field of a report", field)
			continue
		}
		for _, t := range readTests(field, m.Node(field)) {
			out = append(out, check{field, t})
		}
	}
	return out
}
