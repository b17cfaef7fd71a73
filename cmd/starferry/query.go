package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/policy/match"
)

func queryCommand() *cobra.Command {
	var x explaining // for whom and where to ask
	cmd := &cobra.Command{
		Use:   "query NAME [TYPE] [--device DEVICE] [-c FILE | --demo]",
		Short: "Ask the running gateway as one of its devices would",
		Long: `Query puts a question to the gateway in the name of a device, and prints the answer
as dig does, after who was taken to ask. The question is a real one: it counts, is
logged, and may lease a virtual address. Without --device it comes from the only
network that the gateway knows, if there is just one.`,
		Example: "  starferry query www.taobao.com --device alice-laptop\n  starferry query example.com MX --device office",
		Args:    args("a name and at most one type", cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := questionOf(args)
			if err != nil {
				return usageError{err}
			}
			q.Device = x.device
			return query(cmd, &x, q)
		},
	}
	x.node.add(cmd)
	cmd.Flags().StringVar(&x.device, "device", "", "who asks")
	if err := cmd.RegisterFlagCompletionFunc("device", deviceNames); err != nil {
		panic(err) // only for a flag that is not there
	}
	return cmd
}

// questionOf reads a name and a type.
func questionOf(args []string) (q control.Question, err error) {
	if q.Name, err = match.Clean(args[0]); err != nil {
		return q, err
	}
	q.Type = "A"
	if len(args) > 1 {
		q.Type = strings.ToUpper(args[1])
	}
	if _, ok := dns.StringToType[q.Type]; !ok {
		return q, fmt.Errorf("%q is no DNS type", args[1])
	}
	return q, nil
}

func query(cmd *cobra.Command, x *explaining, q control.Question) error {
	socket, err := x.socket()
	if err != nil {
		return err
	}
	text, err := control.Client(socket).Query(cmd.Context(), q)
	if err != nil {
		return err
	}
	_, err = io.WriteString(cmd.OutOrStdout(), text)
	return err
}
