package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/control"
)

func reloadCommand() *cobra.Command {
	var f nodeFlag
	cmd := &cobra.Command{
		Use:   "reload [-c FILE | --demo]",
		Short: "Have running nodes read their policy and devices anew",
		Long: `Reload does what SIGHUP does, and says what came of it: a node that finds a
mistake keeps what it has. The other settings of a node are read when it starts.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return reload(cmd, &f) },
	}
	f.add(cmd)
	return cmd
}

func reload(cmd *cobra.Command, f *nodeFlag) error {
	sockets, err := f.sockets()
	if err != nil {
		return err
	}
	if len(sockets) > 1 { // a connector has nothing to read anew, and nobody has asked for it by name
		sockets = slices.DeleteFunc(sockets, func(s string) bool { return part(s) == "connector" })
	}
	var failed []error
	for _, socket := range sockets {
		if err := control.Client(socket).Reload(cmd.Context()); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", part(socket), err))
			continue
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: reloaded\n", part(socket))
	}
	return errors.Join(failed...)
}

// part returns what a socket is called: gateway of /run/starferry/gateway.sock.
func part(socket string) string { return strings.TrimSuffix(filepath.Base(socket), ".sock") }
