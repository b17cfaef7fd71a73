package list

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/starferry/starferry/internal/rrtype"
	"github.com/starferry/starferry/policy/match"
)

// Answers are what a response policy zone answers with itself: local data, and
// aliases of names that are elsewhere. As in a zone's other rules the closest to
// a name counts, so what a closer rule does otherwise is not among them.
//
// Zones send many names to the same place: equal answers are kept once, and an
// owner is a few bytes more than in a set. The zero value has none.
type Answers struct {
	names  *match.Names
	owners map[owner]uint32 // which answer
	all    []Answer
}

type owner struct {
	key   match.Key
	under bool // of a wildcard
}

// An Answer is all that a zone has for one name.
type Answer struct {
	CNAME   string // alone; *.example.com is the asked name below example.com
	A, AAAA []netip.Addr
	Records []Record      // of other types
	TTL     time.Duration // the least of the records
	TTLSaid bool          // the zone says one
}

// A Record is one of an answer. Text is what follows the type in a master file;
// of TXT it is the text itself.
type Record struct {
	Type uint16
	Text string
}

// Names returns the names that there are answers for.
func (a *Answers) Names() *match.Names { return a.names }

// Of returns the answer for a name, nil if there is none. It must not be changed.
func (a *Answers) Of(name string) *Answer {
	m, ok := a.names.Lookup(name)
	if !ok {
		return nil
	}
	key, err := match.KeyOf(m.Name)
	if err != nil {
		return nil
	}
	i, ok := a.owners[owner{key, m.Name != name}]
	if !ok {
		return nil
	}
	return &a.all[i]
}

// Answers reads what the list, a response policy zone, answers with. Whatever
// is selected of the list does not matter.
func (s Source) Answers(r io.Reader) (*Answers, Stats, error) {
	if s.Format != "rpz" {
		return nil, Stats{}, fmt.Errorf("list %s: a list of format %s has no answers, only rpz has", s.Name, s.Format)
	}
	asNames, err := s.selection(nil)
	if err != nil { // something of networks is selected, so that there are no names
		asNames = selection{}
	}
	s.Select = []string{"local", "cname"}
	sel, err := s.selection(nil)
	if err != nil {
		return nil, Stats{}, err
	}
	c, err := s.collector(nil)
	if err != nil {
		return nil, Stats{}, err
	}
	b := answersBuilder{to: &Answers{owners: map[owner]uint32{}}, known: map[string]uint32{}}
	take := func(rule rpzRule) error {
		before, also := c.stats.Entries, asNames.has(&rule)
		err := b.take(rule, &sel, c)
		if also {
			c.stats.Also += c.stats.Entries - before
		}
		return err
	}
	z := new(zone)
	if err := s.read(r, &c.stats, func(line []byte) error { z.at = c.stats.line; return z.line(line, take) }); err != nil {
		return nil, c.stats, err
	}
	if err := b.finish(c); err != nil {
		return nil, c.stats, err
	}
	b.to.names = c.build().Names
	return b.to, c.stats, nil
}

// An answersBuilder puts records together. Those of one owner stand together in
// nearly all zones, so that only the last owner's are kept apart.
type answersBuilder struct {
	to    *Answers
	known map[string]uint32 // the answers, by what they say
	last  owner
	open  Answer // of the last owner
	any   bool   // there is one
	other bool   // it has data that is not supported
}

func (b *answersBuilder) take(r rpzRule, sel *selection, c *collector) error {
	switch {
	case r.trigger == "rpz-ip" || r.trigger == "rpz-client-ip":
		c.stats.passed++
		return nil // another list may be made of it
	case r.trigger != "" || !sel.has(&r):
		err := r.name(sel, c)
		var what beyond
		if r.trigger == "" && errors.As(err, &what) {
			return nil // what else the zone does is up to other policies
		}
		return err
	}
	kind, name := r.kind()
	key, err := match.KeyOf(name)
	if err != nil {
		return err
	}
	if o := (owner{key, kind == match.Under}); !b.any || o != b.last {
		if err := b.finish(c); err != nil {
			return err
		}
		b.last, b.any, b.open, b.other = o, true, Answer{}, false
		if i, ok := b.to.owners[o]; ok {
			b.open = b.to.all[i].clone()
		}
	}
	before := b.open.empty()
	if err := b.open.add(&r); err != nil {
		var what beyond
		b.other = b.other || errors.As(err, &what)
		return err
	}
	if before {
		return c.add(kind, name)
	}
	c.stats.Entries++
	return nil
}

// finish puts away the answer of the last owner. One that has nothing but what
// is not supported still is closer to its names than others.
func (b *answersBuilder) finish(c *collector) error {
	switch {
	case b.any && b.open.empty() && b.other:
		kind := match.Exact
		if b.last.under {
			kind = match.Under
		}
		return c.out.AddKey(kind, b.last.key)
	case !b.any || b.open.empty():
		return nil
	}
	text := fmt.Sprintf("%q %v %v %#v %d %v", b.open.CNAME, b.open.A, b.open.AAAA, b.open.Records, b.open.TTL, b.open.TTLSaid)
	i, ok := b.known[text]
	if !ok {
		i = uint32(len(b.to.all))
		b.known[text] = i
		b.to.all = append(b.to.all, b.open)
	}
	b.to.owners[b.last] = i
	return nil
}

func (a *Answer) empty() bool {
	return a.CNAME == "" && len(a.A)+len(a.AAAA)+len(a.Records) == 0
}

// clone copies what add appends to.
func (a *Answer) clone() Answer {
	out := *a
	out.A, out.AAAA, out.Records = out.A[:len(out.A):len(out.A)], out.AAAA[:len(out.AAAA):len(out.AAAA)], out.Records[:len(out.Records):len(out.Records)]
	return out
}

// add adds what a rule says.
func (a *Answer) add(r *rpzRule) error {
	if a.CNAME != "" || r.action == "cname" && !a.empty() {
		return errors.New("a CNAME stands alone (RFC 1034, section 3.6.2)")
	}
	if r.action == "cname" {
		under, rest := "", r.target
		if after, ok := strings.CutPrefix(rest, "*."); ok {
			under, rest = "*.", after
		}
		clean, err := match.Clean(rest)
		if err != nil {
			return err
		}
		a.CNAME = under + clean
	} else if err := a.addRecord(&r.data); err != nil {
		return err
	}
	if ttl := min(time.Duration(r.data.ttl.seconds)*time.Second, MaxTTL); r.data.ttl.said && (!a.TTLSaid || ttl < a.TTL) {
		a.TTL, a.TTLSaid = ttl, true
	}
	return nil
}

func (a *Answer) addRecord(d *rpzData) error {
	typ, err := rrtype.Parse(string(d.typ))
	if err != nil {
		return err
	}
	if typ == rrtype.Numbers["A"] || typ == rrtype.Numbers["AAAA"] {
		addr, err := netip.ParseAddr(string(d.words[0]))
		if err != nil || addr.Is4() != (typ == rrtype.Numbers["A"]) || addr.Zone() != "" || addr.Is4In6() || len(d.words) > 1 {
			return fmt.Errorf("%q is no address of type %s", clip(d.words[0]), rrtype.Name(typ))
		}
		if addr.Is4() {
			a.A = append(a.A, addr)
		} else {
			a.AAAA = append(a.AAAA, addr)
		}
		return nil
	}
	text, err := d.text(typ)
	if err != nil {
		return err
	}
	a.Records = append(a.Records, Record{typ, text})
	return nil
}

// MaxTTL bounds how long an answer is kept by who asked.
const MaxTTL = 7 * 24 * time.Hour

// MaxTXT is how long the text of a TXT record may be: eight of the strings that
// it is cut into (RFC 1035, section 3.3.14), which fit an answer over UDP.
const MaxTXT = 1000

// numbersBefore is how many numbers stand before the name in records of a type.
var numbersBefore = map[uint16]int{rrtype.Numbers["NS"]: 0, rrtype.Numbers["PTR"]: 0, rrtype.Numbers["MX"]: 1, rrtype.Numbers["SRV"]: 3}

// text returns what a record says, with names as seen from the root.
func (d *rpzData) text(typ uint16) (string, error) {
	if typ == rrtype.Numbers["TXT"] {
		return joined(d.words)
	}
	numbers, ok := numbersBefore[typ]
	if !ok {
		return "", beyond("local data of type " + rrtype.Name(typ))
	}
	if len(d.words) != numbers+1 {
		return "", fmt.Errorf("%q is no record of type %s", clip(bytes.Join(d.words, []byte(" "))), rrtype.Name(typ))
	}
	var out strings.Builder
	for _, w := range d.words[:numbers] {
		n, err := strconv.ParseUint(string(w), 10, 16)
		if err != nil {
			return "", fmt.Errorf("%q is no number of a record of type %s", clip(w), rrtype.Name(typ))
		}
		fmt.Fprintf(&out, "%d ", n)
	}
	name := d.words[numbers]
	if string(name) == "." {
		return out.String() + ".", nil
	}
	clean, err := match.Clean(string(d.zone.absolute(nil, name)))
	return out.String() + clean + ".", err
}

// joined returns the text of a TXT record: its strings in one, without quotes
// and escapes (RFC 1035, section 5.1).
func joined(words [][]byte) (string, error) {
	var out []byte
	for _, w := range words {
		for i := 0; i < len(w); i++ {
			switch c := w[i]; {
			case c == '"':
			case c != '\\' || i+1 == len(w):
				out = append(out, c)
			case i+3 < len(w) && isByte(w[i+1:i+4]):
				n, _ := strconv.Atoi(string(w[i+1 : i+4])) // it is one
				out, i = append(out, byte(n)), i+3
			default:
				out, i = append(out, w[i+1]), i+1
			}
		}
	}
	if len(out) > MaxTXT {
		return "", fmt.Errorf("a text of %d bytes, more than %d", len(out), MaxTXT)
	}
	return string(out), nil
}

// isByte reports whether three digits are the number of a byte.
func isByte(digits []byte) bool {
	n, err := strconv.ParseUint(string(digits), 10, 8)
	return err == nil && n < 256 && digits[0] != '+'
}
