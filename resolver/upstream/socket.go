package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// ports is how many sockets there are before one is used again: an answer
	// has to hit one of that many ports, besides the id (RFC 5452 section 9.2).
	ports = 256
	// keptSockets is how many are kept for later, maxSockets how many there are
	// at one time, of each server.
	keptSockets = 512
	maxSockets  = 1024

	// A socket is used no more often than about this, nor for longer: its port
	// is to be no fixed target.
	socketUses = 1024
	socketAge  = 5 * time.Minute
	// socketIdle is how long one that is not needed is kept.
	socketIdle = 30 * time.Second
)

var (
	errBusy   = errors.New("too many questions wait for its answers")
	errSilent = errors.New("no answer in time")
	// errUnheard: the server was silent before, which has its own account.
	errUnheard = errors.New("no answer in time")
)

// A socket is a port that one question at a time is asked from. Nobody reads
// from it in between: who asked does, without the help of other goroutines.
type socket struct {
	conn net.Conn
	raw  syscall.RawConn // nil for those that are not the kernel's
	rung atomic.Bool     // nobody waits for it any more
	wake time.Time       // when waiting for it ends, as the kernel's poller has it
	uses int             // that are left
	made time.Time
	used time.Time

	// The state of step, which is kept here for not to be allocated.
	step    func(fd uintptr) bool
	out, in []byte
	n       int
	err     error
}

// newSocket makes a socket; dial is nil for those of the kernel.
func newSocket(ctx context.Context, dial Dial, addr netip.AddrPort) (*socket, error) {
	s := &socket{uses: socketUses/2 + rand.IntN(socketUses), made: time.Now()}
	if dial != nil {
		conn, err := dial(ctx, "udp", addr)
		s.conn = conn
		return s, err
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	s.conn = conn
	s.useKernel(conn)
	return s, nil
}

// exchange sends out, if it is not nil, and returns the first message that
// comes in until then.
func (s *socket) exchange(out, in []byte, until time.Time) (int, error) {
	if s.raw != nil {
		return s.exchangeRaw(out, in, until)
	}
	if err := s.conn.SetDeadline(until); err != nil {
		return 0, err
	}
	if s.rung.Load() { // the deadline that ended the waiting may be gone
		return 0, os.ErrDeadlineExceeded
	}
	if out != nil {
		if _, err := s.conn.Write(out); err != nil {
			return 0, err
		}
	}
	return s.conn.Read(in)
}

// callOff ends the waiting for it, now and later.
func (s *socket) callOff() {
	s.rung.Store(true)
	s.conn.SetDeadline(time.Unix(1, 0))
}

// sockets are the sockets to one server.
type sockets struct {
	addr   netip.AddrPort
	dial   Dial
	life   *life
	counts *counts

	mu      sync.Mutex
	idle    []*socket
	open    int
	waiting []chan struct{} // those for whom there was none
}

// busyWait is how long somebody waits for a socket where all are in use: a
// burst is over sooner, and what takes longer is no burst.
const busyWait = 500 * time.Millisecond

// wait waits until it may be worth to try again.
func (p *sockets) wait(ctx context.Context) bool {
	turn := make(chan struct{}, 1)
	p.mu.Lock()
	p.waiting = append(p.waiting, turn)
	p.mu.Unlock()
	t := time.NewTimer(busyWait)
	defer t.Stop()
	select {
	case <-turn:
		return true
	case <-ctx.Done():
	case <-t.C:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, turn); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	} else {
		p.call() // its turn came too late: the next one has it
	}
	return false
}

// call calls the one who has waited longest.
func (p *sockets) call() {
	if len(p.waiting) > 0 {
		p.waiting[0] <- struct{}{}
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
}

// take returns a socket, and whether it was used before: a fresh one until
// there are enough, then one of the idle at random.
func (p *sockets) take(ctx context.Context, now time.Time) (s *socket, reused bool, err error) {
	for {
		s, err := p.pick()
		if err != nil {
			if !p.wait(ctx) {
				return nil, false, err
			}
			continue
		}
		if s == nil {
			break
		}
		if now.Sub(s.made) < socketAge {
			return s, true, nil
		}
		p.drop(s)
	}
	s, err = newSocket(ctx, p.dial, p.addr)
	if err != nil {
		p.gone()
		return nil, false, err
	}
	p.counts.opened.Add(1)
	return s, false, nil
}

// pick returns an idle socket, or nil if a fresh one is to be made, which
// counts as open already.
func (p *sockets) pick() (*socket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 || p.open < ports {
		if p.open >= maxSockets {
			return nil, errBusy
		}
		p.open++
		return nil, nil
	}
	i := rand.IntN(n)
	s := p.idle[i]
	p.idle[i], p.idle[n-1] = p.idle[n-1], nil
	p.idle = p.idle[:n-1]
	return s, nil
}

// put takes a socket back that has nothing more to say.
func (p *sockets) put(s *socket, now time.Time) {
	s.uses--
	s.used = now
	p.mu.Lock()
	keep := s.raw != nil && s.uses > 0 && len(p.idle) < keptSockets && p.life.on.Load()
	if keep {
		p.idle = append(p.idle, s)
		p.call()
	}
	p.mu.Unlock()
	if !keep {
		p.drop(s)
	}
}

// drop closes a socket that is not idle.
func (p *sockets) drop(s *socket) {
	s.conn.Close()
	p.gone()
}

func (p *sockets) gone() {
	p.mu.Lock()
	p.open--
	p.call()
	p.mu.Unlock()
}

// prune closes the sockets that were idle since then.
func (p *sockets) prune(since time.Time) {
	p.mu.Lock()
	var old []*socket
	kept := p.idle[:0]
	for _, s := range p.idle {
		if s.used.After(since) {
			kept = append(kept, s)
		} else {
			old = append(old, s)
		}
	}
	clear(p.idle[len(kept):])
	p.idle = kept
	p.mu.Unlock()
	for _, s := range old {
		p.drop(s)
	}
}
