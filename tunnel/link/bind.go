package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.zx2c4.com/wireguard/conn"

	"github.com/starferry/starferry/internal/sockbuf"
)

// openBind opens the socket early, so that its port is known and a port in use
// is an error before anything runs. WireGuard's own bind for all addresses
// must reach the device as it is (WireGuard looks at its type to follow route
// changes): there a wanted port is only tried, and opened again by Run.
func openBind(bind conn.Bind, listen netip.AddrPort) (conn.Bind, uint16, error) {
	if bind == nil && (!listen.Addr().IsValid() || listen.Addr().IsUnspecified()) {
		bind = conn.NewDefaultBind()
		if listen.Port() == 0 {
			return bind, 0, nil
		}
		_, port, err := bind.Open(listen.Port())
		return bind, port, errors.Join(err, bind.Close())
	}
	if bind == nil {
		bind = newUDPBind(listen.Addr())
	}
	fns, port, err := bind.Open(listen.Port())
	if err != nil {
		return nil, 0, err
	}
	return &heldBind{Bind: bind, fns: fns, port: port}, port, nil
}

// A heldBind is a bind that is open already when WireGuard opens it.
type heldBind struct {
	conn.Bind

	mu   sync.Mutex
	fns  []conn.ReceiveFunc // nil once handed over
	port uint16
}

// Open hands the open socket over at the first call.
func (h *heldBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fns == nil {
		return h.Bind.Open(port)
	}
	fns := h.fns
	h.fns = nil
	return fns, h.port, nil
}

// Close does nothing before the first Open: WireGuard closes before it opens.
func (h *heldBind) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fns != nil {
		return nil
	}
	return h.Bind.Close()
}

func (h *heldBind) release() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fns = nil
	return h.Bind.Close()
}

// A udpBind is a socket on one address. conn.StdNetBind always listens on all
// of them, which a demo on loopback and a host with several roles must not.
type udpBind struct {
	addr netip.Addr
	out  sync.Pool // of *outbox

	mu     sync.Mutex
	socket *net.UDPConn
	batch  batchConn
}

// A batchConn sends and receives many datagrams in one system call.
// [ipv4.Message] and [ipv6.Message] are the same type.
type batchConn interface {
	ReadBatch(ms []ipv6.Message, flags int) (int, error)
	WriteBatch(ms []ipv6.Message, flags int) (int, error)
}

// An outbox is what one Send needs.
type outbox struct {
	msgs []ipv6.Message
	addr net.UDPAddr
	ip   [16]byte
}

// socketBuffer is what WireGuard asks for by its own bind.
const socketBuffer = 7 << 20

func newUDPBind(addr netip.Addr) *udpBind {
	b := &udpBind{addr: addr.Unmap()}
	b.out.New = func() any { return &outbox{msgs: make([]ipv6.Message, conn.IdealBatchSize)} }
	return b
}

// Open listens. Port 0 takes a free one.
func (b *udpBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	network := "udp6"
	if b.addr.Is4() {
		network = "udp4"
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return sockbuf.Large(raw, socketBuffer, socketBuffer)
	}}
	pc, err := lc.ListenPacket(context.Background(), network, netip.AddrPortFrom(b.addr, port).String())
	if err != nil {
		return nil, 0, err
	}
	b.socket = pc.(*net.UDPConn)
	if b.addr.Is4() {
		b.batch = ipv4.NewPacketConn(b.socket)
	} else {
		b.batch = ipv6.NewPacketConn(b.socket)
	}
	local := b.socket.LocalAddr().(*net.UDPAddr).AddrPort()
	return []conn.ReceiveFunc{receiver(b.batch)}, local.Port(), nil
}

// receiver makes the function that reads one socket. One goroutine calls it,
// so its messages can be its own.
func receiver(batch batchConn) conn.ReceiveFunc {
	msgs := make([]ipv6.Message, conn.IdealBatchSize)
	last := &conn.StdNetEndpoint{}
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		room := min(len(bufs), len(msgs))
		for i := range room {
			msgs[i].Buffers = bufs[i : i+1]
		}
		n, err := batch.ReadBatch(msgs[:room], 0)
		if err != nil {
			return 0, err
		}
		for i := range n {
			from := msgs[i].Addr.(*net.UDPAddr).AddrPort()
			from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
			if last.AddrPort != from { // endpoints are constants here, so runs share one
				last = &conn.StdNetEndpoint{AddrPort: from}
			}
			sizes[i], eps[i] = msgs[i].N, last
			msgs[i].Addr = nil
		}
		return n, nil
	}
}

// Send sends all datagrams to one peer.
func (b *udpBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	b.mu.Lock()
	batch := b.batch
	b.mu.Unlock()
	if batch == nil {
		return net.ErrClosed
	}
	to, ok := ep.(*conn.StdNetEndpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	if to.Addr().Is4() != b.addr.Is4() {
		return fmt.Errorf("sending from %v to %v: %w", b.addr, to.AddrPort, syscall.EAFNOSUPPORT)
	}
	o := b.out.Get().(*outbox)
	defer b.out.Put(o)
	for len(bufs) > 0 {
		n, err := batch.WriteBatch(o.fill(bufs, to.AddrPort), 0)
		if err != nil {
			return err
		}
		bufs = bufs[n:]
	}
	return nil
}

func (o *outbox) fill(bufs [][]byte, to netip.AddrPort) []ipv6.Message {
	if to.Addr().Is4() {
		a := to.Addr().As4()
		o.addr.IP = append(o.ip[:0], a[:]...)
	} else {
		o.ip = to.Addr().As16()
		o.addr.IP = o.ip[:]
	}
	o.addr.Port, o.addr.Zone = int(to.Port()), to.Addr().Zone()
	n := min(len(bufs), len(o.msgs))
	for i := range n {
		o.msgs[i].Buffers, o.msgs[i].Addr = bufs[i:i+1], &o.addr
	}
	return o.msgs[:n]
}

// Close ends the receiver.
func (b *udpBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket == nil {
		return nil
	}
	err := b.socket.Close()
	b.socket, b.batch = nil, nil
	return err
}

// ParseEndpoint reads an address and port.
func (*udpBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, fmt.Errorf("reading endpoint %q: %w", s, err)
	}
	return &conn.StdNetEndpoint{AddrPort: a}, nil
}

// SetMark refuses every mark but 0.
func (*udpBind) SetMark(mark uint32) error {
	if mark != 0 {
		return errors.ErrUnsupported
	}
	return nil
}

// BatchSize is what one system call can carry.
func (*udpBind) BatchSize() int {
	if runtime.GOOS == "linux" {
		return conn.IdealBatchSize
	}
	return 1
}
