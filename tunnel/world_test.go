package tunnel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starferry/starferry/tunnel/packet"
)

// The world of these tests is gateway gw-sjc: devices and the next hop are on
// the link, an office on the LAN.
//
//	alice 100.72.1.10   bob 100.72.1.11   office 192.168.1.0/24 → 100.72.8.0/24
//	labels 198.19.0.N → 240.1.0.N         (IPv6: 2001:2:0:1000::N → fd5f:57a6:7272:b000::N)
const (
	alice, alice6 = "100.72.1.10", "fd5f:57a6:7272:1::10"
	nodeA, nodeA6 = "100.72.0.1", "fd5f:57a6:7272::1"
	hongKong      = "100.72.128.1"
)

var (
	poolA, poolB   = netip.MustParsePrefix("198.19.0.0/18"), netip.MustParsePrefix("240.1.0.0/16")
	poolA6, poolB6 = netip.MustParsePrefix("2001:2:0:1000::/52"), netip.MustParsePrefix("fd5f:57a6:7272:b000::/52")
	devices        = netip.MustParsePrefix("100.72.1.0/24")
	devices6       = netip.MustParsePrefix("fd5f:57a6:7272:1::/64")
	office         = netip.MustParsePrefix("192.168.1.0/24")
	officeOverlay  = netip.MustParsePrefix("100.72.8.0/24")
)

// shift moves an address from one prefix to the same place in another.
func shift(a netip.Addr, from, to netip.Prefix) netip.Addr {
	b, t, n := a.AsSlice(), to.Addr().AsSlice(), from.Bits()
	for i := range b {
		if keep := n - 8*i; keep >= 8 {
			b[i] = t[i]
		} else if keep > 0 {
			mask := byte(0xff << (8 - keep))
			b[i] = t[i]&mask | b[i]&^mask
		}
	}
	moved, _ := netip.AddrFromSlice(b)
	return moved
}

type sent struct {
	side Side
	pkt  pkt
}

func (s sent) String() string { return fmt.Sprintf("%v: %v", s.side, s.pkt) }

// A world is a Switch with a small judge.
type world struct {
	*Switch
	t      testing.TB
	policy atomic.Uint64 // the counter that stamps look at

	mu      sync.Mutex
	sent    []sent
	records []*Record
	judged  []First
	leased  map[netip.Addr]bool // labels, unless all are
	denied  map[uint16]bool     // service ports
	far     map[netip.Addr]netip.Addr
	waiting bool
	adopt   bool
	refuse  bool
	lease   *lease
}

type lease struct {
	count atomic.Int64
	last  atomic.Int64
}

func (l *lease) Hold()              { l.count.Add(1) }
func (l *lease) Release()           { l.count.Add(-1) }
func (l *lease) Touch(t time.Time)  { l.last.Store(t.UnixNano()) }
func (l *lease) held() int64        { return l.count.Load() }
func (l *lease) touched() time.Time { return time.Unix(0, l.last.Load()) }

func newWorld(t testing.TB, change func(*Config)) *world {
	w := &world{t: t, denied: map[uint16]bool{22: true}, far: map[netip.Addr]netip.Addr{}, lease: new(lease)}
	cfg := Config{
		Node4: ip(nodeA), Node6: ip(nodeA6),
		Classify: w.classify, Judge: w.judge,
		Emit: func(side Side, b []byte) {
			p := read(t, b, false)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.sent = append(w.sent, sent{side, p})
		},
		Ended: func(r *Record) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.records = append(w.records, r)
		},
		KeepRouter:  func(a netip.Addr) bool { return a == ip(hongKong) },
		ServiceSide: func(dst netip.Addr) Side { return map[bool]Side{true: LAN}[office.Contains(dst)] },
	}
	if change != nil {
		change(&cfg)
	}
	w.Switch = New(cfg)
	return w
}

func (w *world) classify(side Side, src, dst netip.Addr) (Class, Drop) {
	device := devices.Contains(src) || devices6.Contains(src)
	switch {
	case side == LAN && !office.Contains(src):
		return Stray, DropForgedSource
	case dst == ip(nodeA) || dst == ip(nodeA6):
		return Service, 0
	case side == Link && (poolB.Contains(src) || poolB6.Contains(src)):
		return Reverse, 0
	case side == Link && officeOverlay.Contains(src):
		return Stray, DropForgedSource
	case side == Link && !device:
		return Stray, DropUnknownSource
	case !poolA.Contains(dst) && !poolA6.Contains(dst):
		return Stray, DropNotALabel
	case w.leased != nil && !w.leased[dst]:
		return Stray, DropNeverLeased
	}
	return Forward, 0
}

func (w *world) judge(f *First) Ruling {
	stamp := [2]Stamp{{&w.policy, w.policy.Load()}}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judged = append(w.judged, *f)
	meta := &Meta{Device: "alice-laptop", Name: "www.listed-china.test", Policy: "china-origins", Route: "hong-kong", Far: "hk-1", Lease: w.lease}
	service := f.Dst.Port()
	if f.Reverse {
		service = f.Src.Port()
	}
	switch {
	case w.refuse:
		return Ruling{Why: DropUnknownSource}
	case f.Reverse && !w.adopt:
		return Ruling{Why: DropNoFlow}
	case w.denied[service] && !f.Expired:
		return Ruling{Outcome: Deny, Stamps: stamp, Meta: meta}
	case w.waiting:
		return Ruling{Outcome: Wait, Stamps: stamp}
	}
	path := w.path(f)
	if to := w.far[path.Dst]; f.Reverse && to.IsValid() && to != f.Src.Addr() { // the label goes elsewhere now
		return Ruling{Why: DropNoFlow}
	}
	return Ruling{Outcome: Admit, Path: path, Stamps: stamp, Meta: meta}
}

// path maps labels by the place in their pool, and offices to their overlay.
func (w *world) path(f *First) Path {
	if f.Reverse {
		src, a := f.Dst.Addr(), f.Src.Addr()
		if a.Is6() {
			return Path{In: Link, Src: src, Dst: shift(a, poolB6, poolA6)}
		}
		if officeOverlay.Contains(src) {
			return Path{In: LAN, Src: shift(src, officeOverlay, office), Dst: shift(a, poolB, poolA)}
		}
		return Path{In: Link, Src: src, Dst: shift(a, poolB, poolA)}
	}
	p := Path{Out: Link}
	switch a := f.Dst.Addr(); {
	case w.far[a].IsValid():
		p.NewDst = w.far[a]
	case a.Is6():
		p.NewDst = shift(a, poolA6, poolB6)
	default:
		p.NewDst = shift(a, poolA, poolB)
	}
	if f.Side == LAN {
		p.NewSrc = shift(f.Src.Addr(), office, officeOverlay)
	}
	return p
}

// in puts packets in, and returns what came out because of them.
func (w *world) in(side Side, pkts ...pkt) []sent {
	w.t.Helper()
	var raw [][]byte
	for _, p := range pkts {
		raw = append(raw, append(make([]byte, 7), p.bytes()...))
	}
	w.taken()
	w.Input(side, raw, 7)
	return w.taken()
}

func (w *world) taken() []sent {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sent
	w.sent = nil
	return s
}

func (w *world) ended() []*Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.records
	w.records = nil
	return r
}

func (w *world) questions() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.judged)
	w.judged = nil
	return n
}

// set changes the judge's mind about something, and says so.
func (w *world) set(change func()) {
	w.mu.Lock()
	change()
	w.mu.Unlock()
	w.policy.Add(1)
}

// want compares, by what tests say of packets.
func (w *world) want(got []sent, want ...sent) {
	w.t.Helper()
	var g, x []string
	for _, s := range got {
		g = append(g, s.String())
	}
	for _, s := range want {
		x = append(x, s.String())
	}
	if !slices.Equal(g, x) {
		w.t.Fatalf("sent\n\t%s\nwant\n\t%s", strings.Join(g, "\n\t"), strings.Join(x, "\n\t"))
	}
}

// out is a packet as it comes out: one hop further.
func out(side Side, p pkt) sent {
	if p.quote == nil || p.ttl != 0 {
		p.ttl--
	}
	return sent{side, p}
}

// made is a packet that the Switch made itself.
func made(side Side, p pkt) sent {
	p.ttl = 64
	if p.src.Addr().Is4() {
		p.df = true
	}
	return sent{side, p}
}

func rst(src, dst string, seq uint32) pkt { return tcp(src, dst, packet.RST, seq, 0, 0) }

func (w *world) wantDrops(want map[Drop]uint64) {
	w.t.Helper()
	got := w.Drops()
	for d := range drops {
		if got[d] != want[d] {
			w.t.Errorf("dropped %d as %v, want %d", got[d], d, want[d])
		}
	}
}

const (
	up    = alice + ":40000"    // the device
	near  = "198.19.0.7:443"    // the label that it sends to
	beyon = "240.1.0.7:443"     // the label of the next hop
	upLAN = "192.168.1.5:40000" // a machine in the office
)

// handshake opens a connection of alice's, with sequence numbers from 1000 and 5000.
func (w *world) handshake() {
	w.t.Helper()
	w.want(w.in(Link, tcp(up, near, packet.SYN, 1000, 0, 0)), out(Link, tcp(up, beyon, packet.SYN, 1000, 0, 0)))
	w.want(w.in(Link, tcp(beyon, up, packet.SYN|packet.ACK, 5000, 1001, 0)), out(Link, tcp(near, up, packet.SYN|packet.ACK, 5000, 1001, 0)))
	w.want(w.in(Link, tcp(up, near, packet.ACK, 1001, 5001, 0)), out(Link, tcp(up, beyon, packet.ACK, 1001, 5001, 0)))
}
