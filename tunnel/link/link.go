// Package link carries packets between nodes over WireGuard.
//
// A [Device] is one WireGuard interface without a kernel: what its peers send
// it decrypts into a [Port], what is given to the Port it encrypts to the peer
// whose AllowedIPs hold the destination. A [Prober] watches one peer of it
// from the side that dials.
//
// The contract: [New] takes the socket and checks everything, so that a port
// in use or a bad peer is an error before anything runs; [Device.Run] does the
// work and leaves nothing behind. Peers may change at any time. Functions that
// the device calls (the Port's recv) must not call the device back: WireGuard
// waits for them while it removes a peer.
package link

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.zx2c4.com/wireguard/conn"
	wg "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/starferry/starferry/device"
)

// A Config says what a device is made of.
type Config struct {
	Key    PrivateKey
	Listen netip.AddrPort // no address or an unspecified one: all of the machine; else bound to that one only
	Bind   conn.Bind      // nil: a socket on Listen
	Port   tun.Device     // a [Port], or anything else that takes and gives packets
	Log    *slog.Logger   // nil: nothing is logged

	// Metrics gets the device's metrics for as long as it exists. Several
	// devices in one registry need a label of their own each:
	// prometheus.WrapRegistererWith.
	Metrics prometheus.Registerer

	// EndpointsFile keeps where the peers were last, so that after a restart
	// this side can begin. Empty: they are not kept.
	EndpointsFile string

	// Resolve finds the addresses of an endpoint's name; nil asks the system.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// A Peer is the far end of a link.
type Peer struct {
	Name       string // unique in the device; the label in logs and metrics
	Key        device.Key
	Endpoint   string         // host:port where this side dials, empty where it only listens; names are resolved
	AllowedIPs []netip.Prefix // which sources it may send and which destinations go to it; no two peers share one
	Keepalive  time.Duration  // in seconds; only on the side that dials, for two sides collide
}

// A Status is how a link stands.
type Status struct {
	Name          string
	Key           device.Key
	Endpoint      netip.AddrPort // where it was last heard, or is dialed; invalid while unknown
	LastHandshake time.Time      // zero: never
	RxBytes       uint64
	TxBytes       uint64
}

// A Device is one WireGuard interface with its peers.
type Device struct {
	cfg  Config
	bind conn.Bind
	port atomic.Uint32
	log  *logRouter

	apply   sync.Mutex // serialises changes of peers
	running atomic.Pointer[wg.Device]
	used    bool // guarded by apply: Run was called, or Close

	mu     sync.Mutex // guards what follows; never held while WireGuard is called
	peers  map[device.Key]*peer
	saved  map[device.Key]netip.AddrPort // what the endpoints file holds
	due    []device.Key                  // peers that Run shall introduce
	wakeUp chan struct{}
}

// A peer is what the device knows of a Peer. Guarded by Device.mu.
type peer struct {
	Peer
	dialed  netip.AddrPort // what Endpoint resolved to, or the saved endpoint
	seen    netip.AddrPort // last observed endpoint
	changes flaps
	trying  time.Time // first Initiate since the last handshake
	asked   time.Time // when its name was last asked for
}

// New takes the socket and makes a device without peers. [Device.Run] runs it;
// a device that is never run is given up with [Device.Close].
func New(cfg Config) (*Device, error) {
	if cfg.Key.IsZero() {
		return nil, errors.New("making a WireGuard device: no private key")
	}
	if cfg.Port == nil {
		return nil, errors.New("making a WireGuard device: no port for its packets")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	bind, port, err := openBind(cfg.Bind, cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("opening WireGuard's socket %v: %w", cfg.Listen, err)
	}
	d := &Device{
		cfg:    cfg,
		bind:   bind,
		log:    newLogRouter(cfg.Log),
		peers:  map[device.Key]*peer{},
		wakeUp: make(chan struct{}, 1),
	}
	d.port.Store(uint32(port))
	if d.saved, err = readEndpoints(cfg.EndpointsFile); err != nil {
		cfg.Log.Warn("the last endpoints of peers are not known: those that do not dial this node are found when they send", "error", err)
	}
	if cfg.Metrics != nil {
		if err := cfg.Metrics.Register(collector{d}); err != nil {
			return nil, errors.Join(fmt.Errorf("registering metrics of a WireGuard device: %w", err), bind.Close())
		}
	}
	return d, nil
}

// LocalPort returns the UDP port. It is known once New has returned, but for a
// device that listens on port 0 of all addresses: there it is 0 until Run is up.
func (d *Device) LocalPort() uint16 { return uint16(d.port.Load()) }

// Close gives up the socket of a device that was not run. After Run it does nothing.
func (d *Device) Close() error {
	d.apply.Lock()
	defer d.apply.Unlock()
	if d.used {
		return nil
	}
	d.used = true
	return d.release()
}

func (d *Device) release() error {
	if d.cfg.Metrics != nil {
		d.cfg.Metrics.Unregister(collector{d})
	}
	if h, ok := d.bind.(*heldBind); ok {
		return h.release()
	}
	return nil
}

// Status returns how all links stand, by name.
func (d *Device) Status() []Status {
	w := d.running.Load()
	var live map[device.Key]Status
	if w != nil {
		live = readStatus(w)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]Status, 0, len(d.peers))
	for key, p := range d.peers {
		s := live[key]
		s.Name, s.Key = p.Name, key
		if !s.Endpoint.IsValid() {
			s.Endpoint = p.dialed
		}
		list = append(list, s)
	}
	sortByName(list)
	return list
}

// Forged returns how many packets were dropped because their source is not of
// the peer that sent them.
func (d *Device) Forged() uint64 { return d.log.forged.Load() }

// Initiate begins a handshake with the peer, unless one was begun less than
// five seconds ago (WireGuard's own limit). The peer's name is asked for again,
// and where attempts do not get through, they go back from where the peer was
// last heard to where it is configured.
func (d *Device) Initiate(key device.Key) {
	w := d.running.Load()
	if w == nil {
		return
	}
	p := w.LookupPeer(wg.NoisePublicKey(key))
	if p == nil {
		return
	}
	if ep := d.redial(key, readStatus(w)[key]); ep.IsValid() {
		// Setting the endpoint also forgets the local address that packets to it
		// left by, which is gone when it was this side that moved.
		if err := w.IpcSet(peerLine(key) + endpointLine(ep)); err != nil {
			d.cfg.Log.Warn("the peer's endpoint could not be set", "peer", d.log.name(key), "error", err)
		}
	}
	if err := p.SendHandshakeInitiation(false); err != nil {
		d.cfg.Log.Debug("the handshake could not be sent", "peer", d.log.name(key), "error", err)
	}
}

const (
	// heardOut is how long attempts go to the last known endpoint before they
	// go to the configured one: one of WireGuard's repeats (RekeyTimeout) fits.
	heardOut = 6 * time.Second
	// askAgain is the least time between two questions for a peer's name.
	askAgain = 10 * time.Second
)

// redial returns the endpoint for the next attempt.
func (d *Device) redial(key device.Key, now Status) netip.AddrPort {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.peers[key]
	if p == nil {
		return netip.AddrPort{}
	}
	if p.trying.Before(now.LastHandshake) || p.trying.IsZero() {
		p.trying = time.Now()
	}
	if p.Endpoint != "" && !isLiteral(p.Endpoint) && time.Since(p.asked) > askAgain {
		d.introduce(key)
	}
	if p.Endpoint == "" || time.Since(p.trying) < heardOut {
		return now.Endpoint
	}
	return p.dialed
}

// introduce has Run find the peer and greet it. The caller holds d.mu.
func (d *Device) introduce(key device.Key) {
	d.due = append(d.due, key)
	select {
	case d.wakeUp <- struct{}{}:
	default:
	}
}

func peerLine(key device.Key) string {
	return "public_key=" + hex.EncodeToString(key[:]) + "\nupdate_only=true\n"
}

func endpointLine(ep netip.AddrPort) string { return "endpoint=" + ep.String() + "\n" }

func isLiteral(endpoint string) bool {
	_, err := netip.ParseAddrPort(endpoint)
	return err == nil
}

func (p *Peer) check() error {
	switch {
	case p.Name == "":
		return errors.New("a peer without a name")
	case p.Key.IsZero():
		return fmt.Errorf("peer %s: no public key", p.Name)
	case p.Keepalive < 0 || p.Keepalive%time.Second != 0 || p.Keepalive > 65535*time.Second:
		return fmt.Errorf("peer %s: keepalive %v: want whole seconds up to 65535", p.Name, p.Keepalive)
	case strings.ContainsAny(p.Endpoint, "\n="):
		return fmt.Errorf("peer %s: endpoint %q is not host:port", p.Name, p.Endpoint)
	}
	if p.Endpoint == "" {
		return nil
	}
	if _, port, err := net.SplitHostPort(p.Endpoint); err != nil || port == "" {
		return fmt.Errorf("peer %s: endpoint %q is not host:port", p.Name, p.Endpoint)
	}
	return nil
}
