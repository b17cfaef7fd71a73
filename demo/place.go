package demo

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"github.com/starferry/starferry/control"
)

// claim makes the demo's folder, takes it for this process alone, and returns
// what gives it up. What an earlier demo has left there is removed: keys, ports
// and leases are new each time.
func claim(dir string) (unlock func(), err error) {
	if err := control.MakePrivate(dir); err != nil {
		return nil, fmt.Errorf("making the demo's folder: %w", err)
	}
	// The lock goes with the process, also if it is killed. The file stays: to
	// remove it would let two demos lock two files of the same name.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the demo's folder: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another demo is running (its folder is %s): stop it first", dir)
		}
		return nil, fmt.Errorf("locking the demo's folder: %w", err)
	}
	unlock = func() { lock.Close() }
	for _, d := range []string{"files", "state"} {
		if err := os.RemoveAll(filepath.Join(dir, d)); err != nil {
			unlock()
			return nil, fmt.Errorf("removing what an earlier demo has left: %w", err)
		}
	}
	return unlock, nil
}

// local is where the programs of this machine reach the demo.
type local struct {
	udp   net.PacketConn
	tcp   net.Listener
	proxy net.Listener
}

func (l *local) Close() {
	if l.udp != nil {
		l.udp.Close()
	}
	for _, ln := range []net.Listener{l.tcp, l.proxy} {
		if ln != nil {
			ln.Close()
		}
	}
}

// openLocal opens the ports of the options and writes into these which numbers
// they have. The office listener is opened by the gateway, later; that it can be
// is tried here, to say it together with the rest.
func openLocal(o *Options) (*local, error) {
	l := &local{}
	var errs []error
	keep := func(err error) { errs = append(errs, err) }
	var err error
	if l.udp, l.tcp, err = openBoth(&o.DNS, "--dns"); err != nil {
		keep(err)
	}
	if pc, ln, err := openBoth(&o.LANDNS, "--lan-dns"); err != nil {
		keep(err)
	} else {
		pc.Close()
		ln.Close()
	}
	if l.proxy, err = net.Listen("tcp", o.Proxy); err != nil {
		keep(inUse(err, "TCP", o.Proxy, "--proxy"))
	} else {
		o.Proxy = l.proxy.Addr().String()
	}
	if err := errors.Join(errs...); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// openBoth opens UDP and TCP at one address, and puts the port that it got in
// place of port 0.
func openBoth(at *string, flag string) (net.PacketConn, net.Listener, error) {
	want, err := netip.ParseAddrPort(*at)
	if err != nil {
		return nil, nil, fmt.Errorf("%s %q: want address:port, such as 127.0.0.1:5300", flag, *at)
	}
	tries := 1
	if want.Port() == 0 {
		tries = 20 // the number that is free in one may be taken in the other
	}
	for range tries {
		var ln net.Listener
		if ln, err = net.Listen("tcp", want.String()); err != nil {
			return nil, nil, inUse(err, "TCP", *at, flag)
		}
		got := ln.Addr().String()
		var pc net.PacketConn
		if pc, err = net.ListenPacket("udp", got); err == nil {
			*at = got
			return pc, ln, nil
		}
		ln.Close()
	}
	return nil, nil, inUse(err, "UDP", *at, flag)
}

// inUse says what to do about a port that cannot be opened.
func inUse(err error, transport, at, flag string) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s %s is in use: stop what listens there, or choose another port with %s", transport, at, flag)
	}
	return fmt.Errorf("opening %s %s (%s): %w", transport, at, flag, err)
}

// freePort returns a UDP port on loopback that nobody uses.
func freePort() (netip.AddrPort, error) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("finding a free port: %w", err)
	}
	defer pc.Close()
	return pc.LocalAddr().(*net.UDPAddr).AddrPort(), nil
}
