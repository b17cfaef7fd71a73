package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/policy"
)

// stands asks a policy whether it is the time of a schedule, and until when.
func stands(p *policy.Policy, now time.Time) (on bool, until time.Time) {
	d := p.Decide(&policy.Query{Name: "x.test", Type: 1, Now: now})
	return d.Rule != nil, d.Until
}

func scheduled(t testing.TB, zone, days, hours string) *policy.Policy {
	return parse(t, fmt.Sprintf("policies: [{name: on, if: {schedule: {zone: %s, days: %s, hours: %s}}, then: block}]\n", zone, days, hours))
}

func TestSchedule(t *testing.T) {
	at := func(zone, s string) time.Time {
		z, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		when, err := time.ParseInLocation("2006-01-02 15:04", s, z)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	for _, tt := range []struct {
		zone, days, hours, now string
		on                     bool
		until                  string // empty: never
	}{
		{"Asia/Shanghai", "[mon-fri]", `["08:00-12:00", "13:00-18:00"]`, "2026-05-04 08:00", true, "2026-05-04 12:00"},
		{"Asia/Shanghai", "[mon-fri]", `["08:00-12:00", "13:00-18:00"]`, "2026-05-04 12:00", false, "2026-05-04 13:00"},
		{"Asia/Shanghai", "[mon-fri]", `["08:00-12:00", "13:00-18:00"]`, "2026-05-08 18:00", false, "2026-05-11 08:00"},
		// One that crosses midnight belongs to the day on which it begins.
		{"UTC", "fri", `"22:00-06:00"`, "2026-05-08 05:59", false, "2026-05-08 22:00"},
		{"UTC", "fri", `"22:00-06:00"`, "2026-05-09 05:59", true, "2026-05-09 06:00"},
		{"UTC", "sat", `"22:00-06:00"`, "2026-05-10 01:00", true, "2026-05-10 06:00"},
		// Ranges of days go over the end of the week, and what touches is one.
		{"UTC", "[fri-mon]", `"00:00-24:00"`, "2026-05-08 00:00", true, "2026-05-12 00:00"},
		{"UTC", "[mon-sun]", `"00:00-24:00"`, "2026-05-08 00:00", true, ""},
		{"UTC", "mon-sun", `["00:00-12:00", "11:00-24:00"]`, "2026-05-08 00:00", true, ""},
		// The clock goes from 02:00 to 03:00: 02:30 is not shown.
		{"Europe/Berlin", "sun", `"02:30-04:00"`, "2026-03-29 01:59", false, "2026-03-29 03:00"},
		{"Europe/Berlin", "sun", `"01:00-02:30"`, "2026-03-29 01:59", true, "2026-03-29 03:00"},
		{"Europe/Berlin", "sun", `"02:10-02:50"`, "2026-03-29 01:59", false, "2026-04-05 02:10"},
		// A night of its own length.
		{"Europe/Berlin", "sat", `"22:00-06:00"`, "2026-03-28 22:00", true, "2026-03-29 06:00"},
	} {
		on, until := stands(scheduled(t, tt.zone, tt.days, tt.hours), at(tt.zone, tt.now))
		want := time.Time{}
		if tt.until != "" {
			want = at(tt.zone, tt.until)
		}
		if on != tt.on || !until.Equal(want) {
			t.Errorf("%s %s %s at %s: %v until %v, want %v until %v", tt.zone, tt.days, tt.hours, tt.now, on, until, tt.on, want)
		}
	}
	// The clock goes back from 03:00 to 02:00: the hour is shown twice.
	twice := scheduled(t, "Europe/Berlin", "sun", `"02:30-02:45"`)
	now := time.Date(2026, 10, 25, 0, 0, 0, 0, time.UTC)
	for _, want := range []string{"00:30", "00:45", "01:30", "01:45"} {
		_, until := stands(twice, now)
		if got := until.UTC().Format("15:04"); got != want {
			t.Errorf("changes at %s, want %s", got, want)
		}
		now = until
	}
}

// A schedule is what the clock shows, minute by minute, and changes when it
// says, in zones that set their clocks by an hour, by half of one, and often.
func TestScheduleByTheMinute(t *testing.T) {
	for _, tt := range []struct{ zone, begin, days, hours string }{
		{"America/New_York", "2026-03-06", "[sat-mon]", `["01:30-02:30", "23:15-00:45"]`},
		{"America/New_York", "2026-10-30", "[sat-mon]", `["01:30-02:30", "23:15-00:45"]`},
		{"Australia/Lord_Howe", "2026-04-03", "sun", `["01:10-01:50", "02:00-02:20"]`},
		{"Africa/Casablanca", "2026-02-13", "[sun, mon]", `["00:00-02:30", "02:45-24:00"]`},
		{"Pacific/Apia", "2026-05-01", "wed", `"05:00-04:00"`},
	} {
		z, err := time.LoadLocation(tt.zone)
		if err != nil {
			t.Fatal(err)
		}
		begin, err := time.Parse(time.DateOnly, tt.begin)
		if err != nil {
			t.Fatal(err)
		}
		p := scheduled(t, tt.zone, tt.days, tt.hours)
		on, until := stands(p, begin)
		for now := begin; now.Before(begin.AddDate(0, 0, 9)); now = now.Add(time.Minute) {
			is, next := stands(p, now)
			if want := shows(now.In(z), tt.days, tt.hours); is != want {
				t.Fatalf("%s at %v: %v, want %v", tt.zone, now.In(z), is, want)
			}
			if is == on && !now.Before(until) || is != on && !now.Equal(until) || is == on && !next.Equal(until) {
				t.Fatalf("%s at %v: %v until %v, before %v until %v", tt.zone, now.In(z), is, next.In(z), on, until.In(z))
			}
			on, until = is, next
		}
	}
}

// shows is a schedule in slow, plain words.
func shows(t time.Time, days, hours string) bool {
	in := func(d time.Weekday) bool {
		name := strings.ToLower(d.String()[:3])
		return strings.Contains(days, name) || strings.Contains(days, "sat-mon") && name == "sun"
	}
	clock := t.Format("15:04")
	for _, h := range strings.Split(strings.Trim(hours, "[]"), ", ") {
		from, to, _ := strings.Cut(strings.Trim(h, `"`), "-")
		switch {
		case from < to && in(t.Weekday()) && clock >= from && clock < to,
			from > to && in(t.Weekday()) && clock >= from,
			from > to && in((t.Weekday()+6)%7) && clock < to:
			return true
		}
	}
	return false
}

func TestScheduleAllocatesNothing(t *testing.T) {
	p := scheduled(t, "Europe/Berlin", "[mon-fri]", `["08:00-12:00", "13:00-18:00"]`)
	q := &policy.Query{Name: "x.test", Type: 1, Now: noon}
	if n := testing.AllocsPerRun(100, func() { p.Decide(q) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSchedule(b *testing.B) {
	p := scheduled(b, "Europe/Berlin", "[mon-fri]", `["08:00-12:00", "13:00-18:00"]`)
	q := &policy.Query{Name: "x.test", Type: 1, Now: noon}
	b.ReportAllocs()
	for b.Loop() {
		p.Decide(q)
	}
}
