// Package upstream asks other people's resolvers.
//
// A [Group] is some servers that may be asked for the same things, over UDP,
// TCP, TLS or HTTPS. Equal questions asked at one time go out once. Which
// server is asked, and when another one is asked too, is the [Strategy]'s;
// servers that failed lately are asked last, and SERVFAIL or REFUSED of one is
// the answer only if nobody has a better one.
//
// A forger who does not see our packets has to guess: a question over UDP goes
// from one of many ports with a random id (RFC 5452) and the letters of its
// name in random case, and after some answers that match none of it, it goes
// over TCP. So does what was truncated.
//
// Nothing of the asker but the question itself goes out: the message is made
// anew, with no EDNS option but the client subnet that a [Question] has, if it
// has one. So neither the private options of nodes (65310 to 65312) nor those
// that carry a device's identity (65001, 65073, 65074) can leave.
//
// The system's resolver is not used: servers have addresses, or are found
// through bootstrap servers that have.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/flight"
)

// A Dial makes connections, like [net.Dialer.Dial] but for addresses only.
// A "udp" connection keeps the boundaries of messages.
type Dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)

// ErrNoAnswer is wrapped by the errors of [Group.Exchange] and [Group.Resolve]:
// no server gave an answer that can be used.
var ErrNoAnswer = errors.New("no server answered")

// Busy reports whether an error of [Group.Exchange] says something of ourselves:
// too much was being asked for this question to be asked too.
func Busy(err error) bool { return errors.Is(err, errBusy) }

// DefaultTimeout is how long a question may take.
const DefaultTimeout = 2 * time.Second

// A Config says what a group is of.
type Config struct {
	Servers   []Server // in the order of preference
	Strategy  Strategy
	Timeout   time.Duration    // of one question, all tries together; zero: DefaultTimeout
	Bootstrap []netip.AddrPort // asked, over UDP, for servers that are given by name
	Probe     Question         // asks servers that are down whether they are; zero: the root's NS
	TrustAD   bool             // the servers are asked whether answers are authentic
	Dial      Dial             // nil: the machine's own network
}

// A Group is some servers. Make one with [New]. It can be asked at once, but
// keeps connections, uses sockets again and probes servers that are down only
// while [Group.Run] runs.
type Group struct {
	servers  []*server
	strategy Strategy
	timeout  time.Duration
	probe    Question
	life     life
	flights  flight.Group[Question, []byte]
	budget   budget
	gone     atomic.Pointer[gone] // the last time that nobody was there

	questions, shared, hedged atomic.Uint64
	waiting                   atomic.Uint64 // questions that are not asked before a server is back
	wake                      chan struct{} // something failed, or was asked after a rest
	resting                   atomic.Bool   // the prober waits for a question
}

// New makes a group.
func New(c Config) (*Group, error) {
	g := &Group{strategy: c.Strategy, timeout: c.Timeout, probe: c.Probe, wake: make(chan struct{}, 1)}
	if g.timeout <= 0 {
		g.timeout = DefaultTimeout
	}
	if g.probe.Name == "" {
		g.probe = Question{Name: "\x00", Type: dns.TypeNS, Class: dns.ClassINET}
	}
	if int(c.Strategy) >= len(strategies) {
		return nil, fmt.Errorf("making an upstream group: no strategy %d", c.Strategy)
	}
	if err := g.probe.valid(); err != nil {
		return nil, fmt.Errorf("making an upstream group: the probe %q: %w", g.probe.Name, err)
	}
	finders, err := newFinders(&c)
	if err != nil {
		return nil, err
	}
	for _, s := range c.Servers {
		if err := s.valid(); err != nil {
			return nil, fmt.Errorf("making an upstream group: server %w", err)
		}
		made := newServer(s, c.Dial, g.timeout, &g.life, finders)
		made.trusted = c.TrustAD
		g.servers = append(g.servers, made)
	}
	g.budget.fill()
	return g, nil
}

// newFinders returns what makes the finder of a host's name.
func newFinders(c *Config) (func(host string, port uint16) *finder, error) {
	var by *Group
	if len(c.Bootstrap) > 0 {
		conf := Config{Strategy: Failover, Timeout: c.Timeout, Dial: c.Dial}
		for _, a := range c.Bootstrap {
			conf.Servers = append(conf.Servers, Server{Addr: a})
		}
		var err error
		if by, err = New(conf); err != nil {
			return nil, fmt.Errorf("bootstrap servers: %w", err)
		}
	}
	return func(host string, port uint16) *finder { return &finder{host: host, port: port, by: by} }, nil
}

// Exchange returns the message of a server that answers the question. It was
// checked: it is a reply, to a standard query with one question equal to ours,
// which is in our letter case; it is not truncated, and can be unpacked. Its id
// is of no meaning; it may have an OPT record, which belongs to the exchange
// with the server. It may be shared and must not be modified.
//
// An error wraps ErrNoAnswer, or is that of ctx. That ctx was called off,
// rather than at its deadline, may be noticed late by up to 50 ms.
func (g *Group) Exchange(ctx context.Context, q Question) ([]byte, error) {
	if err := q.valid(); err != nil {
		return nil, fmt.Errorf("asking upstream for %q: %w", q.Name, err)
	}
	g.questions.Add(1)
	if g.resting.Load() {
		g.rouse()
	}
	reply, shared, err := g.flights.Do(ctx, q, func(ctx context.Context) ([]byte, error) { return g.ask(ctx, &q) })
	if shared {
		g.shared.Add(1)
	}
	if err != nil {
		return nil, fmt.Errorf("asking upstream for %s: %w", q, err)
	}
	return reply, nil
}

// Resolve answers the question in m. Of m only the question, the DO and the CD
// bit are looked at. The answer is the caller's and has no OPT record.
func (g *Group) Resolve(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	q, err := QuestionOf(m)
	if err != nil {
		return nil, fmt.Errorf("asking upstream: %w", err)
	}
	reply, err := g.Exchange(ctx, q)
	if err != nil {
		return nil, err
	}
	r := new(dns.Msg)
	if err := r.Unpack(reply); err != nil {
		return nil, fmt.Errorf("reading the answer to %s: %w", q, err)
	}
	r.Id = m.Id
	r.Extra = slices.DeleteFunc(r.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
	if r.Rcode > 0x0f { // cannot be said without OPT
		r.Rcode = dns.RcodeServerFailure
	}
	return r, nil
}

// noAnswer is the error that says of each server what happened.
type noAnswer []error

func (e noAnswer) Error() string {
	if len(e) == 0 {
		return ErrNoAnswer.Error()
	}
	return ErrNoAnswer.Error() + ": " + said(e).Error()
}

// Unwrap returns all errors, as package errors says.
func (e noAnswer) Unwrap() []error { return append([]error{ErrNoAnswer}, e...) }

// said joins errors in one line.
func said(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	var all []string
	for _, err := range errs {
		all = append(all, err.Error())
	}
	return errors.New(strings.Join(all, "; "))
}
