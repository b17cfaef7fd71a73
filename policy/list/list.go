// Package list reads lists of names and of networks as their publishers write
// them, into the sets of package match.
//
// Names come in the formats
//
//	plain     one pattern a line: example.com (and all under it), =example.com
//	          (alone), *.example.com (one label more), **.example.com or
//	          .example.com (one or more), +.example.com (as the first), /re2/
//	hosts     an address and the names that it stands for, each taken alone
//	dnsmasq   server=/a/b/..., local=, address=, ipset=, nftset=: a, b and all
//	          under them, but for what the longer server=/.../# excepts
//	adblock   ||example.com^: the name and all under it; |example.com^: alone;
//	          /re2/; @@ excepts; $important, badfilter, denyallow, and dnstype
//	          and client for rules that are for some questions only
//	regexp    one regular expression (RE2) a line, as Pi-hole has them
//	v2fly     sources and releases of domain-list-community, with includes;
//	          select: [geosite:apple@cn@-ads] takes entries by their attributes
//	rpz       a response policy zone in master file form: the owners of CNAME .,
//	          CNAME *. and CNAME rpz-drop., wildcards included, but for what a
//	          rule that is closer to the name does otherwise; select: takes
//	          those of other actions. What the zone answers with: [Source.Answers]
//
// and networks in the formats
//
//	cidr      a prefix, an address or a range FROM-TO a line
//	dnsmasq   bogus-nxdomain= and ignore-address=
//	rpz       the addresses in answers of a zone's rules; select: [client-ip]
//	          takes those of clients
//	mmdb      a database in MaxMind's format; select: [CN, AS4134]
//
// A list is other people's work: a line that cannot be read, or that means what
// a set cannot say (another modifier, a trigger other than the name), is left out, counted and shown, and never voids the rest. But a file out of which
// nothing at all comes is an error: it is a page that says "not found", or the
// format is not the one that was named.
package list

import (
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
	// well-kept lists hold. Below 2 they are taken, with a warning. So are
	// exceptions that take out all that is under such a name.
	MinLabels int
	// Except names those that are meant, whatever MinLabels says.
	Except []string

	// Select says what is taken of a format that holds more than one thing: see
	// the formats. Empty takes what the format is mostly for.
	Select []string

	// Include opens the list of this name that another one includes. Nil
	// includes none.
	Include Opener

	itself string // the name by which others would include it
}

// Names reads a list of names in the given format; name is how messages call it.
func Names(format string, r io.Reader, name string) (*Set, Stats, error) {
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

// OfNetworks reports whether what is selected of the list are networks, in a
// format that has names as well.
func (s Source) OfNetworks() bool {
	return s.Format == "rpz" && slices.ContainsFunc(s.Select, func(word string) bool { return rpzTriggers[word] != "" })
}

// Trigger returns whose addresses the networks are that are taken of a response
// policy zone, those of clients (client-ip) or those in answers (response-ip);
// empty for other formats.
func (s Source) Trigger() string {
	switch {
	case s.Format != "rpz":
		return ""
	case slices.Contains(s.Select, ClientIP):
		return ClientIP
	}
	return ResponseIP
}

// A nameReader takes one line after another and adds the entries that it finds.
// It returns what is wrong with the line, if something is. After the last line it
// takes nil.
type nameReader func(line []byte, to *collector) error

var nameFormats = map[string]func(Source) (nameReader, error){
	"plain":   unselective(func() nameReader { return plainLine }),
	"hosts":   unselective(func() nameReader { return new(hosts).line }),
	"dnsmasq": unselective(func() nameReader { return dnsmasqLine }),
	"adblock": unselective(func() nameReader { return adblockLine }),
	"regexp":  unselective(func() nameReader { return regexpLine }),
	"rpz":     newZoneNames,
	"v2fly":   newGeosite,
}

// unselective makes a format of one of which all is taken.
func unselective(open func() nameReader) func(Source) (nameReader, error) {
	return func(s Source) (nameReader, error) {
		if err := s.selectsNothing(); err != nil {
			return nil, err
		}
		return open(), nil
	}
}

func (s Source) selectsNothing() error {
	if len(s.Select) > 0 {
		return fmt.Errorf("list %s: select: format %s is read whole", s.Name, s.Format)
	}
	return nil
}

// Names reads the list as one of names.
func (s Source) Names(r io.Reader) (*Set, Stats, error) { return s.names(r, nil) }

// Each calls yield with each name that the list as one of names has an entry of,
// as [match.Clean] writes it, and with what the entry covers: those that are not
// taken out again by exceptions. Of rules that are for some only, those count
// that add names. A set does not tell its names. Keywords and regular expressions
// are no names, and left out.
func (s Source) Each(r io.Reader, yield func(kind match.Kind, name string)) error {
	var told []match.Match
	set, _, err := s.names(r, func(kind match.Kind, name string) { told = append(told, match.Match{Name: name, Kind: kind}) })
	if err != nil {
		return err
	}
	for _, m := range told {
		if set.counts(m) {
			yield(m.Kind, m.Name)
		}
	}
	return nil
}

// names reads the list, and passes to tell the names that it comes by.
func (s Source) names(r io.Reader, tell func(match.Kind, string)) (*Set, Stats, error) {
	open, ok := nameFormats[s.Format]
	if !ok {
		return nil, Stats{}, fmt.Errorf("list %s: %q is no format of names: want one of %q", s.Name, s.Format, NameFormats())
	}
	c, err := s.collector(tell)
	if err != nil {
		return nil, Stats{}, err
	}
	read, err := open(s)
	if err != nil {
		return nil, Stats{}, err
	}
	c.names.Apart = s.Format == "adblock"
	if err := s.read(r, &c.stats, func(line []byte) error { return read(line, c) }); err != nil {
		return nil, c.stats, err
	}
	return c.build(), c.stats, nil
}

// collector makes one for the list.
func (s Source) collector(tell func(match.Kind, string)) (*collector, error) {
	c := &collector{tell: tell, stats: Stats{name: s.Name, left: s.MinLabels > 1}, min: max(s.MinLabels, 2), meant: map[match.Key]bool{}}
	for _, e := range s.Except {
		key, err := match.KeyOf(e)
		if err != nil {
			return nil, fmt.Errorf("list %s: except: %w", s.Name, err)
		}
		c.meant[key] = true
	}
	return c, nil
}

// read passes each line to take and counts those that it refuses.
func (s Source) read(r io.Reader, stats *Stats, take func(line []byte) error) error {
	n, err := readLines(r, "", stats, take)
	if err != nil {
		return fmt.Errorf("reading list %s: %w", s.Name, err)
	}
	stats.count(take(nil), Place{Line: n}) // the end, for what is spread over several lines
	if n > 0 && stats.Entries+stats.passed == 0 {
		return s.nothing(stats)
	}
	return nil
}

// readLines passes each line of a file to take, counts those that it refuses,
// and returns how many there are.
func readLines(r io.Reader, file string, stats *Stats, take func(line []byte) error) (int, error) {
	in := newLines(r)
	for in.next() {
		var err error
		stats.line = in.line
		if in.tooLong {
			err = fmt.Errorf("a line of more than %d bytes", maxLine)
		} else {
			err = take(in.text)
		}
		if err != nil {
			stats.count(err, Place{File: file, Line: in.line, Text: clip(in.text)})
		}
	}
	return in.line, in.err
}

func (s Source) nothing(stats *Stats) error {
	if len(stats.BadLines) > 0 {
		p := stats.BadLines[0]
		return fmt.Errorf("list %s: no entry in it: is its format %s? %s is %q: %s", s.Name, s.Format, strings.ToUpper(p.String()[:1])+p.String()[1:], p.Text, p.Why)
	}
	if len(stats.unsaid) > 0 {
		return fmt.Errorf("list %s: no entry in it: is its format %s? In all of it %w", s.Name, s.Format, stats.unsaid[0].what)
	}
	return fmt.Errorf("list %s: no entry in it: is its format %s? (Only a file of no bytes is an empty list.)", s.Name, s.Format)
}
