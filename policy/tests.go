package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/internal/rrtype"
	"github.com/starferry/starferry/internal/yamlpos"
)

// A TestResult is what came of one expectation under "tests".
type TestResult struct {
	At   yamlpos.Pos
	Ask  string // the question, and by whom: "www.taobao.com A by alice-laptop"
	Want string
	Got  string // in the same words; empty if nothing was decided
	Err  string // why the test cannot be decided, or by what the decision differs; empty: as wanted
	How  *Trace // of the decision; nil if there is none
}

// OK reports whether the decision is as wanted.
func (r *TestResult) OK() bool { return r.Err == "" }

// String says with its place what is wrong.
func (r *TestResult) String() string { return fmt.Sprintf("%v: %s: %s", r.At, r.Ask, r.Err) }

// RunTests decides all tests of the file, by devices that the tests name, at
// the time now unless a test has a time of its own. Nothing that is live is
// looked at. A test that reaches what it says nothing about, an answer or the
// time, is wrong itself: it would pass or fail by chance.
func (p *Policy) RunTests(devices []*device.Device, now time.Time) []TestResult {
	if len(p.tests) == 0 {
		return nil
	}
	byPlace, err := p.withPlaces()
	var out []TestResult
	for i := range p.tests {
		t := &p.tests[i]
		r := TestResult{At: t.at, Ask: t.title(), Want: t.want.text}
		if err != nil {
			r.Err = err.Error()
		} else if e := byPlace.run(t, devices, now, &r); e != nil {
			r.Err = e.Error()
		}
		out = append(out, r)
	}
	return out
}

// TestsErr returns the tests that failed as one error, nil if none did.
func TestsErr(results []TestResult) error {
	var errs []error
	for i := range results {
		if r := &results[i]; !r.OK() {
			errs = append(errs, errors.New(r.String()))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	many := "tests fail"
	if len(errs) == 1 {
		many = "test fails"
	}
	return fmt.Errorf("%d of %d %s:\n%w", len(errs), len(results), many, errors.Join(errs...))
}

// title is the question of a test in a line.
func (t *testCase) title() string {
	s := t.name + " " + rrtype.Name(t.rrtype)
	if t.flow != nil {
		s += " " + t.flow.String()
	}
	switch {
	case t.device != "":
		s += " by " + t.device
	case t.inline != nil && len(t.inline.groups) > 0:
		s += " by somebody in " + strings.Join(t.inline.groups, ", ")
	case t.inline != nil:
		s += " by somebody"
	}
	return s
}

// unexpired is the expiry of what tests assume. A decision that may change
// before that has looked at the time.
var unexpired = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// An assuming is a policy that decides by assumed places of addresses.
type assuming struct {
	policy *Policy
	addrs  map[place]netip.Addr // one of each place
}

func (a *assuming) run(t *testCase, devices []*device.Device, now time.Time, r *TestResult) error {
	q := Query{Name: t.name, Type: t.rrtype, Flow: t.flow, Now: now}
	if !t.time.IsZero() {
		q.Now = t.time
	}
	var err error
	if q.Asker, err = t.asker(devices, a.policy.profiles); err != nil {
		return err
	}
	if t.flow == nil {
		q.Asker.Listener, q.Asker.Transport = t.listener, t.transport
		if t.listener == "" && q.Asker.Kind == device.ByWireGuard {
			q.Asker.Listener = "link"
		}
	}
	if t.known {
		q.Answered, q.Answer = true, a.hops(t.answer)
	} else if err := a.policy.assumeNothing(&q); err != nil {
		return err
	}
	d, trace := a.policy.Explain(&q)
	r.How, r.Got = trace, d.told()
	if t.time.IsZero() && !d.Until.IsZero() && d.Until.Before(unexpired) {
		return errors.New("the decision depends on the time, and the test gives none (time: ...)")
	}
	return t.want.compare(&d)
}

// assumeNothing decides a query without an answer. Where that takes one only
// because of names that a CNAME could lead to, none leads anywhere.
func (p *Policy) assumeNothing(q *Query) error {
	asked := *q
	asked.Flow = nil // flows take for unknown what they do not know
	d, trace := p.Explain(&asked)
	if !d.NeedAnswer {
		if q.Flow != nil {
			q.Answered = true
		}
		return nil
	}
	last := trace.Steps[len(trace.Steps)-1]
	if last.Rule != nil && last.Matched != Yes {
		return fmt.Errorf("policy %s looks at the answer, and the test gives none (answer: ...)", last.Rule.Name)
	}
	q.Answered = true
	return nil
}

// asker returns who asks in a test.
func (t *testCase) asker(devices []*device.Device, profiles []*posture.Profile) (a Asker, err error) {
	switch {
	case t.device != "":
		i := slices.IndexFunc(devices, func(d *device.Device) bool { return string(d.ID) == t.device })
		if i < 0 {
			return a, unknownDevice(t.device, devices)
		}
		a = Asker{Device: devices[i], Kind: devices[i].Kind, Source: devices[i].Source()}
	case t.inline != nil:
		d := &device.Device{ID: "somebody", Kind: t.inline.kind, Groups: t.inline.groups, User: t.inline.user, Platform: t.inline.platform}
		a = Asker{Device: d, Kind: t.inline.kind, Source: t.inline.source}
	default:
		return a, nil
	}
	a.Verdicts = posture.Verdicts{}
	for _, p := range profiles {
		result, said := t.stands[p.Name]
		if !said {
			result = t.stand
		}
		a.Verdicts[p.Name] = assumedVerdict(result)
	}
	return a, nil
}

func assumedVerdict(r posture.Result) posture.Verdict {
	v := posture.Verdict{Result: r}
	switch r {
	case posture.Passed:
		v.Expires = unexpired
	case posture.Failed:
		v.Reason = "assumed"
	}
	return v
}

func unknownDevice(name string, devices []*device.Device) error {
	if len(devices) == 0 {
		return fmt.Errorf("no devices are known here: describe %s, device: {groups: [...]}", name)
	}
	var names []string
	for _, d := range devices {
		names = append(names, string(d.ID))
	}
	hint := yamlpos.DidYouMean(name, names)
	if hint != "" {
		hint = ": " + hint
	}
	return fmt.Errorf("there is no device %q%s", name, hint)
}

// told says the decision as expectations are written: "steer hong-kong by
// policy china-origins".
func (d *Decision) told() string {
	s := d.String()
	if addrs := d.answers(); len(addrs) > 0 {
		s += " " + strings.Join(addrs, " ")
	}
	if d.NeedAnswer {
		return s
	}
	return s + " by policy " + d.policy()
}

func (d *Decision) policy() string {
	if d.Rule == nil {
		return byDefault
	}
	return d.Rule.Name
}

// answers returns what an override answers.
func (d *Decision) answers() (out []string) {
	if d.Then.Action != Override || d.Denied != "" {
		return nil
	}
	for _, a := range slices.Concat(d.Then.A, d.Then.AAAA) {
		out = append(out, a.String())
	}
	if d.Then.CNAME != "" {
		out = append(out, d.Then.CNAME)
	}
	for _, r := range d.Then.Records {
		out = append(out, rrtype.Name(r.Type)+" "+r.Text)
	}
	return out
}

// compare says by what the decision differs from what was expected.
func (e *expectation) compare(d *Decision) error {
	if !e.meets(d) || e.policy != "" && e.policy != d.policy() {
		return fmt.Errorf("want %s, got %s", e.text, d.toldWhy())
	}
	return nil
}

// toldWhy is told with the demand that was not met.
func (d *Decision) toldWhy() string {
	s := d.told()
	if d.Denied != "" {
		s += ": " + d.Denied
	}
	return s
}

func (e *expectation) meets(d *Decision) bool {
	denied, then := d.Denied != "", &d.Then
	detail := func(s string) bool { return e.detail == "" || e.detail == s }
	switch e.action {
	case "":
		return true
	case "allow":
		return !denied && then.Action == Allow
	case "resolve":
		return !denied && then.Action == Allow && e.detail == then.Upstream
	case "block":
		return then.Action == Block && detail(then.Block.String())
	case "deny":
		return denied && detail(then.Block.String())
	case "steer":
		return !denied && then.Action == Steer && detail(then.Route)
	}
	if denied || then.Action != Override {
		return false
	}
	have := d.answers()
	return !slices.ContainsFunc(strings.Fields(e.detail), func(w string) bool { return !slices.Contains(have, w) })
}
