package configs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/yamlpos"
)

// parseKey reads a public key, and refuses the zero key: every WireGuard
// implementation refuses it too, later and with fewer words.
func parseKey(s string) (device.Key, error) {
	k, err := device.ParseKey(s)
	if err == nil && k.IsZero() {
		err = errors.New("the key is all zero")
	}
	return k, err
}

// parseName reads the name of a node, device, group or route.
func parseName(s string) (string, error) { return device.ParseName(s) }

// parseUnicast reads an address that something can have.
func parseUnicast(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%q is no address", s)
	case a.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%q has a zone", s)
	case a.Is4In6():
		return netip.Addr{}, yamlpos.Hint(fmt.Errorf("%q is an IPv4 address in IPv6 form", s), "write "+a.Unmap().String())
	case a.IsUnspecified() || a.IsMulticast() || a.IsLoopback():
		return netip.Addr{}, fmt.Errorf("%s cannot be the address of a node or device", a)
	}
	return a, nil
}

// parsePrefix reads a range without host bits.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		err := fmt.Errorf("%q is a single address, want a range", s)
		return netip.Prefix{}, yamlpos.Hint(err, fmt.Sprintf("write %s/%d for a range of one", a, a.BitLen()))
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is no range of addresses such as 100.72.0.0/20", s)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is an IPv4 range in IPv6 form", s)
	case p.Masked() != p:
		return netip.Prefix{}, yamlpos.Hint(fmt.Errorf("%s has bits beyond its length", p), "write "+p.Masked().String())
	}
	return p, nil
}

// parseRange is [parsePrefix] for ranges that are handed out to somebody.
func parseRange(s string) (netip.Prefix, error) {
	p, err := parsePrefix(s)
	if err == nil && (p.Bits() == 0 || p.Addr().IsMulticast()) {
		return netip.Prefix{}, fmt.Errorf("addresses of %s cannot be handed out", p)
	}
	return p, err
}

// parseAddrs reads an address or a range.
func parseAddrs(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return parsePrefix(s)
}

// parseListen reads an address with a port, on which something listens.
func parseListen(s string) (netip.AddrPort, error) {
	p, err := netip.ParseAddrPort(s)
	if err != nil {
		err := fmt.Errorf("%q is no address with a port", s)
		return netip.AddrPort{}, yamlpos.Hint(err, "write it like 0.0.0.0:53 or [::]:53")
	}
	return p, nil
}

// parseServer reads the address of a resolver; its port is 53 if none is given.
func parseServer(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	p, err := netip.ParseAddrPort(s)
	if err != nil || p.Port() == 0 {
		err := fmt.Errorf("%q is no address of a resolver", s)
		return netip.AddrPort{}, yamlpos.Hint(err, "write it like 192.0.2.53 or 192.0.2.53:5353")
	}
	return p, nil
}

var hostForm = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.?$`)

// parseEndpoint reads host:port, where host is a name or an address.
func parseEndpoint(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", yamlpos.Hint(fmt.Errorf("%q is no host with a port", s), "write it like gw.example.com:51820")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%q is no port", port)
	}
	if _, err := netip.ParseAddr(host); err != nil && (!hostForm.MatchString(host) || len(host) > 253) {
		return "", fmt.Errorf("%q is neither a host name nor an address", host)
	}
	return s, nil
}

// parseURL reads where an etcd member listens.
func parseURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return "", yamlpos.Hint(fmt.Errorf("%q is no address of an etcd member", s), "write it like https://etcd-1.example.com:2379")
	}
	return s, nil
}

// parseTUN reads the name of a network interface. Linux has room for 15
// characters; a slash or a blank is refused by its kernel.
func parseTUN(s string) (string, error) {
	if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/: \t%") {
		return "", fmt.Errorf("%q is no name of an interface: up to 15 characters without slash, colon and blank", s)
	}
	return s, nil
}
