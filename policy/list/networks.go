package list

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/starferry/starferry/policy/match"
)

// A networkReader takes one line after another, as a [nameReader] does.
type networkReader func(line []byte, to *netCollector) error

var networkFormats = map[string]func(Source) (networkReader, error){
	"cidr":    wholeNetworks(cidrLine),
	"dnsmasq": wholeNetworks(bogusLine),
	"rpz":     newZoneNetworks,
	"mmdb":    nil, // which has no lines
}

func wholeNetworks(line networkReader) func(Source) (networkReader, error) {
	return func(s Source) (networkReader, error) { return line, s.selectsNothing() }
}

// A netCollector puts the entries of a list of networks into sets.
type netCollector struct {
	nets, out match.NetworksBuilder // out holds exceptions
	stats     Stats
}

func (c *netCollector) add(p netip.Prefix) error {
	all := 0
	if p.Addr().Is4In6() {
		all = 96 // of ::ffff:0:0/96 are all of IPv4
	}
	if p.Bits() == all {
		return errAllAddresses
	}
	return c.entry(c.nets.Add(p))
}

func (c *netCollector) addRange(from, to netip.Addr) error {
	if from.Unmap().IsUnspecified() && to.Unmap() == match.Last(netip.PrefixFrom(to.Unmap(), 0)) {
		return errAllAddresses
	}
	return c.entry(c.nets.AddRange(from, to))
}

var errAllAddresses = errors.New("a network of all addresses")

func (c *netCollector) entry(err error) error {
	if err == nil {
		c.stats.Entries++
	}
	return err
}

// Networks reads the list as one of networks.
func (s Source) Networks(r io.Reader) (*match.Networks, Stats, error) {
	open, ok := networkFormats[s.Format]
	if !ok {
		return nil, Stats{}, fmt.Errorf("list %s: %q is no format of networks: want one of %q", s.Name, s.Format, NetworkFormats())
	}
	c := &netCollector{stats: Stats{name: s.Name}}
	if s.Format == "mmdb" {
		err := s.readDatabase(r, c)
		return c.nets.Build(), c.stats, err
	}
	read, err := open(s)
	if err != nil {
		return nil, Stats{}, err
	}
	if err := s.read(r, &c.stats, func(line []byte) error { return read(line, c) }); err != nil {
		return nil, c.stats, err
	}
	return c.nets.Build().WithoutCloser(c.out.Build()), c.stats, nil
}

func cidrLine(line []byte, to *netCollector) error {
	line = uncomment(line, "#;!")
	if len(line) == 0 {
		return nil
	}
	return addNetwork(string(line), to)
}

func bogusLine(line []byte, to *netCollector) error {
	line = uncomment(line, "#")
	if len(line) == 0 {
		return nil
	}
	key, value, ok := bytes.Cut(line, []byte("="))
	key, value = bytes.TrimSpace(key), bytes.TrimSpace(value)
	switch {
	case ok && dnsmasqKeys[string(key)]:
		return beyond(string(key) + "= in a list of networks")
	case !ok || !bogusKeys[string(key)]:
		return fmt.Errorf("%q names no network", clip(line))
	}
	return addNetwork(string(value), to)
}

// addNetwork adds a prefix, an address or a range.
func addNetwork(text string, to *netCollector) error {
	if from, end, ok := strings.Cut(text, "-"); ok {
		a, err := netip.ParseAddr(strings.TrimSpace(from))
		b, err2 := netip.ParseAddr(strings.TrimSpace(end))
		if err != nil || err2 != nil {
			return fmt.Errorf("%q is no range of addresses", clip(text))
		}
		return to.addRange(a.WithZone(""), b.WithZone(""))
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return to.add(netip.PrefixFrom(a.WithZone(""), a.BitLen()))
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return fmt.Errorf("%q is no network", clip(text))
	}
	return to.add(p)
}
