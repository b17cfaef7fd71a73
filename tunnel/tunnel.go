// Package tunnel carries packets: it decides on the first packet of a flow,
// remembers the decision, and rewrites all that follow. One [Switch] does this
// for gateway, egress and connector alike; what differs between them is said
// by the functions in its [Config].
//
// # The order of decisions
//
// A packet is decoded; what package packet refuses is dropped. Then:
//
//  1. An ICMP error is translated by the flow of the packet that it quotes.
//  2. The flow is looked up by side, addresses, protocol and ports (ICMP: the
//     identifier). Both directions of a flow are in the table.
//  3. Its stamps are compared with the counters that they were taken from. If
//     one moved, the flow is judged again, before this packet passes.
//  4. The time to live is decremented, the segment size of a SYN clamped, the
//     addresses rewritten, and the packet emitted.
//
// A packet without a flow is classified. Strays are dropped and counted by
// reason; what is for the node itself goes to the node's own services
// unchanged; what goes towards a label, or comes back from one, is judged:
//
//   - Refuse drops it. Nothing is answered, nothing is remembered.
//   - Deny answers it (TCP by a reset, the rest by "administratively
//     prohibited") and remembers the denial, so that each further packet is
//     answered too, until a stamp moves.
//   - Wait holds it, and the next ones, until [Switch.Wake] or for 3 seconds.
//   - Admit makes a flow.
//
// The zero values of all of these refuse.
//
// # The end of a flow
//
// A flow ends by both FINs or a reset (its entries linger for ten seconds), by
// idling (RFC 5382, RFC 4787), by a changed ruling, by [Switch.Cut], by a newer
// flow that takes its place, or with the Switch. One [Record] tells of it.
// A flow that is cut off is reset on both sides, unasked if it must be: the
// Switch knows the sequence number that each end expects. It stays as a denied
// flow for a while, so that an end which challenges the reset (RFC 5961) gets
// the exact one.
package tunnel

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Side is where packets come from and go to.
type Side uint8

// The sides.
const (
	Link  Side = iota // the WireGuard device
	LAN               // the kernel TUN of offices at a gateway, the mainland at a connector
	Local             // the node's own services
)

// MaxLinks is how many WireGuard devices a node may have.
const MaxLinks = 8

const sides = int(Local) + MaxLinks

// LinkSide returns the side of a node's i-th WireGuard device, from 0: that is
// Link. A connector has one device for each egress, since all of them carry the
// same sources.
func LinkSide(i int) Side {
	if i == 0 {
		return Link
	}
	return Local + Side(i)
}

// LinkIndex returns which WireGuard device a side is, if it is one.
func (s Side) LinkIndex() (int, bool) {
	switch {
	case s == Link:
		return 0, true
	case s > Local:
		return int(s - Local), true
	default:
		return 0, false
	}
}

func (s Side) String() string {
	switch i, _ := s.LinkIndex(); {
	case s == LAN:
		return "lan"
	case s == Local:
		return "local"
	case i == 0:
		return "link"
	default:
		return "link-" + strconv.Itoa(i+1)
	}
}

// A Class is what a packet without a flow is.
type Class uint8

// The classes.
const (
	Stray   Class = iota // dropped and counted
	Service              // to the node's own address
	Forward              // from a device towards an own label
	Reverse              // from the next hop back to a device
)

// A First is the first packet of a flow, as the judge sees it. A flow that is
// judged again is described by its forward direction.
type First struct {
	Side     Side
	Reverse  bool           // it came back from the next hop
	Src, Dst netip.AddrPort // an ICMP echo request has its identifier as source port and 0 as destination port, a reply the opposite
	Proto    uint8
	Syn      bool // a TCP segment that opens a connection; without it, one in the middle of one
	Expired  bool // its time to live ends here: judge who sends it and whereto, not the port

	// Of the flow that is judged again; nil for a first packet. A judge that
	// chooses among ways keeps to this one while it can: another ends the flow.
	Path *Path
	Meta *Meta
}

// An Outcome is what happens to a flow.
type Outcome uint8

// The outcomes.
const (
	Refuse Outcome = iota // drop it and count Why
	Deny                  // answer it, and remember
	Wait                  // hold it: the next hop has to be asked first
	Admit
)

// A Path is how packets of a flow arrive from the near side and how they
// leave, in the forward direction. All addresses are of one family. For a
// forward first packet In, Src and Dst are filled in from the packet, and an
// invalid NewSrc means Src; for a reverse one Out, NewSrc and NewDst are.
type Path struct {
	In             Side
	Src, Dst       netip.Addr
	Out            Side
	NewSrc, NewDst netip.Addr
}

// A Stamp is the value of a counter at the time of a ruling. The judge reads
// the counter before it looks at what is counted; when the counter has moved,
// the flow is judged again at its next packet. A nil counter never moves.
type Stamp struct {
	Counter *atomic.Uint64
	Value   uint64
}

// fresh reports whether no counter has moved.
func fresh(stamps *[2]Stamp) bool {
	for i := range stamps {
		if c := stamps[i].Counter; c != nil && c.Load() != stamps[i].Value {
			return false
		}
	}
	return true
}

// A Lease is told that a flow uses it: Hold when one is admitted, Release when
// it has ended, Touch with the time of its last packet, now and then.
// It is called while flows are admitted, so it must not call the Switch.
type Lease interface {
	Hold()
	Release()
	Touch(time.Time)
}

// A Meta says of a flow what the packets do not. It is not modified.
type Meta struct {
	Device string // who
	Name   string // the name that was steered
	Policy string // the policy that decided
	Route  string
	Far    string // the node that it is sent to
	Reason string // for people
	Lease  Lease  // may be nil
}

// A Ruling is the judge's answer.
type Ruling struct {
	Outcome Outcome
	Why     Drop // of Refuse
	Path    Path // of Admit
	Stamps  [2]Stamp
	Meta    *Meta // may be nil
}

// A Config is what makes a Switch a gateway's, an egress's or a connector's.
// Classify, Judge and Emit are needed. All functions are called from many
// goroutines and without locks held.
type Config struct {
	MTU          int        // of packets inside the links; 0: 1380
	Node4, Node6 netip.Addr // the node's own addresses, from which it sends ICMP errors; invalid: it sends none
	MaxFlows     int        // 0: 262,144

	// Classify says what a packet without a flow is, and of a stray why.
	Classify func(side Side, src, dst netip.Addr) (Class, Drop)
	// Judge rules on first packets, and again on flows of which a stamp moved. It must be cheap.
	Judge func(*First) Ruling
	// Emit sends a packet, which is valid only during the call.
	Emit func(side Side, pkt []byte)
	// Ended is told of each admitted or denied flow once, at its end. It may be nil.
	Ended func(*Record)
	// KeepRouter reports whether ICMP errors from this address are shown as
	// they are: nodes of the fleet. Others come from the flow's own near
	// label, if the far end itself sent them, or else from this node. nil keeps none.
	KeepRouter func(netip.Addr) bool
	// ServiceSide says where packets of the node's own services go. nil: Link.
	ServiceSide func(dst netip.Addr) Side
	// Metrics may be nil. One registry takes one Switch: wrap it with a label for more.
	Metrics prometheus.Registerer
}

// A FlowID names a flow at every hop, so that their records can be joined:
// the hash of what all hops know alike. Destinations differ from hop to hop.
type FlowID uint64

// flowID hashes by FNV-1a, which is the same on every machine.
func flowID(overlay netip.Addr, port, service uint16, proto uint8, name string) FlowID {
	a := overlay.As16()
	b := binary.BigEndian.AppendUint16(a[:], port)
	b = binary.BigEndian.AppendUint16(b, service)
	b = append(append(b, proto), name...)
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return FlowID(h)
}

const hexDigits = "0123456789abcdef"

func (id FlowID) String() string {
	var b [16]byte
	for i := range b {
		b[i] = hexDigits[id>>(60-4*i)&15]
	}
	return string(b[:])
}

// A Record tells of a flow that has ended. Its embedded Meta has no lease.
type Record struct {
	Meta
	FlowID                 FlowID
	Proto                  uint8
	Src, Dst               netip.AddrPort // as the near side sees them
	Overlay                netip.Addr     // the source beyond this node; invalid if the flow was never admitted
	Port                   uint16         // of the service
	BytesUp, BytesDown     uint64
	PacketsUp, PacketsDown uint64
	Start                  time.Time
	Duration               time.Duration // until the last packet
	Close                  CloseReason
}

// An Info describes a flow that is in the table.
type Info struct {
	Meta
	FlowID                 FlowID
	Proto                  uint8
	Path                   Path // of a flow that was never admitted only In, Src and Dst
	SrcPort, Port          uint16
	State                  State
	BytesUp, BytesDown     uint64
	PacketsUp, PacketsDown uint64
	Start, Last            time.Time
}

// A State says how a flow stands.
type State uint8

// The states.
const (
	Open    State = iota
	Closing       // both ends have closed it, or one has reset it
	Denied
	Waiting
	states
)

var stateNames = [...]string{"open", "closing", "denied", "waiting"}

func (s State) String() string { return stateNames[s] }
