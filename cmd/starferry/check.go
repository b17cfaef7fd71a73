package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/configs"
)

func checkCommand() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:   "check [FILE or FOLDER]...",
		Short: "Say everything that is wrong with configuration files",
		Long: `Check reads node files, policies and devices together, with all lists that they
name, and says every mistake in any of them: its place, the line, and what to do.
It warns of policies that work and hardly as they are meant: conditions that are
always or never true, policies that never decide, and more, each with an example.
A folder stands for its YAML files. Without arguments it checks ./configs or,
where that is not, ` + configs.DefaultFolder + `. The exit status is 1 if there is a mistake.`,
		Example: "  starferry check configs\n  starferry check gateway.yaml egress.yaml",
		RunE: func(cmd *cobra.Command, paths []string) error {
			if len(paths) == 0 {
				paths = []string{configs.Folder()}
			}
			return check(cmd, paths, quiet)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "say nothing of warnings, nor if all is well")
	return cmd
}

func check(cmd *cobra.Command, paths []string, quiet bool) error {
	r := configs.Check(paths)
	for _, w := range r.Warnings {
		if !quiet {
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: %v\n", w)
		}
	}
	for _, err := range r.Mistakes {
		fmt.Fprintln(cmd.ErrOrStderr(), err)
	}
	if n := len(r.Mistakes); n > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s in %s\n", count(n, "mistake"), count(len(r.Files), "file"))
		return errTold
	}
	if !quiet {
		fmt.Fprintf(cmd.OutOrStdout(), "%s, no mistake\n", count(len(r.Files), "file"))
	}
	return nil
}

func count(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}
