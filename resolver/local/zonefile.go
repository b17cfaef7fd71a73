package local

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy/match"
)

// An Error is something wrong with a record, and where that is.
type Error struct {
	Place string // of a file: name and line
	Text  string
}

func (e *Error) Error() string { return e.Place + ": " + e.Text }

// A ZoneBuilder collects the records of a zone. Mistakes are kept until
// [ZoneBuilder.Build], which says all of them.
type ZoneBuilder struct {
	apex    string
	ttl     uint32
	records []record
	seen    map[string]bool
	errs    []error
}

type record struct {
	dns.RR
	place string
}

const (
	// maxErrors bounds what is said of one zone.
	maxErrors = 20

	// maxRecords bounds a zone. ($GENERATE makes many of one line.)
	maxRecords = 1 << 20
)

// NewZone begins a zone of this name. Records that say no TTL get the given one.
func NewZone(name string, ttl time.Duration) (*ZoneBuilder, error) {
	apex, err := match.Clean(name)
	if err != nil {
		return nil, fmt.Errorf("zone %q: %w", name, err)
	}
	if ttl < 0 || ttl > maxTTL*time.Second {
		return nil, fmt.Errorf("zone %q: a TTL of %v", name, ttl)
	}
	return &ZoneBuilder{apex: apex, ttl: uint32(ttl / time.Second), seen: map[string]bool{}}, nil
}

const maxTTL = 1<<31 - 1 // RFC 2181 section 8

// Add adds one record as a line of a zone file has it: "www A 192.0.2.1". Names
// without a final dot are relative to the zone. The place is for errors.
func (b *ZoneBuilder) Add(place, text string) {
	before := len(b.records) + len(b.errs)
	if strings.HasPrefix(strings.TrimSpace(text), "$") {
		b.fail(place, "%q is no record; directives are for zone files", clip(text))
		return
	}
	b.read(strings.NewReader(text+"\n"), func(int) string { return place })
	if n := len(b.records) + len(b.errs) - before; n != 1 {
		b.fail(place, "%q is %d records, want one (a file holds several)", clip(text), n)
	}
}

// Read adds the records of a zone file (RFC 1035 section 5, with $ORIGIN, $TTL and
// $GENERATE; $INCLUDE is refused). It stops at a line that cannot be read. The
// place of a record that goes over several lines is the last of them.
func (b *ZoneBuilder) Read(file string, r io.Reader) {
	b.read(r, func(line int) string { return fmt.Sprintf("%s:%d", file, line) })
}

func (b *ZoneBuilder) read(r io.Reader, place func(line int) string) {
	in := &lineCounter{in: bufio.NewReader(r)}
	zp := dns.NewZoneParser(in, b.apex+".", "")
	zp.SetDefaultTTL(b.ttl)
	for {
		rr, ok := zp.Next()
		if !ok {
			break
		}
		if len(b.records) >= maxRecords {
			b.fail(place(in.line()), "more than %d records", maxRecords)
			return
		}
		b.take(rr, place(in.line()))
	}
	if in.err != nil {
		b.fail(place(in.line()), "reading: %v", in.err)
	} else if err := zp.Err(); err != nil {
		b.fail(place(in.line()), "%s", reason(err))
	}
}

// reason returns an error of the library without its place, which is ours.
func reason(err error) string {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), ": "), "dns: ")
	if i := strings.LastIndex(text, " at line: "); i >= 0 {
		text = text[:i]
	}
	return clip(text)
}

func (b *ZoneBuilder) fail(place, format string, args ...any) {
	b.errs = append(b.errs, &Error{place, fmt.Sprintf(format, args...)})
}

// take checks a record and keeps it, in the form that it would have in a message.
func (b *ZoneBuilder) take(rr dns.RR, place string) {
	wire := make([]byte, dns.Len(rr)+256)
	n, err := dns.PackRR(rr, wire, 0, nil, false)
	if err == nil {
		rr, _, err = dns.UnpackRR(wire[:n], 0)
	}
	if err != nil {
		b.fail(place, "%v", reason(err))
		return
	}
	lower(rr)
	if why := b.refuse(rr.Header()); why != "" {
		b.fail(place, "%q %s", strings.TrimSuffix(rr.Header().Name, "."), why)
		return
	}
	b.records = append(b.records, record{rr, place})
}

// refuse says why a record cannot be in the zone.
func (b *ZoneBuilder) refuse(h *dns.RR_Header) string {
	owner := strings.TrimSuffix(h.Name, ".")
	switch {
	case h.Class != dns.ClassINET:
		return "is of another class than IN"
	case !inside(owner, b.apex):
		return fmt.Sprintf("is not in zone %q", b.apex)
	case h.Ttl > maxTTL:
		return "has a TTL of more than 68 years"
	}
	switch h.Rrtype {
	case dns.TypeSOA:
		if owner != b.apex {
			return "has a SOA, which only the apex of a zone has"
		}
	case dns.TypeNS, dns.TypeDS:
		if owner != b.apex || h.Rrtype == dns.TypeDS {
			return "is delegated: give that domain to an upstream group instead"
		}
	case dns.TypeDNAME:
		return "is a DNAME, which is not supported: use a wildcard CNAME"
	case dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNSEC3, dns.TypeNSEC3PARAM, dns.TypeDNSKEY:
		return "is part of a signed zone: give the zone as it is before it is signed"
	case dns.TypeOPT, dns.TypeTKEY, dns.TypeTSIG, dns.TypeIXFR, dns.TypeAXFR, dns.TypeANY, dns.TypeNone:
		return "is of a type that no zone has"
	}
	return ""
}

// lower puts the names of a record into lower case: its owner's, which is looked
// up, and those that others look up because of it.
func lower(rr dns.RR) {
	h := rr.Header()
	h.Name = dns.CanonicalName(h.Name)
	switch rr := rr.(type) {
	case *dns.CNAME:
		rr.Target = dns.CanonicalName(rr.Target)
	case *dns.NS:
		rr.Ns = dns.CanonicalName(rr.Ns)
	case *dns.PTR:
		rr.Ptr = dns.CanonicalName(rr.Ptr)
	case *dns.MX:
		rr.Mx = dns.CanonicalName(rr.Mx)
	case *dns.SOA:
		rr.Ns, rr.Mbox = dns.CanonicalName(rr.Ns), dns.CanonicalName(rr.Mbox)
	case *dns.SRV:
		rr.Target = dns.CanonicalName(rr.Target)
	}
}

// Build returns the zone. If it has no SOA or no NS it gets one; records that
// come twice are taken once; sets have the least TTL of their records (RFC 2181
// section 5.2).
func (b *ZoneBuilder) Build() (*Zone, error) {
	z := &Zone{apex: b.apex, source: "zone " + b.apex, nodes: map[string]*node{}}
	slices.SortStableFunc(b.records, func(x, y record) int {
		return cmp.Or(cmp.Compare(x.Header().Name, y.Header().Name), cmp.Compare(x.Header().Rrtype, y.Header().Rrtype))
	})
	for _, r := range b.records {
		if !b.twice(r.RR) {
			b.place(z, r)
		}
	}
	if len(b.errs) > 0 {
		return nil, b.failed()
	}
	b.complete(z)
	for name := range maps.Clone(z.nodes) {
		for ; name != z.apex; name = parent(name) {
			z.node(name)
		}
	}
	return z, nil
}

func (b *ZoneBuilder) failed() error {
	if more := len(b.errs) - maxErrors; more > 0 {
		b.errs = append(b.errs[:maxErrors], fmt.Errorf("and %d errors more", more))
	}
	return fmt.Errorf("zone %q:\n%w", b.apex, errors.Join(b.errs...))
}

// twice reports whether a record was there before, whatever its TTL.
func (b *ZoneBuilder) twice(rr dns.RR) bool {
	ttl := rr.Header().Ttl
	rr.Header().Ttl = 0
	key := rr.String()
	rr.Header().Ttl = ttl
	if b.seen[key] {
		return true
	}
	b.seen[key] = true
	return false
}

// place puts a record into its set. Records come sorted by name and type.
func (b *ZoneBuilder) place(z *Zone, r record) {
	h := r.Header()
	n := z.node(strings.TrimSuffix(h.Name, "."))
	k := len(n.sets) - 1
	if k < 0 || n.sets[k][0].Header().Rrtype != h.Rrtype {
		n.sets = append(n.sets, nil)
		k++
	}
	n.sets[k] = append(n.sets[k], r.RR)
	least := min(h.Ttl, n.sets[k][0].Header().Ttl)
	for _, rr := range n.sets[k] {
		rr.Header().Ttl = least
	}
	switch name := strings.TrimSuffix(h.Name, "."); {
	case len(n.sets[k]) > 1 && (h.Rrtype == dns.TypeCNAME || h.Rrtype == dns.TypeSOA):
		b.fail(r.place, "%q has more than one %s", name, dns.TypeToString[h.Rrtype])
	case k > 0 && n.set(dns.TypeNone) != nil || h.Rrtype == dns.TypeCNAME && name == b.apex:
		b.fail(r.place, "%q has a CNAME and other records (RFC 1034 section 3.6.2)", name)
	}
}

// complete adds what every zone has at its apex.
func (b *ZoneBuilder) complete(z *Zone) {
	apex := z.node(z.apex)
	if apex.set(dns.TypeNS) == nil {
		apex.sets = append(apex.sets, []dns.RR{&dns.NS{Hdr: header(z.apex, dns.TypeNS, b.ttl), Ns: z.apex + "."}})
	}
	if apex.set(dns.TypeSOA) == nil {
		s := soa(z.apex, b.ttl)
		s.Ns = apex.set(dns.TypeNS)[0].(*dns.NS).Ns
		apex.sets = append(apex.sets, []dns.RR{s})
	}
	z.negative = dns.Copy(apex.set(dns.TypeSOA)[0]).(*dns.SOA)
	z.negative.Hdr.Ttl = min(z.negative.Hdr.Ttl, z.negative.Minttl)
}

// node returns the node of a name, made if need be.
func (z *Zone) node(name string) *node {
	n := z.nodes[name]
	if n == nil {
		n = new(node)
		z.nodes[name] = n
	}
	return n
}

// A lineCounter counts the lines that the parser has taken. The parser reads
// from it byte by byte, and so is never ahead.
type lineCounter struct {
	in   *bufio.Reader
	ends int  // of lines
	last byte // taken
	err  error
}

func (c *lineCounter) ReadByte() (byte, error) {
	ch, err := c.in.ReadByte()
	if err != nil {
		if !errors.Is(err, io.EOF) {
			c.err = err
		}
		return 0, err
	}
	if c.last = ch; ch == '\n' {
		c.ends++
	}
	return ch, nil
}

// Read makes it an io.Reader; the parser does not call it.
func (c *lineCounter) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	ch, err := c.ReadByte()
	if err != nil {
		return 0, err
	}
	p[0] = ch
	return 1, nil
}

// line returns the line of what was taken last.
func (c *lineCounter) line() int {
	if c.last == '\n' {
		return c.ends
	}
	return c.ends + 1
}

func clip(s string) string {
	const most = 160
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(s, "\ufffd")
}
