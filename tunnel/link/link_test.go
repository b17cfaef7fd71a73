package link_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/simnet"
	"github.com/starferry/starferry/tunnel/link"
)

const (
	oneWay = 90 * time.Millisecond // San Jose to Hong Kong
	jitter = 96 * time.Millisecond // of the egress, for the connector, by their keys
)

var (
	egressKey, connectorKey = fixedKey(1), fixedKey(2) // fixed, so that the jitter of greetings is
	egressInner             = netip.MustParseAddr("100.72.128.1")
	connectorInner          = netip.MustParseAddr("100.72.160.1")
	egressOuter             = netip.MustParseAddr("203.0.113.1")
	connectorOuter          = netip.MustParseAddr("198.51.100.1")
)

func fixedKey(b byte) link.PrivateKey {
	var k link.PrivateKey
	for i := range k {
		k[i] = b
	}
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

// A node is a device whose port echoes questions and takes answers.
type node struct {
	*link.Device
	port  *link.Port
	self  netip.Addr
	logs  *logBuffer
	stop  func()
	mu    sync.Mutex
	waits map[uint64]chan struct{}
	next  uint64
}

type logBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *logBuffer) count(s string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.String(), s)
}

// run makes a node and runs it until stop.
func run(t *testing.T, self netip.Addr, cfg link.Config, peers ...link.Peer) *node {
	t.Helper()
	n := &node{self: self, logs: &logBuffer{}, waits: map[uint64]chan struct{}{}}
	n.port = link.NewPort(1380, n.recv)
	cfg.Port, cfg.Log = n.port, slog.New(slog.NewTextHandler(n.logs, nil))
	var err error
	if n.Device, err = link.New(cfg); err != nil {
		t.Fatal(err)
	}
	if err := n.SetPeers(peers); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- n.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

// packet is the least that WireGuard takes for IPv4: a header and a number,
// whose top bit marks an answer.
func packet(src, dst netip.Addr, number uint64) []byte {
	b := make([]byte, 28)
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint64(b[20:], number)
	return b
}

const answer = 1 << 63

func (n *node) recv(pkts [][]byte, off int) {
	for _, p := range pkts {
		p = p[off:]
		number := binary.BigEndian.Uint64(p[20:])
		if number&answer == 0 {
			src := netip.AddrFrom4([4]byte(p[12:]))
			n.port.Send(packet(n.self, src, number|answer))
			continue
		}
		n.mu.Lock()
		if w := n.waits[number&^answer]; w != nil {
			close(w)
			delete(n.waits, number&^answer)
		}
		n.mu.Unlock()
	}
}

// ask sends one question and waits for its answer.
func (n *node) ask(ctx context.Context, to netip.Addr) error {
	n.mu.Lock()
	n.next++
	number, got := n.next, make(chan struct{})
	n.waits[number] = got
	n.mu.Unlock()
	n.port.Send(packet(n.self, to, number))
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	select {
	case <-got:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A world is an egress that listens and a connector that dials.
type world struct {
	net                *simnet.Net
	egressHost, dialer *simnet.Host
	egress, connector  *node
}

func toEgress() link.Peer {
	return link.Peer{Name: "hk-1", Key: egressKey.Public(), Endpoint: egressOuter.String() + ":51820",
		AllowedIPs: prefixes(egressInner), Keepalive: 25 * time.Second}
}

func toConnector() link.Peer {
	return link.Peer{Name: "cn-sha-1", Key: connectorKey.Public(), AllowedIPs: prefixes(connectorInner)}
}

func prefixes(addrs ...netip.Addr) (list []netip.Prefix) {
	for _, a := range addrs {
		list = append(list, netip.PrefixFrom(a, a.BitLen()))
	}
	return list
}

func newWorld(t *testing.T, file string) *world {
	n := simnet.New(1, simnet.Link{Delay: oneWay})
	w := &world{net: n, egressHost: n.Host("egress", egressOuter), dialer: n.Host("connector", connectorOuter)}
	w.startEgress(t, file)
	w.connector = run(t, connectorInner, link.Config{Key: connectorKey, Bind: w.dialer.Bind()}, toEgress())
	return w
}

func (w *world) startEgress(t *testing.T, file string) {
	w.egress = run(t, egressInner, link.Config{Key: egressKey, Bind: w.egressHost.Bind(),
		Listen: netip.AddrPortFrom(netip.Addr{}, 51820), EndpointsFile: file}, toConnector())
}

// A change is what a prober told.
type change struct {
	at  time.Duration // since the test began
	up  bool
	rtt time.Duration
}

// probe watches the egress from the connector, and returns what was told and
// when each answer came.
func (w *world) probe(t *testing.T) (changes func() []change, answers func() []time.Duration) {
	return probe(t, w.connector)
}

func probe(t *testing.T, from *node) (changes func() []change, answers func() []time.Duration) {
	start := time.Now()
	var told []change
	var answered []time.Duration
	p := link.Prober{
		Ask:      func(ctx context.Context) error { return from.ask(ctx, egressInner) },
		Initiate: func() { from.Initiate(egressKey.Public()) },
		Changed:  func(up bool, rtt time.Duration, err error) { told = append(told, change{time.Since(start), up, rtt}) },
		Answered: func(time.Duration) { answered = append(answered, time.Since(start)) },
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return func() []change { synctest.Wait(); return told }, func() []time.Duration { synctest.Wait(); return answered }
}

func TestFirstPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		start := time.Now()
		if err := w.connector.ask(t.Context(), egressInner); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(start); got != 4*oneWay { // handshake, question, answer
			t.Errorf("the first answer took %v, want %v", got, 4*oneWay)
		}
		s := w.egress.Status()[0]
		if s.Name != "cn-sha-1" || s.Endpoint != netip.AddrPortFrom(connectorOuter, 49152) || s.RxBytes == 0 || s.TxBytes == 0 {
			t.Errorf("status %+v", s)
		}
		if want := start.Add(3 * oneWay); !s.LastHandshake.Equal(want) {
			t.Errorf("last handshake %v, want %v", s.LastHandshake, want)
		}
	})
}

// The far side restarts and has forgotten where its peer is. The restart falls
// 220 ms before a question.
func TestFarSideRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		changes, answers := w.probe(t)
		time.Sleep(60*time.Second + 780*time.Millisecond)
		w.egress.stop()
		w.startEgress(t, "")
		restart := 60*time.Second + 780*time.Millisecond
		time.Sleep(30 * time.Second)
		var healed time.Duration
		for _, at := range answers() {
			if at > restart && healed == 0 {
				healed = at - restart
			}
		}
		// Two questions missed (220 ms, 1 s and 1 s), half a second for the lost
		// one and the handshake beside it, and a round trip.
		if want := 220*time.Millisecond + 2500*time.Millisecond + 2*oneWay; healed != want {
			t.Errorf("answers after %v, want %v", healed, want)
		}
		last := changes()[len(changes())-1]
		if !last.up || last.at-restart != healed || last.rtt != 2*oneWay {
			t.Errorf("told %+v", last)
		}
	})
}

// For packets of others the way is open earlier than the prober's answer says.
func TestFarSideRestartsForPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		w.probe(t)
		time.Sleep(60*time.Second + 780*time.Millisecond)
		w.egress.stop()
		w.startEgress(t, "")
		restart := time.Now()
		for {
			ctx, cancel := context.WithTimeout(t.Context(), 10*oneWay)
			sent := time.Now()
			var wg sync.WaitGroup
			var err error
			wg.Go(func() { err = w.connector.ask(ctx, egressInner) })
			time.Sleep(10 * time.Millisecond)
			if sent.Sub(restart) > 3*time.Second {
				cancel()
				wg.Wait()
				t.Fatal("no packet got through in 3 s")
			}
			go func() { wg.Wait(); cancel() }()
			if s := w.egress.Status()[0]; !s.LastHandshake.IsZero() {
				wg.Wait()
				got := s.LastHandshake.Sub(restart)
				// 220 ms + 2 s until the second miss, then a handshake and the packet.
				if want := 2220*time.Millisecond + 3*oneWay; got != want || err != nil {
					t.Errorf("open after %v (%v), want %v", got, err, want)
				}
				return
			}
		}
	})
}

// A restarted side that has kept its peers' endpoints does not wait for them.
func TestRestartWithEndpoints(t *testing.T) {
	file := filepath.Join(t.TempDir(), "endpoints")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, file)
		if err := w.connector.ask(t.Context(), egressInner); err != nil {
			t.Fatal(err)
		}
		time.Sleep(60 * time.Second)
		w.egress.stop()
		w.startEgress(t, file)
		restart := time.Now()
		time.Sleep(time.Second)
		s := w.connector.Status()[0].LastHandshake.Sub(restart)
		// A handshake and the packet that proves it; the jitter of these keys is 96 ms.
		if want := 3*oneWay + jitter; s.Truncate(time.Millisecond) != want {
			t.Errorf("the far side could send after %v, want %v", s, want)
		}
		began := time.Now()
		if err := w.egress.ask(t.Context(), connectorInner); err != nil || time.Since(began) != 2*oneWay {
			t.Errorf("an answer after %v, %v", time.Since(began), err)
		}

		// Where a packet waits, it does not wait for the jitter.
		w.egress.stop()
		w.startEgress(t, file)
		restart = time.Now()
		if err := w.egress.ask(t.Context(), connectorInner); err != nil || time.Since(restart) != 4*oneWay {
			t.Errorf("the first answer after %v, %v", time.Since(restart), err)
		}
	})
}

// The dialing side gets another address: its next packet tells the far side.
func TestDialerMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		changes, answers := w.probe(t)
		time.Sleep(60*time.Second + 500*time.Millisecond)
		w.dialer.Move(netip.MustParseAddr("192.0.2.77"))
		time.Sleep(9500 * time.Millisecond)
		if n := len(changes()); n != 1 {
			t.Errorf("told %v: a change of address must not show", changes())
		}
		if got := w.egress.Status()[0].Endpoint.Addr().String(); got != "192.0.2.77" {
			t.Errorf("the egress sends to %s", got)
		}
		all := answers()
		for i := 1; i < len(all); i++ {
			if gap := all[i] - all[i-1]; gap > 1200*time.Millisecond {
				t.Errorf("no answer between %v and %v", all[i-1], all[i])
			}
		}
	})
}

// The link is cut and comes back.
func TestCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		changes, _ := w.probe(t)
		time.Sleep(10*time.Second + 500*time.Millisecond)
		w.net.Connect(w.egressHost, w.dialer, simnet.Link{Cut: true})
		time.Sleep(time.Minute)
		w.net.Connect(w.egressHost, w.dialer, simnet.Link{Delay: oneWay})
		time.Sleep(time.Minute)
		// Cut at 10.5: misses at 12, 13 and, with half the patience, 13.5; so it
		// asks at 70.5, the moment when the link is back.
		want := []change{{360e6, true, 360e6}, {13500e6, false, 0}, {70680e6, true, 180e6}}
		if !slices.Equal(changes(), want) {
			t.Errorf("told %v, want %v", changes(), want)
		}
	})
}

func TestThirtyMinutesOfRekeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		var initiations int
		w.net.Tap(func(d simnet.Datagram) {
			if d.Data[0] == 1 {
				initiations++
			}
		})
		changes, answers := w.probe(t)
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if len(changes()) != 1 {
			t.Errorf("told %v", changes())
		}
		if n := len(answers()); n != 30*60 {
			t.Errorf("%d answers in 30 minutes, want one a second", n)
		}
		if initiations != 15 { // every RekeyAfterTime of 120 s
			t.Errorf("%d handshakes in 30 minutes, want 15", initiations)
		}
		if age := time.Since(w.egress.Status()[0].LastHandshake); age > 125*time.Second {
			t.Errorf("the last handshake was %v ago", age)
		}
	})
}

func TestLossyLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		w.net.Connect(w.egressHost, w.dialer, simnet.Link{Delay: oneWay, Loss: 0.05})
		_, answers := w.probe(t)
		time.Sleep(10 * time.Minute)
		if n := len(answers()); n < 500 || n > 600 { // 0.95² of 600 are 541
			t.Errorf("%d of 600 questions were answered at 5 %% loss", n)
		}
	})
}

func TestSetPeersWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		ask := func(n *node, to netip.Addr) error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			return n.ask(ctx, to)
		}
		must(ask(w.connector, egressInner))
		shaken := w.egress.Status()[0].LastHandshake

		// A further prefix and a further peer leave the session alone.
		inner2, outer2, key2 := netip.MustParseAddr("100.72.160.2"), netip.MustParseAddr("198.51.100.2"), fixedKey(3)
		wider := toConnector()
		wider.AllowedIPs = append(wider.AllowedIPs, netip.MustParsePrefix("240.1.0.0/16"))
		second := link.Peer{Name: "cn-bjs-1", Key: key2.Public(), AllowedIPs: prefixes(inner2)}
		must(w.egress.SetPeers([]link.Peer{wider, second}))
		other := run(t, inner2, link.Config{Key: key2, Bind: w.net.Host("second", outer2).Bind()}, toEgress())
		must(ask(other, egressInner))
		must(ask(w.connector, egressInner))
		if got := w.egress.Status(); len(got) != 2 || !got[1].LastHandshake.Equal(shaken) {
			t.Errorf("status %+v", got)
		}

		// A removed peer is heard no more; a prefix changes its owner.
		second.AllowedIPs = append(second.AllowedIPs, netip.MustParsePrefix("240.1.0.0/16"))
		must(w.egress.SetPeers([]link.Peer{second}))
		if err := ask(w.connector, egressInner); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("asking after removal: %v", err)
		}
		must(ask(other, egressInner))
		must(w.egress.SetPeers([]link.Peer{second, toConnector()}))
		w.connector.Initiate(egressKey.Public()) // its old session is gone
		time.Sleep(3 * oneWay)
		must(ask(w.connector, egressInner))
	})
}

func TestSetPeersRefuses(t *testing.T) {
	n := run(t, egressInner, link.Config{Key: egressKey, Listen: netip.MustParseAddrPort("127.0.0.1:0")})
	key := connectorKey.Public()
	for want, list := range map[string][]link.Peer{
		"without a name":     {{Key: key}},
		"no public key":      {{Name: "a"}},
		"own key":            {{Name: "a", Key: egressKey.Public()}},
		"the same key":       {{Name: "a", Key: key}, {Name: "b", Key: key}},
		"are named a":        {{Name: "a", Key: key}, {Name: "a", Key: fixedKey(9).Public()}},
		"is not host:port":   {{Name: "a", Key: key, Endpoint: "host"}},
		"want whole seconds": {{Name: "a", Key: key, Keepalive: time.Millisecond}},
		`that of "a" already`: {{Name: "a", Key: key, AllowedIPs: prefixes(egressInner)},
			{Name: "b", Key: fixedKey(9).Public(), AllowedIPs: prefixes(egressInner)}},
	} {
		if err := n.SetPeers(list); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if len(n.Status()) != 0 {
		t.Error("a refused list changed the peers")
	}
}

// Somebody replays recorded handshakes, which looks like a clock that went back.
func TestClockGoneBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		var recorded []simnet.Datagram
		w.net.Tap(func(d simnet.Datagram) {
			if d.Data[0] == 1 {
				d.Data = bytes.Clone(d.Data)
				recorded = append(recorded, d)
			}
		})
		w.probe(t)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		old := slices.Clone(recorded)
		w.net.Replay(old[0])
		time.Sleep(time.Second)
		w.net.Replay(old[0]) // the same one again: a duplicate on the way
		time.Sleep(time.Second)
		const warning = "its clock says a time before"
		if n := w.egress.logs.count(warning); n != 0 {
			t.Errorf("%d warnings about a duplicate", n)
		}
		for _, d := range old[1:] {
			w.net.Replay(d)
			time.Sleep(time.Second)
		}
		if n := w.egress.logs.count(warning); n != 1 || w.egress.logs.count("peer=cn-sha-1") == 0 {
			t.Errorf("%d warnings:\n%s", n, w.egress.logs)
		}
	})
}

// Two machines use the connector's key.
func TestStolenKeyFlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		thief := run(t, connectorInner, link.Config{Key: connectorKey, Bind: w.net.Host("thief", netip.MustParseAddr("192.0.2.66")).Bind()}, toEgress())
		w.probe(t)
		time.Sleep(time.Minute)
		const warning = "endpoint flaps"
		probe(t, thief)
		time.Sleep(3 * time.Minute)
		if n := w.egress.logs.count(warning); n < 1 || n > 4 {
			t.Errorf("%d warnings in 3 minutes:\n%s", n, w.egress.logs)
		}
	})
}

// A name is asked for until it resolves, and again when the link stays dead.
func TestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "")
		w.connector.stop()
		var asked atomic.Int64
		var place atomic.Value
		place.Store(egressOuter)
		peer := toEgress()
		peer.Endpoint = "hk-1.example.com:51820"
		w.connector = run(t, connectorInner, link.Config{Key: connectorKey, Bind: w.dialer.Bind(),
			Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
				if asked.Add(1) < 3 || host != "hk-1.example.com" {
					return nil, errors.New("no such host")
				}
				return []netip.Addr{place.Load().(netip.Addr)}, nil
			}}, peer)
		changes, _ := w.probe(t)
		time.Sleep(20 * time.Second)
		if asked.Load() < 3 || len(changes()) != 2 || !changes()[1].up {
			t.Errorf("asked %d times, told %v", asked.Load(), changes())
		}
		const moved = 20 * time.Second
		place.Store(netip.MustParseAddr("203.0.113.99"))
		w.egressHost.Move(place.Load().(netip.Addr))
		time.Sleep(time.Minute)
		// The handshake of the second miss goes to the old address; WireGuard lets
		// the next one go after five seconds.
		last := changes()[len(changes())-1]
		if took := last.at - moved; !last.up || took > 9*time.Second {
			t.Errorf("told %v", changes())
		}
	})
}

func device1(t *testing.T, s string) device.Key {
	t.Helper()
	k, err := device.ParseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
