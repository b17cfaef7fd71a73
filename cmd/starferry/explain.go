package main

import (
	"cmp"
	"encoding/json"
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
	"github.com/starferry/starferry/device/posture"
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
	rrtype  string
	posture string   // what is assumed offline
	answers []string // likewise: ADDRESS or ADDRESS/COUNTRY
}

func explainCommand() *cobra.Command {
	var x explaining
	cmd := &cobra.Command{
		Use:   "explain NAME [--device DEVICE]",
		Short: "Say what would happen to a name, and why",
		Long: `Explain shows which policies are looked at, which decides and why, what is demanded
and how the device stands, the way that the traffic would take, and of what is not
allowed the smallest changes after which it would be. It asks the running node. Where none answers, or with --offline, --posture or --answer, it
decides from the files: then it knows no report, and no answer but those given.`,
		Example: `  starferry explain www.taobao.com --device alice-laptop
  starferry explain www.example.com --device alice-laptop --posture passed --answer 203.0.113.9/CN`,
		Args: args("one name", cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return x.run(cmd, args[0]) },
	}
	x.node.add(cmd)
	f := cmd.Flags()
	f.StringVar(&x.device, "device", "", "who asks; empty: nobody that is known")
	f.StringVar(&x.rrtype, "type", "A", "DNS type of the question")
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
	fromFiles := x.offline || cmd.Flags().Changed("posture") || len(x.answers) > 0
	if fromFiles && (x.node.demo || x.node.socket != "") {
		return usageError{errors.New("--offline, --posture and --answer decide from files, not by a running node")}
	}
	if !fromFiles {
		err := x.online(cmd, q.Name)
		if !errors.Is(err, control.ErrNobody) || x.node.demo || x.node.socket != "" {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%v: deciding from the files\n", err)
	}
	return x.decide(cmd, q)
}

// query reads what was asked, without who asks.
func (x *explaining) query(name string) (*policy.Query, error) {
	clean, err := match.Clean(name)
	if err != nil {
		return nil, err
	}
	t, ok := dns.StringToType[strings.ToUpper(x.rrtype)]
	if !ok {
		return nil, fmt.Errorf("%q is no DNS type", x.rrtype)
	}
	if !slices.Contains([]string{"passed", "failed", "unknown"}, x.posture) {
		return nil, fmt.Errorf("--posture %q is none of passed, failed, unknown", x.posture)
	}
	return &policy.Query{Name: clean, Type: t, Now: time.Now()}, nil
}

func (x *explaining) online(cmd *cobra.Command, name string) error {
	socket, err := x.socket()
	if err != nil {
		return err
	}
	text, err := control.Client(socket).Explain(cmd.Context(),
		control.Question{Name: name, Device: x.device, Type: strings.ToUpper(x.rrtype)}, x.asJSON)
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

// decide answers from the files.
func (x *explaining) decide(cmd *cobra.Command, q *policy.Query) error {
	answers, countries, err := x.assumed()
	if err != nil {
		return usageError{err}
	}
	path := cmp.Or(x.node.config, gatewayFile())
	set, err := configs.LoadLenient(withCountries(countries), path)
	switch {
	case err != nil:
		return fmt.Errorf("%s cannot be used:\n%w", path, err)
	case set.Policy == nil:
		return fmt.Errorf("%s has no policy: a connector decides nothing", path)
	}
	warnMissing(cmd, set)
	if len(answers) > 0 {
		q.Answered, q.Answer = true, []policy.Hop{{Name: q.Name, Addrs: answers}}
	}
	if q.Asker, err = x.asker(set, q.Now); err != nil {
		return err
	}
	out, d := node.Explain(set.Policy, q)
	if d.Then.Action == policy.Steer && d.Denied == "" && !d.NeedAnswer && !(set.Gateway != nil && out.LacksWay(&q.Asker, &d.Then)) {
		out.Way = way(set, d.Then.Route)
	}
	if x.asJSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(out)
	}
	text := out.String()
	if d.NeedAnswer {
		text += "the answer decides: give it with --answer ADDRESS/COUNTRY\n"
	}
	_, err = io.WriteString(cmd.OutOrStdout(), text)
	return err
}

// assumed reads the answer that is to be assumed, and the countries of its
// addresses.
func (x *explaining) assumed() (addrs []netip.Addr, countries map[netip.Prefix]string, err error) {
	countries = map[netip.Prefix]string{}
	for _, s := range x.answers {
		addr, country, known := strings.Cut(s, "/")
		a, err := netip.ParseAddr(addr)
		if err != nil || a.Zone() != "" || known && len(country) != 2 {
			return nil, nil, fmt.Errorf("--answer %q: want an address, or an address and a country such as 203.0.113.9/CN", s)
		}
		addrs = append(addrs, a.Unmap())
		if known {
			countries[netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())] = strings.ToUpper(country)
		}
	}
	return addrs, countries, nil
}

// withCountries opens files, and in the place of a country database one that
// holds what is assumed.
func withCountries(countries map[netip.Prefix]string) configs.Opener {
	return func(path string) (io.ReadCloser, error) {
		if len(countries) > 0 && filepath.Ext(path) == ".mmdb" {
			return configs.Countries(countries)
		}
		return configs.OS(path)
	}
}

// asker is who asks, by the evidence that the device's packets would give.
func (x *explaining) asker(set *configs.Set, now time.Time) (policy.Asker, error) {
	if x.device == "" {
		return policy.Asker{}, nil
	}
	if set.Gateway == nil {
		return policy.Asker{}, errors.New("an egress has no file of devices: ask the gateway, or the running egress")
	}
	d, err := findDevice(set, x.device)
	if err != nil {
		return policy.Asker{}, err
	}
	a := policy.Asker{Device: d, Kind: d.Kind, Verdicts: posture.Verdicts{}}
	if len(d.Overlay) > 0 {
		a.Source = d.Overlay[0].Addr()
	}
	for _, p := range set.Policy.Profiles() {
		switch x.posture {
		case "passed":
			a.Verdicts[p.Name] = posture.Verdict{Result: posture.Passed, Expires: now.Add(p.MaxAge)}
		case "failed":
			a.Verdicts[p.Name] = posture.Verdict{Result: posture.Failed, Reason: "assumed by --posture"}
		}
	}
	return a, nil
}

// way says which nodes a route leads by, as far as the file knows.
func way(set *configs.Set, route string) (lines []string) {
	if e := set.Egress; e != nil {
		for _, name := range via(e.Routes, route) {
			lines = append(lines, "connector "+name)
		}
		return lines
	}
	for _, name := range via(set.Gateway.Routes, route) {
		for _, p := range set.Gateway.Egresses {
			if p.Name == name {
				lines = append(lines, fmt.Sprintf("egress %s at %s", name, p.Endpoint))
			}
		}
	}
	return lines
}

func via(routes []configs.Route, name string) []string {
	for _, r := range routes {
		if r.Name == name {
			return r.Via
		}
	}
	return nil
}
