package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/internal/yamlpos"
)

// demands is what a policy requires of the asker. All must be met.
type demands struct {
	groups   []string // one of them
	devices  []string // one of them
	identity device.Strength
	profiles []string // passed by all

	schedules []*schedule // it is the time of one
	approval  *approval
}

// An approval is what somebody has agreed to for some time.
type approval struct {
	by    string
	until time.Time
}

// readApproval reads {by: alice, until: 2026-12-31}.
func readApproval(n *yamlpos.Node) *approval {
	if n == nil {
		return nil
	}
	m := n.AsMap()
	m.Require("by", "until")
	a := &approval{
		by:    yamlpos.Read(m, "by", "", yamlpos.Word),
		until: yamlpos.Read(m, "until", time.Time{}, lastMoment),
	}
	m.Done()
	return a
}

// approved reports whether an approval is good now.
func (s *scene) approved(a *approval) bool { return s.within(&window{to: a.until}) }

// judge returns what is not met and how the asker stands, "" if all is met.
// With a trace, how the asker stands is noted there also where it is met.
func (d *demands) judge(s *scene) string {
	if d == nil {
		return ""
	}
	var unmet []string
	demand := func(ok bool, stands string) {
		if !ok {
			unmet = append(unmet, stands)
		} else if s.trace != nil {
			s.trace.note(stands)
		}
	}
	a := &s.q.Asker
	if d.groups != nil {
		if ok := a.inGroup(d.groups); !ok || s.trace != nil {
			demand(ok, standsInGroup(a, d.groups, ok))
		}
	}
	if d.devices != nil {
		if ok := a.isOne(d.devices); !ok || s.trace != nil {
			demand(ok, standsAsDevice(a, ok))
		}
	}
	if d.identity > device.None {
		if ok := a.Kind.Strength() >= d.identity; !ok || s.trace != nil {
			demand(ok, standsIdentified(a, d.identity, ok))
		}
	}
	for _, name := range d.profiles {
		v := s.verdict(name)
		if ok := v.Result == posture.Passed; !ok || s.trace != nil {
			demand(ok, standsByProfile(name, v))
		}
	}
	if d.schedules != nil {
		if ok := s.during(d.schedules); !ok || s.trace != nil {
			in := cond{text: some(scheduleNames(d.schedules)), rare: &rare{schedules: d.schedules}}
			demand(ok, in.saySchedule(s, truth(ok)))
		}
	}
	if d.approval != nil {
		if ok := s.approved(d.approval); !ok || s.trace != nil {
			demand(ok, d.approval.stands(ok))
		}
	}
	return strings.Join(unmet, "; ")
}

func (a *approval) stands(ok bool) string {
	const form = "2006-01-02 15:04 MST"
	if !ok {
		return fmt.Sprintf("the approval by %s has expired at %s", a.by, a.until.Format(form))
	}
	return fmt.Sprintf("approved by %s until %s", a.by, a.until.Format(form))
}

// met judges without a word.
func (d *demands) met(s *scene) bool {
	if d == nil {
		return true
	}
	a := &s.q.Asker
	failed := func(name string) bool { return s.verdict(name).Result != posture.Passed }
	return (d.groups == nil || a.inGroup(d.groups)) && (d.devices == nil || a.isOne(d.devices)) &&
		a.Kind.Strength() >= d.identity && !slices.ContainsFunc(d.profiles, failed) &&
		(d.schedules == nil || s.during(d.schedules)) && (d.approval == nil || s.approved(d.approval))
}

func standsInGroup(a *Asker, groups []string, ok bool) string {
	switch {
	case a.Device == nil:
		return "the device is not known, want group " + some(groups)
	case ok:
		return "in group " + some(groups)
	default:
		return "not in group " + some(groups)
	}
}

func standsAsDevice(a *Asker, ok bool) string {
	switch {
	case a.Device == nil:
		return "the device is not known"
	case ok:
		return "device " + string(a.Device.ID)
	default:
		return "device " + string(a.Device.ID) + " is not one of those demanded"
	}
}

func standsIdentified(a *Asker, want device.Strength, ok bool) string {
	s := fmt.Sprintf("identity %v (%v)", a.Kind.Strength(), a.Kind)
	if !ok {
		s += fmt.Sprintf(", want %v", want)
	}
	return s
}

func standsByProfile(name string, v posture.Verdict) string {
	s := fmt.Sprintf("posture %s %v", name, v.Result)
	switch v.Result {
	case posture.Passed:
		s += " until " + v.Expires.Format(time.TimeOnly)
	case posture.Failed:
		if v.Reason != "" {
			s += ": " + v.Reason
		}
	default:
		s += ": no report"
	}
	return s
}

// some lists words, shortened: "a, b or c", "a, b, c or 9 more".
func some(words []string) string {
	const most = 4
	if len(words) > most {
		return fmt.Sprintf("%s or %d more", strings.Join(words[:most-1], ", "), len(words)-most+1)
	}
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " or " + words[n-1]
	}
	return strings.Join(words, "")
}
