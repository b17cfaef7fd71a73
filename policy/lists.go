package policy

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy/list"
	"github.com/starferry/starferry/policy/match"
)

// A namedList is a list of the file. It is read when something first names it,
// which tells whether names or networks are wanted of it.
type namedList struct {
	info     ListInfo
	src      list.Source
	at       yamlpos.Pos // of the path
	place    int         // in the file
	names    *list.Set
	nets     *match.Networks
	answers  *list.Answers
	found    [3]list.Stats // as names, as networks, as answers
	read     [3]bool
	warnings []string // besides those of what was found
	failed   bool
	hashed   bool
	download *Download // nil: it is a file
}

func (c *compiler) readLists(m *yamlpos.Map) {
	formats := append(list.NameFormats(), list.NetworkFormats()...)
	for i, name := range m.Keys() {
		if _, err := word(name); err != nil {
			m.KeyErrorf(name, "", "lists: %v", err)
		}
		def := m.Map(name)
		def.Require("format")
		l := &namedList{place: i, at: def.Pos()}
		l.info.Name, l.info.At = name, m.KeyPos(name)
		l.info.Format = yamlpos.Read(def, "format", "", yamlpos.OneOf(formats...))
		l.info.Use = yamlpos.Read(def, "use", "", yamlpos.OneOf(useAllow, useBlock))
		l.src = list.Source{
			Name:      name,
			Format:    l.info.Format,
			MinLabels: yamlpos.Read(def, "min_labels", 1, yamlpos.Int(1, 10)),
			Except:    readSome(def, "except", match.Clean),
			Select:    readSome(def, "select", yamlpos.Word),
		}
		l.readPlace(def)
		l.info.Source = l.src
		l.failed = l.info.File == "" || l.info.Format == ""
		def.Done()
		c.lists[name] = l
	}
}

func (c *compiler) listsInOrder() []*namedList {
	return slices.SortedFunc(maps.Values(c.lists), func(a, b *namedList) int { return a.place - b.place })
}

// list returns the list of this name, or says that there is none.
func (c *compiler) list(name string, at yamlpos.Pos) *namedList {
	c.used["list "+name] = true
	l := c.lists[name]
	if l == nil {
		c.file.ErrorAt(at, yamlpos.DidYouMean(name, slices.Sorted(maps.Keys(c.lists))), "unknown list %q", name)
	}
	return l
}

// names returns the names of a list; nil after a mistake.
func (c *compiler) names(name string, at yamlpos.Pos) *list.Set {
	l := c.list(name, at)
	switch {
	case l == nil || l.failed || l.names != nil:
	case !slices.Contains(list.NameFormats(), l.info.Format):
		c.file.ErrorAt(at, fmt.Sprintf("answer: {network: %s}", name), "list %q holds networks, not names", name)
	default:
		c.load(l, asNames, func() (stats list.Stats, sum list.Sum, err error) {
			l.names, stats, sum, err = c.known.Names(l.src, l.info.File, c.open)
			return stats, sum, err
		})
		c.keep(l)
	}
	if l == nil {
		return nil
	}
	return l.names
}

// keep holds a set for as long as the policy lives, so that the next policy
// finds it, and keeps whom its rules name.
func (c *compiler) keep(l *namedList) {
	if l.names == nil {
		return
	}
	c.policy.sets = append(c.policy.sets, l.names)
	for _, name := range clients(l.names) {
		c.policy.clients = append(c.policy.clients, Ref{name, l.info.At})
	}
}

// networks returns the networks of a list; nil after a mistake.
func (c *compiler) networks(name string, at yamlpos.Pos) *match.Networks {
	l := c.list(name, at)
	switch {
	case l == nil || l.failed || l.nets != nil:
	case !slices.Contains(list.NetworkFormats(), l.info.Format):
		c.file.ErrorAt(at, fmt.Sprintf("name: {list: %s}", name), "list %q holds names, not networks", name)
	default:
		c.load(l, asNetworks, func() (stats list.Stats, sum list.Sum, err error) {
			l.nets, stats, sum, err = c.known.Networks(l.src, l.info.File, c.open)
			return stats, sum, err
		})
	}
	if l == nil {
		return nil
	}
	return l.nets
}

// ofZone warns of a zone that is asked for the addresses of answers and has those
// of clients, or the other way round.
func (c *compiler) ofZone(name string, o op, at yamlpos.Pos) {
	l := c.lists[name]
	if l == nil || l.failed {
		return
	}
	want, other := list.ResponseIP, list.ClientIP
	has, asked := "clients", "addresses of answers"
	if o == opSource {
		want, other, has, asked = other, want, asked, "who asks"
	}
	switch trigger := l.src.Trigger(); {
	case trigger == other:
		l.warnings = append(l.warnings, fmt.Sprintf("%v: list %s takes the %s that its zone has rules for (select: %s), and is looked into for %s: %s",
			at, name, has, other, asked, meantBy(name, want, other)))
	case trigger == want && l.nets.Len() == 0 && l.found[asNetworks].Aside > 0:
		l.warnings = append(l.warnings, fmt.Sprintf("%v: list %s is never true here: what its zone has rules for are %s (select: %s), and it is looked into for %s: %s",
			at, name, has, other, asked, meantBy(name, want, other)))
	}
}

// meantBy says how each trigger of a zone is written.
func meantBy(name string, triggers ...string) string {
	var ways []string
	for _, t := range triggers {
		where := "network: " + name
		if t == list.ResponseIP {
			where = "answer: {network: " + name + "}"
		}
		ways = append(ways, where+" is for a list with select: ["+t+"]")
	}
	return strings.Join(ways, ", ")
}

// What a list is read as.
const (
	asNames = iota
	asNetworks
	asAnswers
)

// load reads a list with read; the sum of its text goes into the version.
func (c *compiler) load(l *namedList, as int, read func() (list.Stats, list.Sum, error)) {
	stats, sum, err := read()
	l.found[as], l.read[as] = stats, true
	if !l.hashed {
		c.hash.Write(sum[:])
	}
	l.hashed = true
	switch {
	case errors.Is(err, ErrNotHere):
		l.names, l.nets, l.answers = new(list.Set), new(match.Networks), new(list.Answers)
		l.warnings = append(l.warnings, fmt.Sprintf("%v: list %s: %v: conditions on it are taken for not true", l.at, l.info.Name, err))
	case err != nil:
		l.failed = true
		c.file.ErrorAt(l.at, "", "%v", err)
	}
}

// told puts together what was found in a list, however often it was read, and
// returns what is to be said of it.
func (l *namedList) told() (warnings []string) {
	found := l.found
	if l.read[asNames] && l.read[asAnswers] {
		found[asNames], found[asAnswers] = found[asNames].Twice(found[asAnswers]), list.Stats{}
	}
	for _, stats := range found {
		l.info.Entries += stats.Entries
		l.info.Bad += stats.Bad
		for _, w := range stats.Warnings() {
			warnings = append(warnings, fmt.Sprintf("%v: %s", l.info.At, w))
		}
	}
	if l.info.Entries == 0 && len(warnings)+len(l.warnings) == 0 && slices.Contains(l.read[:], true) {
		warnings = append(warnings, fmt.Sprintf("%v: list %s: %s is empty: conditions on it are never true", l.info.At, l.info.Name, l.info.File))
	}
	return append(warnings, l.warnings...)
}

// Shrunk returns what is wrong with the lists that lie in files, beside those of
// the policy in force, which may be nil: one that lacks more of its entries than
// its max_shrink allows is often a file that is only half written.
func (p *Policy) Shrunk(before *Policy) error {
	if before == nil {
		return nil
	}
	var errs []error
	for _, l := range p.lists {
		i := slices.IndexFunc(before.lists, l.sameText)
		if i < 0 || list.IsURL(l.File) { // those that are fetched are held to it when they come
			continue
		}
		if err := Shrunk(before.lists[i].Entries, l.Entries, l.MaxShrink); err != nil {
			errs = append(errs, fmt.Errorf("%v: list %s: %s %w", l.At, l.Name, l.File, err))
		}
	}
	return errors.Join(errs...)
}

// sameText reports whether two lists read the same text in the same way.
func (l ListInfo) sameText(o ListInfo) bool {
	return l.Name == o.Name && l.File == o.File && l.Format == o.Format && l.Source.MinLabels == o.Source.MinLabels &&
		slices.Equal(l.Source.Except, o.Source.Except) && slices.Equal(l.Source.Select, o.Source.Select)
}

// read opens a file and passes it to take; what it holds goes into the version.
func (c *compiler) read(path string, take func(io.Reader) error) error {
	f, err := c.open(path)
	if err != nil {
		return err
	}
	defer f.Close() // only read from
	return take(io.TeeReader(f, c.hash))
}

// loadUnused reads the lists that nothing names, so that their mistakes are found too.
func (c *compiler) loadUnused() {
	for _, l := range c.listsInOrder() {
		name := "list " + l.info.Name
		used := c.used[name]
		switch {
		case used:
		case slices.Contains(list.NameFormats(), l.info.Format) && !l.src.OfNetworks():
			c.names(l.info.Name, l.info.At)
		default:
			c.networks(l.info.Name, l.info.At)
		}
		c.used[name] = used
	}
}
