package simnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
)

// A Host has addresses and sockets.
type Host struct {
	net    *Net
	name   string
	number int

	// what follows is guarded by net.mu
	addrs   []netip.Addr
	up      bool
	sockets map[uint16]*Bind
}

// String returns the host's name.
func (h *Host) String() string { return h.name }

// Down takes the host from the network: what it sends and what arrives for it
// is lost, without an error to anybody.
func (h *Host) Down() { h.set(false) }

// Up brings the host back.
func (h *Host) Up() { h.set(true) }

func (h *Host) set(up bool) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.up = up
}

// Move gives the host other addresses in place of those it has, as a machine
// that roams or a lease that ends. What is under way to the old ones is lost.
func (h *Host) Move(addrs ...netip.Addr) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.net.move(h, addrs)
}

// source returns the address from which the host sends to another.
func (h *Host) source(to netip.Addr) (netip.Addr, bool) {
	for _, a := range h.addrs {
		if a.Is4() == to.Is4() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// take puts a datagram into the socket that it is for, if there is one and it
// has room.
func (h *Host) take(d Datagram) bool {
	b := h.sockets[d.To.Port()]
	if b == nil {
		return false
	}
	select {
	case b.in <- d:
		return true
	default:
		return false
	}
}

// Bind returns a socket of the host that is not open yet.
func (h *Host) Bind() *Bind { return &Bind{host: h} }

// backlog is how many datagrams wait in a socket before the next is lost.
const backlog = 4096

// A Bind is a socket: WireGuard's view of the network. It can be opened again
// after it was closed.
type Bind struct {
	host *Host

	// guarded by host.net.mu
	port   uint16
	in     chan Datagram
	closed chan struct{}
}

// Open starts listening. Port 0 takes a free one.
func (b *Bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	h := b.host
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if b.closed != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	if port == 0 {
		for port = 49152; h.sockets[port] != nil; port++ {
		}
	}
	if h.sockets[port] != nil {
		return nil, 0, fmt.Errorf("%s port %d: %w", h.name, port, syscall.EADDRINUSE)
	}
	b.port, b.in, b.closed = port, make(chan Datagram, backlog), make(chan struct{})
	h.sockets[port] = b
	return []conn.ReceiveFunc{receive(b.in, b.closed)}, port, nil
}

func receive(in <-chan Datagram, closed <-chan struct{}) conn.ReceiveFunc {
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		select {
		case d := <-in:
			sizes[0] = copy(bufs[0], d.Data)
			eps[0] = &conn.StdNetEndpoint{AddrPort: d.From}
			return 1, nil
		case <-closed:
			return 0, net.ErrClosed
		}
	}
}

// Close ends all that receive.
func (b *Bind) Close() error {
	b.host.net.mu.Lock()
	defer b.host.net.mu.Unlock()
	if b.closed != nil {
		close(b.closed)
		b.closed = nil
		delete(b.host.sockets, b.port)
	}
	return nil
}

// Send sends the datagrams from the host's address of the right family.
func (b *Bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	std, ok := ep.(*conn.StdNetEndpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	n := b.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if b.closed == nil {
		return net.ErrClosed
	}
	from, ok := b.host.source(std.Addr())
	if !ok {
		return fmt.Errorf("%s to %v: %w", b.host.name, std.Addr(), syscall.ENETUNREACH)
	}
	if !b.host.up {
		return nil
	}
	for _, data := range bufs {
		n.send(b.host, Datagram{netip.AddrPortFrom(from, b.port), std.AddrPort, data})
	}
	return nil
}

// ParseEndpoint reads an address and port.
func (b *Bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, fmt.Errorf("reading endpoint %q: %w", s, err)
	}
	return &conn.StdNetEndpoint{AddrPort: a}, nil
}

// SetMark refuses every mark but 0.
func (b *Bind) SetMark(mark uint32) error {
	if mark != 0 {
		return errors.ErrUnsupported
	}
	return nil
}

// BatchSize is 1: a device takes 64 KiB of memory for each.
func (b *Bind) BatchSize() int { return 1 }

// Keep holds on to a value until the process ends; see the package comment.
func (b *Bind) Keep(v any) {
	kept.Lock()
	defer kept.Unlock()
	kept.values = append(kept.values, v)
}

var kept struct {
	sync.Mutex
	values []any
}
