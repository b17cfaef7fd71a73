package guard

import (
	"fmt"
	"net/netip"
)

// ClientLimits bound what clients may ask. A field that is zero has the default
// that stands behind it.
//
// The defaults are for people behind shared addresses, not against them: an
// office of 500 behind one address asks 50 to 100 questions a second on a usual
// day and a few hundred when all start work, so that 1,000 and 2,000 at once
// leave it in peace, as they do a client that has 200 questions in flight. Still
// one address cannot take more than a small part of what the gateway can do.
type ClientLimits struct {
	PerClient Limit // questions of one client, 1,000 and 2,000 at once
	PerPrefix Limit // of all clients in one network, 10,000 and 20,000 at once

	Client4, Client6 int // bits of the prefix that is one client, 32 and 64
	Prefix4, Prefix6 int // bits of the prefix that is one network, 24 and 56

	Entries int // clients that are remembered, and as many networks, 65,536; 16 bytes each

	Exempt []netip.Prefix // never limited
}

// Clients says whether a client may ask once more. It is safe for concurrent
// use. See [table] for what it does when more clients come than it remembers.
type Clients struct {
	clients, networks       *table
	clientCut, networkCut   cutter
	perClient, perNetwork   pace
	exempt                  networks
	overClient, overNetwork counter
}

// ClientStats counts since the start.
type ClientStats struct {
	OverClient uint64 // questions refused since their client had asked too much
	OverPrefix uint64 // and those refused since its network had
	Displaced  uint64 // clients and networks forgotten before their time, for others
}

// NewClients makes the tables.
func NewClients(l ClientLimits) (c *Clients, err error) {
	defer func() {
		if err != nil {
			c, err = nil, fmt.Errorf("limits of clients: %w", err)
		}
	}()
	c = new(Clients)
	if c.perClient, err = l.PerClient.pace(Limit{1_000, 2_000}); err != nil {
		return c, err
	}
	if c.perNetwork, err = l.PerPrefix.pace(Limit{10_000, 20_000}); err != nil {
		return c, err
	}
	if c.clientCut, err = newCutter(l.Client4, l.Client6, 32, 64); err != nil {
		return c, err
	}
	if c.networkCut, err = newCutter(l.Prefix4, l.Prefix6, 24, 56); err != nil {
		return c, err
	}
	if c.exempt, err = newNetworks(l.Exempt); err != nil {
		return c, err
	}
	if c.clients, err = newTable(or(l.Entries, 65_536)); err != nil {
		return c, err
	}
	c.networks, err = newTable(or(l.Entries, 65_536))
	return c, err
}

// Take counts a question of a client whose address may be forged, and reports
// whether the question may be answered. A question that may not does not count:
// who asks too much gets as much as it may, not nothing, and takes nothing
// from its neighbours.
func (c *Clients) Take(a netip.Addr, now int64) bool { return c.take(a, 0, now) }

// TakeProven is [Clients.Take] for a proven source. Its questions are counted apart: nobody
// can use up its share in its name.
func (c *Clients) TakeProven(a netip.Addr, now int64) bool { return c.take(a, 1, now) }

func (c *Clients) take(a netip.Addr, proven uint64, now int64) bool {
	k, at := keyOf(a), tick(now)
	if c.exempt.contains(k) {
		return true
	}
	if !c.clients.take(c.clientCut.cut(k), proven, at, c.perClient) {
		c.overClient.Add(1)
		return false
	}
	if !c.networks.take(c.networkCut.cut(k), proven, at, c.perNetwork) {
		c.overNetwork.Add(1)
		return false
	}
	return true
}

// take pours one question into the bucket of a key, unless it would run over.
func (t *table) take(k key, more, now uint64, p pace) bool {
	return p.cost == 0 || t.takeHash(t.hash(k, more), now, p)
}

func (t *table) takeHash(hash, now uint64, p pace) bool {
	for {
		b := t.find(hash, now, p.full)
		level := b.level + p.cost
		if level > p.full {
			return false
		}
		if t.put(&b, now, level) {
			return true
		}
	}
}

// Stats returns what was counted.
func (c *Clients) Stats() ClientStats {
	return ClientStats{
		OverClient: c.overClient.Load(),
		OverPrefix: c.overNetwork.Load(),
		Displaced:  c.clients.displaced.Load() + c.networks.displaced.Load(),
	}
}
