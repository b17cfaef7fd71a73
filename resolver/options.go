package resolver

import (
	"encoding/binary"
	"fmt"

	"github.com/miekg/dns"
)

// EDNS options that nodes use among themselves, from the range for local use
// (RFC 6891 section 9). They are read from nodes only, and sent to nodes only.
const (
	optionFacts   = 65310 // names and addresses that the gateway judged by; see appendFacts
	optionJournal = 65311 // eight bytes: id of the journal that a label comes from
	optionRoute   = 65312 // the name of the route that is asked for
	optionRun     = 65313 // eight bytes: a random id of the asking process, in probes
)

// maxRoute bounds the name of a route.
const maxRoute = 255

// private is what the options of a message between nodes say.
type private struct {
	route   string
	facts   Facts
	journal uint64
	node    string // NSID, RFC 5001
	run     uint64
}

// options writes them; what is zero is left out.
func (p private) options() []dns.EDNS0 {
	var all []dns.EDNS0
	if p.route != "" {
		all = append(all, &dns.EDNS0_LOCAL{Code: optionRoute, Data: []byte(p.route)})
	}
	if b := appendFacts(nil, p.facts); len(b) > 0 {
		all = append(all, &dns.EDNS0_LOCAL{Code: optionFacts, Data: b})
	}
	if p.journal != 0 {
		all = append(all, &dns.EDNS0_LOCAL{Code: optionJournal, Data: binary.BigEndian.AppendUint64(nil, p.journal)})
	}
	if p.run != 0 {
		all = append(all, &dns.EDNS0_LOCAL{Code: optionRun, Data: binary.BigEndian.AppendUint64(nil, p.run)})
	}
	if p.node != "" {
		all = append(all, &dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: fmt.Sprintf("%x", p.node)})
	}
	return all
}

// readPrivate reads the options of a message that a node sent.
func readPrivate(opt *dns.OPT) (p private, err error) {
	if opt == nil {
		return p, nil
	}
	for _, o := range opt.Option {
		switch o := o.(type) {
		case *dns.EDNS0_NSID:
			var b []byte
			if _, err := fmt.Sscanf(o.Nsid, "%x", &b); err == nil {
				p.node = string(b)
			}
		case *dns.EDNS0_LOCAL:
			if err := p.read(o.Code, o.Data); err != nil {
				return private{}, err
			}
		}
	}
	return p, nil
}

func (p *private) read(code uint16, b []byte) (err error) {
	switch code {
	case optionFacts:
		p.facts, err = parseFacts(b)
	case optionJournal:
		p.journal, err = readID(b)
	case optionRun:
		p.run, err = readID(b)
	case optionRoute:
		if len(b) == 0 || len(b) > maxRoute {
			return fmt.Errorf("name of a route of %d bytes, want 1 to %d", len(b), maxRoute)
		}
		p.route = string(b)
	}
	return err
}

func readID(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("id of %d bytes, want 8", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}
