// Command profile writes the files of a gateway that is to be checked from
// outside, as integration/kit.sh does: a key, its policy and devices, and for the
// encrypted listeners an authority (ca.pem) with a certificate of the name
// dns.kit.example and the listeners' address. All of 127.0.0.0/8 is one identified
// network, nothing is limited, and the policy is either to allow the names of the
// checks, or a list of rules that is read from JSON.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/starferry/starferry/integration/authority"
	"github.com/starferry/starferry/tunnel/link"
)

// A profile is what differs between the gateways that are checked.
type profile struct {
	listen   netip.Addr
	upstream netip.AddrPort
	rules    string // a file of them; empty: the names of the checks are allowed
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("profile: ")
	var p profile
	flag.TextVar(&p.listen, "listen", netip.AddrFrom4([4]byte{127, 9, 0, 2}), "where the gateway listens: DNS at port 5300, DoT at 8853, DoH at 8443")
	flag.TextVar(&p.upstream, "upstream", netip.AddrPort{}, "the only resolver behind it")
	flag.StringVar(&p.rules, "rules", "", "file of rules, which become the policy in their order")
	flag.Parse()
	if flag.NArg() != 1 || !p.upstream.IsValid() {
		log.Fatal("usage: profile -upstream ADDRESS:PORT [-listen ADDRESS] [-rules FILE] FOLDER")
	}
	if err := p.write(flag.Arg(0)); err != nil {
		log.Fatal(err)
	}
}

func (p *profile) write(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	policy := allowed
	if p.rules != "" {
		if policy, err = policyOf(p.rules); err != nil {
			return err
		}
	}
	pem, err := authority.New("dns.kit.example", p.listen)
	if err != nil {
		return err
	}
	files := map[string]string{
		"ca.pem": pem.CA, "dns.pem": pem.Cert, "dns.key": pem.Key,
		"gateway.key":  link.NewPrivateKey().String() + "\n",
		"devices.yaml": devices,
		"policy.yaml":  policy,
	}
	protect := "on"
	if p.rules != "" {
		protect = "off" // the rules' answers are of any network
	}
	files["gateway.yaml"] = strings.NewReplacer("@DIR@", dir, "@LISTEN@", p.listen.String(), "@UPSTREAM@", p.upstream.String(), "@PROTECT@", protect).Replace(gateway)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return os.Chmod(filepath.Join(dir, "ca.pem"), 0o644) // for clients, which are other users
}

// A rule is one of a list in which the first that matches decides.
type rule struct {
	ID    string
	Match struct {
		Kind, Value string // exact, suffix, subdomains: a name; ip: a network of addresses in the answer
	}
	Action struct {
		Type, Data string // allow, nxdomain, nodata, drop; a, cname: with data
	}
}

// policyOf writes a file of rules as a policy, with an allow at the end.
func policyOf(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var rules []rule
	if err := json.Unmarshal(b, &rules); err != nil {
		return "", fmt.Errorf("reading %s: %w", file, err)
	}
	var out strings.Builder
	out.WriteString("policies:\n")
	for _, r := range rules {
		line, err := r.policy()
		if err != nil {
			return "", fmt.Errorf("%s: rule %q: %w", file, r.ID, err)
		}
		out.WriteString(line)
	}
	out.WriteString("  - {name: rest, then: allow}\n")
	return out.String(), nil
}

func (r *rule) policy() (string, error) {
	cond, ok := map[string]string{
		"exact":      "name: {exact: %q}",
		"suffix":     "name: {suffix: %q}",
		"subdomains": "name: {pattern: \"**.%s\"}",
		"ip":         "answer: {network: %q}, type: [A, AAAA]", // of the answer itself: an answer of type TXT has none
	}[r.Match.Kind]
	if !ok {
		return "", fmt.Errorf("no such condition: %q", r.Match.Kind)
	}
	then := r.Action.Type
	switch then {
	case "allow":
	case "nxdomain", "nodata", "drop":
		then = "{block: " + then + "}"
	case "a", "cname":
		then = fmt.Sprintf("{override: {%s: %q}}", then, r.Action.Data)
	default:
		return "", fmt.Errorf("no such action: %q", then)
	}
	return fmt.Sprintf("  - {name: %q, if: {%s}, then: %s}\n", r.ID, fmt.Sprintf(cond, r.Match.Value), then), nil
}
