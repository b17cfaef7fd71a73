// Package local answers the names that need no upstream: those of zones and
// hosts files that the operator wrote, and those that the special-use
// registries keep out of the DNS.
//
// For a name the most specific of these decides, and at the same place the
// first of these:
//
//  1. a zone, with all names under its apex;
//  2. a name of a hosts file, alone (one inside a zone is left out: the zone
//     says what exists there);
//  3. a claim: a domain that an upstream group, a policy or an exception has is
//     not answered here;
//  4. a special-use name, see [SpecialUse].
//
// Chains of CNAMEs are followed through all of these. Where one leads out of
// them the answer says so, and the caller goes on; judging each hop is its
// business too.
//
// All answers are authoritative, in the sense that nobody knows better: the
// caller may set AA (RFC 6303 section 3 for the empty zones, RFC 1034 section
// 4.3.2 for the others). None is signed; validators behind the gateway need a
// negative trust anchor for zones under signed ones.
//
// A [Table] is made once, never changes, and is safe for concurrent use.
// Names are in lower case without a final dot, and written as the DNS library
// writes them; records are copies that the caller may keep and change.
package local

import (
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy/match"
)

// An Answer is what is known here of a question.
type Answer struct {
	Rcode  int      // NOERROR, NXDOMAIN, or SERVFAIL for a chain that does not end
	Answer []dns.RR // the chain from the asked name, and what is at its end
	Ns     []dns.RR // the SOA of an answer without data (RFC 2308)

	// Target is where the chain leaves the names that are known here; empty if it
	// does not. The question goes on there, and its code is that of the whole.
	Target string

	// Source says what answered for the asked name: "zone corp.example", the place
	// in a hosts file, or the RFC of a special-use name.
	Source string
}

// maxChain is how many CNAMEs are followed.
const maxChain = 16

// Sources are what a table is made of.
type Sources struct {
	Zones []*Zone
	Hosts *Hosts // nil: none

	// Claims are patterns of names, as package match reads them, that are not
	// special however the registries have them.
	Claims []string
}

// A Table answers questions. The zero value and nil answer none.
type Table struct {
	names    *match.Names // finds the entry of a name in one pass
	entries  map[string]*entry
	warnings []string
}

// An entry is all that is at one name.
type entry struct {
	zone    *Zone
	host    *host
	claim   match.Kind
	between *special // in this, the name exists only since one under it does
	special *special
}

// New makes a table.
func New(s Sources) (*Table, error) {
	b := builder{entries: map[string]*entry{}, kinds: map[string]match.Kind{}}
	for _, z := range s.Zones {
		e := b.at(z.apex, match.Tree)
		if e.zone != nil {
			return nil, fmt.Errorf("there are two zones %q", z.apex)
		}
		e.zone = z
	}
	for _, c := range s.Claims {
		kind, name := match.Split(c)
		name, err := match.Clean(name)
		if err != nil {
			return nil, fmt.Errorf("claimed name %q: %w", c, err)
		}
		b.at(name, kind).claim |= kind
	}
	for _, special := range specials() {
		b.at(special.name, match.Tree).special = special
	}
	t, err := b.build()
	if err != nil {
		return nil, err
	}
	b.addBetween(t, loopback4)
	if s.Hosts != nil {
		b.addHosts(t, s.Hosts)
	}
	return b.build()
}

// A builder collects the entries, and how each covers names.
type builder struct {
	entries  map[string]*entry
	kinds    map[string]match.Kind
	shadowed []string
}

func (b *builder) at(name string, kind match.Kind) *entry {
	b.kinds[name] |= kind
	e := b.entries[name]
	if e == nil {
		e = new(entry)
		b.entries[name] = e
	}
	return e
}

func (b *builder) build() (*Table, error) {
	var names match.NamesBuilder
	for name, kind := range b.kinds {
		if err := names.AddKind(kind, name); err != nil {
			return nil, fmt.Errorf("name answered here: %w", err)
		}
	}
	t := &Table{names: names.Build(), entries: b.entries}
	if n := len(b.shadowed); n > 0 {
		slices.Sort(b.shadowed)
		t.warnings = append(t.warnings, fmt.Sprintf("hosts: names inside a zone, which the zone has to have, left out: %d (%s)", n, some(b.shadowed, n)))
	}
	return t, nil
}

// addHosts adds the names of hosts files to those that a table without them has.
func (b *builder) addHosts(t *Table, h *Hosts) {
	add := map[string]*host{}
	for name, host := range h.names {
		if e, _ := t.entry(name); e != nil && e.zone != nil {
			b.shadowed = append(b.shadowed, name)
			continue
		}
		add[name] = host
	}
	for name, host := range add {
		b.at(name, match.Exact).host = host
		b.addBetween(t, name)
	}
}

// addBetween makes the names between one of a hosts file and the special one
// that it lies under exist: a cache may take NXDOMAIN for all below (RFC 8020).
func (b *builder) addBetween(t *Table, name string) {
	for {
		_, parent, ok := strings.Cut(name, ".")
		if !ok {
			return
		}
		name = parent
		e, at := t.entry(name)
		if e == nil || at == name || e.zone != nil || e.claims(name, at) || !e.special.empty() {
			return
		}
		b.at(name, match.Exact).between = e.special
	}
}

// Warnings says what the operator should know, a sentence each.
func (t *Table) Warnings() []string { return t.warnings }

// Lookup answers a question of class IN, or reports that the name is none of
// those known here. That costs one pass over the name, and allocates nothing.
//
// ANY is answered with one of the sets that are there (RFC 8482 section 4.1).
func (t *Table) Lookup(name string, qtype uint16) (Answer, bool) {
	var a Answer
	e, at := t.entry(name)
	if e == nil || !e.answer(&a, name, at, qtype) {
		return Answer{}, false
	}
	for hops := 0; a.Target != ""; hops++ {
		if hops == maxChain {
			return Answer{Rcode: dns.RcodeServerFailure, Source: a.Source}, true
		}
		if e, at = t.entry(a.Target); e == nil || !e.answer(&a, a.Target, at, qtype) {
			break
		}
	}
	return a, true
}

// entry returns the most specific entry that covers the name, and where it is.
func (t *Table) entry(name string) (e *entry, at string) {
	if t == nil {
		return nil, ""
	}
	m, ok := t.names.Lookup(name)
	if !ok {
		return nil, ""
	}
	if m.Name != name && strings.IndexByte(name, '\\') >= 0 {
		return t.patient(name)
	}
	return t.entries[m.Name], m.Name // nil if only the hash is the same
}

// patient is entry for names with escapes: not every dot ends a label there.
func (t *Table) patient(name string) (e *entry, at string) {
	for at = parent(name); at != ""; at = parent(at) {
		if e := t.entries[at]; e != nil && (e.zone != nil || e.special != nil || e.claims(name, at)) {
			return e, at
		}
	}
	return nil, ""
}

// claims reports whether a claim at this entry covers the name.
func (e *entry) claims(name, at string) bool {
	covers := match.Under
	switch extra := strings.TrimSuffix(name, at); strings.Count(extra, ".") {
	case 0:
		covers = match.Exact
	case 1:
		covers |= match.One
	}
	return e.claim&covers != 0
}

// answer adds what is known of the name to the answer and sets where it goes on.
// It reports false, with the answer as it was, if nothing is known here.
func (e *entry) answer(a *Answer, name, at string, qtype uint16) bool {
	switch {
	case e.zone != nil:
		e.zone.answer(a, name, qtype)
	case e.host != nil && at == name:
		e.host.answer(a, name, qtype)
	case e.claims(name, at):
		return false
	case e.between != nil && at == name:
		e.between.nothing(a, dns.RcodeSuccess)
	case e.special != nil && !(qtype == dns.TypeDS && e.special.parent && at == name):
		e.special.answer(a, name, qtype)
	default:
		return false
	}
	return true
}

// end ends a chain with no data.
func (a *Answer) end(rcode int, soa dns.RR, source string) {
	a.Rcode, a.Target, a.Ns = rcode, "", []dns.RR{dns.Copy(soa)}
	a.from(source)
}

// add ends a chain with the records, or goes on with it if they are a CNAME that
// was not asked for. Where owner is not empty it takes the place of theirs.
func (a *Answer) add(records []dns.RR, owner string, qtype uint16, source string) {
	for _, rr := range records {
		rr = dns.Copy(rr)
		if owner != "" {
			rr.Header().Name = owner
		}
		a.Answer = append(a.Answer, rr)
	}
	a.Target = ""
	a.from(source)
	if c, ok := records[0].(*dns.CNAME); ok && qtype != dns.TypeCNAME && qtype != dns.TypeANY {
		a.Target = strings.TrimSuffix(c.Target, ".")
	}
}

func (a *Answer) from(source string) {
	if a.Source == "" {
		a.Source = source
	}
}

// soa makes a SOA in the form of RFC 6303 section 3.
func soa(apex string, ttl uint32) *dns.SOA {
	h := header(apex, dns.TypeSOA, ttl)
	return &dns.SOA{Hdr: h, Ns: h.Name, Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 1200, Expire: 604800, Minttl: ttl}
}

func header(name string, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name + ".", Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// maxShown is how many of a kind a warning names.
const maxShown = 5

func some(shown []string, of int) string {
	text := strings.Join(shown[:min(len(shown), maxShown)], ", ")
	if of > maxShown {
		text += ", ..."
	}
	return text
}
