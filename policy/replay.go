package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry/internal/rrtype"
)

// A Replay decides recorded questions by two policies and keeps those that they
// decide differently.
type Replay struct {
	Old, New *Policy

	Replayed int // questions
	Changed  int // of these
	Open     int // not replayed: one of the policies would have to know an answer that was not recorded
	changes  map[changeKey]*Change
}

type changeKey struct {
	device, name string
	rrtype       uint16
	from, to     string
}

// A Change is a question of a device that the new policy decides differently.
type Change struct {
	Device string // empty: nobody that was known
	Name   string
	Type   uint16

	From, To             string // the decisions: "allow", "deny refused"
	FromPolicy, ToPolicy string // "default" if none decided
	Why                  string // what the new decision tells the asker

	Times       int
	First, Last time.Time
}

// TypeName returns the name of the question's type.
func (c *Change) TypeName() string { return rrtype.Name(c.Type) }

// Add decides one question, as it was at its time, by both policies. recorded
// reports whether the answer of the query is what upstream said; where nothing
// was asked upstream there is none.
func (r *Replay) Add(q *Query, recorded bool) {
	before, okBefore := r.Old.again(q, recorded)
	after, okAfter := r.New.again(q, recorded)
	if !okBefore || !okAfter {
		r.Open++
		return
	}
	r.Replayed++
	from, to := before.outcome(), after.outcome()
	if from == to { // but for how long the answer is good
		if from, to = from+before.lasts(), to+after.lasts(); from == to {
			return
		}
	}
	r.Changed++
	key := changeKey{deviceName(q), q.Name, q.Type, from, to}
	c := r.changes[key]
	if c == nil {
		c = &Change{
			Device: key.device, Name: q.Name, Type: q.Type, From: from, To: to,
			FromPolicy: before.policy(), ToPolicy: after.policy(), Why: after.Text(), First: q.Now, Last: q.Now,
		}
		if r.changes == nil {
			r.changes = map[changeKey]*Change{}
		}
		r.changes[key] = c
	}
	c.Times++
	if q.Now.Before(c.First) {
		c.First = q.Now
	}
	if q.Now.After(c.Last) {
		c.Last = q.Now
	}
}

func deviceName(q *Query) string {
	if q.Asker.Device == nil {
		return ""
	}
	return string(q.Asker.Device.ID)
}

// again decides a recorded question; false if that takes an answer which is not
// known.
func (p *Policy) again(q *Query, recorded bool) (Decision, bool) {
	ask := q.unanswered()
	d := p.Decide(&ask)
	if !d.NeedAnswer {
		return d, true
	}
	if !recorded {
		return d, false
	}
	ask.Answered, ask.Answer = true, q.Answer
	return p.Decide(&ask), true
}

// outcome says all of a decision that the asker notices: two that say the same
// are answered alike.
func (d *Decision) outcome() string {
	t := &d.Then
	s := d.String()
	if addrs := d.answers(); len(addrs) > 0 {
		s += " " + strings.Join(addrs, " ")
	}
	if t.Action == Block && t.Block == Address {
		s += fmt.Sprintf(" %v", slices.Concat(t.A, t.AAAA))
	}
	if t.Action == Steer && len(t.Ports) > 0 && d.Denied == "" {
		var ports []string
		for _, p := range t.Ports {
			ports = append(ports, p.written())
		}
		s += " " + strings.Join(ports, ",")
	}
	return s
}

// lasts says what a decision makes of TTLs.
func (d *Decision) lasts() (s string) {
	switch t := &d.Then; {
	case d.Denied != "":
	case t.Action == Override, t.Action == Steer:
		return fmt.Sprintf(" ttl %v", t.TTL)
	case t.Action == Allow:
		if t.MinTTL > 0 {
			s += fmt.Sprintf(" ttl at least %v", t.MinTTL)
		}
		if t.MaxTTL > 0 {
			s += fmt.Sprintf(" ttl at most %v", t.MaxTTL)
		}
	}
	return s
}

// written is the ports as policies have them: tcp/443, udp/8000-8100.
func (p Port) written() string {
	s := Service{p.Proto, p.From}.String()
	if p.To != p.From {
		s += fmt.Sprintf("-%d", p.To)
	}
	return s
}

// Changes returns what changes, what happened most often first.
func (r *Replay) Changes() []*Change {
	var out []*Change
	for _, c := range r.changes {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *Change) int {
		return cmp.Or(b.Times-a.Times, strings.Compare(a.Device, b.Device), strings.Compare(a.Name, b.Name), int(a.Type)-int(b.Type),
			strings.Compare(a.From, b.From), strings.Compare(a.To, b.To))
	})
	return out
}

// Count returns how many devices and names there are among the changes.
func (r *Replay) Count() (devices, names int) {
	ids, asked := map[string]bool{}, map[string]bool{}
	for k := range r.changes {
		ids[k.device], asked[k.name] = true, true
	}
	return len(ids), len(asked)
}
