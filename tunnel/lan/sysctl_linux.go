package lan

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// sysctls is where the kernel shows the settings of the namespace of the thread that looks.
const sysctls = "/proc/sys/net/"

func readSysctl(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}

func writeSysctl(path, value string) error { return os.WriteFile(path, []byte(value), 0o644) }

// setSysctl writes a value where another stands.
func setSysctl(path, value string, done *undos) error {
	if err := keepSysctl(path, done); err != nil {
		return err
	}
	if found, _ := readSysctl(path); found == value {
		return nil
	}
	if err := writeSysctl(path, value); err != nil {
		return fmt.Errorf("setting %s to %s: %w", path, value, err)
	}
	return nil
}

// keepSysctl makes the undo put back what stands there now.
func keepSysctl(path string, done *undos) error {
	found, err := readSysctl(path)
	if err != nil {
		return fmt.Errorf("reading a setting of the kernel: %w", err)
	}
	done.add(func() error {
		if now, err := readSysctl(path); err != nil || now == found {
			return err
		}
		return writeSysctl(path, found)
	})
	return nil
}

// Forward makes the kernel forward packets between the TUN and its other
// interfaces, in the families of the prefixes that lie behind the TUN, and
// keeps its reverse path filter from dropping what comes out of the TUN. The
// TUN device must exist.
//
// Firewall rules stand: a host whose firewall forwards nothing by default must
// admit the TUN there.
func Forward(tun string, behind []netip.Prefix) (undo func() error, err error) {
	if err := errors.Join(checkName(tun), checkPrefixes(behind)); err != nil {
		return nil, err
	}
	var done undos
	if err := openWay(tun, behind, &done); err != nil {
		return nil, errors.Join(err, done.run())
	}
	return sync.OnceValue(done.run), nil
}

// openWay sets what the kernel needs to forward from the TUN.
func openWay(tun string, behind []netip.Prefix, done *undos) error {
	if err := passSources(tun, done); err != nil {
		return err
	}
	for _, v6 := range []bool{false, true} {
		if !hasFamily(v6, behind) {
			continue
		}
		if err := forward(v6, tun, done); err != nil {
			return err
		}
	}
	return nil
}

// forward makes the kernel forward packets of a family. The switch for all
// interfaces writes over the settings of each, so these are kept too; nothing
// is touched where it is on already.
func forward(v6 bool, tun string, done *undos) error {
	family, all := "ipv4", sysctls+"ipv4/ip_forward"
	if v6 {
		family, all = "ipv6", sysctls+"ipv6/conf/all/forwarding"
	}
	found, err := readSysctl(all)
	if err != nil {
		return fmt.Errorf("asking whether this machine forwards %s: %w", family, err)
	}
	if found == "1" {
		return nil
	}
	overwritten, err := filepath.Glob(sysctls + family + "/conf/*/forwarding")
	if err != nil {
		return err
	}
	if v6 {
		err = keepListening(tun, done)
	} else {
		overwritten = append(overwritten, sysctls+"ipv4/conf/all/accept_redirects")
	}
	for _, path := range overwritten {
		err = errors.Join(err, ignoreMissing(keepSysctl(path, done)))
	}
	return errors.Join(err, setSysctl(all, "1", done))
}

// keepListening makes interfaces that learn from router advertisements go on
// with it: a kernel that forwards ignores them and forgets its default route
// at once, unless accept_ra is 2 (ip-sysctl, accept_ra).
func keepListening(tun string, done *undos) error {
	paths, err := filepath.Glob(sysctls + "ipv6/conf/*/accept_ra")
	if err != nil {
		return err
	}
	for _, path := range paths {
		dir := filepath.Dir(path)
		if name := filepath.Base(dir); name == "all" || name == tun {
			continue
		}
		accepts, _ := readSysctl(path)
		forwards, _ := readSysctl(dir + "/forwarding")
		if accepts == "1" && forwards == "0" {
			if err := ignoreMissing(setSysctl(path, "2", done)); err != nil {
				return err
			}
		}
	}
	return nil
}

// ignoreMissing forgives an interface that went meanwhile.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// passSources keeps the reverse path filter from dropping what comes out of a
// TUN. The kernel takes the larger value of "all" and the interface
// (ip-sysctl, rp_filter): 0 if that can be had, else 2, which wants no more than some
// route back to the source.
func passSources(tun string, done *undos) error {
	all, err := readSysctl(sysctls + "ipv4/conf/all/rp_filter")
	if err != nil {
		return fmt.Errorf("asking for the reverse path filter: %w", err)
	}
	value := "2"
	if all == "0" {
		value = "0"
	}
	return setSysctl(sysctls+"ipv4/conf/"+tun+"/rp_filter", value, done)
}

// prepareIPv6 turns IPv6 on for an interface of ours, where a host has it off
// for new ones, and keeps the kernel from making an address of its own, with
// the router solicitations that follow.
func prepareIPv6(tun string) error {
	dir := sysctls + "ipv6/conf/" + tun
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s shall have IPv6 addresses or routes, and IPv6 is switched off on this machine: leave the IPv6 prefixes out", tun)
	}
	if err := writeSysctl(dir+"/addr_gen_mode", "1"); err != nil { // none
		return err
	}
	return writeSysctl(dir+"/disable_ipv6", "0")
}
