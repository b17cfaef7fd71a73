package list

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/starferry/starferry/policy/match"
)

// An rpzRule is one rule of a response policy zone. It is good until the next
// line is read.
type rpzRule struct {
	owner   []byte // relative to the zone, without the label of the trigger
	trigger string // that label; empty where the asked name triggers
	action  string
	target  string // of a cname
	data    rpzData
}

// An rpzData is what a record of local data says.
type rpzData struct {
	typ   []byte
	words [][]byte
	ttl   spanSaid
	zone  *zone
}

// What is selected of a zone: actions, and for networks the trigger.
var (
	rpzActions  = []string{"nxdomain", "nodata", "drop", "tcp-only", "passthru", "local", "cname"}
	rpzBlocks   = []string{"nxdomain", "nodata", "drop"}
	rpzTriggers = map[string]string{ResponseIP: "rpz-ip", ClientIP: "rpz-client-ip"}
)

// The triggers of a zone that are networks, as they are selected.
const (
	ResponseIP = "response-ip"
	ClientIP   = "client-ip"
)

// A selection is what of a zone goes into a set. A rule that does something
// else takes its name out of a wider one's, since in a zone the rule that is
// closest to the name decides.
type selection struct {
	actions []string
	targets []string // of cname:TARGET
	trigger string
}

// selection reads what is selected of a zone.
func (s Source) selection(triggers map[string]string) (sel selection, err error) {
	for _, word := range s.Select {
		target, rewrites := strings.CutPrefix(word, "cname:")
		switch {
		case rewrites:
			clean, err := match.Clean(strings.TrimPrefix(target, "*."))
			if err != nil {
				return sel, fmt.Errorf("list %s: select: %w", s.Name, err)
			}
			sel.targets = append(sel.targets, target[:len(target)-len(strings.TrimPrefix(target, "*."))]+clean)
		case triggers[word] != "" && sel.trigger == "":
			sel.trigger = triggers[word]
		case slices.Contains(rpzActions, word):
			sel.actions = append(sel.actions, word)
		default:
			return sel, fmt.Errorf("list %s: select: %q is nothing that a zone has: want some of %q or cname:TARGET", s.Name, word, rpzActions)
		}
	}
	if sel.actions == nil && sel.targets == nil {
		sel.actions = rpzBlocks
	}
	return sel, nil
}

func (sel *selection) has(r *rpzRule) bool {
	return slices.Contains(sel.actions, r.action) || r.action == "cname" && slices.Contains(sel.targets, r.target)
}

// other says of a rule that is not selected that it was left out; of an
// exception there is nothing to say, it was heeded.
func (r *rpzRule) other() error {
	if r.action == "passthru" {
		return nil
	}
	return notSelected(r.action)
}

func notSelected(action string) beyond {
	return beyond("the action " + action + " where it is not selected")
}

func newZoneNames(s Source) (nameReader, error) {
	sel, err := s.selection(nil)
	if err != nil {
		return nil, err
	}
	var to *collector
	take := func(r rpzRule) error { return r.name(&sel, to) } // made once, not for each line
	z := new(zone)
	return func(line []byte, c *collector) error {
		to, z.at = c, c.stats.line
		return z.line(line, take)
	}, nil
}

func (r *rpzRule) name(sel *selection, to *collector) error {
	if r.trigger != "" {
		return beyond("the trigger " + clip(r.trigger) + " in a list of names")
	}
	kind, name := r.kind()
	switch {
	case sel.has(r):
		return to.add(kind, name)
	case r.action == "passthru":
		return to.except(kind, name)
	}
	key, err := match.KeyOf(name)
	if err != nil {
		return err
	}
	if err := to.out.AddKey(kind, key); err != nil {
		return err
	}
	to.stats.passed++
	return r.other()
}

// kind tells a name from a wildcard.
func (r *rpzRule) kind() (match.Kind, []byte) {
	if rest, ok := bytes.CutPrefix(r.owner, []byte("*.")); ok {
		return match.Under, rest // at any depth (RFC 4592)
	}
	return match.Exact, r.owner
}

func newZoneNetworks(s Source) (networkReader, error) {
	sel, err := s.selection(rpzTriggers)
	if err != nil {
		return nil, err
	}
	if sel.trigger == "" {
		sel.trigger = rpzTriggers[ResponseIP]
	}
	z := new(zone)
	return func(line []byte, to *netCollector) error {
		z.at = to.stats.line
		return z.line(line, func(r rpzRule) error { return r.network(&sel, to) })
	}, nil
}

func (r *rpzRule) network(sel *selection, to *netCollector) error {
	if r.trigger != sel.trigger {
		if r.trigger == "" || r.trigger == "rpz-ip" || r.trigger == "rpz-client-ip" {
			to.stats.passed++
			if r.trigger != "" {
				to.stats.Aside++
			}
			return nil // another list may be made of it
		}
		return beyond("the trigger " + clip(r.trigger))
	}
	p, err := rpzPrefix(string(r.owner))
	if err != nil {
		return err
	}
	if sel.has(r) {
		return to.add(p)
	}
	if err := to.out.Add(p); err != nil {
		return err
	}
	if r.action == "passthru" {
		to.stats.Entries++
	} else {
		to.stats.passed++
	}
	return r.other()
}

// rpzPrefix reads 24.0.2.0.192 as 192.0.2.0/24 and 48.zz.1.db8.2001 as
// 2001:db8:1::/48 (draft-vixie-dnsop-dns-rpz, section 4.1.1).
func rpzPrefix(text string) (netip.Prefix, error) {
	words := strings.Split(text, ".")
	bits, err := strconv.Atoi(words[0])
	if err != nil || len(words) < 2 {
		return netip.Prefix{}, fmt.Errorf("%q is no network of a zone", clip(text))
	}
	words = words[1:]
	slices.Reverse(words)
	address := strings.Join(words, ".")
	if zz := slices.Index(words, "zz"); zz >= 0 || len(words) == 8 {
		if zz >= 0 {
			words[zz] = ""
		}
		address = strings.Join(words, ":")
		if zz == 0 {
			address = ":" + address
		}
		if zz >= 0 && zz == len(words)-1 {
			address += ":"
		}
	}
	a, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no network of a zone", clip(text))
	}
	p := netip.PrefixFrom(a, bits)
	switch {
	case !p.IsValid() || a.Is4In6():
		return p, fmt.Errorf("%q is no network of a zone", clip(text))
	case bits == 0:
		return p, errAllAddresses
	}
	return p.Masked(), nil
}
