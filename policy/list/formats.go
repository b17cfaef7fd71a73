package list

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/starferry/starferry/policy/match"
)

func plainLine(line string, add func(match.Kind, string) error) error {
	line = uncomment(line, "#!;")
	if line == "" {
		return nil
	}
	if strings.ContainsAny(line, " \t") {
		return fmt.Errorf("%q is more than one word", clip(line))
	}
	if rest, ok := strings.CutPrefix(line, "+."); ok {
		return add(match.Tree, rest)
	}
	if rest, ok := strings.CutPrefix(line, "."); ok {
		return add(match.Under, rest)
	}
	return add(match.Split(line))
}

// ownNames are what hosts files call the machine that they lie on.
var ownNames = map[string]bool{
	"localhost": true, "localhost.localdomain": true, "local": true, "broadcasthost": true,
	"ip6-localhost": true, "ip6-loopback": true, "ip6-localnet": true, "ip6-mcastprefix": true,
	"ip6-allnodes": true, "ip6-allrouters": true, "ip6-allhosts": true,
}

func hostsLine(line string, add func(match.Kind, string) error) error {
	words := strings.Fields(uncomment(line, "#!"))
	if len(words) == 0 {
		return nil
	}
	if _, err := netip.ParseAddr(words[0]); err != nil {
		return fmt.Errorf("%q is no address", clip(words[0]))
	}
	if len(words) == 1 {
		return errors.New("an address without a name")
	}
	var errs []error
	for _, name := range words[1:] {
		if _, err := netip.ParseAddr(name); err == nil || ownNames[strings.ToLower(name)] {
			continue // "0.0.0.0 0.0.0.0" stands at the head of many files
		}
		if err := add(match.Exact, name); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// dnsmasqKeys are the options whose value begins with /name/ or /name/name/.
var dnsmasqKeys = map[string]bool{"server": true, "local": true, "address": true, "ipset": true, "nftset": true}

func dnsmasqLine(line string, add func(match.Kind, string) error) error {
	line = uncomment(line, "#")
	if line == "" {
		return nil
	}
	key, value, ok := strings.Cut(line, "=")
	if key = strings.TrimSpace(key); !ok || !dnsmasqKeys[key] {
		return fmt.Errorf("%q names no domain", clip(line))
	}
	parts := strings.Split(strings.TrimSpace(value), "/")
	if len(parts) < 3 || parts[0] != "" {
		return fmt.Errorf("%q names no domain", clip(line))
	}
	names, target := parts[1:len(parts)-1], parts[len(parts)-1]
	if target == "#" && key == "server" {
		return errors.New("an exception (server=/.../#) is not supported")
	}
	var errs []error
	for _, name := range names {
		if err := dnsmasqName(name, add); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func dnsmasqName(name string, add func(match.Kind, string) error) error {
	if name == "#" {
		return errors.New(`"#" is every name`)
	}
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		return add(match.Under, rest) // dnsmasq's star is any text
	}
	return add(match.Tree, strings.TrimPrefix(name, "."))
}

func adblockLine(line string, add func(match.Kind, string) error) error {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '!' || line[0] == '#' || line[0] == '[' {
		return nil
	}
	if strings.HasPrefix(line, "@@") {
		return errors.New("an exception (@@) is not supported")
	}
	name, ok := strings.CutPrefix(line, "||")
	if !ok {
		return errors.New("not of the form ||name^")
	}
	name, options, ok := strings.Cut(name, "^")
	switch {
	case !ok || strings.Contains(name, "*"):
		return errors.New("not of the form ||name^")
	case options != "" && options != "|":
		// Half of a rule would block more than its author meant.
		return fmt.Errorf("the modifier %q is not supported", clip(options))
	}
	return add(match.Tree, name)
}
