package netstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// A ForwarderConfig says what a forwarder is made of.
type ForwarderConfig struct {
	MTU int
	Out func(pkt []byte)

	// Dial connects to the origin, by "tcp" or "udp". Where the connection has
	// SetLinger and CloseWrite, resets and half closes are passed on.
	Dial func(ctx context.Context, network string, dst netip.AddrPort) (net.Conn, error)
	// Ping asks the origin for an echo; nil answers echo requests with
	// "administratively prohibited". See [PingUnprivileged].
	Ping func(ctx context.Context, dst netip.Addr) error

	MaxInFlight  int           // TCP handshakes in progress; 0: 1024
	MaxPerSource int           // of them from one address; 0: an eighth of MaxInFlight
	MaxUDP       int           // UDP flows; 0: 16384
	UDPIdle      time.Duration // how long a silent UDP flow lives; 0: two minutes (RFC 4787 section 4.3: no less)

	Log     *slog.Logger          // nil: nothing is logged
	Metrics prometheus.Registerer // nil: nothing is counted
}

const (
	dialWithin = 15 * time.Second

	// A client that vanished is noticed after about 12 minutes.
	keepaliveIdle  = 10 * time.Minute
	keepaliveEvery = 30 * time.Second
	keepaliveCount = 4
)

// A Forwarder takes packets for any destination and continues their flows by
// connections of its own, for a connector without root. The destination of a
// packet is the origin's address, its source the device's overlay address; what
// comes back has them the other way round.
//
// An origin is dialed before the SYN is answered, so that what the origin
// refuses is refused. A reset on either side becomes one on the other, and so
// does the end of one direction. Handshakes over a limit get no answer, and
// come again; datagrams over a limit are dropped.
type Forwarder struct {
	cfg    ForwarderConfig
	wire   *wire
	stack  *stack.Stack
	count  *forwarderMetrics
	errors *rate.Limiter // for ICMP errors
	pings  chan struct{} // a place for each ping under way
	done   chan struct{}

	cancel  context.CancelFunc
	pinging func() (context.Context, context.CancelFunc) // the time that a ping has

	mu         sync.Mutex // guards what follows
	closed     bool
	tasks      sync.WaitGroup
	handshakes map[netip.Addr]int
	udp        int
	flows      map[*flow]struct{}
}

// A flow is what Close has to end.
type flow struct{ abort func() }

// NewForwarder makes a forwarder. It works at once, until [Forwarder.Close] or
// the end of [Forwarder.Run].
func NewForwarder(cfg ForwarderConfig) (*Forwarder, error) {
	if cfg.Out == nil || cfg.Dial == nil || cfg.MTU < 1280 {
		return nil, errors.New("making a forwarder: want Out, Dial and an MTU of at least 1280")
	}
	setDefaults(&cfg)
	f := &Forwarder{
		cfg:        cfg,
		wire:       newWire(cfg.MTU, cfg.Out),
		errors:     rate.NewLimiter(100, 50),
		pings:      make(chan struct{}, 128),
		done:       make(chan struct{}),
		handshakes: map[netip.Addr]int{},
		flows:      map[*flow]struct{}{},
	}
	var err error
	if f.stack, err = newStack(f.wire); err != nil {
		return nil, fmt.Errorf("making a forwarder: %w", err)
	}
	// Any destination is ours, and any source may be: spoofing lets answers
	// leave with the origin's address.
	if err = errors.Join(told(f.stack.SetPromiscuousMode(nic, true)), told(f.stack.SetSpoofing(nic, true))); err == nil {
		f.count, err = newForwarderMetrics(f)
	}
	if err != nil {
		f.stack.Destroy()
		return nil, fmt.Errorf("making a forwarder: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	f.pinging = func() (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, pingWithin) }
	t := tcp.NewForwarder(f.stack, bufferDefault, cfg.MaxInFlight, func(r *tcp.ForwarderRequest) { f.takeTCP(ctx, r) })
	u := udp.NewForwarder(f.stack, func(r *udp.ForwarderRequest) bool { return f.takeUDP(ctx, r) })
	f.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, t.HandlePacket)
	f.stack.SetTransportProtocolHandler(udp.ProtocolNumber, u.HandlePacket)
	return f, nil
}

func setDefaults(cfg *ForwarderConfig) {
	if cfg.MaxInFlight <= 0 {
		cfg.MaxInFlight = 1024
	}
	if cfg.MaxPerSource <= 0 {
		cfg.MaxPerSource = max(cfg.MaxInFlight/8, 1)
	}
	if cfg.MaxUDP <= 0 {
		cfg.MaxUDP = 16384
	}
	if cfg.UDPIdle <= 0 {
		cfg.UDPIdle = 2 * time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
}

// Inject gives the forwarder a packet.
func (f *Forwarder) Inject(pkt []byte) {
	if f.takeEcho(pkt) {
		return
	}
	f.wire.inject(pkt)
}

// Run works until ctx is done, then closes.
func (f *Forwarder) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-f.done:
	}
	f.Close()
	return nil
}

// Close resets all flows and waits until nothing is left of them.
func (f *Forwarder) Close() {
	f.mu.Lock()
	first := !f.closed
	if first {
		f.closed = true
		close(f.done)
	}
	var flows []*flow
	for fl := range f.flows {
		flows = append(flows, fl)
	}
	f.mu.Unlock()
	f.cancel()
	for _, fl := range flows {
		fl.abort()
	}
	if first {
		f.stack.Close() // wakes handshakes that wait for their last packet
		f.tasks.Wait()
		f.stack.Wait()
		f.count.unregister(f.cfg.Metrics)
	}
	f.tasks.Wait()
}

// begin takes a place among what Close waits for.
func (f *Forwarder) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.tasks.Add(1)
	return true
}

// keep registers a flow. It reports false where the forwarder has closed
// meanwhile; then the caller aborts by itself.
func (f *Forwarder) keep(fl *flow) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.flows[fl] = struct{}{}
	}
	return !f.closed
}

func (f *Forwarder) drop(fl *flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.flows, fl)
}

// ends returns who speaks to whom.
func ends(id stack.TransportEndpointID) (src, dst netip.AddrPort) {
	return addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort)
}

func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(addr, port)
}
