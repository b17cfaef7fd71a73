package list

import (
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
	tell  func(match.Kind, string) // if somebody wants to hear the names
}

// A rules is a set of rules that have the same modifiers.
type rules struct {
	match.NamesBuilder
	but       match.NamesBuilder // names that these rules do not cover
	excepts   bool
	important bool
}

// add adds an entry to the set; the name is good until it returns.
func (c *collector) add(kind match.Kind, name []byte) error { return c.addTo(&c.names, kind, name) }

func (c *collector) addTo(set *match.NamesBuilder, kind match.Kind, name []byte) error {
	key, err := match.KeyOf(name)
	if err != nil {
		return err
	}
	if key.Labels() < c.min && kind != match.Exact && !c.meant[key] {
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

// except adds an entry to those that are taken out.
func (c *collector) except(kind match.Kind, name []byte) error {
	key, err := match.KeyOf(name)
	if err != nil {
		return err
	}
	c.stats.Entries++
	return c.out.AddKey(kind, key)
}

func (c *collector) wide(kind match.Kind, name []byte) {
	c.stats.Wide++
	if len(c.stats.WideOnes) < maxShown {
		clean, _ := match.Clean(string(name)) // it has a key
		c.stats.WideOnes = append(c.stats.WideOnes, match.Match{Name: clean, Kind: kind}.String())
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
func (c *collector) build() *match.Names {
	of := map[[2]bool][]*match.Names{}
	for _, r := range c.rules {
		k := [2]bool{r.excepts, r.important}
		of[k] = append(of[k], r.Build().Without(r.but.Build()))
	}
	plain := c.names.Build().WithoutCloser(c.out.Build())
	set := match.Union(slices.Insert(of[[2]bool{false, false}], 0, plain)...)
	set = set.Without(match.Union(of[[2]bool{true, false}]...))
	if more := of[[2]bool{false, true}]; len(more) > 0 {
		set = match.Union(slices.Insert(more, 0, set)...)
	}
	return set.Without(match.Union(of[[2]bool{true, true}]...))
}
