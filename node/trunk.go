package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/tunnel"
	"github.com/starferry/starferry/tunnel/link"
	"github.com/starferry/starferry/tunnel/netstack"
)

// Services is the network on which a node offers what is its own (DNS, the
// posture API, the directory): its node address, beside the label switch. A
// running node has a [netstack.Stack]; simulated ones bring a smaller one that
// lives under a fake clock.
type Services interface {
	Inject(pkt []byte)
	ListenTCP(netip.AddrPort) (net.Listener, error)
	ListenUDP(netip.AddrPort) (net.PacketConn, error)
	DialContext(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)
	Close()
}

// Surroundings are what a node takes from the program that runs it. The zero
// value is a node on a real machine.
type Surroundings struct {
	Log     *slog.Logger
	Metrics *prometheus.Registry
	Version string
	Lists   *Lists // of a gateway or egress; nil: its policies have none from other machines

	// Link, if set, has the last word on each WireGuard device before it is
	// made: a program that holds its keys elsewhere, or simulates the network.
	Link func(*link.Config)
	// Services, if set, makes the network of the node's own services.
	Services func(addrs []netip.Addr, mtu int, out func(pkt []byte)) (Services, error)
	// LAN, if set, is what lies beyond the node in place of a kernel or a
	// forwarder: offices at a gateway, the mainland at a connector. It calls in
	// with what comes from there, and is given by send what goes there.
	LAN func(in func(pkt []byte)) (send func(pkt []byte))
	// Shared, if set, opens a gateway's shared state.
	Shared func(ctx context.Context) (*Shared, error)
	// Dial and Ping, if set, replace the machine's own network for what leaves
	// the fleet: upstream resolvers, the resolver in China and, at a rootless
	// connector, the origins.
	Dial func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)
	Ping func(ctx context.Context, addr netip.Addr) error

	// simulated is Dial as it was set: nil leaves room for what only works on a
	// machine's own network.
	simulated func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)
}

func (s *Surroundings) fill() {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Metrics == nil {
		s.Metrics = prometheus.NewRegistry()
	}
	s.simulated = s.Dial
	if s.Dial == nil {
		s.Dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr.String())
		}
	}
	if s.Services == nil {
		s.Services = func(addrs []netip.Addr, mtu int, out func(pkt []byte)) (Services, error) {
			return netstack.New(netstack.Config{Addrs: addrs, MTU: mtu, Out: out})
		}
	}
}

// A wire is one WireGuard device of a node with its end of the switch.
type wire struct {
	port *link.Port
	dev  *link.Device
}

// A trunk joins a node's WireGuard devices, its label switch, the stack of its
// own services and, where it has one, the kernel's side.
type trunk struct {
	sw      *tunnel.Switch
	wires   []wire
	local   Services
	lan     func(pkt []byte) // nil: no such side
	lanTask *lifecycle.Task  // what runs it

	listening listening
}

func (t *trunk) emit(to tunnel.Side, pkt []byte) {
	i, link := to.LinkIndex()
	switch {
	case link:
		t.wires[i].port.Send(pkt)
	case to == tunnel.Local:
		t.local.Inject(pkt)
	case t.lan != nil:
		t.lan(pkt)
	}
}

// addWire makes the next WireGuard device.
func (t *trunk) addWire(s *Surroundings, mtu int, c link.Config) error {
	at := tunnel.LinkSide(len(t.wires))
	port := link.NewPort(mtu, func(pkts [][]byte, off int) { t.sw.Input(at, pkts, off) })
	c.Port, c.Log = port, s.Log
	c.Metrics = prometheus.WrapRegistererWith(prometheus.Labels{"link": at.String()}, s.Metrics)
	if s.Link != nil {
		s.Link(&c)
	}
	dev, err := link.New(c)
	if err != nil {
		return fmt.Errorf("making the WireGuard device: %w", err)
	}
	t.wires = append(t.wires, wire{port, dev})
	return nil
}

// startLocal makes the stack of the node's own services.
func (t *trunk) startLocal(s *Surroundings, addrs []netip.Addr, mtu int) (err error) {
	t.local, err = s.Services(addrs, mtu, func(pkt []byte) { t.sw.Input(tunnel.Local, [][]byte{pkt}, 0) })
	if err != nil {
		return fmt.Errorf("starting the stack of local services: %w", err)
	}
	return nil
}

// tasks are what runs of a trunk. Its local services have to outlive those who
// serve on them: a socket that is closed under its server is an error.
func (t *trunk) tasks() []lifecycle.Task {
	tasks := []lifecycle.Task{{Name: "switch", Run: t.sw.Run}}
	for _, w := range t.wires {
		tasks = append(tasks, lifecycle.Task{Name: "link", Run: w.dev.Run})
	}
	return tasks
}

// split returns the first IPv4 and the first IPv6 address.
func split(addrs []netip.Addr) (v4, v6 netip.Addr) {
	for _, a := range addrs {
		switch {
		case a.Is4() && !v4.IsValid():
			v4 = a
		case a.Is6() && !v6.IsValid():
			v6 = a
		}
	}
	return v4, v6
}

// splitPrefixes returns the first IPv4 and the first IPv6 prefix.
func splitPrefixes(ps []netip.Prefix) (v4, v6 netip.Prefix) {
	for _, p := range ps {
		switch {
		case p.Addr().Is4() && !v4.IsValid():
			v4 = p
		case p.Addr().Is6() && !v6.IsValid():
			v6 = p
		}
	}
	return v4, v6
}

func within(ps []netip.Prefix, a netip.Addr) bool {
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// singles turns addresses into prefixes that hold nothing else.
func singles(addrs []netip.Addr) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// ensureDir makes a node's own directory, which nobody else may read: it holds
// the journal of its leases and what it knows of devices.
func ensureDir(dir string) error {
	if dir == "" {
		return errors.New("state_dir is not set: a node keeps its leases there")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	return nil
}

// A worker runs short errands that must not hold up a packet: asking the next
// hop for a label. Errands beyond what it can keep are refused, not queued.
type worker struct{ errands chan func(context.Context) }

const (
	errandsAtOnce = 32
	errandTime    = 5 * time.Second
)

func newWorker() *worker { return &worker{make(chan func(context.Context), 1024)} }

// try hands over an errand and reports whether it was taken.
func (w *worker) try(errand func(context.Context)) bool {
	select {
	case w.errands <- errand:
		return true
	default:
		return false
	}
}

// Run does errands until ctx is done.
func (w *worker) Run(ctx context.Context) error {
	tasks := make([]lifecycle.Task, errandsAtOnce)
	for i := range tasks {
		tasks[i] = lifecycle.Task{Name: "errands", Run: w.serve}
	}
	return lifecycle.Run(ctx, tasks...)
}

func (w *worker) serve(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case errand := <-w.errands:
			each, cancel := context.WithTimeout(ctx, errandTime)
			errand(each)
			cancel()
		}
	}
}
