package replay

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// A Difference is what came of a comparison. In JSON it is what `starferry diff`
// and `starferry reload` print.
type Difference struct {
	Replayed int       `json:"replayed"`
	Changed  int       `json:"changed"`
	Devices  int       `json:"devices"` // among what changes
	Names    int       `json:"names"`
	Left     LeftOut   `json:"not_replayed"`
	Kinds    []Kind    `json:"kinds"`
	Changes  []Change  `json:"changes"`         // the most frequent, as many as were wanted
	Since    time.Time `json:"since,omitzero"`  // of the earliest record
	Short    string    `json:"short,omitempty"` // why not all of the records that were to be read were
	all      int
}

// A LeftOut says why records were not replayed.
type LeftOut struct {
	Privacy int `json:"privacy"` // who asked is not in the log
	Answer  int `json:"answer"`  // a policy looks at an answer that is not in the log
	Other   int `json:"other"`   // not decided by a policy: unknown askers, failures, names of the node itself
}

// A Kind is how many answers change from one thing to another.
type Kind struct {
	From       string `json:"from"`
	To         string `json:"to"`
	FromPolicy string `json:"from_policy"`
	ToPolicy   string `json:"to_policy"`
	Times      int    `json:"times"`
}

// A Change is one question of a device that gets another answer.
type Change struct {
	Device string    `json:"device,omitempty"`
	Name   string    `json:"name"`
	Type   string    `json:"type"`
	Times  int       `json:"times"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	Told   string    `json:"told,omitempty"`
	Kind
}

// Difference returns what came of the records, with the most frequent changes,
// as many as are wanted; 0 for all.
func (c *Comparison) Difference(most int) *Difference {
	r := &c.policies
	out := &Difference{
		Replayed: r.Replayed, Changed: r.Changed, Left: LeftOut{c.private, r.Open, c.others},
		Changes: []Change{}, Kinds: []Kind{}, Since: c.since,
	}
	out.Devices, out.Names = r.Count()
	place := map[Kind]int{}
	for _, c := range r.Changes() {
		kind := Kind{From: c.From, To: c.To, FromPolicy: c.FromPolicy, ToPolicy: c.ToPolicy}
		i, known := place[kind]
		if !known {
			i = len(out.Kinds)
			place[kind] = i
			out.Kinds = append(out.Kinds, kind)
		}
		out.Kinds[i].Times += c.Times
		out.Changes = append(out.Changes, Change{Device: c.Device, Name: c.Name, Type: c.TypeName(), Times: c.Times, First: c.First, Last: c.Last, Told: c.Why, Kind: kind})
	}
	if out.all = len(out.Changes); most > 0 && out.all > most {
		out.Changes = out.Changes[:most]
	}
	return out
}

// Text tells all of it to people.
func (d *Difference) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s replayed, %d changed", count(d.Replayed, "question"), d.Changed)
	if d.Changed > 0 {
		fmt.Fprintf(&b, ": %s, %s", count(d.Devices, "device"), count(d.Names, "name"))
	}
	b.WriteByte('\n')
	for _, l := range d.Left.lines() {
		b.WriteString(l + "\n")
	}
	for _, k := range d.Kinds {
		fmt.Fprintf(&b, "\n%s -> %s (%s -> %s): %d\n", k.From, k.To, k.FromPolicy, k.ToPolicy, k.Times)
		for i := range d.Changes {
			c := &d.Changes[i]
			of := c.Kind
			if of.Times = k.Times; of == k {
				fmt.Fprintf(&b, "  %6d  %-16s  %s %s\n", c.Times, cmp.Or(c.Device, "-"), c.Name, c.Type)
			}
		}
	}
	if n := d.all - len(d.Changes); n > 0 {
		fmt.Fprintf(&b, "\n%d more not shown: -n 0 shows all\n", n)
	}
	return b.String()
}

// lines say how many records were left out, and why.
func (l LeftOut) lines() (out []string) {
	for _, of := range []struct {
		n    int
		what string
	}{
		{l.Privacy, "who asked is not in the log (privacy)"},
		{l.Answer, "a policy looks at an answer that is not in the log"},
		{l.Other, "not decided by a policy"},
	} {
		if of.n > 0 {
			out = append(out, fmt.Sprintf("%d not replayed: %s", of.n, of.what))
		}
	}
	return out
}

// Brief tells in a few lines what changes, for those who have just made it so.
func (d *Difference) Brief() string {
	var b strings.Builder
	fmt.Fprintf(&b, "of %s replayed", count(d.Replayed, "recent question"))
	if !d.Since.IsZero() {
		fmt.Fprintf(&b, ", since %s", d.Since.Format(time.RFC3339))
	}
	fmt.Fprintf(&b, ", %d would be answered otherwise", d.Changed)
	if d.Changed > 0 {
		fmt.Fprintf(&b, ": %s, %s", count(d.Devices, "device"), count(d.Names, "name"))
	}
	b.WriteByte('\n')
	for i := range d.Changes {
		fmt.Fprintf(&b, "  %6d  %s\n", d.Changes[i].Times, d.Changes[i].String())
	}
	if n := d.all - len(d.Changes); n > 0 {
		fmt.Fprintf(&b, "  %6s  and %s of other devices or names\n", "", count(n, "change"))
	}
	for _, l := range d.Left.lines() {
		b.WriteString(l + "\n")
	}
	if d.Short != "" {
		b.WriteString(d.Short + "\n")
	}
	return b.String()
}

// String tells a change in a line.
func (c *Change) String() string {
	return fmt.Sprintf("%s %s %s: %s -> %s (%s -> %s)", cmp.Or(c.Device, "-"), c.Name, c.Type, c.From, c.To, c.FromPolicy, c.ToPolicy)
}

func count(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}
