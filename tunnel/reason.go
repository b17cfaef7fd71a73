package tunnel

import "github.com/starferry/starferry/tunnel/packet"

// A Drop says why a packet was dropped: a closed set, since it labels a metric.
type Drop uint8

// The reasons.
const (
	DropStray          Drop = iota // nobody said why
	DropMalformed                  // headers that contradict themselves
	DropFragment                   // a fragment other than the first
	DropProtocol                   // none of TCP, UDP, ICMP echo and ICMP errors; or source routed
	DropUnknownSource              // a source that is no device's
	DropForgedSource               // a source that may not come from this side
	DropNeverLeased                // in the pool, but no label
	DropNotALabel                  // another device, a node, or anywhere else
	DropNoFlow                     // comes back without having been asked for
	DropDenied                     // refused by policy
	DropNoNextHop                  // no node could take it
	DropTTL                        // expired here
	DropTooBig                     // more than the MTU
	DropTableFull                  // no room for another flow
	DropWaitingTooLong             // the next hop did not answer in time
	DropHeldFull                   // too many packets wait
	DropContended                  // the flow changed faster than it could be judged
	drops
)

var dropNames = [...]string{
	"stray", "malformed", "fragment", "protocol", "unknown-source", "forged-source", "never-leased", "not-a-label",
	"no-flow", "denied", "no-next-hop", "ttl", "too-big", "table-full", "waiting-too-long", "held-full", "contended",
}

func (d Drop) String() string { return dropNames[d] }

// undecodable maps what package packet refuses.
func undecodable(why packet.Reason) Drop {
	switch why {
	case packet.Fragment:
		return DropFragment
	case packet.UnknownProtocol, packet.TooManyHeaders, packet.SourceRoute:
		return DropProtocol
	}
	return DropMalformed
}

// A CloseReason says why a flow ended: a closed set, since it labels a metric.
type CloseReason uint8

// The reasons.
const (
	CloseIdle      CloseReason = iota // nothing came for long
	CloseFin                          // both ends finished
	CloseReset                        // an end reset it
	CloseDenied                       // never admitted
	CloseRevoked                      // admitted once, then denied
	CloseLinkDown                     // the way to the next hop is gone
	CloseDisplaced                    // another flow took its place, or it would have to go another way
	CloseShutdown                     // the node stopped
	closes
)

var closeNames = [...]string{"idle", "fin", "reset", "denied", "revoked", "link-down", "displaced", "shutdown"}

func (c CloseReason) String() string { return closeNames[c] }
