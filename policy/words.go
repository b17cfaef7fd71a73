package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/rrtype"
	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy/match"
)

// word parses the name of what the policy file itself defines: a policy, list,
// profile. The names of devices, groups and routes stand in other files too and
// are read by [device.ParseName].
func word(s string) (string, error) {
	const more = "-_.@:"
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r > 0x7F || strings.ContainsRune(more, r))
	}
	switch {
	case s == "":
		return "", errors.New("a name must not be empty")
	case len(s) > 100:
		return "", errors.New("a name of more than 100 bytes")
	case strings.IndexFunc(s, bad) >= 0:
		return "", fmt.Errorf("%q is no name: it may hold letters, digits and %s", s, more)
	}
	return s, nil
}

var strengthWords = []string{"none", "weak", "medium", "strong"}

func strength(s string) (device.Strength, error) {
	i, err := yamlpos.Index(strengthWords...)(s)
	return device.Strength(i), err
}

var kinds = []device.Kind{
	device.Unidentified, device.ByNetwork, device.ByServerName, device.ByOption,
	device.ByBinding, device.ByToken, device.ByCertificate, device.ByWireGuard,
}

func kind(s string) (device.Kind, error) {
	i, err := yamlpos.Index(kindNames(kinds)...)(s)
	return kinds[i], err
}

func kindNames(kinds []device.Kind) []string {
	var out []string
	for _, k := range kinds {
		out = append(out, k.String())
	}
	return out
}

// nameParsers read the members of the forms of a name.
var nameParsers = map[string]func(string) (entry, error){
	"exact": func(s string) (entry, error) {
		if strings.Contains(s, "*") {
			return entry{}, yamlpos.Hint(fmt.Errorf("%q is no exact name", s), "wildcards go under pattern:")
		}
		return cleaned(match.Exact, s)
	},
	"suffix": func(s string) (entry, error) {
		rest, ok := strings.CutPrefix(s, "*.")
		if !ok {
			rest, ok = strings.CutPrefix(s, ".")
		}
		if ok {
			return entry{}, yamlpos.Hint(fmt.Errorf("%q is no name", s), fmt.Sprintf("a suffix is written as the name itself: %s", rest))
		}
		return cleaned(match.Tree, s)
	},
	"pattern": func(s string) (entry, error) {
		if !strings.HasPrefix(s, "*") {
			return entry{}, yamlpos.Hint(fmt.Errorf("%q is no pattern", s), "a pattern begins with *. (one label) or **. (one or more)")
		}
		return plainName(s)
	},
}

// plainName reads a name, exact unless it begins with a wildcard.
func plainName(s string) (entry, error) {
	if rest, ok := strings.CutPrefix(s, "**."); ok {
		return cleaned(match.Under, rest)
	}
	if rest, ok := strings.CutPrefix(s, "*."); ok {
		return cleaned(match.One, rest)
	}
	return cleaned(match.Exact, s)
}

func cleaned(k match.Kind, s string) (entry, error) {
	if strings.Contains(s, "*") {
		return entry{}, yamlpos.Hint(fmt.Errorf("%q: a wildcard can only stand in front", s), "*. is one label, **. one or more")
	}
	name, err := match.Clean(s)
	return entry{k, name}, err
}

func countryCode(s string) (string, error) {
	if len(s) != 2 || strings.Trim(strings.ToUpper(s), "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return "", yamlpos.Hint(fmt.Errorf("%q is no country", s), "a country is two letters of ISO 3166: CN")
	}
	return strings.ToUpper(s), nil
}

// prefix parses a prefix, or an address as the prefix of it alone. Bits beyond
// the prefix are a mistake: one that was meant differently.
func prefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, yamlpos.Hint(fmt.Errorf("%q is no network", s), "write it like 192.0.2.0/24 or 2001:db8::/32")
	}
	if p.Masked() != p {
		return netip.Prefix{}, yamlpos.Hint(fmt.Errorf("%q has bits beyond its length", s), fmt.Sprintf("the network is %v", p.Masked()))
	}
	return p, nil
}

// looksNamed reports whether a word can be the name of a list and not a
// mistyped network.
func looksNamed(s string) bool {
	return s != "" && !strings.ContainsAny(s, "/:") && strings.Trim(s, "0123456789.") != ""
}

// addr parses an address of the family that is wanted.
func addr(v6 bool) func(string) (netip.Addr, error) {
	family := "IPv4"
	if v6 {
		family = "IPv6"
	}
	return func(s string) (netip.Addr, error) {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || a.Is4In6() || a.Is6() != v6 {
			return netip.Addr{}, fmt.Errorf("%q is no %s address", s, family)
		}
		return a, nil
	}
}

func anyAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("%q is no address", s)
	}
	return a, nil
}

// port parses tcp/443 and udp/8000-8100.
func port(s string) (Port, error) {
	bad := yamlpos.Hint(fmt.Errorf("%q is no port", s), "write it like tcp/443 or udp/8000-8100")
	proto, nums, ok := strings.Cut(s, "/")
	p := Port{Proto: map[string]uint8{"tcp": protoTCP, "udp": protoUDP}[proto]}
	if !ok || p.Proto == 0 {
		return Port{}, bad
	}
	from, to, ranged := strings.Cut(nums, "-")
	if !ranged {
		to = from
	}
	a, err := strconv.ParseUint(from, 10, 16)
	b, err2 := strconv.ParseUint(to, 10, 16)
	if err != nil || err2 != nil || a == 0 || b < a {
		return Port{}, bad
	}
	p.From, p.To = uint16(a), uint16(b)
	return p, nil
}

// protocol parses the protocol of a flow. ICMP is that of both families.
func protocol(s string) (uint8, error) {
	i, err := yamlpos.Index("tcp", "udp", "icmp")(s)
	return []uint8{protoTCP, protoUDP, protoICMP}[i], err
}

// listener parses where questions come in: the address and port of a listener,
// as the gateway's file has it, or link for those over WireGuard.
func listener(s string) (string, error) {
	if s == "link" {
		return s, nil
	}
	at, err := netip.ParseAddrPort(s)
	if err != nil {
		return "", yamlpos.Hint(fmt.Errorf("%q is no listener", s), `write it as the gateway's file does, like 192.0.2.1:53 or "[::]:853", or link`)
	}
	return at.String(), nil
}

// transport parses how questions come.
func transport(s string) (string, error) { return yamlpos.OneOf("udp", "tcp", "dot", "doh")(s) }

// portRange parses 443 and 8000-8100.
func portRange(s string) (Port, error) {
	p, err := port("tcp/" + s)
	if err != nil {
		return Port{}, yamlpos.Hint(fmt.Errorf("%q is no port", s), "write it like 443 or 8000-8100")
	}
	p.Proto = 0
	return p, nil
}

// String writes a port as policies do, "any" for what may be any.
func (p Port) String() string {
	proto := map[uint8]string{0: "any", protoTCP: "tcp", protoUDP: "udp", protoICMP: "icmp"}[p.Proto]
	switch {
	case p.From == 0:
		return proto
	case p.From == p.To:
		return fmt.Sprintf("%s/%d", proto, p.From)
	}
	return fmt.Sprintf("%s/%d-%d", proto, p.From, p.To)
}

// parseType reads the name of a DNS type, or TYPE123 (RFC 3597, section 5).
func parseType(s string) (uint16, error) {
	n, err := rrtype.Parse(s)
	if err != nil {
		return 0, yamlpos.Hint(err, "a type that has no name here is written TYPE123")
	}
	return n, nil
}

func typeNames(types []uint16) []string {
	var out []string
	for _, t := range types {
		out = append(out, rrtype.Name(t))
	}
	return out
}
