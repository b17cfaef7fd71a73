package resolver

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/listen"
)

// A known is a client as it stands at one moment: who that is, and which scope
// of the policy it is in. It is constant.
type known struct {
	client listen.Client // without what differs from one question to the next
	asker  policy.Asker
	way    bool

	policy *policy.Policy
	view   *policy.Scoped // how the policy stands towards the scope; nil: ask the policy itself
	scope  uint32         // zero: none, there are too many
	moment Moment
	until  time.Time
}

// A Moment names what a client's identity goes by: while two are equal, the same
// client is the same asker, but for what changes by the passing of time.
type Moment struct {
	Directory any // the devices and verdicts of the moment, a pointer
	Bindings  uint64
}

// remembered is how long it is remembered who a client is. Changes of devices,
// postures and policy are seen at once; what is seen no later than this is that
// a device has spoken over its link again.
const remembered = time.Second

// clients remembers who clients are, in a table without locks in which newer
// ones take the places of older ones.
type clients struct {
	seed  maphash.Seed
	slots [4096]atomic.Pointer[known]
}

func (p *clients) slot(c *listen.Client) *atomic.Pointer[known] {
	var h maphash.Hash
	h.SetSeed(p.seed)
	a := c.Addr.Addr().As16()
	h.Write(a[:])
	h.WriteString(c.Listener)
	h.WriteString(c.ServerName)
	h.WriteString(c.Token)
	return &p.slots[h.Sum64()%uint64(len(p.slots))]
}

// same reports whether the remembered client is this one.
func (p *known) same(c *listen.Client) bool {
	return p.client.Addr.Addr() == c.Addr.Addr() && p.client.Listener == c.Listener && p.client.Transport == c.Transport &&
		p.client.ServerName == c.ServerName && p.client.Token == c.Token
}

// who returns who a client is now. For the same client it is mostly known
// already; then nothing is allocated.
func (g *Gateway) who(c *listen.Client, option func(code uint16) []byte, now time.Time) *known {
	pol := g.Policy()
	if g.Quick == nil || g.Forwarder != nil && g.Forwarder(c.Addr.Addr()) {
		p := &known{policy: pol}
		p.identify(g, c, option)
		return p
	}
	slot := g.Quick.clients.slot(c)
	m := g.moment()
	if p := slot.Load(); p != nil && p.policy == pol && p.moment == m && now.Before(p.until) && p.same(c) {
		return p
	}
	p := &known{client: *c, policy: pol, moment: m, until: now.Add(remembered)}
	p.client.Addr = netip.AddrPortFrom(c.Addr.Addr(), 0)
	p.identify(g, c, option)
	if pol != nil && p.asker.Kind != device.Unidentified { // to the policy a stranger may look like others
		g.Quick.scopes.enter(p, now)
	}
	slot.Store(p)
	return p
}

// Leave forgets who clients were to other policies than this one: it would keep
// those, with their lists, for as long as the clients are silent. It forgets all
// answers too: nobody is in the scopes any more that they were given in.
func (k *Quick) Leave(in *policy.Policy) {
	defer k.answers.Clear()
	for i := range k.clients.slots {
		if p := k.clients.slots[i].Load(); p != nil && p.policy != in {
			k.clients.slots[i].CompareAndSwap(p, nil)
		}
	}
	k.scopes.mu.Lock()
	defer k.scopes.mu.Unlock()
	if k.scopes.policy != in {
		k.scopes.policy, k.scopes.known = nil, nil
	}
}

func (p *known) identify(g *Gateway, c *listen.Client, option func(code uint16) []byte) {
	p.asker, p.way = g.Identify(c, option)
	p.asker.Listener, p.asker.Transport = c.Listener, c.Transport
}

func (g *Gateway) moment() Moment {
	if g.Moment == nil {
		return Moment{}
	}
	return g.Moment()
}

// maxScopes bounds how many scopes one policy has. Who is in none of them is
// decided anew for each question.
const maxScopes = 65536

// scopes gives ids to the scopes of the policy in force. An id is never used
// for two.
type scopes struct {
	mu     sync.Mutex
	policy *policy.Policy
	known  map[string]scope
	last   uint32

	Beyond atomic.Uint64 // askers that had to do without
}

type scope struct {
	id   uint32
	view *policy.Scoped
}

// enter puts somebody into its scope.
func (s *scopes) enter(p *known, now time.Time) {
	key, until := p.policy.Scope(make([]byte, 1, 64), &p.asker, now)
	if p.way {
		key[0] = 1
	}
	if !until.IsZero() && until.Before(p.until) {
		p.until = until
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.policy != p.policy {
		s.policy, s.known = p.policy, map[string]scope{}
	}
	in, ok := s.known[string(key)]
	if !ok {
		if len(s.known) >= maxScopes || s.last == 1<<32-1 {
			s.Beyond.Add(1)
			return
		}
		s.last++
		in = scope{s.last, p.policy.For(&p.asker, now)}
		s.known[string(key)] = in
	}
	p.scope, p.view = in.id, in.view
}
