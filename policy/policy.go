// Package policy is the judge. (Replaced by its owner with the full account of the order of decisions.)
package policy

import (
	"net/netip"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/internal/yamlpos"
)

// An Action is what a policy does.
type Action uint8

// The actions. The zero value blocks.
const (
	Block Action = iota
	Allow
	Override
	Steer
)

// A BlockKind is the form of a block or denial.
type BlockKind uint8

// The forms of a block.
const (
	Refused BlockKind = iota
	NXDomain
	NoData
	ZeroIP
	Drop
)

// A Fallback is what happens to a steered name that cannot be steered now.
type Fallback uint8

// The fallbacks.
const (
	FallBlock  Fallback = iota // REFUSED with the reason
	FallDirect                 // answer as if allowed
	FallServfail
)

// A Port is a protocol (6 or 17) with a range of ports.
type Port struct {
	Proto    uint8
	From, To uint16
}

// A Then is what a policy does, compiled.
type Then struct {
	Action Action

	Block  BlockKind // of Block, and of a denial
	EDE    uint16    // the EDE code of a block: 15, 16 or 17
	Reason string    // for people

	A, AAAA []netip.Addr // of Override
	CNAME   string       // of Override: a target, lower case without the final dot
	TTL     time.Duration

	Route    string // of Steer
	Ports    []Port // of Steer; empty admits all
	WhenDown Fallback
	NoWay    Fallback
}

// A Rule is one compiled policy of the file.
type Rule struct {
	Name string
	At   yamlpos.Pos
	Then Then
	// compiled conditions and demands follow
}

// An Asker is who asks, as the policy sees it.
type Asker struct {
	Device   *device.Device // nil: not known
	Kind     device.Kind    // the evidence of this question
	Source   netip.Addr     // where the question or packet came from, before any mapping
	Verdicts posture.Verdicts
}

// A Hop is one name of an answer's CNAME chain with the addresses that it owns.
// The first hop is the name that was asked for.
type Hop struct {
	Name  string
	Addrs []netip.Addr
}

// A Service is what a flow wants to reach at a steered name. ICMP echo has Proto 1 or 58 and no port.
type Service struct {
	Proto uint8
	Port  uint16
}

// A Query is one question put to a policy, with all that it may look at.
type Query struct {
	Name     string // lower case, without the final dot
	Type     uint16 // DNS type; for a flow A or AAAA by its family
	Asker    Asker
	Flow     *Service // nil for a DNS question
	Answered bool     // Answer holds what is known; false: nothing was asked upstream yet
	Answer   []Hop
	Now      time.Time
}

// A Decision is a policy's answer to a query.
type Decision struct {
	Then       Then      // what to do; for a denial Action is Block and Block its form
	Rule       *Rule     // the policy that decided; nil if none did
	Hop        string    // the name of the chain at which it decided
	Denied     string    // not empty: the demand that was not met, and how the asker stands; EDE 18
	NeedAnswer bool      // undecided: the question has to go upstream first; then ask again with Answered
	Until      time.Time // zero, or when the decision may change by the passing of time alone
}
