// Package world is what lies outside of Starferry in the demo: a public
// resolver, and behind the connector a piece of China.
//
//	gateway ── loopback ── public resolver          (names of public.zone)
//
//	connector ─ 203.0.113.7 ══ 203.0.113.53  resolver in China (names of china.zone)
//	          (outside)     ║  203.0.113.20  origin: web site on tcp/80, echo on udp/443
//	                        ║                (inside)
//	            2001:2:0:f000::7, ::53 and ::20 likewise
//
// The public resolver is a real one on a loopback port. Outside and inside are
// two network stacks in the process, joined by a cable: the connector's
// forwarder dials from the one ([World.Dial], [World.Ping]), so that the origin
// on the other sees packets that come from the connector's address, and
// answers ping by itself.
package world

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"

	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/steer/geo/geomake"
	"github.com/starferry/starferry/tunnel/netstack"
)

// mtu is that of the networks outside.
const mtu = 1500

// Addresses of the piece of China. No pool and no overlay of the example files
// may hold them.
var (
	outside   = []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:2:0:f000::7")}
	origins   = []netip.Addr{netip.MustParseAddr("203.0.113.20"), netip.MustParseAddr("2001:2:0:f000::20")}
	resolvers = []netip.Addr{netip.MustParseAddr("203.0.113.53"), netip.MustParseAddr("2001:2:0:f000::53")}

	ranges = map[netip.Prefix]string{
		netip.MustParsePrefix("203.0.113.0/24"):     "CN",
		netip.MustParsePrefix("2001:2:0:f000::/52"): "CN",
		netip.MustParsePrefix("192.0.2.0/24"):       "US",
		netip.MustParsePrefix("3fff::/20"):          "US",
	}
)

//go:embed public.zone
var publicZone string

//go:embed china.zone
var chinaZone string

// Resolver returns where the resolver in China is asked.
func Resolver() netip.AddrPort { return netip.AddrPortFrom(resolvers[0], 53) }

// Countries returns the country database of this world in MaxMind's format.
func Countries() ([]byte, error) { return geomake.Make(ranges) }

// A World is one run of it.
type World struct {
	log           *slog.Logger
	public, china *zone
	udp           net.PacketConn
	tcp           net.Listener

	here, there *netstack.Stack // outside and inside
	out, in     cable           // from here to there, and back
	pings       pings
}

// New makes a world, and takes a port on loopback for its public resolver. What
// is not run has to be closed.
func New(log *slog.Logger) (*World, error) {
	w := &World{log: log, out: newCable(), in: newCable()}
	var err error
	if w.public, err = parseZone("public.zone", publicZone); err != nil {
		return nil, err
	}
	if w.china, err = parseZone("china.zone", chinaZone); err != nil {
		return nil, err
	}
	if w.here, err = netstack.New(netstack.Config{Addrs: outside, MTU: mtu, Out: w.out.send}); err != nil {
		return nil, fmt.Errorf("making the network outside: %w", err)
	}
	addrs := append(origins[:len(origins):len(origins)], resolvers...)
	if w.there, err = netstack.New(netstack.Config{Addrs: addrs, MTU: mtu, Out: w.in.send}); err != nil {
		w.Close()
		return nil, fmt.Errorf("making the network in China: %w", err)
	}
	if w.udp, w.tcp, err = listenBoth("127.0.0.1"); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// listenBoth takes a port of UDP and TCP with one number.
func listenBoth(host string) (net.PacketConn, net.Listener, error) {
	var last error
	for range 20 { // the number that is free in one may be taken in the other
		pc, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
		if err != nil {
			return nil, nil, fmt.Errorf("opening the public resolver: %w", err)
		}
		port := pc.LocalAddr().(*net.UDPAddr).Port
		ln, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil {
			return pc, ln, nil
		}
		pc.Close()
		last = err
	}
	return nil, nil, fmt.Errorf("opening the public resolver: %w", last)
}

// Public returns where the public resolver is asked.
func (w *World) Public() netip.AddrPort { return w.tcp.Addr().(*net.TCPAddr).AddrPort() }

// Close ends a world that was not run.
func (w *World) Close() {
	for _, s := range []*netstack.Stack{w.here, w.there} {
		if s != nil {
			s.Close()
		}
	}
	if w.udp != nil {
		w.udp.Close()
		w.tcp.Close()
	}
}

// Run serves everything in it until ctx is done.
func (w *World) Run(ctx context.Context) error {
	defer w.Close()
	public := &listen.Server{Handle: w.public.handle, Log: w.log}
	tasks := []lifecycle.Task{
		{Name: "cable out", Run: func(ctx context.Context) error { return w.out.run(ctx, w.there.Inject) }},
		{Name: "cable in", Run: func(ctx context.Context) error { return w.in.run(ctx, w.arrive) }},
		{Name: "public resolver over UDP", Run: func(ctx context.Context) error { return public.ServeUDP(ctx, w.udp, "public") }},
		{Name: "public resolver over TCP", Run: func(ctx context.Context) error { return public.ServeTCP(ctx, w.tcp, "public") }},
	}
	china := &listen.Server{Handle: w.china.handle, Log: w.log}
	for _, a := range resolvers {
		pc, err := w.there.ListenUDP(netip.AddrPortFrom(a, 53))
		if err != nil {
			return fmt.Errorf("opening the resolver in China: %w", err)
		}
		ln, err := w.there.ListenTCP(netip.AddrPortFrom(a, 53))
		if err != nil {
			return fmt.Errorf("opening the resolver in China: %w", err)
		}
		tasks = append(tasks,
			lifecycle.Task{Name: "resolver in China over UDP", Run: func(ctx context.Context) error { return china.ServeUDP(ctx, pc, "china") }},
			lifecycle.Task{Name: "resolver in China over TCP", Run: func(ctx context.Context) error { return china.ServeTCP(ctx, ln, "china") }})
	}
	for _, a := range origins {
		ln, err := w.there.ListenTCP(netip.AddrPortFrom(a, 80))
		if err != nil {
			return fmt.Errorf("opening the origin: %w", err)
		}
		pc, err := w.there.ListenUDP(netip.AddrPortFrom(a, 443))
		if err != nil {
			return fmt.Errorf("opening the origin: %w", err)
		}
		tasks = append(tasks,
			lifecycle.Task{Name: "origin", Run: func(ctx context.Context) error { return serveOrigin(ctx, ln) }},
			lifecycle.Task{Name: "origin over UDP", Run: func(ctx context.Context) error { return echo(ctx, pc) }})
	}
	return lifecycle.Run(ctx, tasks...)
}

// Dial connects from the connector's outside address.
func (w *World) Dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	return w.here.DialContext(ctx, network, to)
}

// arrive takes a packet that came out of China.
func (w *World) arrive(pkt []byte) {
	if !w.pings.answered(pkt) {
		w.here.Inject(pkt)
	}
}

// Ping sends an echo request from the connector's outside address and waits
// for its answer.
func (w *World) Ping(ctx context.Context, to netip.Addr) error {
	to = to.Unmap()
	from := outside[0]
	if to.Is6() {
		from = outside[1]
	}
	done, pkt, forget, err := w.pings.begin(from, to)
	if err != nil {
		return err
	}
	defer forget()
	w.out.send(pkt)
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("no answer from %v: %w", to, ctx.Err())
	}
}

var errTooManyPings = errors.New("too many pings at once")
