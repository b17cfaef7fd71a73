//go:build !linux

package lan

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
)

var errSystem = fmt.Errorf("a TUN device and masquerading need Linux, and this is %s: use forwarding without root", runtime.GOOS)

// A TUN cannot be made on this system.
type TUN struct{}

// OpenTUN returns an error: it needs Linux.
func OpenTUN(name string, mtu int, recv func(pkts [][]byte, off int)) (*TUN, error) {
	return nil, errSystem
}

// Name returns "".
func (*TUN) Name() string { return "" }

// Send drops the packet.
func (*TUN) Send(pkt []byte) {}

// Dropped returns 0.
func (*TUN) Dropped() uint64 { return 0 }

// Run returns an error: it needs Linux.
func (*TUN) Run(ctx context.Context) error { return errSystem }

// Close returns an error: it needs Linux.
func (*TUN) Close() error { return errSystem }

// Setup returns an error: it needs Linux.
func (*TUN) Setup(s Setup) (undo func() error, err error) { return nil, errSystem }

// Forward returns an error: it needs Linux.
func Forward(tun string, behind []netip.Prefix) (undo func() error, err error) {
	return nil, errSystem
}

// Masquerade returns an error: it needs Linux.
func Masquerade(c Config) (undo func() error, err error) { return nil, errSystem }
