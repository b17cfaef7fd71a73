package link

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	wg "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tai64n"

	"github.com/starferry/starferry/device"
)

// maxFlaps is how often an endpoint may change within a minute before it is
// worth a warning. A phone that walks between cells stays below.
const maxFlaps = 5

// flaps counts changes within the last minute.
type flaps struct {
	total  uint64
	recent []time.Time
	warned time.Time
}

// note counts a change and reports whether it is time for a warning.
func (f *flaps) note(now time.Time) bool {
	f.total++
	f.recent = append(f.recent, now)
	for now.Sub(f.recent[0]) > time.Minute {
		f.recent = f.recent[1:]
	}
	if len(f.recent) <= maxFlaps || now.Sub(f.warned) < time.Minute {
		return false
	}
	f.warned = now
	return true
}

// A logRouter takes what WireGuard logs. Its lines are for those who debug it:
// what it calls verbose goes to debug, its errors, which it repeats with every
// packet, are warnings once a minute. It has its own lock, since WireGuard logs
// while it is being configured.
type logRouter struct {
	log    *slog.Logger
	forged atomic.Uint64

	mu       sync.Mutex
	names    map[string]string // by WireGuard's short form of the key
	warned   map[string]time.Time
	rejected map[string]*rejections
}

// rejections are a peer's handshakes that were not later than its last one.
type rejections struct {
	total  uint64
	first  time.Time
	last   tai64n.Timestamp
	warned time.Time
}

func newLogRouter(log *slog.Logger) *logRouter {
	return &logRouter{log: log, names: map[string]string{}, warned: map[string]time.Time{}, rejected: map[string]*rejections{}}
}

func (l *logRouter) logger() *wg.Logger { return &wg.Logger{Verbosef: l.verbosef, Errorf: l.errorf} }

// shortForm is how WireGuard names a peer in its logs.
func shortForm(key device.Key) string {
	s := key.String()
	return "peer(" + s[:4] + "…" + s[39:43] + ")"
}

func (l *logRouter) setNames(peers map[device.Key]*Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.names)
	for key, p := range peers {
		l.names[shortForm(key)] = p.Name
	}
	for name := range l.rejected {
		if _, ok := l.names[name]; !ok {
			delete(l.rejected, name)
		}
	}
}

func (l *logRouter) name(key device.Key) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.names[shortForm(key)]
}

// peer finds which peer a line is about.
func (l *logRouter) peer(args []any) (short, name string) {
	if len(args) == 0 {
		return "", ""
	}
	p, ok := args[0].(*wg.Peer)
	if !ok {
		return "", ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	short = p.String()
	return short, l.names[short]
}

// replayFormat is the one line of WireGuard that tells of a clock gone back
// (device/noise-protocol.go, ConsumeMessageInitiation).
const replayFormat = "%v - ConsumeMessageInitiation: handshake replay @ %v"

// forgedFormat ends the lines by which WireGuard tells of packets whose source
// is not of their peer (device/receive.go, RoutineSequentialReceiver). It keeps
// no count of them.
const forgedFormat = "packet with disallowed source address from %v"

func (l *logRouter) verbosef(format string, args ...any) {
	if strings.HasSuffix(format, forgedFormat) {
		l.forged.Add(1)
	}
	if format == replayFormat && len(args) == 2 {
		if at, ok := args[1].(tai64n.Timestamp); ok {
			l.replay(args, at)
		}
	}
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		_, name := l.peer(args)
		l.log.Debug("wireguard: "+fmt.Sprintf(format, args...), "peer", name)
	}
}

func (l *logRouter) errorf(format string, args ...any) {
	short, name := l.peer(args)
	level := slog.LevelDebug
	l.mu.Lock()
	// The key is the format and not the text, so that there are few of them.
	if k := format + short; time.Since(l.warned[k]) >= time.Minute {
		l.warned[k] = time.Now()
		level = slog.LevelWarn
	}
	if len(l.warned) > 10000 {
		clear(l.warned)
	}
	l.mu.Unlock()
	text := strings.TrimPrefix(fmt.Sprintf(format, args...), short+" - ")
	l.log.Log(context.Background(), level, "wireguard: "+text, "peer", name)
}

// replay takes note of a handshake that WireGuard dropped. One may be a
// duplicate on the way; a second one with another time within five minutes is
// a clock that went back, or somebody who replays recorded handshakes.
func (l *logRouter) replay(args []any, at tai64n.Timestamp) {
	short, name := l.peer(args)
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.rejected[short]
	if r == nil {
		r = &rejections{}
		l.rejected[short] = r
	}
	now := time.Now()
	again := r.total > 0 && at != r.last && now.Sub(r.first) < 5*time.Minute
	if !again {
		r.first = now
	}
	r.total++
	r.last = at
	if !again || now.Sub(r.warned) < time.Minute {
		return
	}
	r.warned = now
	l.log.Warn("handshakes of a peer are rejected, because its clock says a time before that of its last handshake: set the clock of that machine; if the earlier time was the wrong one, restart this node, which forgets it",
		"peer", name, "its_clock", tai64(at), "clock", now)
}

// tai64 returns the time of a TAI64N label, in whole seconds.
func tai64(at tai64n.Timestamp) time.Time {
	const epoch = 0x400000000000000a // as WireGuard's tai64n package counts
	return time.Unix(int64(binary.BigEndian.Uint64(at[:8])-epoch), 0)
}

// rejectedBy returns how many handshakes of the peer were dropped.
func (l *logRouter) rejectedBy(key device.Key) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.rejected[shortForm(key)]; r != nil {
		return r.total
	}
	return 0
}
