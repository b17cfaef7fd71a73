package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/internal/priority"
	"github.com/starferry/starferry/node"
	"github.com/starferry/starferry/policy"
)

// A role is what a machine can be in the fleet. run runs its node until ctx is
// done; how a policy and devices are read, and read anew, is load.
type role struct {
	name, short string
	early       bool // it listens before it reads more than its own file
	run         func(ctx context.Context, set *configs.Set, load func() (*configs.Set, error), lists *node.Lists, log *slog.Logger) error
}

// command is the subcommand that runs a node of the role.
func (r role) command() *cobra.Command {
	var config, format string
	var verbose bool
	var loader configs.Loader
	cmd := &cobra.Command{
		Use: r.name + " [-c FILE]", Short: r.short, Args: noArgs,
		Example: "  starferry " + r.name + " -c /etc/starferry/" + r.name + ".yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := cmp.Or(config, filepath.Join(configs.DefaultFolder, r.name+".yaml"))
			log, err := logger(cmd.ErrOrStderr(), format, verbose)
			if err != nil {
				return err
			}
			if err := priority.Prompt(); err != nil {
				log.Debug("asking the kernel for short slices", "err", err)
			}
			lists, err := r.fetched(cmd.Context(), &loader, path, log)
			if err != nil {
				return err
			}
			load := r.loading(&loader, path, log)
			set, err := r.settings(path, load)
			if err != nil {
				return err
			}
			return r.run(cmd.Context(), set, load, lists, log)
		},
	}
	configFlag(cmd, &config, "the node's file (default "+configs.DefaultFolder+"/"+r.name+".yaml)")
	cmd.Flags().StringVar(&format, "log", "text", "form of the log: text or json")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}

// fetched makes what fetches the lists of the policy, and has the loader use it.
func (r role) fetched(ctx context.Context, loader *configs.Loader, path string, log *slog.Logger) (*node.Lists, error) {
	set, err := configs.LoadAlone(configs.OS, path)
	if err != nil || set.Connector != nil {
		return nil, nil // what is wrong shows when all is loaded; a connector has no policy
	}
	lists, err := node.NewLists(set, log)
	if err != nil {
		return nil, err
	}
	loader.Copies = configs.Copies{Want: func(all []policy.Download) { lists.Want(ctx, all) }, Open: lists.Open}
	return lists, nil
}

// settings returns those of the node. One that listens early reads what else
// there is later.
func (r role) settings(path string, load func() (*configs.Set, error)) (*configs.Set, error) {
	if !r.early {
		return load()
	}
	set, err := configs.LoadAlone(configs.OS, path)
	return set, r.unusable(path, set, err)
}

// loading returns what reads all files. The first time mistakes are those of a
// node that cannot start. Warnings are logged that were not there the time before.
func (r role) loading(loader *configs.Loader, path string, log *slog.Logger) func() (*configs.Set, error) {
	loads := 0
	var told []string
	return func() (*configs.Set, error) {
		loads++
		set, err := loader.Load(configs.OS, path)
		if err == nil || loads == 1 {
			err = r.unusable(path, set, err)
		}
		if err != nil {
			return nil, err
		}
		for _, text := range set.Warnings {
			if !slices.Contains(told, text) {
				log.Warn(text)
			}
		}
		told = set.Warnings
		return set, nil
	}
}

// unusable is the error of files that no node of the role can start with.
func (r role) unusable(path string, set *configs.Set, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("%s cannot be used:\n%w", path, err)
	case set.Role() != r.name:
		return fmt.Errorf("%s has role %s, not %s", path, set.Role(), r.name)
	}
	return nil
}

func logger(w io.Writer, format string, verbose bool) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{}
	if verbose {
		opts.Level = slog.LevelDebug
	}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, usageError{fmt.Errorf("--log %q is neither text nor json", format)}
}
