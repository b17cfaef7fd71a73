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

var networkFormats = map[string]func(line []byte, to *match.NetworksBuilder) (int, error){
	"cidr":    cidrLine,
	"dnsmasq": bogusLine,
}

// Networks reads the list as one of networks.
func (s Source) Networks(r io.Reader) (*match.Networks, Stats, error) {
	parse, ok := networkFormats[s.Format]
	if !ok {
		return nil, Stats{}, fmt.Errorf("list %s: %q is no format of networks: want one of %q", s.Name, s.Format, NetworkFormats())
	}
	var b match.NetworksBuilder
	stats := Stats{name: s.Name}
	err := s.read(r, &stats, func(line []byte) error {
		n, err := parse(line, &b)
		stats.Entries += n
		return err
	})
	if err != nil {
		return nil, stats, err
	}
	return b.Build(), stats, nil
}

func cidrLine(line []byte, to *match.NetworksBuilder) (int, error) {
	line = uncomment(line, "#;!")
	if len(line) == 0 {
		return 0, nil
	}
	return addNetwork(string(line), to)
}

func bogusLine(line []byte, to *match.NetworksBuilder) (int, error) {
	line = uncomment(line, "#")
	if len(line) == 0 {
		return 0, nil
	}
	key, value, ok := bytes.Cut(line, []byte("="))
	if !ok || string(key) != "bogus-nxdomain" && string(key) != "ignore-address" {
		return 0, fmt.Errorf("%q names no network", clip(line))
	}
	return addNetwork(string(value), to)
}

// addNetwork adds a prefix, an address or a range, and returns how many entries that is.
func addNetwork(text string, to *match.NetworksBuilder) (int, error) {
	if from, end, ok := strings.Cut(text, "-"); ok {
		a, err := netip.ParseAddr(strings.TrimSpace(from))
		b, err2 := netip.ParseAddr(strings.TrimSpace(end))
		if err != nil || err2 != nil {
			return 0, fmt.Errorf("%q is no range of addresses", clip(text))
		}
		return entry(to.AddRange(a.WithZone(""), b.WithZone("")))
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return entry(to.Add(netip.PrefixFrom(a.WithZone(""), a.BitLen())))
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return 0, fmt.Errorf("%q is no network", clip(text))
	}
	if p.Bits() == 0 {
		return 0, errors.New("a network of all addresses")
	}
	return entry(to.Add(p))
}

func entry(err error) (int, error) {
	if err != nil {
		return 0, err
	}
	return 1, nil
}
