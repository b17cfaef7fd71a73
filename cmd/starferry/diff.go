package main

import (
	"encoding/json"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/resolver/querylog"
	"github.com/starferry/starferry/resolver/replay"
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
	both := replay.Between(before.Policy, after.Policy)
	sc := &scan{selection: &d.selection, in: cmd.InOrStdin()}
	err = sc.each(cmd.Context(), d.logs, func(r *querylog.Record, _ []byte) { both.Add(r) })
	if err := errors.Join(err, sc.end(cmd)); err != nil {
		return err
	}
	out := both.Difference(d.lines)
	if d.asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(out)
	}
	_, err = io.WriteString(cmd.OutOrStdout(), out.Text())
	return err
}
