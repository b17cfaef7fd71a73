package list

import (
	"maps"
	"slices"

	"github.com/starferry/starferry/policy/match"
)

// A collector puts the entries of a list into sets: those that it names, those
// that it excepts, and for some formats a few more.
type collector struct {
	names match.NamesBuilder
	out   match.NamesBuilder // exceptions: of two entries the one that is closer to the name counts
	rules map[string]*rules  // of modified rules, by their modifiers
	stats Stats
	min   int
	meant map[match.Key]bool       // the exceptions to min
	noted int                      // lines that rules keep
	tell  func(match.Kind, string) // if somebody wants to hear the names
}

// A rules is a set of rules that have the same modifiers.
type rules struct {
	match.NamesBuilder
	but       match.NamesBuilder // names that these rules do not cover
	excepts   bool
	important bool
	scope     Scope
	lines     map[string]int // of those that are not for all
}

// add adds an entry to the set; the name is good until it returns.
func (c *collector) add(kind match.Kind, name []byte) error { return c.addTo(&c.names, kind, name) }

func (c *collector) addTo(set *match.NamesBuilder, kind match.Kind, name []byte) error {
	key, err := match.KeyOf(name)
	if err != nil {
		return err
	}
	if c.isWide(kind, key) {
		c.wide(kind, name)
		if c.stats.left {
			return nil
		}
	}
	c.stats.Entries++
	if c.tell != nil {
		clean, _ := match.Clean(string(name)) // it has a key
		c.tell(kind, clean)
	}
	return set.AddKey(kind, key)
}

// except adds an entry to those that are taken out. It may be wide: what is
// longer stays.
func (c *collector) except(kind match.Kind, name []byte) error {
	key, err := match.KeyOf(name)
	if err != nil {
		return err
	}
	c.stats.Entries++
	return c.out.AddKey(kind, key)
}

// isWide reports whether what an entry covers is wider than lists may be trusted with.
func (c *collector) isWide(kind match.Kind, key match.Key) bool {
	return key.Labels() < c.min && kind != match.Exact && !c.meant[key]
}

func (c *collector) wide(kind match.Kind, name []byte) {
	c.stats.Wide++
	if len(c.stats.WideOnes) < maxWide {
		clean, _ := match.Clean(string(name)) // it has a key
		c.stats.WideOnes = append(c.stats.WideOnes, match.Match{Name: clean, Kind: kind}.String())
	}
}

// wideException counts an exception that takes all that is under a wide name out
// of the list, however long the entries are.
func (c *collector) wideException(r *rule, kind match.Kind, name []byte) {
	c.stats.WideOut++
	if len(c.stats.WideOuts) < maxWide {
		clean, _ := match.Clean(string(name)) // it has a key
		of := Rules{Excepts: true, Important: r.important, Scope: r.scope}
		c.stats.WideOuts = append(c.stats.WideOuts, of.String(match.Match{Name: clean, Kind: kind}))
	}
}

// pattern counts an entry that a builder took.
func (c *collector) pattern(err error) error {
	if err == nil {
		c.stats.Entries++
	}
	return err
}

// build makes the set. Of adblock rules an exception counts for more than what
// it is an exception of, important rules for more than those, and important
// exceptions for most.
func (c *collector) build() *Set {
	of := [classes][]*match.Names{blocking: {c.names.Build().WithoutCloser(c.out.Build())}}
	var some []Rules
	for _, k := range slices.Sorted(maps.Keys(c.rules)) {
		r := c.rules[k]
		names, class := r.Build().Without(r.but.Build()), classOf(r.excepts, r.important)
		if r.scope.Empty() {
			of[class] = append(of[class], names)
		} else if names.Len() > 0 {
			some = append(some, Rules{Names: names, Excepts: r.excepts, Important: r.important, Scope: r.scope, lines: r.lines})
		}
	}
	var all [classes]*match.Names
	for class, sets := range of {
		all[class] = match.Union(sets...)
	}
	set := &Set{Names: all[blocking].Without(all[excepting])}
	if all[important].Len() > 0 {
		set.Names = match.Union(set.Names, all[important])
	}
	set.Names = set.Names.Without(all[exceptingMost])
	if some != nil {
		set.Rules = append(forAll(all), some...)
	}
	return set
}
