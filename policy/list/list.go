// Package list reads lists of names and of networks as their publishers write
// them, into the sets of package match.
//
// Names come in the formats
//
//	plain     one pattern a line: example.com (and all under it), =example.com
//	          (alone), *.example.com (one label more), **.example.com or
//	          .example.com (one or more), +.example.com (as the first)
//	hosts     an address and the names that it stands for, each taken alone
//	dnsmasq   server=/a/b/..., local=, address=, ipset=, nftset=: a, b and all under them
//	rpz       a response policy zone in master file form: the owners of CNAME .,
//	          CNAME *. and CNAME rpz-drop., wildcards included
//	adblock   ||example.com^: the name and all under it
//
// and networks in the formats
//
//	cidr      a prefix, an address or a range FROM-TO a line
//	dnsmasq   bogus-nxdomain= and ignore-address=
//
// A list is other people's work: a line that cannot be read, or that means what
// a set cannot say (an exception, a modifier, a trigger other than the name), is
// left out, counted and shown, and never voids the rest. But a file out of which
// nothing at all comes is an error: it is a page that says "not found", or the
// format is not the one that was named.
package list

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/starferry/starferry/policy/match"
)

// A Source is one list: how it is called in messages, what it is written in,
// and how wide its entries may be.
type Source struct {
	Name   string
	Format string

	// MinLabels leaves out entries that cover what is under a name of fewer
	// labels than this: 2 leaves out whole top-level domains, some of which
	// well-kept lists hold. Below 2 they are taken, with a warning.
	MinLabels int
	// Except names those that are meant, whatever MinLabels says.
	Except []string
}

// maxShown is how many bad lines and wide entries are kept to be shown.
const maxShown = 5

// Stats is what was found in a list.
type Stats struct {
	Entries  int      // entries taken
	Bad      int      // entries and lines left out because they could not be read
	BadLines []Place  // the first few of them
	Wide     int      // entries that cover a whole top-level domain, or less than MinLabels allows
	WideOnes []string // the first few of them

	name string
	left bool // the wide ones were left out
}

// A Place is a line of a list with what is wrong with it.
type Place struct {
	Line int
	Text string // the beginning of the line
	Why  string
}

// Warnings says what the operator should know of the list, a sentence each.
func (s Stats) Warnings() []string {
	var out []string
	if s.Wide > 0 {
		done, todo := "taken", "set min_labels: 2 to leave them out, or name those that are meant in except"
		if s.left {
			done, todo = "left out", "name those that are meant in except"
		}
		out = append(out, fmt.Sprintf("list %s: entries as wide as a top-level domain, %s: %d (%s); %s", s.name, done, s.Wide, some(s.WideOnes, s.Wide), todo))
	}
	if s.Bad > 0 {
		var shown []string
		for _, p := range s.BadLines {
			shown = append(shown, fmt.Sprintf("line %d: %s", p.Line, p.Why))
		}
		out = append(out, fmt.Sprintf("list %s: entries that cannot be read, left out: %d (%s)", s.name, s.Bad, some(shown, s.Bad)))
	}
	return out
}

func some(shown []string, of int) string {
	text := strings.Join(shown, ", ")
	if of > len(shown) {
		text += ", ..."
	}
	return text
}

// Names reads a list of names in the given format; name is how messages call it.
func Names(format string, r io.Reader, name string) (*match.Names, Stats, error) {
	return Source{Name: name, Format: format}.Names(r)
}

// Networks reads a list of networks in the given format; name is how messages
// call it.
func Networks(format string, r io.Reader, name string) (*match.Networks, Stats, error) {
	return Source{Name: name, Format: format}.Networks(r)
}

// NameFormats returns the formats that [Names] reads.
func NameFormats() []string { return slices.Sorted(maps.Keys(nameFormats)) }

// NetworkFormats returns the formats that [Networks] reads.
func NetworkFormats() []string { return slices.Sorted(maps.Keys(networkFormats)) }

// A nameReader takes one line after another and adds the entries that it finds.
// It returns what is wrong with the line, if something is.
type nameReader func(line []byte, add adder) error

// An adder takes an entry; the name is good until it returns.
type adder func(kind match.Kind, name []byte) error

var nameFormats = map[string]func() nameReader{
	"plain":   func() nameReader { return plainLine },
	"hosts":   func() nameReader { return new(hosts).line },
	"dnsmasq": func() nameReader { return dnsmasqLine },
	"adblock": func() nameReader { return adblockLine },
	"rpz":     func() nameReader { return new(zone).line },
}

// Names reads the list as one of names.
func (s Source) Names(r io.Reader) (*match.Names, Stats, error) {
	var names match.NamesBuilder
	stats, err := s.collect(r, func(kind match.Kind, key match.Key, _ []byte) error { return names.AddKey(kind, key) })
	if err != nil {
		return nil, stats, err
	}
	return names.Build(), stats, nil
}

// Each calls yield with each name that the list as one of names has an entry of,
// as [match.Clean] writes it, and with what the entry covers. A set does not
// tell its names.
func (s Source) Each(r io.Reader, yield func(kind match.Kind, name string)) error {
	_, err := s.collect(r, func(kind match.Kind, _ match.Key, name []byte) error {
		clean, err := match.Clean(string(name))
		if err == nil {
			yield(kind, clean)
		}
		return err
	})
	return err
}

// collect passes the entries of the list to take.
func (s Source) collect(r io.Reader, take func(match.Kind, match.Key, []byte) error) (Stats, error) {
	open, ok := nameFormats[s.Format]
	if !ok {
		return Stats{}, fmt.Errorf("list %s: %q is no format of names: want one of %q", s.Name, s.Format, NameFormats())
	}
	c := &collector{take: take, stats: Stats{name: s.Name, left: s.MinLabels > 1}, min: max(s.MinLabels, 2), meant: map[match.Key]bool{}}
	for _, e := range s.Except {
		key, err := match.KeyOf(e)
		if err != nil {
			return Stats{}, fmt.Errorf("list %s: except: %w", s.Name, err)
		}
		c.meant[key] = true
	}
	read, add := open(), c.add // made once: a method's value is made anew wherever it is written
	err := s.read(r, &c.stats, func(line []byte) error { return read(line, add) })
	return c.stats, err
}

// A collector takes those entries of a list that are not too wide.
type collector struct {
	take  func(match.Kind, match.Key, []byte) error
	stats Stats
	min   int
	meant map[match.Key]bool // the exceptions
}

func (c *collector) add(kind match.Kind, name []byte) error {
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
	return c.take(kind, key, name)
}

func (c *collector) wide(kind match.Kind, name []byte) {
	c.stats.Wide++
	if len(c.stats.WideOnes) < maxShown {
		clean, _ := match.Clean(string(name)) // it has a key
		c.stats.WideOnes = append(c.stats.WideOnes, match.Match{Name: clean, Kind: kind}.String())
	}
}

// read passes each line to take and counts those that it refuses.
func (s Source) read(r io.Reader, stats *Stats, take func(line []byte) error) error {
	in := newLines(r)
	for in.next() {
		var err error
		if in.tooLong {
			err = fmt.Errorf("a line of more than %d bytes", maxLine)
		} else {
			err = take(in.text)
		}
		for _, e := range split(err) {
			if stats.Bad++; len(stats.BadLines) < maxShown {
				stats.BadLines = append(stats.BadLines, Place{in.line, clip(in.text), e.Error()})
			}
		}
	}
	if in.err != nil {
		return fmt.Errorf("reading list %s: %w", s.Name, in.err)
	}
	if in.line > 0 && stats.Entries == 0 {
		return s.nothing(stats)
	}
	return nil
}

func (s Source) nothing(stats *Stats) error {
	if len(stats.BadLines) > 0 {
		p := stats.BadLines[0]
		return fmt.Errorf("list %s: no entry in it: is its format %s? Line %d is %q: %s", s.Name, s.Format, p.Line, p.Text, p.Why)
	}
	return fmt.Errorf("list %s: no entry in it: is its format %s? (Only a file of no bytes is an empty list.)", s.Name, s.Format)
}

// split returns the errors of one line; a line can hold several entries.
func split(err error) []error {
	if err == nil {
		return nil
	}
	var several interface{ Unwrap() []error }
	if errors.As(err, &several) {
		return several.Unwrap()
	}
	return []error{err}
}

func clip[T string | []byte](text T) string {
	const most = 80
	s := string(text[:min(len(text), most)])
	if len(text) > most {
		s += "..."
	}
	return strings.ToValidUTF8(s, "\ufffd")
}
