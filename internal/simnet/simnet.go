// Package simnet is a network in memory for tests: hosts with addresses, links
// with delay and loss, sockets that are WireGuard's [conn.Bind].
//
// It is made for a testing/synctest bubble, where its times are exact: a
// datagram sent at t over a link with a delay of d arrives at t+d, and what is
// lost is decided by a seed, for each direction by itself. Hosts go down and
// up again and change their address while devices run on them.
//
// The network starts no goroutines but those of timers. One trap is taken care
// of here: the queues of a WireGuard peer have finalizers that touch channels
// of the bubble, and a finalizer runs outside of it, which kills the program.
// Whoever makes peers over a [Bind] hands them to [Bind.Keep], and they stay
// referenced for as long as the process lives.
package simnet

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// A Link is one direction of a path between two hosts.
type Link struct {
	Delay time.Duration
	Loss  float64 // share of datagrams that get lost, 0 to 1
	Cut   bool    // nothing passes
}

// Stats counts datagrams since the network was made.
type Stats struct {
	Sent      int // by hosts that were up
	Delivered int
	Lost      int // by chance, a cut, a host that was down or is not there, a full socket
}

// A Datagram is what a network carries.
type Datagram struct {
	From, To netip.AddrPort
	Data     []byte
}

// A Net is a network. Its zero value is not usable, see [New].
type Net struct {
	seed  uint64
	usual Link

	mu    sync.Mutex
	hosts []*Host
	at    map[netip.Addr]*Host
	ways  map[pair]*way
	stats Stats
	tap   func(Datagram)
}

type pair struct{ from, to *Host }

// A way is the state of one direction between two hosts.
type way struct {
	link  Link
	dice  *rand.Rand
	queue []transit // in order of arrival
}

type transit struct {
	due time.Time
	Datagram
}

// New makes a network in which every pair of hosts is joined by the usual
// link, until [Net.Connect] says otherwise.
func New(seed uint64, usual Link) *Net {
	return &Net{seed: seed, usual: usual, at: map[netip.Addr]*Host{}, ways: map[pair]*way{}}
}

// Host adds a host that is up and has these addresses.
func (n *Net) Host(name string, addrs ...netip.Addr) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &Host{net: n, name: name, number: len(n.hosts), up: true, sockets: map[uint16]*Bind{}}
	n.hosts = append(n.hosts, h)
	n.move(h, addrs)
	return h
}

// Connect sets the link between two hosts, the same in both directions. What is
// under way arrives as it would have.
func (n *Net) Connect(a, b *Host, l Link) {
	n.OneWay(a, b, l)
	n.OneWay(b, a, l)
}

// OneWay sets the link in one direction.
func (n *Net) OneWay(from, to *Host, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.way(from, to).link = l
}

// Tap has f called with each datagram that a host sends, before its fate is
// decided. f must not call the network.
func (n *Net) Tap(f func(Datagram)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tap = f
}

// Stats returns the counts so far.
func (n *Net) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// Replay delivers a datagram, at once, as whoever is at its source would have
// sent it: an attacker who recorded it.
func (n *Net) Replay(d Datagram) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stats.Sent++
	n.arrive(d)
}

func (n *Net) way(from, to *Host) *way {
	k := pair{from, to}
	w := n.ways[k]
	if w == nil {
		stream := uint64(from.number)<<32 | uint64(to.number)
		w = &way{link: n.usual, dice: rand.New(rand.NewPCG(n.seed, stream))}
		n.ways[k] = w
	}
	return w
}

// send carries a datagram from a host. The caller holds n.mu.
func (n *Net) send(h *Host, d Datagram) {
	n.stats.Sent++
	if n.tap != nil {
		n.tap(d)
	}
	to := n.at[d.To.Addr()]
	if to == nil {
		n.stats.Lost++
		return
	}
	w := n.way(h, to)
	if lost := w.dice.Float64() < w.link.Loss; lost || w.link.Cut {
		n.stats.Lost++
		return
	}
	d.Data = slices.Clone(d.Data)
	due := time.Now().Add(w.link.Delay)
	if k := len(w.queue); k > 0 && w.queue[k-1].due.After(due) {
		due = w.queue[k-1].due // nothing overtakes when a delay shrinks
	}
	w.queue = append(w.queue, transit{due, d})
	time.AfterFunc(time.Until(due), func() { n.deliver(w) })
}

// deliver takes the first of the queue, whichever datagram this timer was set
// for: timers of one instant run in any order, datagrams do not.
func (n *Net) deliver(w *way) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := w.queue[0].Datagram
	w.queue = w.queue[1:]
	n.arrive(d)
}

func (n *Net) arrive(d Datagram) {
	to := n.at[d.To.Addr()]
	if to == nil || !to.up || !to.take(d) {
		n.stats.Lost++
		return
	}
	n.stats.Delivered++
}

// move gives the host new addresses. The caller holds n.mu.
func (n *Net) move(h *Host, addrs []netip.Addr) {
	for _, a := range h.addrs {
		if n.at[a] == h {
			delete(n.at, a)
		}
	}
	h.addrs = slices.Clone(addrs)
	for _, a := range h.addrs {
		n.at[a] = h
	}
}
