package policy

import (
	"fmt"
	"slices"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
)

// causes are what could be otherwise for a question, the likeliest first.
func (p *Policy) causes(q *Query) []cause {
	return fewest(p.postureCauses(q), p.groupCauses(q), p.identityCauses(q), p.serviceCauses(q), p.timeCauses(q), p.approvalCauses(q),
		p.outOf(q), p.into(q), p.portCauses(q), p.shadowCauses(), p.deviceCauses(q), p.askerCauses(q))
}

// fewest puts causes together. Where they are too many, those of which there are
// most are cut, so that many groups leave room for the list that blocks.
func fewest(kinds ...[]cause) []cause {
	all := 0
	for _, k := range kinds {
		all += len(k)
	}
	for ; all > maxCauses; all-- {
		longest := 0
		for i := range kinds {
			if len(kinds[i]) > len(kinds[longest]) {
				longest = i
			}
		}
		kinds[longest] = kinds[longest][:len(kinds[longest])-1]
	}
	return slices.Concat(kinds...)
}

func (p *Policy) postureCauses(q *Query) (out []cause) {
	for _, prof := range p.profiles {
		if q.Asker.Device == nil || q.Asker.Verdicts[prof.Name].At(q.Now).Result == posture.Passed {
			continue
		}
		out = append(out, cause{text: "posture " + prof.Name + " passes", who: func(q *Query) {
			if q.Asker.Verdicts == nil {
				q.Asker.Verdicts = posture.Verdicts{}
			}
			q.Asker.Verdicts[prof.Name] = assumedVerdict(posture.Passed)
		}})
	}
	return out
}

// groupCauses are groups to be in, and not to be in.
func (p *Policy) groupCauses(q *Query) (out []cause) {
	d := q.Asker.Device
	seen := map[string]bool{}
	for _, ref := range p.groups {
		g := ref.Name
		if seen[g] {
			continue
		}
		seen[g] = true
		if d != nil && d.InGroup(g) {
			out = append(out, cause{text: "not in group " + g, who: func(q *Query) {
				regroup(q, func(has []string) []string {
					return slices.DeleteFunc(has, func(h string) bool { return h == g })
				})
			}})
			continue
		}
		out = append(out, cause{text: "in group " + g, who: func(q *Query) {
			regroup(q, func(has []string) []string { return append(has, g) })
		}})
	}
	return out
}

// regroup changes the groups of who asks, in a copy of the device.
func regroup(q *Query, change func([]string) []string) {
	redevice(q, func(d *device.Device) { d.Groups = change(slices.Clone(d.Groups)) })
}

// redevice changes the device of who asks, in a copy.
func redevice(q *Query, change func(*device.Device)) {
	var d device.Device
	if q.Asker.Device != nil {
		d = *q.Asker.Device
	}
	change(&d)
	q.Asker.Device = &d
}

// identityCauses are stronger evidence, and kinds of it that policies name.
func (p *Policy) identityCauses(q *Query) (out []cause) {
	better := []device.Kind{}
	for _, s := range []device.Strength{device.Weak, device.Medium, device.Strong} {
		if q.Asker.Kind.Strength() < s {
			better = append(better, byStrength[s])
		}
	}
	for _, k := range better {
		out = append(out, cause{field: "identity", text: fmt.Sprintf("identity %v (%v)", k.Strength(), k), who: func(q *Query) { q.Asker.Kind = k }})
	}
	p.leaves(func(c *cond) {
		for _, k := range c.kinds {
			if k != q.Asker.Kind && !slices.Contains(better, k) {
				better = append(better, k)
				out = append(out, cause{field: "identity", text: fmt.Sprintf("identity %v (%v)", k.Strength(), k), who: func(q *Query) { q.Asker.Kind = k }})
			}
		}
	})
	return out
}

// deviceCauses are the devices that policies name.
func (p *Policy) deviceCauses(q *Query) (out []cause) {
	seen := map[string]bool{deviceName(q): true}
	for _, ref := range p.devices {
		if id := ref.Name; !seen[id] {
			seen[id] = true
			out = append(out, cause{field: "device", text: "asked by device " + id, who: func(q *Query) {
				redevice(q, func(d *device.Device) { d.ID = device.ID(id) })
			}})
		}
	}
	return out
}

// askerCauses are what else policies look at of who asks: users, platforms,
// sources, and of questions listeners and transports.
func (p *Policy) askerCauses(q *Query) (out []cause) {
	seen := map[string]bool{}
	add := func(text, field string, who func(*Query)) {
		if !seen[text] {
			seen[text] = true
			out = append(out, cause{text: text, field: field, who: who})
		}
	}
	p.leaves(func(c *cond) {
		for _, w := range c.words {
			switch {
			case c.op == opUser && !(q.Asker.Device != nil && q.Asker.Device.User == w):
				add("device of user "+w, "user", func(q *Query) { redevice(q, func(d *device.Device) { d.User = w }) })
			case c.op == opPlatform && !(q.Asker.Device != nil && q.Asker.Device.Platform == w):
				add("platform "+w, "platform", func(q *Query) { redevice(q, func(d *device.Device) { d.Platform = w }) })
			case c.op == opListener && q.Flow == nil && q.Asker.Listener != w:
				add("asked at listener "+w, "listener", func(q *Query) { q.Asker.Listener = w })
			case c.op == opTransport && q.Flow == nil && q.Asker.Transport != w:
				add("asked over "+w, "transport", func(q *Query) { q.Asker.Transport = w })
			}
		}
		if c.op == opSource {
			for _, a := range edges([]*cond{c})[2:] { // the first of each network, and the one after its last
				if a, in := a, c.nets.Contains(a); in != (q.Asker.Source.IsValid() && c.nets.Contains(q.Asker.Source)) {
					add("source "+inOrNot(in)+c.text, "source", func(q *Query) { q.Asker.Source = a })
				}
			}
		}
	})
	return out
}

func inOrNot(in bool) string {
	if in {
		return ""
	}
	return "not "
}

// timeCauses are the next times at which schedules begin or end, and policies
// begin or cease to count.
func (p *Policy) timeCauses(q *Query) (out []cause) {
	seen := map[string]bool{}
	add := func(at time.Time, zone *time.Location, what string) {
		text := fmt.Sprintf("at %s, when %s", at.In(zone).Format(time.RFC3339), what)
		if at.After(q.Now) && !seen[text] {
			seen[text] = true
			out = append(out, cause{text: text, field: "time", who: func(q *Query) { wait(q, at) }})
		}
	}
	turn := func(r *Rule, s *schedule) {
		what := "schedule " + s.name
		if s.name == s.text() { // it has no name
			what = "the schedule of policy " + r.Name
		}
		if on, at := s.turns(q.Now); !at.IsZero() {
			add(at, s.zone, what+map[bool]string{true: " ends", false: " begins"}[on])
		}
	}
	for i := range p.rules {
		r := &p.rules[i]
		if r.demands != nil {
			for _, s := range r.demands.schedules {
				turn(r, s)
			}
		}
		r.condition().each(func(c *cond) {
			switch c.op {
			case opSchedule:
				for _, s := range c.schedules {
					turn(r, s)
				}
			case opWindow:
				add(c.window.from, time.UTC, "policy "+r.Name+" begins to count")
				add(c.window.to, time.UTC, "policy "+r.Name+" counts no more")
			}
		})
	}
	return out
}

// turns reports whether a moment is in the schedule, and when that is otherwise.
func (s *schedule) turns(now time.Time) (on bool, at time.Time) {
	on, at = s.at(now)
	for range 4 { // where clocks are set it may have to be asked again
		if at.IsZero() {
			break
		}
		if then, next := s.at(at); then == on {
			at = next
		}
	}
	return on, at
}

// wait moves a question to a later time, at which the asker stands as now.
func wait(q *Query, at time.Time) {
	for name, v := range q.Asker.Verdicts {
		if v.At(q.Now).Result == posture.Passed {
			q.Asker.Verdicts[name] = assumedVerdict(posture.Passed)
		}
	}
	q.Now = at
}
