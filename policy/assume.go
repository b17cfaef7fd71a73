package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/starferry/starferry/steer/geo"
	"github.com/starferry/starferry/steer/geo/geomake"
)

// A place is where an assumed address is: in a country, or in an autonomous
// system.
type place struct {
	Country string
	ASN     uint32
}

func (p place) String() string {
	if p.ASN != 0 {
		return fmt.Sprintf("AS%d", p.ASN)
	}
	return p.Country
}

// is reports whether a condition on places is true of the place.
func (p place) is(c *cond) bool {
	switch c.op {
	case opCountry:
		return slices.Contains(c.words, p.Country)
	case opContinent:
		return slices.Contains(c.words, geo.ContinentOf(p.Country))
	}
	return c.op == opASN && slices.Contains(c.numbers, p.ASN)
}

// hops returns the assumed answer with an address for each place.
func (a *assuming) hops(given []testHop) (out []Hop) {
	for _, h := range given {
		hop := Hop{Name: h.name, Addrs: slices.Clone(h.addrs), Values: h.values}
		for _, pl := range h.places {
			hop.Addrs = append(hop.Addrs, a.addrs[pl])
		}
		out = append(out, hop)
	}
	return out
}

// withPlaces returns the policy with databases of the addresses and places that
// its tests assume. Addresses that tests give are where the databases of the
// file say.
func (p *Policy) withPlaces() (*assuming, error) {
	a := &assuming{policy: p, addrs: map[place]netip.Addr{}}
	var given []netip.Addr
	assumed := map[netip.Addr]place{}
	for i := range p.tests {
		for _, h := range p.tests[i].answer {
			given = append(given, h.addrs...)
			for _, pl := range h.places {
				if !a.addrs[pl].IsValid() {
					at := invented(len(a.addrs))
					a.addrs[pl], assumed[at] = at, pl
				}
			}
		}
	}
	var err error
	a.policy, err = p.assuming(assumed, given)
	return a, err
}

// assuming returns the policy with databases of these addresses and their
// places, and of others as the databases of the file have them.
func (p *Policy) assuming(assumed map[netip.Addr]place, others []netip.Addr) (*Policy, error) {
	if len(assumed) == 0 {
		return p, nil
	}
	countries, systems := p.databases()
	places, numbers := map[netip.Prefix]geomake.Place{}, map[netip.Prefix]uint32{}
	for _, a := range others {
		at := netip.PrefixFrom(a, a.BitLen())
		code, _ := countries.Country(a)
		continent, _ := countries.Continent(a)
		places[at] = geomake.Place{Country: code, Continent: continent}
		numbers[at], _ = systems.ASN(a)
	}
	for a, pl := range assumed {
		at := netip.PrefixFrom(a, a.BitLen())
		places[at], numbers[at] = geomake.Place{Country: pl.Country}, pl.ASN
	}
	var err error
	if countries, err = opened(countries, geomake.MakePlaces, places); err != nil {
		return nil, err
	}
	if systems, err = opened(systems, geomake.MakeASN, numbers); err != nil {
		return nil, err
	}
	return p.with(func(r *Rule) {
		if r.when == nil {
			return
		}
		r.when.each(func(c *cond) {
			switch c.op {
			case opCountry, opContinent:
				c.geo = countries
			case opASN:
				c.geo = systems
			}
		})
	}), nil
}

// opened makes a database in the place of one that is looked into.
func opened[T any](known *geo.DB, write func(map[netip.Prefix]T) ([]byte, error), entries map[netip.Prefix]T) (*geo.DB, error) {
	if known == nil {
		return nil, nil
	}
	b, err := write(entries)
	if err != nil {
		return nil, err
	}
	db, err := geo.Open(b)
	if err != nil {
		return nil, fmt.Errorf("assuming places: %w", err)
	}
	return db, nil
}

// invented returns an address that stands for a place: of the block that is
// thrown away wherever it is seen (RFC 6666), since no list has it.
func invented(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 1, 14: byte(n >> 8), 15: byte(n) + 1})
}

// databases returns those of countries and of autonomous systems that conditions
// look into; nil for none.
func (p *Policy) databases() (countries, systems *geo.DB) {
	p.leaves(func(c *cond) {
		switch {
		case c.geo == nil:
		case c.op == opASN:
			systems = c.geo
		default:
			countries = c.geo
		}
	})
	return countries, systems
}

// each calls f with the condition and all below it.
func (c *cond) each(f func(*cond)) {
	f(c)
	for i := range c.kids {
		c.kids[i].each(f)
	}
}

// with returns a copy of the policy whose rules change has changed, each with
// conditions of its own.
func (p *Policy) with(change func(*Rule)) *Policy {
	out := *p
	out.rules, out.arranged, out.filter = slices.Clone(p.rules), arranged{}, nil
	for i := range out.rules {
		r := &out.rules[i]
		if r.when != nil {
			when := r.when.clone()
			r.when = &when
		}
		change(r)
	}
	out.arrange()
	return &out
}

func (c *cond) clone() cond {
	out := *c
	out.kids = nil
	for i := range c.kids {
		out.kids = append(out.kids, c.kids[i].clone())
	}
	return out
}
