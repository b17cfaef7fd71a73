package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/control"
)

// A nodeFlag says which running node is meant.
type nodeFlag struct {
	config, socket string
	demo           bool
}

func (f *nodeFlag) add(cmd *cobra.Command) {
	configFlag(cmd, &f.config, "ask the node of this file")
	cmd.Flags().StringVar(&f.socket, "socket", "", "ask at this control socket")
	cmd.Flags().BoolVar(&f.demo, "demo", false, "ask the nodes of your running demo")
	cmd.PreRunE = func(*cobra.Command, []string) error { return f.check() }
}

func (f *nodeFlag) check() error {
	n := 0
	for _, given := range []bool{f.config != "", f.socket != "", f.demo} {
		if given {
			n++
		}
	}
	if n > 1 {
		return usageError{errors.New("only one of --config, --socket and --demo can name a node")}
	}
	return nil
}

var parts = []string{"gateway", "egress", "connector"}

// sockets returns the control sockets that are meant: without a flag, those in
// the usual place that are there.
func (f *nodeFlag) sockets() ([]string, error) {
	switch {
	case f.socket != "":
		return []string{f.socket}, nil
	case f.config != "":
		n, err := configs.LoadNode(configs.OS, f.config)
		if err != nil {
			return nil, err
		}
		return []string{n.Control}, nil
	case f.demo:
		return demoSockets()
	}
	var all []string
	for _, part := range parts {
		all = append(all, configs.DefaultControl(part))
	}
	if found := existing(all); len(found) > 0 {
		return found, nil
	}
	return nil, fmt.Errorf("no node runs here: there is no socket in %s (name one by -c FILE, --socket or --demo)", filepath.Dir(all[0]))
}

func demoSockets() ([]string, error) {
	if err := control.CheckPrivate(control.DemoDir()); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no demo of yours is running: there is no %s", control.DemoDir())
	} else if err != nil {
		return nil, err
	}
	var all []string
	for _, part := range parts {
		all = append(all, control.DemoSocket(part))
	}
	return all, nil
}

func existing(paths []string) (found []string) {
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			found = append(found, p)
		}
	}
	return found
}

func statusCommand() *cobra.Command {
	var f nodeFlag
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [-c FILE | --demo]",
		Short: "Show how running nodes are: policy, links, listeners, upstreams, caches, logs",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return status(cmd, &f, asJSON) },
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one object for each node")
	return cmd
}

// status asks each node. One that does not answer is told of and does not keep
// the others from being shown.
func status(cmd *cobra.Command, f *nodeFlag, asJSON bool) error {
	sockets, err := f.sockets()
	if err != nil {
		return err
	}
	var failed []error
	var shown int
	for _, socket := range sockets {
		s, err := control.Client(socket).Status(cmd.Context())
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if shown++; shown > 1 && !asJSON {
			fmt.Fprintf(cmd.OutOrStdout(), "\n%s\n", strings.Repeat("─", 60))
		}
		if err := printStatus(cmd, s, asJSON); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

func printStatus(cmd *cobra.Command, s *control.Status, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	return s.Print(cmd.OutOrStdout(), time.Now())
}
