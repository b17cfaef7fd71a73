package policy_test

import "time"

// zones are those of the schedules above.
var zones = func() map[string]*time.Location {
	out := map[string]*time.Location{}
	for _, name := range []string{"Europe/Berlin", "Asia/Shanghai", "America/New_York"} {
		z, err := time.LoadLocation(name)
		if err != nil {
			panic(err) // they are in the program
		}
		out[name] = z
	}
	return out
}()

// wall returns what the clock of a zone shows.
func wall(now time.Time, zone string) (weekday time.Weekday, clock string) {
	t := now.In(zones[zone])
	return t.Weekday(), t.Format("15:04:05")
}

func inOffice(now time.Time) bool {
	d, c := wall(now, "Europe/Berlin")
	return d >= time.Monday && d <= time.Friday && (c >= "08:00" && c < "12:00" || c >= "13:00" && c < "18:00")
}

func inNight(now time.Time) bool {
	_, c := wall(now, "Asia/Shanghai")
	return c >= "22:30" || c < "06:00"
}

// inSmallHours is {days: [sat-mon, wed], hours: ["00:30-02:30", "23:00-01:15"]}.
func inSmallHours(now time.Time) bool {
	d, c := wall(now, "America/New_York")
	on := func(d time.Weekday) bool {
		return d == time.Saturday || d == time.Sunday || d == time.Monday || d == time.Wednesday
	}
	return on(d) && (c >= "00:30" && c < "02:30" || c >= "23:00") || on((d+6)%7) && c < "01:15"
}

// inWindow tells whether a policy counts.
func (r *modelRule) inWindow(now time.Time) bool {
	at := func(s string) time.Time {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			panic(err) // the moments of these tests are well written
		}
		return t
	}
	switch r.window {
	case "not_before: 2026-05-04":
		return !now.Before(at("2026-05-04T00:00:00Z"))
	case "not_after: 2026-05-04":
		return now.Before(at("2026-05-05T00:00:00Z"))
	case "not_before: 2026-03-29T01:30:00Z":
		return !now.Before(at("2026-03-29T01:30:00Z"))
	case "not_after: 2026-10-25T02:00:00+01:00":
		return now.Before(at("2026-10-25T01:00:00Z"))
	case "not_before: 2026-05-05, not_after: 2026-05-06":
		return !now.Before(at("2026-05-05T00:00:00Z")) && now.Before(at("2026-05-07T00:00:00Z"))
	}
	return true
}
