package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/node"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/state"
)

// decide answers from the files.
func (x *explaining) decide(cmd *cobra.Command, q *policy.Query) error {
	answers, countries, err := x.assumed()
	if err != nil {
		return usageError{err}
	}
	set, err := x.load(countries)
	if err != nil {
		return err
	}
	warnMissing(cmd, set)
	if len(answers) > 0 {
		q.Answered, q.Answer = true, []policy.Hop{{Name: q.Name, Addrs: answers}}
	}
	unknown := "the answer decides: give it with --answer ADDRESS/COUNTRY\n"
	if q.Flow != nil {
		unknown = "the flow is decided by what answers this question: give it with --answer ADDRESS/COUNTRY\n"
		q, err = x.flowQuery(set, q)
	} else {
		q.Asker, err = x.asker(set, q.Now)
	}
	if err != nil {
		return err
	}
	out, d := node.Explain(set.Policy, q)
	steered := d.Then.Action == policy.Steer && d.Denied == "" && !d.NeedAnswer
	if steered && (q.Flow != nil || set.Gateway == nil || !out.LacksWay(&q.Asker, &d.Then)) {
		out.Way = way(set, d.Then.Route)
	}
	if x.asJSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(out)
	}
	text := out.String()
	if d.NeedAnswer {
		text += unknown
	}
	_, err = io.WriteString(cmd.OutOrStdout(), text)
	return err
}

// load reads the node's files, and those of the devices if they are not its own.
func (x *explaining) load(countries map[netip.Prefix]string) (*configs.Set, error) {
	path := cmp.Or(x.node.config, gatewayFile())
	set, err := configs.LoadLenient(withCountries(countries), path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s cannot be used:\n%w", path, err)
	case set.Policy == nil:
		return nil, fmt.Errorf("%s has no policy: a connector decides nothing", path)
	case x.devices == "":
		return set, nil
	case set.Gateway != nil:
		return nil, usageError{fmt.Errorf("%s names its file of devices itself: --devices is for an egress", path)}
	}
	if set.Devices, err = configs.LoadDevices(configs.OS, x.devices); err != nil {
		return nil, fmt.Errorf("%s cannot be used:\n%w", x.devices, err)
	}
	return set, nil
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
	d, err := x.known(set)
	if err != nil {
		return policy.Asker{}, err
	}
	a := policy.Asker{Device: d, Kind: d.Kind, Source: d.Source(), Verdicts: posture.Verdicts{}}
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

// known returns the device as the node knows it.
func (x *explaining) known(set *configs.Set) (*device.Device, error) {
	if set.Gateway != nil {
		return findDevice(set, x.device)
	}
	if x.devices == "" {
		return nil, errors.New("an egress has no file of devices: give the gateway's (--devices devices.yaml), or ask the running egress")
	}
	for _, d := range set.Devices {
		if string(d.ID) == x.device {
			return inside(d), nil
		}
	}
	return nil, fmt.Errorf("%s knows no device %q", x.devices, x.device)
}

// flowQuery is what a flow puts to the policy, as it does at the node. If the
// addresses that it would be judged by are not known it is the question for the
// name, which would bring them.
func (x *explaining) flowQuery(set *configs.Set, q *policy.Query) (*policy.Query, error) {
	if x.device == "" {
		return nil, usageError{errors.New("whose flow? give --device; see starferry device list")}
	}
	a, err := x.asker(set, q.Now)
	if err != nil {
		return nil, err
	}
	v6, err := node.FlowFamily(q.Type)
	if err != nil {
		return nil, err
	}
	dir, err := directory(set)
	if err != nil {
		return nil, err
	}
	a.Source, err = node.FlowSource(dir, a.Device, v6, set.Gateway != nil && set.Gateway.TUN != "")
	if err != nil {
		return nil, err
	}
	if !q.Answered {
		question := *q
		question.Flow, question.Asker = nil, a
		if d := set.Policy.Decide(&question); d.NeedAnswer {
			return &question, nil
		}
	}
	return node.FlowQuery(q.Name, v6, q.Answer, a, *q.Flow, q.Now), nil
}

// directory says who sends from an address, as the node's own does.
func directory(set *configs.Set) (*state.Directory, error) {
	var devices []*device.Device
	for _, d := range set.Devices {
		if set.Gateway == nil {
			d = inside(d)
		}
		devices = append(devices, d)
	}
	store := state.New()
	err := store.Update(func(tx state.Tx) error { return tx.ReplaceDevices(devices) })
	return store.Directory(), err
}

// inside returns a device as an egress knows it: only by what is inside the fleet.
func inside(d *device.Device) *device.Device {
	known := *d
	known.LAN = nil
	return &known
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
