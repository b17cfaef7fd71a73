package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones are the same on machines that have no files of them

	"github.com/starferry/starferry/internal/yamlpos"
)

const (
	day  = 24 * 60 // in minutes
	week = 7 * day
)

// A schedule is a set of times of the week by the clock of a zone. What the
// clock shows counts: an hour that it skips has no time in it, one that it shows
// twice counts twice.
type schedule struct {
	name  string
	zone  *time.Location
	spans []span // of a week that begins with Sunday, in order, apart from one another
}

// A span is from one minute of the week, counted in, to another, not counted in.
type span struct{ from, to int }

// at reports whether a moment is in the schedule, and when that changes next;
// zero for never.
func (s *schedule) at(now time.Time) (on bool, until time.Time) {
	if always := s.always(); always || len(s.spans) == 0 {
		return always, time.Time{}
	}
	t := now.In(s.zone)
	on, left := s.shown(t)
	// While the clock keeps its distance to UTC, it shows what can be counted
	// ahead. Where it is set it may show anything. It is set a few times a year,
	// so that two such spans hold a whole week.
	for range 4 {
		_, set := t.ZoneBounds()
		if change := t.Add(left); set.IsZero() || change.Before(set) {
			return on, change
		}
		t = set.In(s.zone)
		var then bool
		if then, left = s.shown(t); then != on {
			return on, set
		}
	}
	return on, t // to be asked again
}

func (s *schedule) always() bool { return len(s.spans) == 1 && s.spans[0] == span{0, week} }

// shown reports whether what a clock shows is in the schedule, and how long it
// has to go until that changes.
func (s *schedule) shown(t time.Time) (on bool, left time.Duration) {
	h, m, sec := t.Clock()
	minute := int(t.Weekday())*day + h*60 + m
	past := time.Duration(sec)*time.Second + time.Duration(t.Nanosecond())
	in := func(to int) time.Duration { return time.Duration(to-minute)*time.Minute - past }
	for _, p := range s.spans {
		switch {
		case minute < p.from:
			return false, in(p.from)
		case minute < p.to && p.to == week && s.spans[0].from == 0: // goes on into the next week
			return true, in(week + s.spans[0].to)
		case minute < p.to:
			return true, in(p.to)
		}
	}
	return false, in(week + s.spans[0].from)
}

// readSchedules reads the schedules that have names.
func (c *compiler) readSchedules(m *yamlpos.Map) {
	for _, name := range m.Keys() {
		if _, err := word(name); err != nil {
			m.KeyErrorf(name, "", "schedules: %v", err)
		}
		s := c.readSchedule(m.Node(name))
		s.name = name
		if c.taken("schedule", name, m.KeyPos(name)) {
			continue
		}
		c.schedules[name] = s
	}
}

// readSchedule reads {zone: Asia/Shanghai, days: [mon-fri], hours: ["08:00-18:00"]}.
func (c *compiler) readSchedule(n *yamlpos.Node) *schedule {
	m := n.AsMap()
	m.Require("zone")
	if n.Kind == yamlpos.Mapping && !m.Has("days") && !m.Has("hours") {
		n.Errorf("", "want days, hours or both")
	}
	s := &schedule{zone: yamlpos.Read(m, "zone", time.UTC, zone)}
	days, hours := [7]bool{true, true, true, true, true, true, true}, []span{{0, day}}
	if v := m.Node("days"); v != nil {
		days = c.readDays(v)
	}
	if v := m.Node("hours"); v != nil {
		hours = yamlpos.Values(members(v), hoursOf)
	}
	m.Done()
	s.spans = weekly(days, hours)
	s.name = s.text()
	return s
}

func (c *compiler) readDays(n *yamlpos.Node) (days [7]bool) {
	for _, d := range yamlpos.Values(members(n), daysOf) {
		for i := d.from; ; i = (i + 1) % 7 {
			days[i] = true
			if i == d.to {
				break
			}
		}
	}
	return days
}

// weekly lays spans of the day out over the week. One that ends before it
// begins ends on the day after.
func weekly(days [7]bool, hours []span) []span {
	var all []span
	for d, on := range days {
		for _, h := range hours {
			p := span{d*day + h.from, d*day + h.to}
			if h.to <= h.from {
				p.to += day
			}
			switch {
			case !on:
			case p.to > week:
				all = append(all, span{p.from, week}, span{0, p.to - week})
			default:
				all = append(all, p)
			}
		}
	}
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var out []span
	for _, p := range all {
		if last := len(out) - 1; last >= 0 && p.from <= out[last].to {
			out[last].to = max(out[last].to, p.to)
		} else {
			out = append(out, p)
		}
	}
	return out
}

// text writes a schedule that has no name: two of them are equal if it is.
func (s *schedule) text() string {
	var parts []string
	for _, p := range s.spans {
		parts = append(parts, moment(p.from)+"-"+moment(p.to))
	}
	return strings.Join(parts, " ") + " " + s.zone.String()
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func moment(minute int) string {
	return fmt.Sprintf("%s %02d:%02d", dayNames[minute/day%7], minute%day/60, minute%60)
}

// daysOf parses mon, or mon-fri, as the first and the last day.
func daysOf(s string) (span, error) {
	from, to, ranged := strings.Cut(s, "-")
	if !ranged {
		to = from
	}
	a, err := yamlpos.Index(dayNames...)(from)
	b, err2 := yamlpos.Index(dayNames...)(to)
	if err := cmp.Or(err, err2); err != nil {
		return span{}, yamlpos.Hint(fmt.Errorf("%q is no day", s), "days are written mon, tue, wed, thu, fri, sat, sun, or mon-fri")
	}
	return span{a, b}, nil
}

// hoursOf parses 08:00-12:00, in minutes of the day. 24:00 is the end of it.
func hoursOf(s string) (span, error) {
	bad := yamlpos.Hint(fmt.Errorf("%q is no span of hours", s), `write it like "08:00-12:00"; one that crosses midnight like "22:00-06:00"`)
	from, to, ok := strings.Cut(s, "-")
	a, okA := minutes(from)
	b, okB := minutes(to)
	if !ok || !okA || !okB || a == day || a == b {
		return span{}, bad
	}
	return span{a, b}, nil
}

func minutes(s string) (int, bool) {
	h, m, ok := strings.Cut(strings.TrimSpace(s), ":")
	hours, err := strconv.ParseUint(h, 10, 8)
	mins, err2 := strconv.ParseUint(m, 10, 8)
	n := int(hours*60 + mins)
	return n, ok && err == nil && err2 == nil && len(h) <= 2 && len(m) == 2 && mins < 60 && n <= day
}

// zone loads a zone of the IANA database.
func zone(s string) (*time.Location, error) {
	z, err := time.LoadLocation(s)
	if err != nil || s == "" || s == "Local" {
		return time.UTC, yamlpos.Hint(fmt.Errorf("%q is no time zone", s), "a zone is a name of the IANA database: Asia/Shanghai, Europe/Berlin, UTC")
	}
	return z, nil
}

// readTimes reads one or more schedules: their names, or one written out.
func (c *compiler) readTimes(n *yamlpos.Node) (out []*schedule) {
	if n == nil {
		return nil
	}
	if n.Kind == yamlpos.Mapping {
		return []*schedule{c.readSchedule(n)}
	}
	for _, item := range members(n) {
		name := yamlpos.Value(item, "", word)
		if name == "" {
			continue
		}
		c.used["schedule "+name] = true
		if s := c.schedules[name]; s != nil {
			out = append(out, s)
		} else {
			item.Errorf(yamlpos.DidYouMean(name, sorted(c.schedules)), "unknown schedule %q", name)
		}
	}
	return out
}

func scheduleNames(all []*schedule) (out []string) {
	for _, s := range all {
		out = append(out, s.name)
	}
	return out
}

// during reports whether now is in one of the schedules, and keeps when that
// may change.
func (s *scene) during(all []*schedule) bool {
	any := false
	for _, sch := range all {
		on, until := sch.at(s.q.Now)
		s.lower(until)
		any = any || on
	}
	return any
}

// lower keeps when the decision may change, zero for never.
func (s *scene) lower(until time.Time) {
	if !until.IsZero() && (s.until.IsZero() || until.Before(*s.until)) {
		*s.until = until
	}
}

// A window is a time in which a policy counts.
type window struct{ from, to time.Time } // zero: open

func (s *scene) within(w *window) bool {
	now := s.q.Now
	switch {
	case !w.from.IsZero() && now.Before(w.from):
		s.lower(w.from)
		return false
	case w.to.IsZero():
		return true
	case now.Before(w.to):
		s.lower(w.to)
		return true
	}
	return false
}

func (w *window) String() string {
	const form = "2006-01-02 15:04 MST"
	switch {
	case w.from.IsZero():
		return "until " + w.to.Format(form)
	case w.to.IsZero():
		return "from " + w.from.Format(form)
	}
	return "from " + w.from.Format(form) + " until " + w.to.Format(form)
}

// firstMoment and lastMoment parse a date as its beginning or its end in UTC, or
// a moment with its zone (RFC 3339).
func firstMoment(s string) (time.Time, error) { return parseMoment(s, 0) }
func lastMoment(s string) (time.Time, error)  { return parseMoment(s, 1) }

func parseMoment(s string, days int) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t.AddDate(0, 0, days), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, yamlpos.Hint(fmt.Errorf("%q is no date", s), "write it like 2026-12-31, or 2026-12-31T18:00:00+08:00")
	}
	return t, nil
}
