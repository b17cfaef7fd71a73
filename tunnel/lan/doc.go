// Package lan is the kernel's side of a tunnel: a TUN device, its addresses
// and routes, forwarding between it and the machine's networks, and the
// masquerade of what leaves a connector by the kernel.
//
// It needs root (CAP_NET_ADMIN) and Linux; on other systems each function
// returns an error that says so. What it changes it changes in the network
// namespace of the calling thread, and every change comes with an undo that
// puts back what was found. A program that dies without its undo leaves a
// masquerade table and a few sysctls behind: the next start replaces the
// table, and takes the sysctls for what it found.
//
// Packets cross in batches and with the kernel's segmentation offload: the
// device splits what the kernel gives and joins what the kernel gets, so that
// nobody outside sees a packet longer than the device's MTU.
package lan

import (
	"fmt"
	"net/netip"
	"strings"
)

// A Setup is what the kernel shall know of a TUN device.
type Setup struct {
	Addresses []netip.Prefix // of the device, each with the length of its network
	Routes    []netip.Prefix // what the kernel sends into the device
}

// A Config says what to masquerade.
type Config struct {
	TUN     string         // the device where the sources come from
	Sources []netip.Prefix // whose packets get the address of the interface they leave by
	Table   string         // name of the nftables table, which belongs to this masquerade alone
}

// check refuses what the kernel would refuse less clearly. The names also
// become parts of paths.
func (c Config) check() error {
	if err := checkName(c.TUN); err != nil {
		return err
	}
	if c.Table == "" || strings.ContainsFunc(c.Table, func(r rune) bool { return !letter(r) && (r < '0' || r > '9') }) {
		return fmt.Errorf("%q does not fit as the name of an nftables table: letters, digits and _", c.Table)
	}
	if len(c.Sources) == 0 {
		return fmt.Errorf("no sources to masquerade")
	}
	return checkPrefixes(c.Sources)
}

func letter(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || r == '_' }

// checkName wants a name of 1 to 15 bytes (IFNAMSIZ) that is one part of a path.
func checkName(name string) error {
	if name == "" || len(name) > 15 || name == "." || name == ".." || name == "all" || name == "default" || strings.ContainsAny(name, "/:% \t\n") {
		return fmt.Errorf("%q does not fit as the name of an interface: 1 to 15 bytes without / : %% and space", name)
	}
	return nil
}

func checkPrefixes(prefixes []netip.Prefix) error {
	for _, p := range prefixes {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("%v is not a prefix of IPv4 or IPv6", p)
		}
	}
	return nil
}

func hasFamily(v6 bool, lists ...[]netip.Prefix) bool {
	for _, list := range lists {
		for _, p := range list {
			if p.Addr().Is6() == v6 {
				return true
			}
		}
	}
	return false
}
