package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/internal/rrtype"
	"github.com/starferry/starferry/internal/yamlpos"
)

// A Trace is the story of one decision. A nil Trace records nothing.
type Trace struct {
	Steps    []Step
	Route    string // of a flow: by which route conditions on it were judged, and which policy gives it; empty: no policy has such conditions
	Shadow   string // what would be decided if policies in mode shadow were enforced, and by which; empty: the same
	Decision string // in short: "steer hong-kong", "deny refused", "ask upstream"

	notes []string
}

// A Step is one policy that was looked at, for one name of the chain.
type Step struct {
	Rule    *Rule       // nil: the default
	Pos     yamlpos.Pos // where the policy is written; zero for the default
	Hop     string      // the name that it was looked at for
	Matched Truth
	Text    string // which conditions made it so; of the policy that decides also its demands and how the asker stands
}

// String tells the story, one line for each step, with a heading for each name
// where there are several.
func (t *Trace) String() string {
	var b strings.Builder
	width, several := 0, false
	for i := range t.Steps {
		width = max(width, len(t.Steps[i].place()))
		several = several || t.Steps[i].Hop != t.Steps[0].Hop
	}
	for i := range t.Steps {
		s := &t.Steps[i]
		if several && (i == 0 || t.Steps[i-1].Hop != s.Hop) {
			fmt.Fprintf(&b, "at %s\n", s.Hop)
		}
		fmt.Fprintf(&b, "%-*s  %v", width, s.place(), s.Matched)
		if s.Text != "" {
			b.WriteString(": " + s.Text)
		}
		b.WriteByte('\n')
	}
	if t.Route != "" {
		b.WriteString("route of the flow: " + t.Route + "\n")
	}
	b.WriteString("decision: " + t.Decision)
	if t.Shadow != "" {
		b.WriteString("\nwere shadows enforced: " + t.Shadow)
	}
	return b.String()
}

// place names the policy with its place in the file.
func (s *Step) place() string {
	if s.Rule == nil {
		return "default"
	}
	return fmt.Sprintf("%v  %s", s.Pos, s.Rule.Name)
}

func (t *Trace) mark() int {
	if t == nil {
		return 0
	}
	return len(t.notes)
}

func (t *Trace) note(s string) { t.notes = append(t.notes, s) }

// cut drops the notes from one mark to another.
func (t *Trace) cut(from, to int) {
	if t != nil {
		t.notes = append(t.notes[:from], t.notes[to:]...)
	}
}

// take removes the notes since a mark and returns them.
func (t *Trace) take(from int) string {
	s := strings.Join(t.notes[from:], "; ")
	t.notes = t.notes[:from]
	return s
}

// step records a policy that was looked at, with the notes since the mark.
func (t *Trace) step(r *Rule, hop string, matched Truth, from int) {
	if t == nil {
		return
	}
	s := Step{Rule: r, Hop: hop, Matched: matched, Text: t.take(from)}
	if r == nil {
		s.Text = "no policy decides"
	} else {
		s.Pos = r.At
		switch {
		case r.shadow:
			s.Text = join(s.Text, "in shadow, does not decide")
		case matched == Yes && r.ends:
			s.Text = join(s.Text, "ends the list")
		}
	}
	t.Steps = append(t.Steps, s)
}

// shadowed records a policy in mode shadow that is passed over. How long it
// stays as it is does not matter to the decision.
func (r *Rule) shadowed(s *scene) {
	if s.trace == nil {
		return
	}
	until := *s.until
	r.matches(s)
	*s.until = until
}

// judged adds to the step of the policy that was chosen how the asker stands
// by its demands.
func (t *Trace) judged(r *Rule, denied string, from int) {
	if t == nil {
		return
	}
	met := t.take(from)
	for i := len(t.Steps) - 1; i >= 0; i-- {
		s := &t.Steps[i]
		if s.Rule != r || s.Matched != Yes {
			continue
		}
		if met != "" {
			s.Text = join(s.Text, "demands met: "+met)
		}
		if denied != "" {
			s.Text = join(s.Text, "demands not met: "+denied)
		}
		return
	}
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// say puts into words what a condition found.
func (c *cond) say(s *scene, t Truth) string {
	not := ""
	if t == No {
		not = "not "
	}
	a := &s.q.Asker
	switch c.op {
	case opName:
		return c.sayName(s, t)
	case opRegexp:
		return "name " + not + c.text
	case opCountry, opNetwork, opContinent, opASN:
		return c.sayAnswer(s, t)
	case opRecord:
		return c.sayRecords(s, t)
	case opDevice:
		if a.Device == nil {
			return "device not known" + c.instead(t)
		}
		return "device " + string(a.Device.ID) + c.instead(t)
	case opGroup:
		if a.Device == nil {
			return "device not known, " + not + c.text
		}
		return fmt.Sprintf("device %s %s%s", a.Device.ID, not, c.text)
	case opIdentity:
		return fmt.Sprintf("identity %v, %s%s", a.Kind.Strength(), not, c.text)
	case opKind:
		return "evidence " + a.Kind.String() + c.instead(t)
	case opSource:
		if !a.Source.IsValid() {
			return "source not known"
		}
		return fmt.Sprintf("source %v %s%s", a.Source, not, c.text)
	case opType:
		return "type " + rrtype.Name(s.q.Type) + c.instead(t)
	case opPosture:
		return c.sayPosture(s, t)
	}
	return c.sayMore(s, t)
}

// sayMore puts into words what the less usual conditions found.
func (c *cond) sayMore(s *scene, t Truth) string {
	a := &s.q.Asker
	switch c.op {
	case opUser:
		if a.Device == nil || a.Device.User == "" {
			return "user not known" + c.instead(t)
		}
		return "user " + a.Device.User + c.instead(t)
	case opPlatform:
		if t == Unknown {
			return "platform not known"
		}
		return "platform " + a.Device.Platform + c.instead(t)
	case opListener:
		return "listener " + orNone(a.Listener) + c.instead(t)
	case opTransport:
		return "transport " + orNone(a.Transport) + c.instead(t)
	case opSchedule:
		return c.saySchedule(s, t)
	case opWindow:
		return "counts " + c.window.String() + map[Truth]string{No: ", not now"}[t]
	}
	switch {
	case s.q.Flow == nil:
		return "no flow" + c.instead(t)
	case c.op == opRoute && t == Unknown:
		return "no route without it"
	case c.op == opRoute:
		return "route " + s.route + c.instead(t)
	}
	return "flow to " + s.q.Flow.String() + c.instead(t)
}

func orNone(s string) string { return cmp.Or(s, "none") }

func (c *cond) saySchedule(s *scene, t Truth) string {
	say := "in schedule "
	if t == No {
		say = "not in schedule "
	}
	zone := c.schedules[0].zone
	return say + c.text + ", it is " + s.q.Now.In(zone).Format("Mon 15:04 MST")
}

func (c *cond) sayPosture(s *scene, t Truth) string {
	v := s.verdict(c.profile)
	say := standsByProfile(c.profile, v)
	if v.Result == posture.Unknown || t == Yes {
		return say
	}
	return say + ", not " + c.result.String()
}

func (c *cond) sayAnswer(s *scene, t Truth) string {
	switch {
	case t == open && c.op != opNetwork:
		return "answer " + map[op]string{opCountry: "country", opContinent: "continent", opASN: "AS number"}[c.op] + " not known yet"
	case t == open:
		return "answer not known yet"
	case len(s.at.Addrs) == 0:
		return "no address at " + s.at.Name
	}
	var with []string
	for _, a := range s.at.Addrs {
		if c.address(a) == t {
			with = append(with, c.sayAddress(a))
		}
	}
	switch {
	case t == No:
		return fmt.Sprintf("answer %s, not %s", some(with), c.text)
	case c.op != opNetwork:
		return "answer " + some(with)
	default:
		return fmt.Sprintf("answer %s %s", some(with), c.text)
	}
}

// instead says what was wanted where that is not so.
func (c *cond) instead(t Truth) string {
	if t == Yes {
		return ""
	}
	return ", not " + c.text
}

func (c *cond) sayAddress(a netip.Addr) string {
	switch c.op {
	case opNetwork:
		return a.String()
	case opASN:
		if n, known := c.geo.ASN(a); known {
			return fmt.Sprintf("%v in AS%d", a, n)
		}
		return a.String() + " in no known AS"
	case opContinent:
		if code, known := c.geo.Continent(a); known {
			return a.String() + " in " + code
		}
		return a.String() + " on no known continent"
	}
	if code, known := c.geo.Country(a); known {
		return a.String() + " in " + code
	}
	return a.String() + " in no known country"
}
