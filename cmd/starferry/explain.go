package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/node"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/policy/match"
)

// An explaining is one run of the command.
type explaining struct {
	node    nodeFlag
	offline bool
	asJSON  bool
	device  string
	devices string // the file that has it, for an egress
	rrtype  string
	flow    string
	posture string   // what is assumed offline
	answers []string // likewise: ADDRESS or ADDRESS/COUNTRY
}

func explainCommand() *cobra.Command {
	var x explaining
	cmd := &cobra.Command{
		Use:   "explain NAME|ADDRESS [--device DEVICE] [--flow tcp/443]",
		Short: "Say what would happen to a name, or to a flow, and why",
		Long: `Explain shows which policies are looked at, which decides and why, what is demanded
and how the device stands, the way that the traffic would take, and of what is not
allowed the smallest changes after which it would be. With --flow it does so of a
flow of the device to a steered name, or to a virtual address. It asks the running
node. Where none answers, or with --offline, --posture or --answer, it decides from
the files: then it knows no report, no lease, and no answer but those given.`,
		Example: `  starferry explain www.taobao.com --device alice-laptop
  starferry explain www.example.com --device alice-laptop --posture passed --answer 203.0.113.9/CN
  starferry explain 198.19.0.7 --flow tcp/22 --device alice-laptop
  starferry explain www.taobao.com --flow udp/443 --device alice-laptop --posture passed -c egress.yaml --devices devices.yaml`,
		Args: args("one name or address", cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return x.run(cmd, args[0]) },
	}
	x.node.add(cmd)
	f := cmd.Flags()
	f.StringVar(&x.device, "device", "", "who asks; empty: nobody that is known")
	f.StringVar(&x.devices, "devices", "", "with files of an egress: the gateway's file of devices")
	f.StringVar(&x.rrtype, "type", "A", "DNS type of the question; of a flow A for IPv4, AAAA for IPv6")
	f.StringVar(&x.flow, "flow", "", "a flow to the name, by what it wants to reach: tcp/443, udp/443 or icmp")
	f.BoolVar(&x.offline, "offline", false, "decide from the files")
	f.StringVar(&x.posture, "posture", "unknown", "with files: how the device stands by every profile: passed, failed or unknown")
	f.StringSliceVar(&x.answers, "answer", nil, "with files: an address of the answer, ADDRESS or ADDRESS/COUNTRY; may be repeated")
	f.BoolVar(&x.asJSON, "json", false, "print JSON")
	if err := cmd.RegisterFlagCompletionFunc("device", deviceNames); err != nil {
		panic(err) // only for a flag that is not there
	}
	return cmd
}

func gatewayFile() string { return filepath.Join(configs.Folder(), "gateway.yaml") }

func (x *explaining) run(cmd *cobra.Command, name string) error {
	q, err := x.query(name)
	if err != nil {
		return usageError{err}
	}
	fromFiles := x.offline || cmd.Flags().Changed("posture") || len(x.answers) > 0 || x.devices != ""
	if fromFiles && (x.node.demo || x.node.socket != "") {
		return usageError{errors.New("--offline, --posture, --answer and --devices decide from files, not by a running node")}
	}
	if fromFiles && q.Name == "" {
		return usageError{errors.New(onlyLeased(name))}
	}
	if !fromFiles {
		asked := control.Question{Name: cmp.Or(q.Name, name), Device: x.device, Type: strings.ToUpper(x.rrtype), Flow: x.flow}
		if q.Name == "" && !cmd.Flags().Changed("type") {
			asked.Type = ""
		}
		err := x.online(cmd, asked)
		switch {
		case !errors.Is(err, control.ErrNobody) || x.node.demo || x.node.socket != "":
			return err
		case q.Name == "":
			return fmt.Errorf("%w; %s", err, onlyLeased(name))
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%v: deciding from the files\n", err)
	}
	return x.decide(cmd, q)
}

func onlyLeased(addr string) string {
	return "which name " + addr + " stands for, only the running node knows: give the name"
}

// query reads what was asked, without who asks. Of a flow to an address there is
// no name yet.
func (x *explaining) query(name string) (*policy.Query, error) {
	q := &policy.Query{Now: time.Now()}
	addr, err := netip.ParseAddr(name)
	switch {
	case err != nil:
		if q.Name, err = match.Clean(name); err != nil {
			return nil, err
		}
	case x.flow == "":
		return nil, fmt.Errorf("%s is an address: say what a flow to it is, such as --flow tcp/443, or give a name", name)
	case addr.Zone() != "":
		return nil, fmt.Errorf("%s: virtual addresses have no zone", name)
	}
	var ok bool
	if q.Type, ok = dns.StringToType[strings.ToUpper(x.rrtype)]; !ok {
		return nil, fmt.Errorf("%q is no DNS type", x.rrtype)
	}
	if !slices.Contains([]string{"passed", "failed", "unknown"}, x.posture) {
		return nil, fmt.Errorf("--posture %q is none of passed, failed, unknown", x.posture)
	}
	if x.flow == "" {
		return q, nil
	}
	to, err := policy.ParseService(x.flow)
	if err != nil {
		return nil, fmt.Errorf("--flow %w", err)
	}
	q.Flow = &to
	_, err = node.FlowFamily(q.Type)
	return q, err
}

func (x *explaining) online(cmd *cobra.Command, q control.Question) error {
	socket, err := x.socket()
	if err != nil {
		return err
	}
	text, err := control.Client(socket).Explain(cmd.Context(), q, x.asJSON)
	if err != nil {
		return err
	}
	_, err = io.WriteString(cmd.OutOrStdout(), text)
	return err
}

// socket returns where to ask: the gateway's, unless another node is named.
func (x *explaining) socket() (string, error) {
	switch {
	case x.node.demo:
		all, err := demoSockets()
		if err != nil {
			return "", err
		}
		return all[0], nil
	case x.node.socket != "":
		return x.node.socket, nil
	}
	n, err := configs.LoadNode(configs.OS, cmp.Or(x.node.config, gatewayFile()))
	if err != nil {
		return "", err
	}
	return n.Control, nil
}
