package configs

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/starferry/starferry/internal/yamlpos"
)

// A use is what a range of addresses is for.
type use uint8

const (
	pool        use = iota // labels that a node hands out
	slice                  // sources that flows from a gateway may have
	nodeAddress            // a node's own
	nodeRange              // where nodes behind an egress are
	accepted               // sources that a connector takes
	machine                // a device's own address
	network                // addresses that stand for a LAN
	lan                    // a LAN's own, outside the fleet
)

var uses = [...]string{"pool", "slice", "address", "nodes", "slices", "address", "overlay", "addresses"}

// An owner is who a range belongs to.
type owner struct {
	kind kind
	name string
}

func (o owner) String() string {
	switch {
	case o == owner{}:
		return "the fleet"
	case o.name == "":
		return fmt.Sprintf("a %v without a name", o.kind)
	case o.kind == devicesFile:
		return o.name
	}
	return fmt.Sprintf("%v %s", o.kind, o.name)
}

// A claim is a range of addresses with what a file says of it.
type claim struct {
	prefix netip.Prefix
	owner  owner
	use    use
	own    bool // said by the owner's own file, not by a peer's
	at     yamlpos.Pos
	doc    *doc
}

func (c *claim) String() string {
	if c.prefix.IsSingleIP() {
		return fmt.Sprintf("%s %s of %v", uses[c.use], c.prefix.Addr(), c.owner)
	}
	return fmt.Sprintf("%s %s of %v", uses[c.use], c.prefix, c.owner)
}

func (r *reader) claim(n *yamlpos.Node, p netip.Prefix, who owner, what use, own bool) {
	r.claims = append(r.claims, claim{p, who, what, own, n.Pos(), r.doc})
}

// A fact is something that both ends of a link say of one of them.
type fact struct {
	about owner
	what  string
	value string
	own   bool
	at    yamlpos.Pos
}

func (r *reader) say(m *yamlpos.Map, what string, about owner, value string, own bool) {
	if value == "" || about != (owner{}) && about.name == "" {
		return
	}
	at := m.Pos()
	if n := m.Node(what); n != nil {
		at = n.Pos()
	}
	r.facts = append(r.facts, fact{about, what, value, own, at})
}

// settle compares what the files say of addresses and of one another, and
// records each clash in the file that comes later.
func settle(docs []*doc) {
	oneFileEach(docs)
	compareFacts(docs)
	var claims []claim
	for _, d := range docs {
		claims = append(claims, d.claims...)
	}
	checkOverlaps(firstSaid(claims))
	for _, d := range docs {
		if d.gateway != nil && !d.doubtful {
			checkSources(d, claims)
		}
	}
}

// oneFileEach holds that no two files describe a node of the same role and name.
func oneFileEach(docs []*doc) {
	seen := map[owner]string{}
	for _, d := range docs {
		n := d.node()
		if n == nil || n.Name == "" {
			continue
		}
		me := owner{d.kind, n.Name}
		if other, dup := seen[me]; dup {
			d.root.Node("name").Errorf("", "%v is described in %s already", me, other)
		}
		seen[me] = d.name
	}
}

// compareFacts holds that peers say of a node what it says of itself or, where
// its own file is not at hand, what the first of them says.
func compareFacts(docs []*doc) {
	type key struct {
		about owner
		what  string
	}
	said := map[key]fact{}
	for _, d := range docs {
		for _, f := range d.facts {
			k := key{f.about, f.what}
			if first, ok := said[k]; !ok || f.own && !first.own {
				said[k] = f
			}
		}
	}
	for _, d := range docs {
		for _, f := range d.facts {
			if right := said[key{f.about, f.what}]; right.value != f.value && !f.own {
				d.file.ErrorAt(f.at, fmt.Sprintf("see %v", right.at),
					"%s of %v is %s here, but %s elsewhere", f.what, f.about, f.value, right.value)
			}
		}
	}
}

// firstSaid leaves one claim of those that say the same, the owner's own if
// there is one.
func firstSaid(claims []claim) []claim {
	type key struct {
		prefix netip.Prefix
		owner  owner
		use    use
	}
	at := map[key]int{}
	var out []claim
	for _, c := range claims {
		k := key{c.prefix, c.owner, c.use}
		switch i, ok := at[k]; {
		case !ok || c.own && out[i].own:
			at[k] = len(out)
			out = append(out, c)
		case c.own:
			out[i] = c
		}
	}
	return out
}

// checkOverlaps goes through the claims from low addresses to high, wide ranges
// before those inside them, and keeps the ranges that are open at each place:
// two ranges overlap only if one holds the other.
func checkOverlaps(claims []claim) {
	slices.SortStableFunc(claims, func(a, b claim) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), a.prefix.Bits()-b.prefix.Bits())
	})
	var open []*claim
	for i := range claims {
		c := &claims[i]
		open = slices.DeleteFunc(open, func(o *claim) bool { return !o.prefix.Overlaps(c.prefix) })
		for _, o := range open {
			if clash(o, c) {
				report(o, c)
			}
		}
		open = append(open, c)
	}
}

// blame orders claims by whose mistake it is if they clash.
func (c *claim) blame() []int {
	if c.doc.kind == devicesFile {
		return []int{1, c.doc.order, c.at.Line}
	}
	return []int{0, c.doc.order, c.at.Line}
}

// report records a clash at the device, if there is one, else in the file that
// was read later; in one file, at the later line.
func report(a, b *claim) {
	if slices.Compare(a.blame(), b.blame()) > 0 {
		a, b = b, a
	}
	where := a.at.String()
	if a.doc == b.doc {
		where = fmt.Sprintf("line %d", a.at.Line)
	}
	if a.prefix == b.prefix {
		b.doc.file.ErrorAt(b.at, "see "+where, "%v is the %s of %v already", b, uses[a.use], a.owner)
		return
	}
	b.doc.file.ErrorAt(b.at, "see "+where, "%v overlaps %v", b, a)
}

// clash reports whether two ranges that overlap must not.
func clash(a, b *claim) bool {
	if a.use == b.use && a.owner == b.owner && a.doc != b.doc {
		return false // a difference of opinion, found by compareFacts
	}
	if a.use > b.use {
		a, b = b, a
	}
	switch {
	case a.use == lan || b.use == lan:
		return clashLAN(a, b)
	case a.use == slice && b.use == nodeAddress:
		return a.owner != b.owner // a gateway may have its own address in its slice
	case a.use == slice:
		return b.use == slice || b.use == nodeRange
	case a.use == nodeAddress:
		return b.use != nodeRange && b.use != accepted
	case a.use == nodeRange:
		return b.use == machine || b.use == network
	case a.use == accepted:
		return false
	}
	return true // a pool with anything, devices with each other
}

// clashLAN judges the one range that is outside the fleet. Offices of different
// gateways may use the same; a pool in a LAN would catch what its machines say
// to one another.
func clashLAN(a, b *claim) bool {
	if a.use == b.use {
		return a.doc == b.doc && a.prefix == b.prefix
	}
	return a.use == pool
}

// checkSources holds that each device of a gateway is inside its slice: flows
// leave a gateway only with sources that are its own.
func checkSources(d *doc, claims []claim) {
	g := d.gateway
	for _, c := range claims {
		if c.use != machine && c.use != network || c.doc.name != g.Devices || inside(c.prefix, g.Slice) {
			continue
		}
		c.doc.file.ErrorAt(c.at, fmt.Sprintf("%s has slice %s", d.name, inOrder(g.Slice)),
			"%v is outside the slice of gateway %s", &c, g.Name)
	}
}

func inside(p netip.Prefix, ranges []netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool {
		return r.Bits() <= p.Bits() && r.Contains(p.Addr())
	})
}
