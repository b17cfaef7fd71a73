package lan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Setup brings the interface up with its MTU, and gives it addresses and
// routes. A route to the same prefix that leads elsewhere already is an error
// that names it; on an error nothing of the setup stays. The undo may be
// called after Close.
func (t *TUN) Setup(s Setup) (undo func() error, err error) {
	if err := errors.Join(checkPrefixes(s.Addresses), checkPrefixes(s.Routes)); err != nil {
		return nil, err
	}
	link, err := netlink.LinkByName(t.name)
	if err != nil {
		return nil, fmt.Errorf("finding %s: %w", t.name, err)
	}
	var done undos
	if err := t.setup(s, link, &done); err != nil {
		return nil, errors.Join(err, done.run())
	}
	return sync.OnceValue(done.run), nil
}

func (t *TUN) setup(s Setup, link netlink.Link, done *undos) error {
	for _, dst := range s.Routes {
		if err := elsewhere(link, dst); err != nil {
			return err
		}
	}
	if hasFamily(true, s.Addresses, s.Routes) {
		if t.mtu < 1280 { // RFC 8200 section 5
			return fmt.Errorf("%s shall have IPv6 addresses or routes, which needs an MTU of 1280 and not %d", t.name, t.mtu)
		}
		if err := prepareIPv6(t.name); err != nil {
			return err
		}
	}
	if err := bringUp(link, t.mtu, done); err != nil {
		return err
	}
	for _, a := range s.Addresses {
		addr := &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("adding the address %s to %s: %w", a, t.name, err)
		}
		done.add(func() error { return netlink.AddrDel(link, addr) })
	}
	for _, dst := range s.Routes {
		if err := addRoute(link, dst, done); err != nil {
			return err
		}
	}
	return nil
}

func bringUp(link netlink.Link, mtu int, done *undos) error {
	name := link.Attrs().Name
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("setting the MTU of %s to %d: %w", name, mtu, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bringing %s up: %w", name, err)
	}
	done.add(func() error { return netlink.LinkSetDown(link) })
	return nil
}

func addRoute(link netlink.Link, dst netip.Prefix, done *undos) error {
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst.Masked()), Scope: scope(dst)}
	err := netlink.RouteAdd(route)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("a route to %s exists already: %w", dst, err)
	}
	if err != nil {
		return fmt.Errorf("routing %s to %s: %w", dst, link.Attrs().Name, err)
	}
	done.add(func() error { return netlink.RouteDel(route) })
	return nil
}

// scope is what "ip route add … dev" sets: IPv6 has no scopes.
func scope(dst netip.Prefix) netlink.Scope {
	if dst.Addr().Is4() {
		return netlink.SCOPE_LINK
	}
	return netlink.SCOPE_UNIVERSE
}

// elsewhere is an error if the main table sends the prefix to another place.
func elsewhere(link netlink.Link, dst netip.Prefix) error {
	family := netlink.FAMILY_V4
	if dst.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Dst: ipNet(dst.Masked())}, netlink.RT_FILTER_DST)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // then RouteAdd still refuses a double
		return fmt.Errorf("listing the routes to %s: %w", dst, err)
	}
	for _, r := range routes {
		if r.LinkIndex != link.Attrs().Index {
			return fmt.Errorf("a route to %s exists already, %s: remove it, or give %s another prefix", dst, describe(r), link.Attrs().Name)
		}
	}
	return nil
}

// describe says where a route leads, as "ip route" does.
func describe(r netlink.Route) string {
	text := fmt.Sprintf("of type %d", r.Type) // blackhole and the like have no interface
	if len(r.MultiPath) > 0 {
		text = fmt.Sprintf("over %d paths", len(r.MultiPath))
	}
	if r.LinkIndex != 0 {
		text = fmt.Sprintf("dev %d", r.LinkIndex)
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			text = "dev " + l.Attrs().Name
		}
	}
	if r.Gw != nil {
		text = "via " + r.Gw.String() + " " + text
	}
	return text
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// undos are run in the order opposite to what they undo. That something is
// gone already, with the interface or by an operator, is no failure.
type undos []func() error

func (u *undos) add(f func() error) { *u = append(*u, f) }

func (u *undos) run() error {
	var errs []error
	for _, f := range slices.Backward(*u) {
		if err := f(); err != nil && !missing(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func missing(err error) bool {
	for _, e := range []error{unix.ENODEV, unix.ESRCH, unix.EADDRNOTAVAIL, unix.ENOENT} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.As(err, &netlink.LinkNotFoundError{})
}
