package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/fetch"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/policy/match"
)

func exportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "export", Short: "Write what other programs have to know of a gateway",
		Args: noSuchCommand,
		RunE: func(*cobra.Command, []string) error { return usageError{errors.New("which command: trust-anchors?")} },
	}
	cmd.AddCommand(trustAnchorsCommand())
	return cmd
}

// mostAnchors is how many names unbound, BIND and systemd-resolved load in a few
// seconds: 100,000 take 0.5, 1 and 2 s, a million 8, 22 and 44 s (and BIND 1.3 GB).
const mostAnchors = 200_000

// An anchoring is one run of export trust-anchors.
type anchoring struct {
	config, format string
	most           int

	forged  map[string]bool // names whose answers are made here
	blocked map[string]bool // names for which that is to say that there is nothing
	notes   []string        // what is not covered
}

func trustAnchorsCommand() *cobra.Command {
	x := anchoring{forged: map[string]bool{}, blocked: map[string]bool{}}
	cmd := &cobra.Command{
		Use:   "trust-anchors --format FORMAT [-c gateway.yaml]",
		Short: "Write negative trust anchors for resolvers that validate behind the gateway",
		Long: `A resolver that asks the gateway and validates DNSSEC itself takes an answer that
the gateway has made for forged, and fails. This prints the names for which it must
not validate (RFC 7646): those that a policy steers, overrides or blocks by name,
zones and hosts of the gateway's own, domains of groups of resolvers, and the
reverse names of the pool. What the gateway decides by the answer, or by who asks,
has no names: for those the output has remarks.`,
		Example: "  starferry export trust-anchors --format unbound > /etc/unbound/unbound.conf.d/starferry.conf",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return x.run(cmd.OutOrStdout()) },
	}
	configFlag(cmd, &x.config, "the gateway's file")
	f := cmd.Flags()
	f.StringVar(&x.format, "format", "", "for whom: "+strings.Join(anchorForms(), ", "))
	f.IntVar(&x.most, "most", mostAnchors, "names at most; if there are more, first blocked ones are left out, then names are cut to fewer labels")
	if err := cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(anchorForms(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // only for a flag that is not there
	}
	return cmd
}

// An anchorForm is how a resolver wants negative trust anchors to be written.
// Each covers the name and all under it.
type anchorForm struct{ remark, before, each, after string }

var anchorsOf = map[string]anchorForm{
	"unbound":  {"#", "server:\n", "    domain-insecure: \"%s\"\n", ""},
	"bind":     {"//", "validate-except {\n", "    \"%s\";\n", "};\n"},
	"resolved": {";", "", "%s\n", ""},
}

func anchorForms() []string { return slices.Sorted(maps.Keys(anchorsOf)) }

func (x *anchoring) run(w io.Writer) error {
	form, ok := anchorsOf[x.format]
	if !ok {
		return usageError{fmt.Errorf("--format %q is none of %s", x.format, strings.Join(anchorForms(), ", "))}
	}
	if x.most < 1 {
		return usageError{fmt.Errorf("--most %d: want at least 1", x.most)}
	}
	set, err := loadGateway(x.config)
	if err != nil {
		return err
	}
	if err := x.ofPolicy(set); err != nil {
		return err
	}
	if err := x.ofGateway(set.Gateway); err != nil {
		return err
	}
	names := x.names() // which has remarks too
	about := fmt.Sprintf("Negative trust anchors for what gateway %s answers itself; policy %s.", set.Gateway.Name, set.Policy.Version())
	return form.write(w, names, append([]string{about}, x.notes...))
}

func (f anchorForm) write(w io.Writer, names, notes []string) error {
	var b strings.Builder
	for _, n := range notes {
		fmt.Fprintf(&b, "%s %s\n", f.remark, n)
	}
	if len(names) > 0 {
		b.WriteString(f.before)
		for _, n := range names {
			fmt.Fprintf(&b, f.each, n)
		}
		b.WriteString(f.after)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// ofPolicy takes in the names that rules answer otherwise than the resolvers do.
func (x *anchoring) ofPolicy(set *configs.Set) error {
	rules := set.Policy.Rules()
	for i := range rules {
		r := &rules[i]
		if r.Then.Action == policy.Allow || r.Then.Block == policy.Truncate { // denials are REFUSED, which is signed by nobody
			continue
		}
		to := x.forged
		if onlyBlocks(&r.Then) {
			to = x.blocked
		}
		n := set.Policy.Naming(r)
		for _, m := range n.Names {
			to[m.Name] = true
		}
		for _, l := range n.Lists {
			if err := readNames(set.Gateway, l, to); err != nil {
				return err
			}
		}
		if n.More && !onlyBlocks(&r.Then) {
			x.notes = append(x.notes, fmt.Sprintf("Policy %s (%v) can decide names that it does not say: those are not here.", r.Name, r.At))
		}
	}
	return nil
}

// onlyBlocks reports whether what is done gives no record to anybody.
func onlyBlocks(then *policy.Then) bool {
	empty := []policy.BlockKind{policy.Refused, policy.NXDomain, policy.NoData, policy.Drop}
	return then.Action == policy.Block && slices.Contains(empty, then.Block)
}

func readNames(g *configs.Gateway, l policy.ListInfo, to map[string]bool) error {
	path := l.File
	switch {
	case fetch.IsURL(path):
		path = fetch.Copy(g.ListsDir(), path)
	case !filepath.IsAbs(path):
		path = filepath.Join(filepath.Dir(g.Policy), path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return l.Source.Each(f, func(_ match.Kind, name string) { to[name] = true })
}

// ofGateway takes in the names that the gateway knows itself, and those that it
// asks resolvers of the company about.
func (x *anchoring) ofGateway(g *configs.Gateway) error {
	for _, z := range g.Local.Zones {
		x.forged[z.Name] = true
	}
	for _, path := range g.Local.Hosts {
		if err := x.hosts(path); err != nil {
			return fmt.Errorf("dns.hosts: %w", err)
		}
	}
	for _, u := range g.Upstreams {
		for _, d := range u.Domains {
			x.forged[d] = true
		}
	}
	for _, p := range g.Pool {
		for _, name := range reverseNames(p) {
			x.forged[name] = true
		}
	}
	return nil
}

// hosts takes in the names of a hosts file; the reverse ones lie in zones that
// are not signed or not here.
func (x *anchoring) hosts(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		for _, name := range words[min(1, len(words)):] { // behind the address
			if clean, err := match.Clean(name); err == nil {
				x.forged[clean] = true
			}
		}
	}
	return nil
}

// reverseNames returns the names under which the addresses of a range have their
// PTR records (RFC 1035 section 3.5, RFC 3596 section 2.5).
func reverseNames(p netip.Prefix) (names []string) {
	digit, zone, form := 8, "in-addr.arpa", "%d."
	if p.Addr().Is6() {
		digit, zone, form = 4, "ip6.arpa", "%x."
	}
	whole := (p.Bits() + digit - 1) / digit // digits that are fixed once the last one is chosen
	raw := p.Addr().AsSlice()
	for i := range 1 << (whole*digit - p.Bits()) {
		var b strings.Builder
		for d := whole - 1; d >= 0; d-- {
			v := int(raw[d*digit/8]) >> (8 - digit - d*digit%8) & (1<<digit - 1)
			if d == whole-1 {
				v += i
			}
			fmt.Fprintf(&b, form, v)
		}
		names = append(names, b.String()+zone)
	}
	return names
}

// names returns the names to be written, in the order of their domains, without
// those that lie under another.
func (x *anchoring) names() []string {
	all := maps.Clone(x.forged)
	maps.Copy(all, x.blocked)
	names := widest(all)
	if len(names) > x.most && len(x.blocked) > 0 {
		x.notes = append(x.notes, fmt.Sprintf("Names that are only blocked are left out, %d in all: a resolver that validates fails for them, which blocks too.", len(x.blocked)))
		names = widest(x.forged)
	}
	was, labels := len(names), 4
	for ; len(names) > x.most && labels > 1; labels-- {
		cut := map[string]bool{}
		for _, n := range names {
			cut[lastLabels(n, labels-1)] = true
		}
		names = widest(cut)
	}
	if labels < 4 {
		x.notes = append(x.notes, fmt.Sprintf("%d names are cut to %s: much is not validated that could be.", was, count(labels, "label")))
	}
	return names
}

func widest(set map[string]bool) (names []string) {
	for n := range set {
		under := false
		for rest := n; !under; {
			_, up, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			under, rest = set[up], up
		}
		if !under {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(compareDomains(a, b), cmp.Compare(a, b)) })
	return names
}

// compareDomains orders names by their labels from the right.
func compareDomains(a, b string) int {
	for {
		i, j := strings.LastIndexByte(a, '.'), strings.LastIndexByte(b, '.')
		if c := cmp.Compare(a[i+1:], b[j+1:]); c != 0 || i < 0 || j < 0 {
			return cmp.Or(c, cmp.Compare(i, j))
		}
		a, b = a[:i], b[:j]
	}
}

func lastLabels(name string, n int) string {
	at := len(name)
	for range n {
		if at = strings.LastIndexByte(name[:at], '.'); at < 0 {
			return name
		}
	}
	return name[at+1:]
}
