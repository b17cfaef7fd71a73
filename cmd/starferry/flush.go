package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/policy/match"
)

func flushCommand() *cobra.Command {
	var f nodeFlag
	var suffix bool
	cmd := &cobra.Command{
		Use:   "flush [NAME] [--suffix] [-c FILE | --demo]",
		Short: "Have running nodes forget cached answers",
		Long: `Flush has nodes forget what they have cached of a name: the answers of resolvers,
and at a gateway those that were given to devices. Without a name it is all that
they have cached. Leases of virtual addresses stay.`,
		Example: "  starferry flush www.example.com\n  starferry flush example.com --suffix",
		Args:    args("at most one name", cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := flushed(args, suffix)
			if err != nil {
				return usageError{err}
			}
			return flush(cmd, &f, name, suffix)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&suffix, "suffix", false, "of all names under it too")
	return cmd
}

// flushed reads the name; empty: all.
func flushed(args []string, suffix bool) (string, error) {
	switch {
	case len(args) > 0:
		return match.Clean(args[0])
	case suffix:
		return "", errors.New("--suffix wants a name")
	}
	return "", nil
}

func flush(cmd *cobra.Command, f *nodeFlag, name string, suffix bool) error {
	sockets, err := f.sockets()
	if err != nil {
		return err
	}
	if len(sockets) > 1 { // an egress has no cache, and nobody has asked for it by name
		sockets = slices.DeleteFunc(sockets, func(s string) bool { return part(s) == "egress" })
	}
	var failed []error
	for _, socket := range sockets {
		n, err := control.Client(socket).Flush(cmd.Context(), name, suffix)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", part(socket), err))
			continue
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s forgotten\n", part(socket), counted(n, "answer"))
	}
	return errors.Join(failed...)
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
