package policy

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/starferry/starferry/internal/yamlpos"
)

// The most files that a policy is made of, and the most bytes of each.
const (
	maxFiles     = 256
	maxFileBytes = 8 << 20
)

// sources are the files that a policy is made of, the one that includes the
// others first, and what is wrong with them.
type sources struct {
	name  string
	files []*yamlpos.File
	roots []*yamlpos.Map
	rules []*yamlpos.Map // the policies of all files, in their order
	from  []include      // where each file is included
	bad   []error        // of files that could not be read
}

// An include says where a file is named: at is zero for the first.
type include struct {
	path string
	at   yamlpos.Pos
	by   int // the file that it is named in
}

// ErrorAt records a mistake in whichever of the files it is.
func (s *sources) ErrorAt(at yamlpos.Pos, hint, format string, args ...any) {
	for _, f := range s.files {
		if f.Name() == at.File {
			f.ErrorAt(at, hint, format, args...)
			return
		}
	}
	s.files[0].ErrorAt(at, hint, format, args...)
}

// err returns all that was found, file by file.
func (s *sources) err() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Err())
	}
	return yamlpos.Join(append(errs, s.bad...)...)
}

// readFiles reads a policy file and those that it includes: first what others
// name, wherever it is written.
func (c *compiler) readFiles(name string, src []byte) error {
	c.file.name = name
	if err := c.gather(include{path: name}, name, src); err != nil {
		return err
	}
	for _, root := range c.file.roots {
		c.mergeLists(root.Map("lists"))
	}
	first := c.file.roots[0]
	c.readGeo(first.Map("geoip"))
	for _, root := range c.file.roots {
		c.readPostures(root.Map("postures"))
		c.readCategories(root.Map("categories"))
		c.readSchedules(root.Map("schedules"))
	}
	for _, m := range c.file.rules {
		r := c.readRule(m)
		if r.Name != "" {
			c.taken("policy", r.Name, r.At)
		}
		c.policy.rules = append(c.policy.rules, r)
	}
	for _, root := range c.file.roots {
		root.Maps("tests", func(m *yamlpos.Map) { c.readTest(m) })
	}
	first.Maps("defaults", func(m *yamlpos.Map) { c.policy.defaults = append(c.policy.defaults, c.readFallback(m)) })
	c.policy.fallback = readDefault(first)
	c.ownOnly()
	c.loadUnused()
	return c.file.err()
}

// ownOnly reports the keys of included files that are not read there.
func (c *compiler) ownOnly() {
	for i, root := range c.file.roots {
		for _, key := range []string{"geoip", "defaults", "default"} {
			if i > 0 && root.Has(key) {
				root.KeyErrorf(key, "", "%s stands in %s, which includes this file", key, c.file.name)
			}
		}
		root.Done()
	}
}

// gather reads a file, and at the place of each include the file that is named
// there.
func (c *compiler) gather(in include, shown string, src []byte) error {
	f, root, err := yamlpos.Open(shown, src)
	if err != nil {
		return err
	}
	c.hash.Write(src)
	me := len(c.file.files)
	c.file.files = append(c.file.files, f)
	c.file.roots = append(c.file.roots, root)
	c.file.from = append(c.file.from, in)
	root.Maps("policies", func(m *yamlpos.Map) {
		n := m.Node("include")
		if n == nil {
			c.file.rules = append(c.file.rules, m)
			return
		}
		for _, item := range members(n) {
			if path := yamlpos.Value(item, "", yamlpos.Word); path != "" {
				c.include(item, include{filepath.Clean(path), item.Pos(), me})
			}
		}
		m.Done()
	})
	return nil
}

// include reads the file that is named at n.
func (c *compiler) include(n *yamlpos.Node, in include) {
	shown := in.path
	if !filepath.IsAbs(shown) {
		shown = filepath.Join(filepath.Dir(c.file.name), shown)
	}
	for i, f := range c.file.files {
		if filepath.Clean(f.Name()) == shown {
			c.twice(n, in, i)
			return
		}
	}
	if len(c.file.files) >= maxFiles {
		n.Errorf("", "more than %d files", maxFiles)
		return
	}
	var src []byte
	r, err := c.open(in.path)
	if err == nil {
		src, err = io.ReadAll(io.LimitReader(r, maxFileBytes+1))
		r.Close() // only read from
	}
	if err != nil {
		n.Errorf("paths are relative to the folder of "+filepath.Base(c.file.name), "%v", err)
		return
	}
	if err := c.gather(in, shown, src); err != nil {
		c.file.bad = append(c.file.bad, err)
	}
}

// twice reports that a file is named which is read already: because it includes
// itself, or elsewhere too.
func (c *compiler) twice(n *yamlpos.Node, in include, file int) {
	way := []string{in.path}
	for i := in.by; ; i = c.file.from[i].by {
		way = append([]string{filepath.Base(c.file.files[i].Name())}, way...)
		if i == file {
			n.Errorf("", "%s includes itself: %s", in.path, strings.Join(way, " → "))
			return
		}
		if i == 0 {
			break
		}
	}
	n.Errorf(fmt.Sprintf("first at %v", c.file.from[file].at), "%s is included twice", in.path)
}

// mergeLists reads the lists of one more file.
func (c *compiler) mergeLists(m *yamlpos.Map) {
	all, before := c.lists, len(c.lists)
	c.lists = map[string]*namedList{}
	c.readLists(m)
	for name, l := range c.lists {
		if !c.taken("list", name, l.info.At) {
			l.place += before
			all[name] = l
		}
	}
	c.lists = all
}
