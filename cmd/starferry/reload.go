package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/control"
)

func reloadCommand() *cobra.Command {
	var f nodeFlag
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "reload [-c FILE | --demo]",
		Short: "Have running nodes read their policy and devices anew",
		Long: `Reload does what SIGHUP does, and says what came of it: a node that finds a
mistake keeps what it has. The other settings of a node are read when it starts.

A gateway with a query log in a file says besides how many recent questions the
new policy would answer otherwise, as diff does. The new policy is in force by
then.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return reload(cmd, &f, asJSON) },
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object for each node, on a line")
	return cmd
}

func reload(cmd *cobra.Command, f *nodeFlag, asJSON bool) error {
	sockets, err := f.sockets()
	if err != nil {
		return err
	}
	if len(sockets) > 1 { // a connector has nothing to read anew, and nobody has asked for it by name
		sockets = slices.DeleteFunc(sockets, func(s string) bool { return part(s) == "connector" })
	}
	var failed []error
	for _, socket := range sockets {
		done, err := control.Client(socket).Reload(cmd.Context())
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", part(socket), err))
			continue
		}
		if err := printReloaded(cmd.OutOrStdout(), part(socket), done, asJSON); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

func printReloaded(w io.Writer, node string, done *control.Reloaded, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(struct {
			Node string `json:"node"`
			*control.Reloaded
		}{node, done})
	}
	fmt.Fprintf(w, "%s: reloaded", node)
	switch {
	case done.Same:
		fmt.Fprint(w, ", the policy is as before")
	case done.Changes != nil:
		fmt.Fprintf(w, "\n%s: %s", node, strings.TrimSuffix(done.Changes.Brief(), "\n"))
	}
	_, err := fmt.Fprintln(w)
	return err
}

// part returns what a socket is called: gateway of /run/starferry/gateway.sock.
func part(socket string) string { return strings.TrimSuffix(filepath.Base(socket), ".sock") }
