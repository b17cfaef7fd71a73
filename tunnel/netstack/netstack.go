// Package netstack ends connections in the program itself, on gVisor's TCP/IP,
// where there is no kernel to do it or none that shall.
//
// A [Stack] has addresses of its own: the local services of a node (DNS, the
// posture API, etcd) live on one beside the label switch, and a test client is
// one behind a WireGuard device. A [Forwarder] has none: it takes packets for
// any destination and continues each flow by a dialed connection, which is how
// a connector works without root.
//
// The contract: Inject copies what it is given, may be called from several
// goroutines, and never blocks on the network. Out is called from several
// goroutines too, with a slice that is valid only during the call; it must
// copy and not block. Close ends every connection and every goroutine.
package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/starferry/starferry/tunnel/ring"
)

// A Config says what a stack is made of.
type Config struct {
	Addrs []netip.Addr
	MTU   int
	Out   func(pkt []byte) // nil: packets wait for [Stack.TUN]'s reader
}

// A Stack is a host in the program: addresses, listeners, connections.
type Stack struct {
	stack *stack.Stack
	wire  *wire
	out   *ring.Ring // where packets wait for the TUN's reader
	close sync.Once
}

// tunSlots is how many packets wait for a TUN's reader.
const tunSlots = 4096

// New makes a stack. It works at once, until [Stack.Close].
func New(cfg Config) (*Stack, error) {
	if cfg.MTU < 1280 {
		return nil, fmt.Errorf("making a network stack: MTU %d is below 1280, which IPv6 needs (RFC 8200 section 5)", cfg.MTU)
	}
	s := &Stack{out: ring.New(tunSlots, cfg.MTU)}
	out := cfg.Out
	if out == nil {
		out = func(pkt []byte) { s.out.Put(pkt) }
	}
	s.wire = newWire(cfg.MTU, out)
	var err error
	if s.stack, err = newStack(s.wire); err != nil {
		return nil, fmt.Errorf("making a network stack: %w", err)
	}
	for _, a := range cfg.Addrs {
		if err := s.addAddress(a); err != nil {
			s.Close()
			return nil, fmt.Errorf("making a network stack: address %v: %w", a, err)
		}
	}
	return s, nil
}

func (s *Stack) addAddress(a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
		return errors.New("want a plain IPv4 or IPv6 address")
	}
	addr := tcpip.AddrFromSlice(a.AsSlice())
	return told(s.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{
		Protocol:          protocol(a),
		AddressWithPrefix: addr.WithPrefix(),
	}, stack.AddressProperties{}))
}

// Inject gives the stack a packet as it came from the network.
func (s *Stack) Inject(pkt []byte) { s.wire.inject(pkt) }

// ListenTCP listens on one of the stack's addresses.
func (s *Stack) ListenTCP(addr netip.AddrPort) (net.Listener, error) {
	l, err := gonet.ListenTCP(s.stack, full(addr), protocol(addr.Addr()))
	if err != nil {
		return nil, fmt.Errorf("listening on tcp %v: %w", addr, err)
	}
	return l, nil
}

// ListenUDP listens on one of the stack's addresses.
func (s *Stack) ListenUDP(addr netip.AddrPort) (net.PacketConn, error) {
	local := full(addr)
	c, err := gonet.DialUDP(s.stack, &local, nil, protocol(addr.Addr()))
	if err != nil {
		return nil, fmt.Errorf("listening on udp %v: %w", addr, err)
	}
	return c, nil
}

// DialContext connects to an address, by "tcp" or "udp". A refused connection
// is syscall.ECONNREFUSED, as with the kernel's.
func (s *Stack) DialContext(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	var c net.Conn
	var err error
	switch network {
	case "tcp":
		c, err = s.dialTCP(ctx, addr)
	case "udp":
		remote := full(addr)
		c, err = gonet.DialUDP(s.stack, nil, &remote, protocol(addr.Addr()))
	default:
		return nil, fmt.Errorf("dialing %v: %w", addr, net.UnknownNetworkError(network))
	}
	if err != nil {
		return nil, fmt.Errorf("dialing %s %v: %w", network, addr, asErrno(err))
	}
	return c, nil
}

// asErrno gives gVisor's errors, which reach us as text, the names that others
// look for.
func asErrno(err error) error {
	var op *net.OpError
	if !errors.As(err, &op) || op.Err == nil {
		return err
	}
	for text, errno := range map[string]syscall.Errno{
		(&tcpip.ErrConnectionRefused{}).String():  syscall.ECONNREFUSED,
		(&tcpip.ErrConnectionReset{}).String():    syscall.ECONNRESET,
		(&tcpip.ErrHostUnreachable{}).String():    syscall.EHOSTUNREACH,
		(&tcpip.ErrNetworkUnreachable{}).String(): syscall.ENETUNREACH,
		(&tcpip.ErrTimeout{}).String():            syscall.ETIMEDOUT,
	} {
		if op.Err.Error() == text {
			return errno
		}
	}
	return err
}

// Close ends the stack with all its connections, and waits for it.
func (s *Stack) Close() {
	s.close.Do(func() {
		s.out.Close()
		s.stack.Close()
		s.stack.Wait()
	})
}

// TUN returns the stack as a WireGuard device takes it: what WireGuard decrypts
// is injected, and what the stack sends is encrypted, where [Config].Out is nil.
// Closing it leaves the stack to [Stack.Close].
func (s *Stack) TUN() tun.Device {
	return &stackTUN{stack: s, events: make(chan tun.Event)}
}

// stackTUN is a Stack seen from WireGuard.
type stackTUN struct {
	stack  *Stack
	events chan tun.Event
	close  sync.Once
}

func (t *stackTUN) Read(bufs [][]byte, sizes []int, off int) (int, error) {
	n, ok := t.stack.out.Take(bufs, sizes, off)
	if !ok {
		return 0, os.ErrClosed
	}
	return n, nil
}

func (t *stackTUN) Write(bufs [][]byte, off int) (int, error) {
	for _, b := range bufs {
		t.stack.Inject(b[off:])
	}
	return len(bufs), nil
}

func (t *stackTUN) Close() error {
	t.close.Do(func() {
		t.stack.out.Close()
		close(t.events)
	})
	return nil
}

func (t *stackTUN) File() *os.File           { return nil }
func (t *stackTUN) MTU() (int, error)        { return int(t.stack.wire.MTU()), nil }
func (t *stackTUN) Name() (string, error)    { return "netstack", nil }
func (t *stackTUN) Events() <-chan tun.Event { return t.events }
func (t *stackTUN) BatchSize() int           { return conn.IdealBatchSize }

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func full(a netip.AddrPort) tcpip.FullAddress {
	f := tcpip.FullAddress{NIC: nic, Port: a.Port()}
	if a.Addr().IsValid() && !a.Addr().IsUnspecified() {
		f.Addr = tcpip.AddrFromSlice(a.Addr().AsSlice())
	}
	return f
}

// told makes an error of gVisor's kind of error.
func told(err tcpip.Error) error {
	if err == nil {
		return nil
	}
	return errors.New(err.String())
}
