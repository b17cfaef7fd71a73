package link

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	wg "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/starferry/starferry/device"
)

const (
	// greetWithin spreads the handshakes of a start: 10,000 devices at once
	// would put WireGuard under load, where it answers with cookies first.
	greetWithin = 200 * time.Millisecond

	saveEvery     = 2 * time.Second // a device that has just come must not be forgotten by a crash
	lookEvery     = 2 * time.Second
	lookSeldom    = 10 * time.Second // with more than manyPeers
	manyPeers     = 1000
	resolveWithin = 5 * time.Second
	resolveAgain  = 30 * time.Second // the longest pause between attempts
)

// Run brings the device up and works until ctx is done. It can be run once.
func (d *Device) Run(ctx context.Context) error {
	w, err := d.start()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	tasks.Go(func() { d.greet(ctx, w, &tasks) })
	tasks.Go(func() { d.look(ctx, w) })
	select {
	case <-ctx.Done():
	case <-w.Wait():
		err = errors.New("running WireGuard: its port was closed")
	}
	cancel()
	tasks.Wait()
	d.apply.Lock() // a change of peers under way finishes first
	d.running.Store(nil)
	d.apply.Unlock()
	w.Close()
	<-w.Wait()
	return errors.Join(err, d.release())
}

// start makes WireGuard's device with the peers there are, and brings it up.
func (d *Device) start() (*wg.Device, error) {
	d.apply.Lock()
	defer d.apply.Unlock()
	if d.used {
		return nil, errors.New("running WireGuard: the device was run or closed before")
	}
	d.used = true
	d.checkClock()
	port := &gate{Device: d.cfg.Port, open: make(chan struct{})}
	w := wg.NewDevice(port, d.bind, d.log.logger())
	d.mu.Lock()
	lines := changes(nil, d.peers)
	for key := range d.peers {
		d.introduce(key)
	}
	d.mu.Unlock()
	err := w.IpcSet("private_key=" + hex.EncodeToString(d.cfg.Key[:]) +
		"\nlisten_port=" + strconv.Itoa(int(d.LocalPort())) + "\n")
	if err == nil {
		err = d.configure(w, lines, nil)
	}
	if err == nil {
		err = w.Up()
	}
	if err != nil {
		w.Close()
		return nil, errors.Join(fmt.Errorf("starting WireGuard: %w", err), d.release())
	}
	if d.LocalPort() == 0 {
		d.port.Store(uint32(portOf(w)))
	}
	d.running.Store(w)
	port.unlock()
	return w, nil
}

// A gate holds packets back until the peers are in place and running:
// WireGuard reads from its first moment, and drops what has no way to go.
type gate struct {
	tun.Device
	open chan struct{}
	once sync.Once
}

func (g *gate) unlock() { g.once.Do(func() { close(g.open) }) }

func (g *gate) Read(bufs [][]byte, sizes []int, off int) (int, error) {
	<-g.open
	return g.Device.Read(bufs, sizes, off)
}

func (g *gate) Close() error {
	g.unlock()
	return g.Device.Close()
}

func portOf(w *wg.Device) uint16 {
	text, _ := w.IpcGet() // cannot fail: it writes to memory
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, "listen_port="); ok {
			port, _ := strconv.ParseUint(strings.TrimSpace(value), 10, 16)
			return uint16(port)
		}
	}
	return 0
}

// checkClock warns of a clock that went back, which peers punish with silence:
// a handshake whose TAI64N time is not later than the last one's is dropped.
func (d *Device) checkClock() {
	if d.cfg.EndpointsFile == "" {
		return
	}
	info, err := os.Stat(d.cfg.EndpointsFile)
	if err != nil || !time.Now().Before(info.ModTime()) {
		return
	}
	d.cfg.Log.Warn("the clock is behind the time of this node's last run: peers that remember it will not answer until the clock is right; start time synchronisation (chronyd, systemd-timesyncd)",
		"clock", time.Now(), "last_run", info.ModTime())
}

// greet introduces the peers that are due, each in a goroutine of its own,
// since names may take long to resolve.
func (d *Device) greet(ctx context.Context, w *wg.Device, tasks *sync.WaitGroup) {
	for {
		d.mu.Lock()
		due := d.due
		d.due = nil
		d.mu.Unlock()
		for _, key := range due {
			tasks.Go(func() { d.greetOne(ctx, w, key) })
		}
		select {
		case <-ctx.Done():
			return
		case <-d.wakeUp:
		}
	}
}

// greetOne finds where the peer is, and begins. A peer whose place is not
// known is left to begin itself.
func (d *Device) greetOne(ctx context.Context, w *wg.Device, key device.Key) {
	if !sleep(ctx, d.jitter(key)) {
		return
	}
	begun := false
	for pause := time.Second; ; pause = min(2*pause, resolveAgain) {
		p, err := d.lookUp(ctx, key)
		if err != nil {
			return
		}
		if p.resolved || !begun { // while the name does not resolve, its last address may do
			d.begin(w, p)
			begun = true
		}
		if p.resolved || !sleep(ctx, pause) {
			return
		}
	}
}

// jitter spreads greetings evenly, and the same at each start.
func (d *Device) jitter(key device.Key) time.Duration {
	h := fnv.New64a()
	own := d.cfg.Key.Public()
	h.Write(own[:])
	h.Write(key[:])
	return time.Duration(h.Sum64() % uint64(greetWithin))
}

// errGone says that a peer was removed or changed meanwhile.
var errGone = errors.New("the peer is gone")

// A found peer is a copy of what is known of it, after its name was asked for.
type found struct {
	peer
	resolved bool // it has an address, or no name to resolve
	moved    bool // the name has another address than before
}

func (d *Device) lookUp(ctx context.Context, key device.Key) (found, error) {
	d.mu.Lock()
	p := d.peers[key]
	if p == nil {
		d.mu.Unlock()
		return found{}, errGone
	}
	p.asked = time.Now()
	c := *p
	d.mu.Unlock()
	if c.Endpoint == "" || isLiteral(c.Endpoint) {
		return found{peer: c, resolved: true}, nil
	}
	ep, err := d.resolve(ctx, c.Endpoint)
	if err != nil {
		if ctx.Err() == nil {
			d.cfg.Log.Warn("the name of a peer does not resolve", "peer", c.Name, "endpoint", c.Endpoint, "error", err)
		}
		return found{peer: c}, ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if p = d.peers[key]; p == nil || p.Endpoint != c.Endpoint {
		return found{}, errGone // changed, and due again
	}
	moved := p.dialed != ep
	p.dialed = ep
	return found{*p, true, moved}, nil
}

// resolve returns the first address of the name that the socket can reach.
func (d *Device) resolve(ctx context.Context, endpoint string) (netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(endpoint)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, resolveWithin)
	defer cancel()
	addrs, err := d.cfg.Resolve(ctx, host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	own := d.cfg.Listen.Addr()
	for _, a := range addrs {
		a = a.Unmap()
		if !own.IsValid() || own.IsUnspecified() || own.Is4() == a.Is4() {
			return netip.AddrPortFrom(a, uint16(port)), nil
		}
	}
	return netip.AddrPort{}, fmt.Errorf("no address of %s can be reached from %v", host, own)
}

// begin tells WireGuard where the peer is, and has it send a handshake: a new
// persistent keepalive does so by itself.
func (d *Device) begin(w *wg.Device, p found) {
	lines := peerLine(p.Key)
	if p.moved {
		lines += endpointLine(p.dialed)
	}
	if err := w.IpcSet(lines + fmt.Sprintf("persistent_keepalive_interval=%d\n", p.Keepalive/time.Second)); err != nil {
		d.cfg.Log.Warn("the peer could not be configured", "peer", p.Name, "error", err)
		return
	}
	if far := w.LookupPeer(wg.NoisePublicKey(p.Key)); far != nil && p.dialed.IsValid() {
		if err := far.SendHandshakeInitiation(false); err != nil {
			d.cfg.Log.Debug("the handshake could not be sent", "peer", p.Name, "error", err)
		}
	}
}

// look follows where the peers are: it warns of those that flap, and keeps the
// endpoints on disk.
func (d *Device) look(ctx context.Context, w *wg.Device) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			d.save(d.observe(readStatus(w)), true) // the file's time is that of this run
			return
		case <-tick.C:
		}
		known := d.observe(readStatus(w))
		if time.Since(last) >= saveEvery {
			last = time.Now()
			d.save(known, false)
		}
		if len(known) > manyPeers { // reading 10,000 peers takes 60 ms (measured)
			tick.Reset(lookSeldom)
		}
	}
}

// observe notes changes and returns where the peers are.
func (d *Device) observe(live map[device.Key]Status) map[device.Key]netip.AddrPort {
	d.mu.Lock()
	defer d.mu.Unlock()
	known := make(map[device.Key]netip.AddrPort, len(live))
	for key, s := range live {
		p := d.peers[key]
		if p != nil && p.dialed.IsValid() {
			known[key] = p.dialed
		}
		if p == nil || !s.Endpoint.IsValid() {
			continue
		}
		known[key] = s.Endpoint
		if p.seen.IsValid() && p.seen != s.Endpoint && p.changes.note(time.Now()) {
			d.cfg.Log.Warn("a peer's endpoint flaps: two machines may use one key; unless it roams like this, replace the key",
				"peer", p.Name, "changes_a_minute", maxFlaps+1, "endpoint", s.Endpoint, "before", p.seen)
		}
		p.seen = s.Endpoint
	}
	return known
}

// save writes the file where it would differ, or always.
func (d *Device) save(known map[device.Key]netip.AddrPort, always bool) {
	d.mu.Lock()
	same := maps.Equal(known, d.saved)
	d.saved = known
	d.mu.Unlock()
	if same && !always || d.cfg.EndpointsFile == "" {
		return
	}
	if err := writeEndpoints(d.cfg.EndpointsFile, known); err != nil {
		d.cfg.Log.Warn("the peers' endpoints were not saved: after a restart they have to begin", "error", err)
	}
}

// sleep reports false when ctx was done first.
func sleep(ctx context.Context, pause time.Duration) bool {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
