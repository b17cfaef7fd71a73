package configs

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/yamlpos"
)

// A reader reads one file. What the file says of addresses, and of other
// nodes, is noted in the doc on the way, to be compared with other files.
type reader struct {
	*doc
	dir string // of the file, for relative paths
}

// path reads a path; a relative one is relative to the file.
func (r *reader) path(m *yamlpos.Map, key, def string) string {
	return r.inDir(yamlpos.Read(m, key, def, yamlpos.Word))
}

func (r *reader) inDir(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(r.dir, p)
}

// fileRef reads a path to another file of settings.
func (r *reader) fileRef(m *yamlpos.Map, key string, want kind) string {
	p := r.path(m, key, "")
	if p != "" {
		r.refs = append(r.refs, ref{p, want, m.Node(key).Pos()})
	}
	return p
}

// readNode reads what nodes of all roles have.
func (r *reader) readNode(m *yamlpos.Map, keys ...string) Node {
	role := r.kind.String()
	m.Node("role")
	m.Require(append([]string{"name", "address", "pool", "wireguard"}, keys...)...)
	n := Node{
		File:     r.name,
		Name:     yamlpos.Read(m, "name", "", parseName),
		StateDir: r.path(m, "state_dir", DefaultStateDir),
		Control:  r.path(m, "control", DefaultControl(role)),
		Metrics:  yamlpos.Read(m, "metrics", netip.AddrPort{}, parseListen),
		MTU:      yamlpos.Read(m, "mtu", DefaultMTU, yamlpos.Int(1280, 9000)),
	}
	me := owner{r.kind, n.Name}
	n.Address = r.addresses(m, "address", me, true)
	n.Pool = r.ranges(m, "pool", me, pool, true)
	n.WireGuard = r.wireguard(m.Map("wireguard"), me)
	r.say(m, "mtu", owner{}, fmt.Sprint(n.MTU), false)
	return n
}

func (r *reader) wireguard(m *yamlpos.Map, me owner) WireGuard {
	m.Require("private_key_file")
	w := WireGuard{
		PrivateKeyFile: r.path(m, "private_key_file", ""),
		PublicKey:      yamlpos.Read(m, "public_key", device.Key{}, parseKey),
	}
	if m.Has("public_key") {
		r.say(m, "public_key", me, w.PublicKey.String(), true)
	}
	if r.kind != connectorFile { // it dials out, from a port of the system's choice
		w.Listen = yamlpos.Read(m, "listen", defaultListen, parseListen)
		w.Endpoint = yamlpos.Read(m, "endpoint", "", parseEndpoint)
	}
	m.Done()
	return w
}

// addresses reads the node addresses of somebody: at most one of each family.
func (r *reader) addresses(m *yamlpos.Map, key string, who owner, own bool) (out []netip.Addr) {
	var seen familySet
	for _, item := range atLeastOne(m, key) {
		a := yamlpos.Value(item, netip.Addr{}, parseUnicast)
		if !a.IsValid() || !seen.add(item, a) {
			continue
		}
		out = append(out, a)
		r.claim(item, netip.PrefixFrom(a, a.BitLen()), who, nodeAddress, own)
	}
	r.say(m, key, who, inOrder(out), own)
	return out
}

// ranges reads the ranges of somebody: at most one of each family.
func (r *reader) ranges(m *yamlpos.Map, key string, who owner, what use, own bool) (out []netip.Prefix) {
	var seen familySet
	for _, item := range atLeastOne(m, key) {
		p := yamlpos.Value(item, netip.Prefix{}, parseRange)
		if !p.IsValid() || !seen.add(item, p.Addr()) {
			continue
		}
		out = append(out, p)
		r.claim(item, p, who, what, own)
	}
	r.say(m, key, who, inOrder(out), own)
	return out
}

// claimAll reads any number of ranges and notes what they are for.
func (r *reader) claimAll(m *yamlpos.Map, key string, who owner, what use) (out []netip.Prefix) {
	for _, item := range atLeastOne(m, key) {
		if p := yamlpos.Value(item, netip.Prefix{}, parseRange); p.IsValid() {
			out = append(out, p)
			r.claim(item, p, who, what, true)
		}
	}
	return out
}

// atLeastOne returns the members of a list, or a single value; none only if the
// key is absent, for an empty list is a mistake.
func atLeastOne(m *yamlpos.Map, key string) []*yamlpos.Node {
	n := m.Node(key)
	if n == nil {
		return nil
	}
	items := n.OneOrMore()
	if len(items) == 0 {
		n.Errorf("", "an empty list")
	}
	return items
}

// A familySet takes one address of each family.
type familySet struct{ v4, v6 bool }

func (s *familySet) add(n *yamlpos.Node, a netip.Addr) bool {
	have := &s.v6
	family := "IPv6"
	if a.Is4() {
		have, family = &s.v4, "IPv4"
	}
	if *have {
		n.Errorf("", "a second one of %s: want at most one of each family", family)
		return false
	}
	*have = true
	return true
}

// inOrder writes addresses or ranges so that equal sets read equal.
func inOrder[T fmt.Stringer](vals []T) string {
	var words []string
	for _, v := range vals {
		words = append(words, v.String())
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

// peers reads a list of other nodes of one kind.
func (r *reader) peers(m *yamlpos.Map, key string, of kind, read func(*yamlpos.Map, owner, *Peer)) (out []Peer) {
	names, keys := firsts{}, firsts{}
	m.Maps(key, func(m *yamlpos.Map) {
		m.Require("name", "public_key", "address")
		p := Peer{At: m.Pos(), Name: yamlpos.Read(m, "name", "", parseName)}
		who := owner{of, p.Name}
		if !names.note(m, "name", p.Name) {
			who.name = "" // what is said of it is said of nobody
		}
		if p.PublicKey = yamlpos.Read(m, "public_key", device.Key{}, parseKey); !p.PublicKey.IsZero() {
			keys.note(m, "public_key", p.PublicKey.String())
			r.say(m, "public_key", who, p.PublicKey.String(), false)
		}
		p.Address = r.addresses(m, "address", who, false)
		read(m, who, &p)
		m.Done()
		out = append(out, p)
	})
	return out
}

// firsts remembers where something was said first, to refuse a second time.
type firsts map[string]yamlpos.Pos

// note reports whether it is the first time, and records a mistake if not.
func (f firsts) note(m *yamlpos.Map, key, val string) bool {
	n := m.Node(key)
	if n == nil || val == "" {
		return true
	}
	if at, dup := f[val]; dup {
		n.Errorf(fmt.Sprintf("first in line %d", at.Line), "%q is given twice", val)
		return false
	}
	f[val] = n.Pos()
	return true
}

// routes reads the routes, whose ways are peers of this node.
func (r *reader) routes(m *yamlpos.Map, key string, peers []Peer) (out []Route) {
	routes := m.Map("routes")
	for _, name := range routes.Keys() {
		if _, err := parseName(name); err != nil {
			routes.KeyErrorf(name, "", "%v", err)
		}
		to := routes.Map(name)
		if routes.Node(name).Kind == yamlpos.Mapping {
			to.Require(key)
		}
		seen := map[string]bool{}
		via := yamlpos.Values(atLeastOne(to, key), func(s string) (string, error) {
			if seen[s] {
				return "", fmt.Errorf("%q is given twice", s)
			}
			seen[s] = true
			return knownPeer(s, peers)
		})
		to.Done()
		out = append(out, Route{name, via, routes.KeyPos(name)})
	}
	return out
}

func knownPeer(name string, peers []Peer) (string, error) {
	var known []string
	for _, p := range peers {
		known = append(known, p.Name)
	}
	if slices.Contains(known, name) {
		return name, nil
	}
	return "", yamlpos.Hint(fmt.Errorf("%q is no peer of this node", name), suggest(name, known))
}

// suggest is the hint for a name that is not among the known ones.
func suggest(name string, known []string) string {
	if hint := yamlpos.DidYouMean(name, known); hint != "" {
		return hint
	}
	slices.Sort(known)
	if known = slices.Compact(known); len(known) == 0 || len(known) > 8 {
		return ""
	}
	return "there is " + strings.Join(known, ", ")
}

// etcd reads where a gateway's shared state is.
func (r *reader) etcd(m *yamlpos.Map) *Etcd {
	if m == nil {
		return nil
	}
	m.Require("endpoints")
	e := &Etcd{Endpoints: yamlpos.Values(atLeastOne(m, "endpoints"), parseURL)}
	e.CA, e.Cert, e.Key = r.path(m, "ca", ""), r.path(m, "cert", ""), r.path(m, "key", "")
	if (e.Cert == "") != (e.Key == "") {
		m.Errorf("", "cert and key go together")
	}
	m.Done()
	return e
}
