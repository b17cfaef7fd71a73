// Package upstream asks other people's resolvers.
//
// A [Group] is some servers that may be asked for the same things. A question
// goes over UDP from a fresh port with a random id (RFC 5452), over TCP if the
// answer was truncated, and to the next server if one is silent or fails.
// Servers that failed lately are asked last. Equal questions asked at one
// time go out once.
//
// Nothing of the asker but the question itself goes out: the message is made
// anew with no EDNS option at all. So neither the private options of nodes
// (65310 to 65312) nor those that carry a device's identity (65001, 65073,
// 65074) nor its address (ECS, RFC 7871) can leave. Options of the answer,
// which belong to one exchange, are dropped too.
//
// No name is ever resolved here and the system's resolver is not used:
// servers are addresses, connections come from a function.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/flight"
)

// A Dial makes connections, like [net.Dialer.Dial] but for addresses only.
// A "udp" connection keeps the boundaries of messages.
type Dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)

// ErrNoAnswer is wrapped by the errors of [Group.Resolve]: no server gave an
// answer that can be used.
var ErrNoAnswer = errors.New("no server answered")

// A Group is some servers in the order of preference. Its exported fields
// must not change once it is used; the zero Timeout is 2 s.
type Group struct {
	Servers []netip.AddrPort
	Timeout time.Duration // a server is waited for this long in all, in two tries
	Dial    Dial

	flights flight.Group[key, *dns.Msg]
	mu      sync.Mutex
	health  map[netip.AddrPort]health
}

// key is what makes two questions equal.
type key struct {
	q      dns.Question
	do, cd bool
}

// health is how a server fared lately.
type health struct {
	failures int       // in a row
	until    time.Time // asked last until then
}

// The time for which a server that failed is asked last doubles with each
// failure in these bounds.
const (
	minPenalty = time.Second
	maxPenalty = 30 * time.Second
)

// Resolve answers the question in m. Of m only the question, the DO and the CD
// bit are looked at. The answer is the caller's and has no OPT record.
func (g *Group) Resolve(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	if len(m.Question) != 1 {
		return nil, fmt.Errorf("asking upstream: %d questions in one message", len(m.Question))
	}
	k := key{q: m.Question[0], cd: m.CheckingDisabled}
	k.q.Name = dns.CanonicalName(k.q.Name)
	if o := m.IsEdns0(); o != nil {
		k.do = o.Do()
	}
	r, _, err := g.flights.Do(ctx, k, func(ctx context.Context) (*dns.Msg, error) { return g.ask(ctx, k) })
	if err != nil {
		return nil, fmt.Errorf("asking upstream for %s %s: %w", k.q.Name, dns.TypeToString[k.q.Qtype], err)
	}
	r = r.Copy() // what was flown together is shared, also by who came first
	r.Id = m.Id
	return r, nil
}

// ask asks the servers, the healthy first, each of them once and then once
// again. A failure that a server reports (SERVFAIL, REFUSED) is the answer
// only if nobody has a better one, and is not asked for a second time.
func (g *Group) ask(ctx context.Context, k key) (*dns.Msg, error) {
	var worst *dns.Msg
	var errs []error
	servers := g.order()
	for range 2 {
		var silent []netip.AddrPort
		for _, s := range servers {
			r, err := g.try(ctx, s, k)
			switch {
			case err == nil && !failed(r):
				return r, nil
			case err == nil:
				worst = r
			case ctx.Err() != nil:
				return nil, ctx.Err()
			default:
				errs = append(errs, err)
				silent = append(silent, s)
			}
		}
		servers = silent
	}
	if worst != nil {
		return worst, nil
	}
	return nil, errors.Join(append([]error{ErrNoAnswer}, errs...)...)
}

func failed(r *dns.Msg) bool {
	return r.Rcode != dns.RcodeSuccess && r.Rcode != dns.RcodeNameError
}

// try asks one server once and remembers how it fared.
func (g *Group) try(ctx context.Context, s netip.AddrPort, k key) (*dns.Msg, error) {
	timeout := g.Timeout
	if timeout <= 0 {
		timeout = 2 * time.Second
	}
	limited, cancel := context.WithTimeout(ctx, timeout/2)
	defer cancel()
	r, err := exchange(limited, g.Dial, s, k)
	if ctx.Err() == nil { // else it is not the server's fault
		g.fared(s, err == nil)
	}
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", s, err)
	}
	return r, nil
}

// order returns the servers, those with a penalty behind the others.
func (g *Group) order() []netip.AddrPort {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	servers := slices.Clone(g.Servers)
	slices.SortStableFunc(servers, func(a, b netip.AddrPort) int {
		return g.rank(a, now) - g.rank(b, now)
	})
	return servers
}

func (g *Group) rank(s netip.AddrPort, now time.Time) int {
	if now.Before(g.health[s].until) {
		return 1
	}
	return 0
}

func (g *Group) fared(s netip.AddrPort, well bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.health == nil {
		g.health = make(map[netip.AddrPort]health)
	}
	if well {
		delete(g.health, s)
		return
	}
	h := g.health[s]
	h.until = time.Now().Add(min(maxPenalty, minPenalty<<min(h.failures, 10)))
	h.failures++
	g.health[s] = h
}

// A Status is how a server of the group stands.
type Status struct {
	Addr     netip.AddrPort
	Failures int       // in a row; zero: it answered last time, or was never asked
	Until    time.Time // if it failed: asked last until then
}

// Status returns how the servers stand, in the order of preference.
func (g *Group) Status() []Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []Status
	for _, s := range g.Servers {
		h := g.health[s]
		all = append(all, Status{s, h.failures, h.until})
	}
	return all
}
