package local

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/policy/match"
)

// Hosts are the names of hosts files: lines of an address, its name and
// aliases (RFC 952 has the ancestor of the form, hosts(5) what systems made of
// it). A name has the addresses of all its lines, and an address is the first
// name that it stands beside, for PTR. A name in a hosts file is answered for
// all types: those that it has no address of have no data.
//
// A line that cannot be read is left out and counted: such files come from many
// hands. The zero value is no names.
type Hosts struct {
	names map[string]*host
	ttl   uint32

	bad   int
	shown []string
}

// A host is a name of a hosts file, or the reverse name of an address of one.
type host struct {
	four, six []dns.RR
	ptr       []dns.RR
	ttl       uint32
	source    string
}

// NewHosts makes Hosts whose answers have this TTL. Read the files into it
// before it is used.
func NewHosts(ttl time.Duration) (*Hosts, error) {
	if ttl < 0 || ttl > maxTTL*time.Second {
		return nil, fmt.Errorf("hosts: a TTL of %v", ttl)
	}
	return &Hosts{names: map[string]*host{}, ttl: uint32(ttl / time.Second)}, nil
}

// maxLine bounds a line of a hosts file.
const maxLine = 16 << 10

// Read adds the names of a file. The only errors are the reader's own.
func (h *Hosts) Read(file string, r io.Reader) error {
	in := bufio.NewReaderSize(r, maxLine)
	for line := 1; ; line++ {
		b, err := in.ReadSlice('\n')
		if tooLong := errors.Is(err, bufio.ErrBufferFull); tooLong {
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = in.ReadSlice('\n')
			}
			h.complain(file, line, fmt.Errorf("a line of more than %d bytes", maxLine))
		} else if line == 1 {
			h.line(file, line, strings.TrimPrefix(string(b), "\ufeff"))
		} else {
			h.line(file, line, string(b))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading hosts file %s: %w", file, err)
		}
	}
}

func (h *Hosts) complain(file string, line int, err error) {
	if h.bad++; len(h.shown) < maxShown {
		h.shown = append(h.shown, fmt.Sprintf("%s:%d: %v", file, line, err))
	}
}

// line reads one line. A bad name does not take the others of its line with it.
func (h *Hosts) line(file string, line int, text string) {
	text, _, _ = strings.Cut(text, "#")
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return
	}
	a, err := netip.ParseAddr(fields[0])
	switch {
	case err != nil:
		h.complain(file, line, fmt.Errorf("%q is no address", clip(fields[0])))
		return
	case a.Zone() != "":
		h.complain(file, line, fmt.Errorf("%q has a zone, which means something on one host only", clip(fields[0])))
		return
	case len(fields) == 1:
		h.complain(file, line, fmt.Errorf("%q has no name", fields[0]))
		return
	}
	for _, f := range fields[1:] {
		name, err := match.Clean(f)
		if err != nil {
			h.complain(file, line, errors.New(clip(err.Error())))
			continue
		}
		h.add(a.Unmap(), name, fmt.Sprintf("%s:%d", file, line))
	}
}

func (h *Hosts) add(a netip.Addr, name, source string) {
	e := h.at(name, source)
	set, rr := &e.six, dns.RR(&dns.AAAA{Hdr: header(name, dns.TypeAAAA, h.ttl), AAAA: a.AsSlice()})
	if a.Is4() {
		set, rr = &e.four, &dns.A{Hdr: header(name, dns.TypeA, h.ttl), A: a.AsSlice()}
	}
	if !slices.ContainsFunc(*set, func(o dns.RR) bool { return dns.IsDuplicate(o, rr) }) {
		*set = append(*set, rr)
	}
	if a.IsUnspecified() { // the address of names that are blocked, not of a host
		return
	}
	back := reverse(a)
	if p := h.at(back, source); p.ptr == nil {
		p.ptr = []dns.RR{&dns.PTR{Hdr: header(back, dns.TypePTR, h.ttl), Ptr: name + "."}}
	}
}

func (h *Hosts) at(name, source string) *host {
	e := h.names[name]
	if e == nil {
		e = &host{ttl: h.ttl, source: source}
		h.names[name] = e
	}
	return e
}

// Len returns how many names there are, the reverse ones included.
func (h *Hosts) Len() int { return len(h.names) }

// Warnings says what the operator should know, a sentence each.
func (h *Hosts) Warnings() []string {
	if h.bad == 0 {
		return nil
	}
	return []string{fmt.Sprintf("hosts: entries that cannot be read, left out: %d (%s)", h.bad, some(h.shown, h.bad))}
}

func (e *host) answer(a *Answer, name string, qtype uint16) {
	if set := e.set(qtype); set != nil {
		a.add(set, "", qtype, e.source)
		return
	}
	a.end(dns.RcodeSuccess, soa(name, e.ttl), e.source)
}

func (e *host) set(qtype uint16) []dns.RR {
	switch qtype {
	case dns.TypeA:
		return e.four
	case dns.TypeAAAA:
		return e.six
	case dns.TypePTR:
		return e.ptr
	case dns.TypeANY:
		for _, set := range [][]dns.RR{e.four, e.six, e.ptr} {
			if set != nil {
				return set
			}
		}
	}
	return nil
}
