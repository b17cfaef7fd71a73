// Command starferry is the gateway, the egress and the connector, and the tools
// of those who run them.
//
// There is one file for each subcommand. A subcommand reads its flags, asks the
// packages that know, and prints; it decides nothing itself. Answers go to
// standard output and everything else to standard error. The exit status is 0
// if all is well, 1 if the news is bad, and 2 if the command was not understood.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

const usage = `Starferry answers a company's DNS by the condition of the device that asks, and
carries what is hosted in China over WireGuard instead of the open route.

Run a node (each from one file; see the examples in configs/):
  starferry gateway -c gateway.yaml        what devices and offices ask
  starferry egress -c egress.yaml          decides a second time, and hands on
  starferry connector -c connector.yaml    stands near the origins

Try it, without root or network:
  starferry demo`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is main with its edges passed in. It returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	var wrong usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errTold):
		return 1
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "starferry: %v\n\nusage: %s\nmore: %s --help\n", err, cmd.UseLine(), cmd.CommandPath())
		return 2
	default:
		fmt.Fprintf(stderr, "starferry: %v\n", err)
		return 1
	}
}

// errTold is the error of a command that has said itself what is wrong.
var errTold = errors.New("already told")

// A usageError is a command that was not understood.
type usageError struct{ error }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "starferry COMMAND",
		Short:         "A DNS gateway that knows who asks",
		Long:          usage,
		Args:          noSuchCommand,
		RunE:          func(*cobra.Command, []string) error { return usageError{errors.New("which command?")} },
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	for _, r := range roles() {
		root.AddCommand(r.command())
	}
	root.AddCommand(checkCommand(), testCommand(), diffCommand(), learnCommand(), explainCommand(), schemaCommand(),
		statusCommand(), reloadCommand(), flushCommand(), queryCommand(), logCommand(), exportCommand(),
		deviceCommand(), keygenCommand(), demoCommand(), versionCommand())
	settle(root)
	return root
}

// settle keeps cobra from writing "[flags]" after use lines that name them, and
// has it suggest commands that are two letters away.
func settle(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	cmd.SuggestionsMinimumDistance = 2
	for _, c := range cmd.Commands() {
		settle(c)
	}
}

// noSuchCommand is asked by a command of subcommands when none of them is meant.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	msg := fmt.Sprintf("unknown command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		msg += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usageError{errors.New(msg)}
}

// args makes a wrong number of arguments a [usageError].
func args(want string, check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		if check(cmd, got) == nil {
			return nil
		}
		return usageError{fmt.Errorf("%s wants %s, got %d arguments", cmd.Name(), want, len(got))}
	}
}

var noArgs = args("no argument", cobra.NoArgs)

// configFlag adds -c to a command that reads a node file.
func configFlag(cmd *cobra.Command, to *string, what string) {
	cmd.Flags().StringVarP(to, "config", "c", "", what)
	if err := cmd.MarkFlagFilename("config", "yaml"); err != nil {
		panic(err) // only for a flag that is not there
	}
}
