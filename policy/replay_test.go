package policy_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/starferry/starferry/policy"
)

// A log with a clock of its own, replayed by two random policies: what is said
// to change is what the model decides differently, no more and no less.
func TestReplay(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 5))
	for range 60 {
		before, after := randomPolicy(r), randomPolicy(r)
		replay := policy.Replay{Old: parse(t, before.yaml()), New: parse(t, after.yaml())}
		wantChanged, wantOpen := map[string]int{}, 0
		clock := noon
		for range 300 {
			q := queryAt(r, noon)
			q.Flow = nil
			clock = clock.Add(time.Second)
			q.Now = clock
			recorded := q.Answered
			old, ok1 := again(replay.Old, q, recorded)
			neu, ok2 := again(replay.New, q, recorded)
			switch {
			case !ok1 || !ok2:
				wantOpen++
			case old != neu:
				name := ""
				if q.Asker.Device != nil {
					name = string(q.Asker.Device.ID)
				}
				wantChanged[fmt.Sprint(name, " ", q.Name, " ", q.Type, " ", old, " ", neu)]++
			}
			replay.Add(q, recorded)
		}
		got, times := map[string]int{}, 0
		for _, c := range replay.Changes() {
			got[fmt.Sprint(c.Device, " ", c.Name, " ", c.Type, " ", c.From, " ", c.To)] += c.Times
			times += c.Times
			if c.First.After(c.Last) || c.First.Before(noon) {
				t.Fatalf("%+v", c)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(wantChanged) || replay.Open != wantOpen || replay.Changed != times {
			t.Fatalf("%d changed, %d open: %v\nwant %d: %v", replay.Changed, replay.Open, got, wantOpen, wantChanged)
		}
	}
}

// again decides as the record of a question allows. Steers of the model have ports,
// and some answers addresses.
func again(p *policy.Policy, q *policy.Query, recorded bool) (string, bool) {
	ask := *q
	ask.Answered, ask.Answer = false, nil
	d := p.Decide(&ask)
	if d.NeedAnswer {
		if !recorded {
			return "", false
		}
		d = p.Decide(q)
	}
	s := d.String()
	switch {
	case d.Then.Action == policy.Steer:
		s += " tcp/443"
	case d.Then.Action == policy.Override:
		s += " 10.9.9.9"
	case d.Then.Block == policy.Address && d.Then.Action == policy.Block:
		s += " [10.0.0.9]"
	}
	return s, true
}

// A change of nothing but TTLs is told, with what they become.
func TestReplayTTL(t *testing.T) {
	const name = "policies:\n  - {name: p, if: {name: x.example}, "
	for _, tt := range []struct{ before, after, want string }{
		{"then: {override: {a: 10.1.2.3}}}", "then: {override: {a: 10.1.2.3, ttl: 5m}}}", "override 10.1.2.3 ttl 1m0s -> override 10.1.2.3 ttl 5m0s"},
		{"then: {override: {a: 10.1.2.3}}}", "then: {override: {a: 10.1.2.3, ttl: 60s}}}", ""},
		{"then: {override: {a: 10.1.2.3}}}", "then: {override: {a: 10.1.2.4, ttl: 5m}}}", "override 10.1.2.3 -> override 10.1.2.4"},
		{"then: {steer: there}}", "then: {steer: there, ttl: 10s}}", "steer there ttl 30s -> steer there ttl 10s"},
		{"then: allow}", "then: allow, ttl: {max: 1h}}", "allow -> allow ttl at most 1h0m0s"},
		{"then: allow, ttl: {min: 1m}}", "then: allow, ttl: {min: 2m, max: 1h}}", "allow ttl at least 1m0s -> allow ttl at least 2m0s ttl at most 1h0m0s"},
		{"require: {groups: lab}, then: {steer: there}}", "require: {groups: lab}, then: {steer: there, ttl: 10s}}", ""},
		{"then: block}", "then: block, reason: because}", ""},
	} {
		r := policy.Replay{Old: parse(t, name+tt.before+"\n"), New: parse(t, name+tt.after+"\n")}
		r.Add(question{ask: "x.example", by: "alice"}.query(), false)
		got := ""
		for _, c := range r.Changes() {
			got += c.From + " -> " + c.To
		}
		if got != tt.want || r.Replayed != 1 {
			t.Errorf("%s, %s: %q, want %q", tt.before, tt.after, got, tt.want)
		}
	}
}

func TestLesson(t *testing.T) {
	l := policy.Lesson{Group: "tv", Siblings: 3}
	for i, name := range []string{
		"a.s3.amazonaws.com", "b.s3.amazonaws.com", "c.s3.amazonaws.com", "router", "x.co.uk", "y.co.uk", "z.co.uk",
		"1.n.tv.example", "2.n.tv.example", "3.n.tv.example", "tv.example", "n.tv.example", "no name", "A.x.co.uk",
	} {
		l.Add(name, noon.Add(time.Duration(i)*time.Minute))
	}
	want := `# Learnt from 13 questions of group tv, from 2026-05-04T12:00:00Z to 2026-05-04T12:13:00Z.
policies:
  - name: tv-learnt
    if:
      group: tv
      name:
        exact:
          - a.s3.amazonaws.com    # once
          - a.x.co.uk    # once
          - b.s3.amazonaws.com    # once
          - c.s3.amazonaws.com    # once
          - router    # once
          - tv.example    # once
          - x.co.uk    # once
          - y.co.uk    # once
          - z.co.uk    # once
        suffix:
          - n.tv.example    # 4 times, 4 names
    then: allow
  - name: tv-rest
    if: {group: tv}
    then: {block: refused, reason: Not among the names that were learnt of tv}
`
	if got := l.YAML(); got != want || l.Strange != 1 {
		t.Errorf("%d strange\n%s\nwant\n%s", l.Strange, got, want)
	}
	p := parse(t, l.YAML())
	for ask, want := range map[string]string{"4.n.tv.example": "allow", "www.tv.example": "block refused", "evil.s3.amazonaws.com": "block refused", "router": "allow"} {
		q := question{ask: ask, by: "tv-1 tv"}.query()
		q.Answered = true
		if d := p.Decide(q); d.String() != want {
			t.Errorf("%s: %v, want %s", ask, &d, want)
		}
	}
}
