package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/fetch"
	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/steer/geo/geomake"
)

// compile compiles a policy with its lists.
func (f *fleet) compile(d *doc) {
	open := f.besides(d, f.missingDatabases(d, filepath.Dir(d.name))...)
	if f.copies.Want != nil {
		if all, err := policy.Downloads(d.name, d.src, open); err == nil { // else compiling says what is wrong
			f.copies.Want(all)
		}
	}
	p, err := policy.ParseAgain(f.lists, d.name, d.src, open)
	if err != nil {
		d.errs = append(d.errs, err)
	}
	if p != nil {
		d.policy = p
		for _, text := range p.Warnings() {
			d.warnings = append(d.warnings, Warning{Msg: text})
		}
	}
}

// besides opens what a policy names, from the folder of its file.
func (f *fleet) besides(d *doc, missing ...string) func(path string) (io.ReadCloser, error) {
	dir := filepath.Dir(d.name)
	return func(path string) (io.ReadCloser, error) {
		if fetch.IsURL(path) {
			return f.openCopy(d, path)
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if slices.Contains(missing, path) {
			return noRecords()
		}
		r, err := f.open(path)
		return r, plain(err)
	}
}

// openCopy opens the copy of a list. It is no file to watch: what renews it has
// the policy read anew.
func (f *fleet) openCopy(d *doc, url string) (io.ReadCloser, error) {
	if f.copies.Open != nil {
		return f.copies.Open(url)
	}
	for _, n := range f.users(d) {
		if r, err := f.raw(fetch.Copy(n.node().ListsDir(), url)); err == nil {
			return r, nil
		}
	}
	if f.lenient {
		return nil, fmt.Errorf("%s %w", url, policy.ErrNotHere)
	}
	return nil, fmt.Errorf("no copy of %s", url)
}

// lint warns of policies that say something else than they seem to.
func (f *fleet) lint() {
	for _, d := range f.docs {
		if d.policy == nil {
			continue
		}
		for _, found := range d.policy.Lint(f.besides(d)) {
			d.warnings = append(d.warnings, Warning{Msg: found.String()})
		}
	}
}

// judge compares the names that a policy uses with the files that define them.
func (f *fleet) judge(d *doc) {
	used := namesUsed(d.parts)
	f.checkRoutes(d, used)
	f.checkUpstreams(d, used)
	f.checkListeners(d, used)
	f.checkPages(d, used)
	f.checkAskers(d, used)
	f.checkProfiles(d)
	if d.policy != nil {
		f.checkClients(d)
	}
	if f.forEgress(d) {
		checkForeign(d, used)
	}
	d.errs = append(d.errs, d.parts.included()...)
}

// checkForeign holds that the policy of an egress says nothing that only a
// gateway can do: it would be without effect there, and its author would not know.
func checkForeign(d *doc, used names) {
	for _, k := range used.foreign {
		k.in.KeyErrorf(k.key, k.hint, "%s", k.why)
	}
	if d.policy == nil {
		return
	}
	for _, r := range d.policy.Records() {
		d.parts.errorAt(r.Pos, "an egress sees addresses only: use country, continent, asn or network", "an egress does not know the %s records of an answer", r.Name)
	}
}

// missingDatabases returns the paths of the databases of places that are not
// there and that shall pass: they are often fetched only on the machine that
// runs the node, and a check elsewhere has no use for them.
func (f *fleet) missingDatabases(d *doc, dir string) (missing []string) {
	if !f.lenient || !slices.Contains(d.root.Keys(), "geoip") {
		return nil
	}
	n := d.root.Node("geoip")
	if n.Kind != yamlpos.Mapping {
		return nil
	}
	for _, of := range []struct{ key, what string }{{"country", "countries"}, {"asn", "autonomous systems"}} {
		at := n.AsMap().Node(of.key)
		if at == nil {
			continue
		}
		path := at.Text()
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		r, err := f.open(path)
		if err == nil {
			r.Close()
		}
		if errors.Is(err, fs.ErrNotExist) {
			d.warn(at.Pos(), "%s is not here: conditions on %s were not tried, and a node does not start without it", path, of.what)
			missing = append(missing, path)
		}
	}
	return missing
}

// noRecords opens a database that knows of no address.
func noRecords() (io.ReadCloser, error) {
	return Countries(map[netip.Prefix]string{netip.MustParsePrefix("0.0.0.0/8"): ""})
}

// forEgress reports whether an egress names this policy.
func (f *fleet) forEgress(d *doc) bool {
	return slices.ContainsFunc(f.docs, func(n *doc) bool { return n.egress != nil && n.egress.Policy == d.name })
}

// users returns the node files that name the policy or, if there is none, all
// of those that are read together.
func (f *fleet) users(d *doc) (users []*doc) {
	var nodes []*doc
	for _, n := range f.docs {
		if n.gateway == nil && n.egress == nil {
			continue
		}
		nodes = append(nodes, n)
		if n.gateway != nil && n.gateway.Policy == d.name || n.egress != nil && n.egress.Policy == d.name {
			users = append(users, n)
		}
	}
	if users == nil {
		return nodes
	}
	return users
}

func (f *fleet) checkRoutes(d *doc, used names) {
	for _, n := range f.users(d) {
		for _, r := range used.routes {
			if known := n.routes(); isName(r) && !slices.Contains(known, r.Text()) {
				r.Errorf(suggest(r.Text(), known), "%s has no route %q", n.name, r.Text())
			}
		}
	}
}

// checkUpstreams holds that each gateway has the groups that its policy resolves
// by.
func (f *fleet) checkUpstreams(d *doc, used names) {
	for _, n := range f.users(d) {
		if n.gateway == nil {
			continue
		}
		var known []string
		for _, u := range n.gateway.Upstreams {
			known = append(known, u.Name)
		}
		for _, u := range used.upstreams {
			if isName(u) && !slices.Contains(known, u.Text()) {
				u.Errorf(suggest(u.Text(), known), "%s has no upstream group %q", n.name, u.Text())
			}
		}
	}
}

// checkListeners warns of listeners that a gateway does not have by its file.
// Sockets that systemd opens are not in it.
func (f *fleet) checkListeners(d *doc, used names) {
	for _, n := range f.users(d) {
		if n.gateway == nil {
			continue
		}
		known := n.gateway.DNS.listeners()
		for _, l := range used.listeners {
			at, err := netip.ParseAddrPort(l.Text())
			if err != nil || slices.Contains(known, at.String()) { // link, or a mistake already
				continue
			}
			hint := "it listens on nothing but link"
			if len(known) > 0 {
				hint = "it has " + strings.Join(known, ", ")
			}
			d.warn(l.Pos(), "%s has no listener %s, unless it is a socket of systemd: the condition is never true; %s", n.name, l.Text(), hint)
		}
	}
}

// checkPages warns of pages that a gateway does not have.
func (f *fleet) checkPages(d *doc, used names) {
	for _, n := range f.users(d) {
		if n.gateway == nil || len(n.gateway.DNS.BlockPage.Address) > 0 {
			continue
		}
		for _, p := range used.pages {
			d.warn(p.Pos(), "%s has no dns.block_page: what is blocked with a page has no data there; say where the page is, or write {address: [ADDRESSES]}", n.name)
		}
	}
}

// checkAskers holds that somebody is in each group, and has each name, that the
// policy speaks of. A group that nobody is in is a misspelt one: as a condition
// it never matches, as a demand it locks everybody out. An egress knows groups,
// and neither people nor machines: no names of theirs leave the gateway.
func (f *fleet) checkAskers(d *doc, used names) {
	devices, known := f.devicesFor(d)
	var groups, ids, people []string
	for _, dev := range devices {
		groups = append(groups, dev.Groups...)
		ids = append(ids, string(dev.ID))
		if dev.User != "" {
			people = append(people, dev.User)
		}
	}
	for _, g := range used.groups {
		if known && isName(g) && !slices.Contains(groups, g.Text()) {
			g.Errorf(suggest(g.Text(), groups), "no device or network is in group %q", g.Text())
		}
	}
	if !known || f.forEgress(d) {
		return
	}
	for _, id := range used.devices {
		if isName(id) && !slices.Contains(ids, id.Text()) {
			id.Errorf(suggest(id.Text(), ids), "there is no device %q", id.Text())
		}
	}
	for _, u := range used.users {
		if !slices.Contains(people, u.Text()) {
			u.Errorf(suggest(u.Text(), people), "no device is that of user %q", u.Text())
		}
	}
}

// checkClients warns of rules of lists that are for devices which nobody has
// here: lists are other people's work, so that these are no mistakes.
func (f *fleet) checkClients(d *doc) {
	devices, known := f.devicesFor(d)
	var ids, groups []string
	for _, dev := range devices {
		ids, groups = append(ids, string(dev.ID)), append(groups, dev.Groups...)
	}
	egress := f.forEgress(d)
	for _, c := range d.policy.Clients() {
		switch isDevice, isGroup := slices.Contains(ids, c.Name), slices.Contains(groups, c.Name); {
		case !known || isGroup:
		case egress && isDevice:
			d.warn(c.Pos, "the list has rules for the client %s: an egress knows devices by their groups only, and takes it for none of them", c.Name)
		case !isDevice:
			d.warn(c.Pos, "the list has rules for the client %s, which is neither a device nor a group", c.Name)
		}
	}
}

// isName reports whether a text can be a name; one that cannot is a mistake
// already, by package policy.
func isName(n *yamlpos.Node) bool {
	_, err := parseName(n.Text())
	return err == nil
}

// devicesFor returns the devices that a policy is asked about: those of the
// gateway that names it or, for an egress, those of all gateways at hand.
func (f *fleet) devicesFor(d *doc) (out []*device.Device, known bool) {
	var files []string
	for _, n := range f.users(d) {
		if n.gateway != nil {
			files = append(files, n.gateway.Devices)
		}
	}
	for _, n := range f.docs {
		if n.kind == devicesFile && n.file != nil && (len(files) == 0 || slices.Contains(files, n.name)) {
			out, known = append(out, n.devices...), true
		}
	}
	return out, known
}

// checkProfiles holds that an egress demands no profile that no gateway judges:
// it gets verdicts by the profile's name and has no reports of its own.
func (f *fleet) checkProfiles(d *doc) {
	var known []string
	gateways := 0
	for _, n := range f.docs {
		if n.kind != policyFile || n == d || n.policy == nil || f.forEgress(n) {
			continue
		}
		gateways++
		for _, p := range n.policy.Profiles() {
			known = append(known, p.Name)
		}
	}
	if gateways == 0 || !f.forEgress(d) {
		return
	}
	for _, p := range d.policy.Profiles() {
		if !slices.Contains(known, p.Name) {
			d.parts.errorAt(p.At, suggest(p.Name, known), "no gateway judges devices by posture %q", p.Name)
		}
	}
}

// Countries returns a country database with these entries, opened, for those
// who answer an [Opener] without one on disk.
func Countries(entries map[netip.Prefix]string) (io.ReadCloser, error) {
	b, err := geomake.Make(entries)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}
