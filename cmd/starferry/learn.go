package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/resolver/querylog"
	"github.com/starferry/starferry/resolver/replay"
)

// A learning is one run of the command.
type learning struct {
	selection
	logs     []string
	siblings int
	blocked  bool
	left     int // questions that a policy has blocked
}

func learnCommand() *cobra.Command {
	var l learning
	cmd := &cobra.Command{
		Use:   "learn GROUP --log FILE...",
		Short: "Propose what a group may ask, from what it has asked",
		Long: `Learn prints policies that let a group ask for the names that its devices have
asked for and block the rest. Where several names below one were asked for, the
one stands for all below it; never a name below which anybody can register one.
What a policy has blocked is left out, and what the default has is not: so a
group that may ask nothing can be learnt from what it tried. Read the list
before it is used: what was asked for is not what has to be.`,
		Example: "  starferry learn cameras --log queries.jsonl --since 168h > cameras.yaml",
		Args:    args("one group", cobra.ExactArgs(1)),
		RunE:    func(cmd *cobra.Command, args []string) error { return l.run(cmd, args[0]) },
	}
	l.add(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&l.logs, "log", nil, "the query log; may be repeated (default "+usualLog+")")
	f.IntVar(&l.siblings, "siblings", 4, "how many names below one stand for all below it; 0 for no such thing")
	f.BoolVar(&l.blocked, "blocked", false, "take also what a policy has blocked")
	return cmd
}

func (l *learning) run(cmd *cobra.Command, group string) error {
	if _, err := device.ParseName(group); err != nil {
		return usageError{err}
	}
	lesson := policy.Lesson{Group: group, Siblings: l.siblings}
	sc := &scan{selection: &l.selection, in: cmd.InOrStdin()}
	err := sc.each(cmd.Context(), l.logs, func(r *querylog.Record, _ []byte) {
		switch take, barred := l.takes(r, group); {
		case take:
			lesson.Add(r.Name, r.Time)
		case barred:
			lesson.Bar(r.Name)
		}
	})
	if err := errors.Join(err, sc.end(cmd)); err != nil {
		return err
	}
	if l.left > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s left out that a policy has blocked: --blocked takes them too\n", count(l.left, "question"))
	}
	if lesson.Strange > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s left out for what is no host name\n", count(lesson.Strange, "question"))
	}
	if lesson.Empty() {
		return fmt.Errorf("the log has no question of group %s", group)
	}
	_, err = io.WriteString(cmd.OutOrStdout(), lesson.YAML())
	return err
}

// takes reports whether a question of the group is to be learnt from, or a policy
// has blocked it.
func (l *learning) takes(r *querylog.Record, group string) (take, barred bool) {
	action := resolver.Action(r.Action)
	if !replay.Decided(r) || !slices.Contains(r.Groups, group) {
		return false, false
	}
	if r.Policy != "" && !l.blocked && (action == resolver.Blocked || action == resolver.Denied) {
		l.left++
		return false, true
	}
	return true, false
}
