package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/demo"
)

func demoCommand() *cobra.Command {
	var o demo.Options
	var verbose bool
	cmd := &cobra.Command{
		Use:   "demo [--dns ADDR] [--lan-dns ADDR] [--proxy ADDR]",
		Short: "Run a whole fleet in this process, to try it with dig and curl",
		Long: `Demo runs a gateway, an egress, a connector and a device with real WireGuard
between them on loopback, and a small China behind the connector. It needs no
root and no network, prints what to type, and serves until ^C.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := io.Discard
			if verbose {
				w = cmd.ErrOrStderr()
			}
			log, err := logger(w, "text", verbose)
			if err != nil {
				return err
			}
			o.Log, o.Out, o.Version = log, cmd.OutOrStdout(), version()
			return demo.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.DNS, "dns", demo.DefaultDNS, "where the device's DNS stub listens")
	cmd.Flags().StringVar(&o.LANDNS, "lan-dns", demo.DefaultLANDNS, "where the gateway listens for the office")
	cmd.Flags().StringVar(&o.Proxy, "proxy", demo.DefaultProxy, "where the device's HTTP and SOCKS5 proxy listens")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show what the nodes log, on standard error")
	cmd.AddCommand(&cobra.Command{
		Use:       "posture pass|fail",
		Short:     "Have the running demo's device report that its posture passes or fails",
		Args:      args("pass or fail", cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs)),
		ValidArgs: []string{"pass", "fail"},
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := demo.Posture(cmd.Context(), "", args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), strings.TrimSpace(text))
			return err
		},
	})
	return cmd
}
