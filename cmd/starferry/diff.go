package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/querylog"
)

// A diffing is one run of the command.
type diffing struct {
	selection
	logs   []string
	asJSON bool
	lines  int
}

func diffCommand() *cobra.Command {
	var d diffing
	cmd := &cobra.Command{
		Use:   "diff OLD NEW --log FILE...",
		Short: "Say which answers a change of the policy changes",
		Long: `Diff decides what a query log has of questions again, by the old and by the new
policy, and says which devices and names get another answer. OLD and NEW are
policy files, or node files for the policies that they name. Each question is
decided as it was asked: by who asked, the condition of the device, the answer
of upstream and the time that the log has.

Questions of which the log does not say enough are counted and left out: where
privacy keeps back who asked, and where a policy looks at an answer that was not
asked for at the time. Of lists and the country database those of today count.`,
		Example: "  starferry diff /etc/starferry/policy.yaml policy.yaml --log queries.jsonl --since 24h",
		Args:    args("an old and a new policy", cobra.ExactArgs(2)),
		RunE:    func(cmd *cobra.Command, args []string) error { return d.run(cmd, args[0], args[1]) },
	}
	d.add(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&d.logs, "log", nil, "the query log; may be repeated (default "+usualLog+")")
	f.BoolVar(&d.asJSON, "json", false, "print one JSON object")
	f.IntVarP(&d.lines, "lines", "n", 50, "how many of what changes to print; 0 for all")
	return cmd
}

func (d *diffing) run(cmd *cobra.Command, oldFile, newFile string) error {
	before, err := loadPolicy(cmd, oldFile)
	if err != nil {
		return err
	}
	after, err := loadPolicy(cmd, newFile)
	if err != nil {
		return err
	}
	replay := policy.Replay{Old: before.Policy, New: after.Policy}
	var rec recorder
	sc := &scan{selection: &d.selection, in: cmd.InOrStdin()}
	err = sc.each(cmd.Context(), d.logs, func(r *querylog.Record, _ []byte) {
		if q, answered := rec.query(r); q != nil {
			replay.Add(q, answered)
		}
	})
	if err := errors.Join(err, sc.end(cmd)); err != nil {
		return err
	}
	out := report(&replay, &rec)
	if d.lines > 0 && len(out.Changes) > d.lines {
		out.Changes = out.Changes[:d.lines]
	}
	if d.asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(out)
	}
	_, err = io.WriteString(cmd.OutOrStdout(), out.text())
	return err
}

// A difference is what came of a replay, as it is printed.
type difference struct {
	Replayed int       `json:"replayed"`
	Changed  int       `json:"changed"`
	Devices  int       `json:"devices"` // among what changes
	Names    int       `json:"names"`
	Left     leftOut   `json:"not_replayed"`
	Kinds    []kindOf  `json:"kinds"`
	Changes  []altered `json:"changes"` // the most frequent, as many as were wanted
	all      int
}

// A leftOut says why records were not replayed.
type leftOut struct {
	Privacy int `json:"privacy"` // who asked is not in the log
	Answer  int `json:"answer"`  // a policy looks at an answer that is not in the log
	Other   int `json:"other"`   // not decided by a policy: unknown askers, failures, names of the node itself
}

// A kindOf is how many answers change from one thing to another.
type kindOf struct {
	From       string `json:"from"`
	To         string `json:"to"`
	FromPolicy string `json:"from_policy"`
	ToPolicy   string `json:"to_policy"`
	Times      int    `json:"times"`
}

// An altered is one question of a device that gets another answer.
type altered struct {
	Device string    `json:"device,omitempty"`
	Name   string    `json:"name"`
	Type   string    `json:"type"`
	Times  int       `json:"times"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	Told   string    `json:"told,omitempty"`
	kindOf
}

func report(r *policy.Replay, rec *recorder) *difference {
	out := &difference{Replayed: r.Replayed, Changed: r.Changed, Left: leftOut{rec.private, r.Open, rec.others}, Changes: []altered{}, Kinds: []kindOf{}}
	out.Devices, out.Names = r.Count()
	place := map[kindOf]int{}
	for _, c := range r.Changes() {
		kind := kindOf{From: c.From, To: c.To, FromPolicy: c.FromPolicy, ToPolicy: c.ToPolicy}
		i, known := place[kind]
		if !known {
			i = len(out.Kinds)
			place[kind] = i
			out.Kinds = append(out.Kinds, kind)
		}
		out.Kinds[i].Times += c.Times
		out.Changes = append(out.Changes, altered{Device: c.Device, Name: c.Name, Type: c.TypeName(), Times: c.Times, First: c.First, Last: c.Last, Told: c.Why, kindOf: kind})
	}
	out.all = len(out.Changes)
	return out
}

func (d *difference) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s replayed, %d changed", count(d.Replayed, "question"), d.Changed)
	if d.Changed > 0 {
		fmt.Fprintf(&b, ": %s, %s", count(d.Devices, "device"), count(d.Names, "name"))
	}
	b.WriteByte('\n')
	for _, l := range []struct {
		n    int
		what string
	}{
		{d.Left.Privacy, "who asked is not in the log (privacy)"},
		{d.Left.Answer, "a policy looks at an answer that is not in the log"},
		{d.Left.Other, "not decided by a policy"},
	} {
		if l.n > 0 {
			fmt.Fprintf(&b, "%d not replayed: %s\n", l.n, l.what)
		}
	}
	for _, k := range d.Kinds {
		fmt.Fprintf(&b, "\n%s -> %s (%s -> %s): %d\n", k.From, k.To, k.FromPolicy, k.ToPolicy, k.Times)
		for i := range d.Changes {
			c := &d.Changes[i]
			of := c.kindOf
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
