package list

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/starferry/starferry/internal/rrtype"
)

// A zone is a response policy zone on its way through the reader, a line at a
// time (RFC 1035, section 5; draft-vixie-dnsop-dns-rpz, sections 4 and 5).
//
// Names are relative to the zone's apex, which is the owner of the SOA record,
// or what the first $ORIGIN says. A file that says neither, as those that leave
// it to the server's configuration do, has relative names only.
type zone struct {
	apex, origin string // without the final dot
	owner        []byte // of the record before, for lines that begin with a space
	text         []byte // the lines of the pending record
	pending      [][]byte
	target       []byte     // of a CNAME
	held         []heldLine // of the pending record
	at           int        // the number of the line that is read; 0: not known
	depth        int        // open parentheses
	blank        bool       // the pending record's first line began with a space
	lost         bool       // the owner of the record before could not be read
	rooted       bool       // the origin is the root, as $ORIGIN said
	ttl          spanSaid   // that records have which say none
}

// A spanSaid is a time to live in seconds, if one is said: 0 is one too.
type spanSaid struct {
	seconds uint32
	said    bool
}

// A heldLine is a line of a record that is spread over several: where its text
// begins, and its number.
type heldLine struct{ from, at int }

// maxFields bounds a record that is spread over several lines by parentheses.
const maxFields = 64

// line reads a line; nil is the end of the file.
func (z *zone) line(line []byte, take func(rpzRule) error) error {
	switch {
	case line == nil:
		return z.end(take)
	case z.depth == 0:
		z.blank = isBlank(line)
		z.pending, z.text, z.held = z.pending[:0], z.text[:0], z.held[:0]
	}
	before, words, depth := len(z.text), len(z.pending), z.depth
	z.text = append(z.text, line...) // where it moves, the words so far stay as they were
	err := z.tokens(z.text[before:])
	if err == nil && len(z.pending) == words && z.depth == depth {
		z.text = z.text[:before] // nothing but a comment
	} else {
		z.held = append(z.held, heldLine{before, z.at})
	}
	switch {
	case err != nil:
		z.lost = z.lost || !z.blank
	case z.depth > 0 || len(z.pending) == 0:
		return nil
	case z.pending[0][0] == '$':
		err = z.directive(z.pending)
	default:
		err = z.record(z.pending, take)
	}
	if z.depth = 0; err == nil || len(z.held) == 1 {
		return err
	}
	return z.without(err, take)
}

// end ends the file: a record that is still open is no good.
func (z *zone) end(take func(rpzRule) error) error {
	var errs []error
	for z.depth > 0 { // each time it goes on from a later line
		errs = append(errs, split(z.without(errOpen, take))...)
	}
	return errors.Join(errs...)
}

var errOpen = errors.New("parentheses or quotes do not match")

func isBlank(line []byte) bool { return len(line) > 0 && (line[0] == ' ' || line[0] == '\t') }

// without goes on after a record that is no good and spread over several lines:
// what began it may have been a stray parenthesis, so that the lines after the
// first one, from where they cannot be more of it, are read for themselves.
func (z *zone) without(why error, take func(rpzRule) error) error {
	text, held, now := bytes.Clone(z.text), slices.Clone(z.held), z.at
	line := func(i int) []byte {
		if i+1 < len(held) {
			return text[held[i].from:held[i+1].from:held[i+1].from]
		}
		return text[held[i].from:]
	}
	errs := []error{&placed{held[0].at, clip(line(0)), why}}
	z.depth = 0
	first := 1
	for first < len(held) && isBlank(line(first)) {
		first++
	}
	for i := first; i < len(held); i++ {
		z.at = held[i].at
		for _, err := range split(z.line(line(i), take)) {
			errs = append(errs, &placed{held[i].at, clip(line(i)), err})
		}
	}
	z.at = now
	return errors.Join(errs...)
}

// tokens splits a line into words; parentheses, quotes and comments as in RFC 1035.
func (z *zone) tokens(line []byte) error {
	start, quoted := -1, false
	for i := 0; i <= len(line); i++ {
		if i+1 < len(line) && line[i] == '\\' { // what follows is no quote, space or comment
			if start < 0 {
				start = i
			}
			i++
			continue
		}
		ends := i == len(line) || !quoted && endsWord(line[i])
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
		switch line[i] {
		case '(':
			z.depth++
		case ')':
			z.depth--
		}
	}
	if z.depth < 0 || quoted || len(z.pending) > maxFields || len(z.held) >= maxFields {
		return errOpen
	}
	return nil
}

func endsWord(c byte) bool { return c == ' ' || c == '\t' || c == ';' || c == '(' || c == ')' }

func (z *zone) directive(words [][]byte) error {
	switch {
	case bytes.EqualFold(words[0], []byte("$TTL")) && len(words) == 2:
		ttl, ok := parseTTL(words[1])
		if !ok {
			return fmt.Errorf("%q is no time to live", clip(words[1]))
		}
		z.ttl = spanSaid{ttl, true}
		return nil
	case bytes.EqualFold(words[0], []byte("$ORIGIN")) && len(words) == 2:
		z.origin = string(z.absolute(nil, words[1]))
		z.rooted = z.origin == ""
		if z.apex == "" {
			z.apex = z.origin
		}
		return nil
	}
	return fmt.Errorf("%s is not supported", clip(words[0]))
}

// absolute appends to out a name of the file as seen from the root, in lower
// case and without the final dot; while no origin is known, as seen from the apex.
func (z *zone) absolute(out, name []byte) []byte {
	if string(name) == "@" {
		return append(out, z.origin...)
	}
	out = append(out, name...)
	lower(out[len(out)-len(name):])
	if abs, ok := bytes.CutSuffix(out, []byte(".")); ok || z.origin == "" {
		return abs
	}
	return append(append(out, '.'), z.origin...)
}

// lower turns ASCII to lower case, in place. Other letters are no part of a
// zone's own names, and are mapped with the rest of an entry's.
func lower(b []byte) {
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c | 0x20
		}
	}
}

func (z *zone) record(words [][]byte, take func(rpzRule) error) error {
	if !z.blank {
		z.owner, z.lost, words = z.absolute(z.owner[:0], words[0]), false, words[1:]
	}
	if z.lost {
		return errors.New("whose it is stood in a line that could not be read")
	}
	ttl := z.ttl
	for len(words) > 0 && (words[0][0] >= '0' && words[0][0] <= '9' || bytes.EqualFold(words[0], []byte("IN"))) {
		if n, ok := parseTTL(words[0]); ok {
			ttl = spanSaid{n, true}
		}
		words = words[1:] // TTL and class, in either order
	}
	if len(words) < 2 {
		return errors.New("not a whole record")
	}
	switch typ := words[0]; {
	case bytes.EqualFold(typ, []byte("SOA")):
		if z.apex = string(z.owner); z.origin == "" && !z.rooted {
			z.origin = z.apex
		}
		return nil
	case string(z.owner) == z.apex:
		return nil // NS and whatever else describes the zone itself
	case !bytes.EqualFold(typ, []byte("CNAME")):
		switch t, err := rrtype.Parse(string(typ)); {
		case err != nil:
			return err
		case signing[t]:
			return nil
		case len(words) > 2 && (t == rrtype.Numbers["A"] || t == rrtype.Numbers["AAAA"]):
			return errors.New("more than an address")
		}
		return z.rule(nil, rpzData{words[0], words[1:], ttl, z}, take)
	}
	if len(words) > 2 {
		return errors.New("a CNAME with more than a target")
	}
	z.target = append(z.absolute(z.target[:0], words[1]), '.')
	return z.rule(z.target, rpzData{ttl: ttl}, take)
}

// signing are the types of what signs a zone (RFC 4034, RFC 5155). They stand
// beside the rules and are none.
var signing = map[uint16]bool{
	rrtype.Numbers["DS"]: true, rrtype.Numbers["DNSKEY"]: true, rrtype.Numbers["RRSIG"]: true, rrtype.Numbers["NSEC"]: true,
	rrtype.Numbers["NSEC3"]: true, nsec3param: true,
}

const nsec3param = 51 // which stands at the apex, or by its number

// parseTTL reads a time to live: seconds, or 1h30m as BIND has them.
func parseTTL(word []byte) (uint32, bool) {
	var all, n uint64
	digits := false
	for _, c := range word {
		unit, ok := ttlUnits[c|0x20]
		switch {
		case c >= '0' && c <= '9' && n < 1<<31:
			n, digits = n*10+uint64(c-'0'), true
		case ok && digits:
			all, n, digits = all+n*unit, 0, false
		default:
			return 0, false
		}
	}
	all += n
	return uint32(all), len(word) > 0 && all < 1<<31
}

var ttlUnits = map[byte]uint64{'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 604800}

// rule takes apart what a CNAME record of the zone says, or local data, which
// has no target.
func (z *zone) rule(target []byte, data rpzData, take func(rpzRule) error) error {
	name := z.owner
	if z.apex != "" {
		end := len(name) - len(z.apex) - 1
		if end < 0 || name[end] != '.' || string(name[end+1:]) != z.apex {
			return fmt.Errorf("%s is outside of the zone %s", clip(z.owner), clip(z.apex))
		}
		name = name[:end]
	}
	r := rpzRule{owner: name, action: "local", data: data}
	if i := bytes.LastIndexByte(name, '.'); bytes.HasPrefix(name[i+1:], []byte("rpz-")) {
		r.owner, r.trigger = name[:max(i, 0)], string(name[i+1:])
	}
	if target != nil {
		r.action, r.target = action(target, name)
	}
	return take(r)
}

// action names what a CNAME record does
// (draft-vixie-dnsop-dns-rpz, section 3).
func action(target, name []byte) (word, to string) {
	switch t := string(target); {
	case t == ".":
		return "nxdomain", ""
	case t == "*.":
		return "nodata", ""
	case t == "rpz-drop.":
		return "drop", ""
	case t == "rpz-tcp-only.":
		return "tcp-only", ""
	case t == "rpz-passthru.", isDotted(target, name):
		return "passthru", ""
	default:
		return "cname", string(bytes.TrimSuffix(target, []byte(".")))
	}
}

// isDotted reports whether target is the name with a final dot.
func isDotted(target, name []byte) bool {
	return len(target) == len(name)+1 && target[len(name)] == '.' && bytes.Equal(target[:len(name)], name)
}
