package list

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/starferry/starferry/policy/match"
)

// A geosite reads the lists of v2fly's domain-list-community: their sources, in
// which lists include others, and what is released of them, one text for each
// list.
//
//	example.com              the name and all under it; so does domain:example.com
//	full:www.example.com     the name alone
//	keyword:ads              names that hold the text
//	regexp:^ads[0-9]         names that the expression (RE2) matches
//	example.cn @cn @ads      an entry with attributes; released: domain:example.cn:@cn,@ads
//	example.cn &other        an entry that is also one of the list other, which is not looked at here
//	include:other @cn @-ads  the list other, of that what has the one attribute and lacks the other
type geosite struct {
	any      [][]attribute // an entry is taken that meets all of one of these
	open     Opener
	inside   []string // the lists that are being read, each included by the one before
	demands  []attribute
	included int
}

// An attribute is one that an entry must have, or lack. Its name can begin with
// an exclamation mark: @!cn says that the site is elsewhere.
type attribute struct {
	name string
	not  bool
}

// The bounds of what a list includes: the largest there are include some
// hundreds, four levels deep.
const (
	maxIncludes = 5000
	maxDepth    = 32
)

func newGeosite(s Source) (nameReader, error) {
	g := &geosite{open: s.Include, inside: []string{s.itself}}
	for _, word := range s.Select {
		_, attrs, err := selector(word)
		if err != nil {
			return nil, fmt.Errorf("list %s: select: %w", s.Name, err)
		}
		if len(attrs) > 0 {
			g.any = append(g.any, attrs)
		}
	}
	return g.line, nil
}

// selector takes apart geosite:apple@cn or @cn.
func selector(text string) (name string, attrs []attribute, err error) {
	name, rest, has := strings.Cut(strings.TrimPrefix(text, "geosite:"), "@")
	if name != "" && !isListName(name) {
		return "", nil, fmt.Errorf("%q is no name of a list", clip(name))
	}
	for has {
		var word string
		word, rest, has = strings.Cut(rest, "@")
		a, ok := parseAttribute("@" + word)
		if !ok {
			return "", nil, fmt.Errorf("%q is no attribute", clip(word))
		}
		attrs = append(attrs, a)
	}
	return name, attrs, nil
}

// list returns the name of the list that a selector names, if one does.
func (s Source) list() string {
	if s.Format == "v2fly" {
		for _, word := range s.Select {
			if name, _, err := selector(word); err == nil && name != "" {
				return name
			}
		}
	}
	return ""
}

// isListName holds names of lists to what can be one's file: it cannot lead to
// another folder.
func isListName(name string) bool {
	return name != "" && len(name) <= 100 && !strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '!'
	})
}

func parseAttribute(word string) (attribute, bool) {
	name, ok := strings.CutPrefix(word, "@")
	name, not := strings.CutPrefix(name, "-")
	return attribute{strings.ToLower(name), not}, ok && isListName(name)
}

func (g *geosite) line(line []byte, to *collector) error {
	words := bytes.Fields(uncomment(line, "#"))
	if len(words) == 0 {
		return nil
	}
	kind, value, ok := bytes.Cut(words[0], []byte(":"))
	if !ok {
		kind, value = []byte("domain"), words[0]
	}
	var attrs []attribute
	if i := bytes.LastIndex(value, []byte(":@")); i >= 0 {
		for word := range strings.SplitSeq(string(value[i+1:]), ",") {
			words = append(words, []byte(word))
		}
		value = value[:i]
	}
	for _, word := range words[1:] {
		if len(word) > 0 && word[0] == '&' && isListName(string(word[1:])) {
			continue
		}
		a, ok := parseAttribute(string(word))
		if !ok {
			return fmt.Errorf("%q is no attribute", clip(word))
		}
		attrs = append(attrs, a)
	}
	if string(kind) == "include" {
		return g.include(string(value), attrs, to)
	}
	return g.entry(string(kind), value, attrs, to)
}

// entry adds an entry if its attributes are those that are wanted.
func (g *geosite) entry(kind string, value []byte, attrs []attribute, to *collector) error {
	wanted := g.any == nil
	for _, all := range g.any {
		wanted = wanted || meets(attrs, all)
	}
	if !wanted || !meets(attrs, g.demands) {
		to.stats.passed++
		return nil
	}
	switch kind {
	case "domain":
		return to.add(match.Tree, value)
	case "full":
		return to.add(match.Exact, value)
	case "keyword":
		return to.pattern(to.names.AddKeyword(string(value)))
	case "regexp":
		return to.pattern(to.names.AddRegexp(string(value)))
	}
	return fmt.Errorf("%q is no kind of entry", clip(kind))
}

func meets(attrs, demands []attribute) bool {
	for _, d := range demands {
		if slices.Contains(attrs, attribute{name: d.name}) == d.not {
			return false
		}
	}
	return true
}

// include reads the list of this name in place of the line. What is wrong with
// its lines is counted there.
func (g *geosite) include(name string, demands []attribute, to *collector) error {
	switch {
	case !isListName(name):
		return fmt.Errorf("%q is no name of a list", clip(name))
	case slices.Contains(g.inside, name):
		return fmt.Errorf("the list %s includes itself", name)
	case g.included >= maxIncludes, len(g.inside) >= maxDepth:
		return errors.New("too many lists are included")
	case g.open == nil:
		return beyond("including other lists from here")
	}
	g.included++
	f, err := g.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the list %s that it includes is not there", name)
	}
	if err != nil {
		return fmt.Errorf("including %s: %w", name, err)
	}
	defer f.Close() // only read from
	before := len(g.demands)
	g.inside, g.demands = append(g.inside, name), append(g.demands, demands...)
	_, err = readLines(f, name, &to.stats, func(line []byte) error { return g.line(line, to) })
	g.inside, g.demands = g.inside[:len(g.inside)-1], g.demands[:before]
	if err != nil {
		return fmt.Errorf("including %s: %w", name, err)
	}
	return nil
}
