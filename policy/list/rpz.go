package list

import (
	"errors"
	"fmt"
	"strings"

	"github.com/starferry/starferry/policy/match"
)

// A zone is a response policy zone on its way through the reader, a line at a
// time (RFC 1035, section 5; draft-vixie-dnsop-dns-rpz, sections 4 and 5).
//
// Names are relative to the zone's apex, which is the owner of the SOA record,
// or what the first $ORIGIN says. A file that says neither, as those that leave
// it to the server's configuration do, has relative names only.
type zone struct {
	apex, origin string // without the final dot
	owner        string // of the record before, for lines that begin with a space
	pending      []string
	depth        int  // open parentheses
	blank        bool // the pending record's first line began with a space
}

// maxFields bounds a record that is spread over several lines by parentheses.
const maxFields = 64

func (z *zone) line(line string, add func(match.Kind, string) error) error {
	if z.depth == 0 {
		z.blank = line != "" && (line[0] == ' ' || line[0] == '\t')
		z.pending = z.pending[:0]
	}
	if err := z.tokens(line); err != nil {
		z.depth, z.pending = 0, z.pending[:0]
		return err
	}
	if z.depth > 0 || len(z.pending) == 0 {
		return nil
	}
	if strings.HasPrefix(z.pending[0], "$") {
		return z.directive(z.pending)
	}
	return z.record(z.pending, add)
}

// tokens splits a line into words; parentheses, quotes and comments as in RFC 1035.
func (z *zone) tokens(line string) error {
	start, quoted := -1, false
	for i := 0; i <= len(line); i++ {
		ends := i == len(line) || !quoted && strings.IndexByte(" \t;()", line[i]) >= 0
		if !ends {
			quoted = quoted != (line[i] == '"')
			if start < 0 {
				start = i
			}
			continue
		}
		if start >= 0 {
			z.pending, start = append(z.pending, line[start:i]), -1
		}
		if i == len(line) || line[i] == ';' {
			break
		}
		z.depth += map[byte]int{'(': 1, ')': -1}[line[i]]
	}
	if z.depth < 0 || quoted || len(z.pending) > maxFields {
		return errors.New("parentheses or quotes do not match")
	}
	return nil
}

func (z *zone) directive(words []string) error {
	switch {
	case words[0] == "$TTL":
		return nil
	case words[0] == "$ORIGIN" && len(words) == 2:
		z.origin = z.absolute(words[1])
		if z.apex == "" {
			z.apex = z.origin
		}
		return nil
	}
	return fmt.Errorf("%s is not supported", clip(words[0]))
}

// absolute returns a name of the file as seen from the root, without the final
// dot; while no origin is known, as seen from the apex.
func (z *zone) absolute(name string) string {
	name = strings.ToLower(name)
	if abs, ok := strings.CutSuffix(name, "."); ok {
		return abs
	}
	switch {
	case name == "@":
		return z.origin
	case z.origin == "":
		return name
	}
	return name + "." + z.origin
}

func (z *zone) record(words []string, add func(match.Kind, string) error) error {
	if !z.blank {
		z.owner, words = z.absolute(words[0]), words[1:]
	}
	for len(words) > 0 && (words[0][0] >= '0' && words[0][0] <= '9' || strings.EqualFold(words[0], "IN")) {
		words = words[1:] // TTL and class, in either order
	}
	if len(words) < 2 {
		return errors.New("not a whole record")
	}
	switch typ := strings.ToUpper(words[0]); {
	case typ == "SOA":
		if z.apex = z.owner; z.origin == "" {
			z.origin = z.apex
		}
		return nil
	case z.owner == z.apex:
		return nil // NS and whatever else describes the zone itself
	case typ != "CNAME":
		return fmt.Errorf("local data (%s) is not supported", clip(typ))
	}
	return z.rule(strings.ToLower(words[1]), add)
}

// rule adds what a CNAME record of the zone says.
func (z *zone) rule(target string, add func(match.Kind, string) error) error {
	name := z.owner
	if z.apex != "" {
		var ok bool
		if name, ok = strings.CutSuffix(z.owner, "."+z.apex); !ok {
			return fmt.Errorf("%s is outside of the zone %s", clip(z.owner), clip(z.apex))
		}
	}
	if i := strings.LastIndexByte(name, '.'); strings.HasPrefix(name[i+1:], "rpz-") {
		return fmt.Errorf("the trigger %s is not supported", clip(name[i+1:]))
	}
	switch target {
	case ".", "*.", "rpz-drop.":
	case "rpz-passthru.", name + ".":
		return errors.New("an exception (rpz-passthru) is not supported")
	default:
		return fmt.Errorf("the action CNAME %s is not supported", clip(target))
	}
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		return add(match.Under, rest) // at any depth (RFC 4592)
	}
	return add(match.Exact, name)
}
