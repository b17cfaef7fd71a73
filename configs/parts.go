package configs

import (
	"io"
	"path/filepath"
	"slices"

	"github.com/starferry/starferry/internal/yamlpos"
)

// parts are the files of a policy, first the one that nodes name and then those
// that are included, as far as they can be read: what is wrong with the others
// says package policy.
type parts []part

type part struct {
	path string
	file *yamlpos.File
	root *yamlpos.Map
}

// maxParts bounds how many files a policy has here; package policy reports more
// than 256.
const maxParts = 256

// partsOf reads the files that a policy includes.
func (f *fleet) partsOf(d *doc) parts {
	all := parts{{filepath.Clean(d.name), d.file, d.root}}
	open := f.besides(d, "")
	for i := 0; i < len(all); i++ { // those that are included come to stand behind
		for _, path := range includes(all[i].root) {
			shown := path
			if !filepath.IsAbs(path) {
				shown = filepath.Join(filepath.Dir(d.name), path)
			}
			if len(all) == maxParts || slices.ContainsFunc(all, func(p part) bool { return p.path == shown }) {
				continue
			}
			if p, ok := readPart(open, path, shown); ok {
				all = append(all, p)
			}
		}
	}
	return all
}

func readPart(open Opener, path, shown string) (p part, ok bool) {
	r, err := open(path)
	if err != nil {
		return p, false
	}
	defer r.Close()
	src, err := io.ReadAll(io.LimitReader(r, maxFile))
	if err != nil {
		return p, false
	}
	file, root, err := yamlpos.Open(shown, src)
	return part{shown, file, root}, err == nil
}

// includes lists the paths that a file includes.
func includes(root *yamlpos.Map) (paths []string) {
	for _, m := range mappings(root, "policies") {
		for _, n := range words(m.Node("include")) {
			paths = append(paths, filepath.Clean(n.Text()))
		}
	}
	return paths
}

// mappings returns the mappings of a list; what is none is reported by package
// policy.
func mappings(root *yamlpos.Map, key string) (out []*yamlpos.Map) {
	list := root.Node(key)
	if list == nil || list.Kind != yamlpos.List {
		return nil
	}
	for _, item := range list.Items() {
		if item.Kind == yamlpos.Mapping {
			out = append(out, item.AsMap())
		}
	}
	return out
}

// errorAt records a mistake in the file in which it is.
func (ps parts) errorAt(at yamlpos.Pos, hint, format string, args ...any) {
	ps[ps.index(at)].file.ErrorAt(at, hint, format, args...)
}

// index returns which file a place is in.
func (ps parts) index(at yamlpos.Pos) int {
	return max(0, slices.IndexFunc(ps, func(p part) bool { return p.file.Name() == at.File }))
}

// included returns the mistakes in the files that are included.
func (ps parts) included() (errs []error) {
	for _, p := range ps[1:] {
		errs = append(errs, p.file.Err())
	}
	return errs
}

// join marks the files that are given as such and belong to another policy: alone
// they lack what is defined there.
func (f *fleet) join() {
	for _, d := range f.docs {
		if !d.decides() {
			continue
		}
		d.parts = f.partsOf(d)
		for _, p := range d.parts[1:] {
			if other := f.find(p.path); other != nil && !f.named(other) {
				other.part = true
			}
		}
	}
}

// named reports whether a node names the policy.
func (f *fleet) named(d *doc) bool {
	return slices.ContainsFunc(f.docs, func(n *doc) bool {
		return n.gateway != nil && n.gateway.Policy == d.name || n.egress != nil && n.egress.Policy == d.name
	})
}
