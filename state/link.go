package state

import (
	"iter"
	"time"

	"github.com/hashicorp/go-memdb"
)

const linkTable = "link"

// A Link is the state of the way to one neighbour.
type Link struct {
	Name          string // of the neighbour
	Role          string // of the neighbour: gateway, egress, connector
	Up            bool
	Since         time.Time     // when it went up or down
	RTT           time.Duration // last measured; zero if never
	LastHandshake time.Time
	Endpoint      string // where its packets come from
	Reason        string // of being down
}

var linkByName = index[Link, string]{
	table: linkTable, name: "id", unique: true,
	of:    func(l *Link) []string { return []string{l.Name} },
	bytes: text[string],
}

func linkSchema() *memdb.TableSchema {
	return &memdb.TableSchema{Name: linkTable, Indexes: map[string]*memdb.IndexSchema{
		linkByName.name: linkByName.schema(),
	}}
}

// Link returns the state of the link to the named neighbour.
func (v View) Link(name string) (Link, bool) {
	l, ok := one(v.tx, linkByName, name)
	if !ok {
		return Link{}, false
	}
	return *l, true
}

// Links ranges over all links in the order of their names.
func (v View) Links() iter.Seq[Link] {
	return func(yield func(Link) bool) {
		for l := range all(v.tx, linkByName) {
			if !yield(*l) {
				return
			}
		}
	}
}

// WatchLinks returns a channel that is closed when a link changes after the
// moment of this view.
func (v View) WatchLinks() <-chan struct{} { return watch(v.tx, linkByName) }

// PutLink replaces what is known of a link.
func (t Tx) PutLink(l Link) error { return t.put(linkTable, &l) }

// DeleteLink forgets a neighbour.
func (t Tx) DeleteLink(name string) error {
	if l, ok := one(t.tx, linkByName, name); ok {
		return t.drop(linkTable, l)
	}
	return nil
}
