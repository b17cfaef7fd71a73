// Package policy is the judge: it decides what may be resolved and reached.
//
// [Parse] reads an ordered list of policies from YAML, each of which selects
// by "if", demands by "require" and acts by "then". The result is immutable
// and safe for concurrent use. Deciding is pure: all that a policy may look at
// is in the [Query], the time included. DNS questions and flows are decided by
// the same policies, and [Policy.Explain] is [Policy.Decide] with a trace.
//
// # The order of decisions
//
// The names of an answer are looked at one after the other: the asked name
// first, then each name that a CNAME leads to. For each name the policies are
// looked at from the top of the file, and the first whose conditions are true
// decides. Addresses count for the name that owns them, so a name that is an
// alias has none of its own.
//
// A policy that looks at neither name nor answer, only at who asks, what type
// and when, is true for every name of the chain or for none. Where such a one
// is true it ends the list: nothing below it is looked at, at no name, and it
// decides if nothing above it did at any name. Below the last policy stands
// the default, which ends the list in the same way: the first of "defaults" that
// is for this asker, or else the one for all, which blocks unless the file says
// otherwise. A policy out of its time ("not_before", "not_after") is false. A policy with "cname: ignore" is looked at for the asked name
// only, by the addresses which that name owns itself. (BIND, unbound and PowerDNS Recursor order response policy
// zones so.)
//
// # Three truth values
//
// A condition is true, false, or unknown: no posture report, no country for an
// address, no address at that name. Unknown goes through all, any and not as
// in Kleene's logic, and a policy whose conditions are unknown does not match:
// nor does the same condition under "not". A report that is too old is no
// unknown, it counts as failed.
//
// # When the question goes upstream
//
// Before the answer is there, conditions on it are open: they may become
// anything. If a policy that they leave open stands above the first one that is
// true for the asked name, the decision has to wait for the answer
// ([Decision.NeedAnswer]). It waits too if the list ends in an allow and a
// policy above looks at names, which those of the answer could match; what is
// allowed goes upstream anyway. Otherwise it is made at once. So a list that
// ends in a block and has no answer condition above it sends nothing out. The
// question goes upstream as by the policy that decides if nothing that is open
// comes true ([Forward]).
//
// # Shadows
//
// A policy in mode shadow is passed over: it decides nothing, ends no list and
// sends no question upstream. Each query is decided a second time as if all
// policies in shadow were enforced, and if another one decides then,
// [Decision.Shadow] says which. What would need the answer for that is not
// known, and says nothing.
//
// # Demands
//
// A policy's demands are judged when it has been chosen. One that is not met,
// or of which it is unknown whether it is met, denies; the policies below are
// not asked. A denial is a block with EDE 18, its form chosen by "deny".
//
// # Scopes
//
// Much of what policies look at is the same for each question of an asker.
// [Policy.Scope] sums it up in a few bytes, by which decisions and answers can
// be kept for many askers at once, and [Policy.For] leaves out what is false
// for all of a scope.
//
// # Flows
//
// A flow is decided as the question A or AAAA by its family, for the name that
// its label stands for, by the addresses that are on record for that name. If
// there are none, conditions on the answer are unknown and match nothing. Only
// steer admits a flow. Its ports govern TCP and UDP; ICMP echo is admitted
// wherever the steer is.
package policy

import (
	"net/netip"
	"time"

	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy/list"
	"github.com/starferry/starferry/policy/match"
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

var actions = [...]string{"block", "allow", "override", "steer"}

func (a Action) String() string { return actions[a] }

// A BlockKind is the form of a block or denial.
type BlockKind uint8

// The forms of a block.
const (
	Refused BlockKind = iota
	NXDomain
	NoData
	ZeroIP
	Drop
	Page    // the addresses of the node's block page
	Address // the addresses in A and AAAA

	Truncate // an empty answer that sends the asker to TCP, of a policy that is for questions over UDP only
)

var blockKinds = [...]string{"refused", "nxdomain", "nodata", "zero-ip", "drop", "page", "address", "truncate"}

func (b BlockKind) String() string { return blockKinds[b] }

// A Fallback is what happens to a steered name that cannot be steered now.
type Fallback uint8

// The fallbacks.
const (
	FallBlock  Fallback = iota // REFUSED with the reason
	FallDirect                 // answer as if allowed
	FallServfail
)

var fallbacks = [...]string{"block", "direct", "servfail"}

func (f Fallback) String() string { return fallbacks[f] }

// The codes of extended DNS errors (RFC 8914, section 4) that decisions carry.
const (
	EDEForged     = 4
	EDEBlocked    = 15
	EDECensored   = 16
	EDEFiltered   = 17
	EDEProhibited = 18
)

// The protocols that a flow can have.
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
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
	EDE    uint16    // the EDE code of the answer: of a block 15, 16 or 17; of a denial 18; of an allow none
	Reason string    // for people

	A, AAAA []netip.Addr // of Override, and of a block by address
	CNAME   string       // of Override: a target, lower case without the final dot
	Records []Record     // of Override: those of other types
	zone    *zoneData    // of Override: where all this comes from, for each name
	TTL     time.Duration

	Route    string // of Steer
	Ports    []Port // of Steer; empty admits all
	WhenDown Fallback
	NoWay    Fallback

	Forward // of Allow
}

// A Record is one that an override answers with. Text is what follows the type
// in a master file; of TXT it is the text itself.
type Record = list.Record

// A Rule is one compiled policy of the file.
type Rule struct {
	Name string
	At   yamlpos.Pos
	Then Then
	Log  Logging

	when    *cond // nil: always
	demands *demands
	deny    Then // the form of a denial
	shadow  bool // with "mode: shadow": is recorded and does not decide
	ends    bool // looks at neither name nor answer
	own     bool // with "cname: ignore": is for the asked name and its own addresses only
}

// A Policy is a compiled file. It is immutable.
type Policy struct {
	rules    []Rule
	defaults []fallback // for some, before the one for all
	fallback Then       // of the default
	arranged

	version  string
	profiles []*posture.Profile
	lists    []ListInfo
	sets     []*list.Set // of the lists: what holds their names holds no more than them
	refs
	warnings []string
	filter   *match.Filter // of all names that conditions look for
	tests    []testCase
}

// refs are the names that the policy uses but does not define.
type refs struct {
	routes, upstreams, groups, devices []Ref
	listeners, flowRoutes              []Ref
	personal, records                  []Ref // conditions that look at people and platforms, and at records
	clients                            []Ref // by name, of rules of lists
}

// A Ref is a name that the policy uses but does not define, with its place.
type Ref struct {
	Name string
	Pos  yamlpos.Pos
}

// A ListInfo says what became of a list.
type ListInfo struct {
	Name, File, Format string
	Use                string // allow, block, or not said: what Lint holds policies to
	Entries            int    // different names or networks
	Bad                int    // lines that could not be read
	MaxShrink          int    // percent of the entries that a newer text may lack
	At                 yamlpos.Pos
	Source             list.Source
}

// Shadow reports whether the policy is only recorded, by "mode: shadow".
func (r *Rule) Shadow() bool { return r.shadow }

// Rules returns the policies in the order of the file. They must not be changed.
func (p *Policy) Rules() []Rule { return p.rules }

// Version returns a word that is the same for the same sources: the policy
// file, its lists and its country database.
func (p *Policy) Version() string { return p.version }

// Profiles returns the posture profiles of the file.
func (p *Policy) Profiles() []*posture.Profile { return p.profiles }

// Lists returns the lists of the file.
func (p *Policy) Lists() []ListInfo { return p.lists }

// Routes returns the routes that policies steer by.
func (p *Policy) Routes() []Ref { return p.routes }

// Upstreams returns the groups of upstream servers that policies resolve by.
func (p *Policy) Upstreams() []Ref { return p.upstreams }

// Groups returns the groups that conditions and demands name.
func (p *Policy) Groups() []Ref { return p.groups }

// Devices returns the devices that conditions and demands name.
func (p *Policy) Devices() []Ref { return p.devices }

// Listeners returns the listeners that conditions and defaults name.
func (p *Policy) Listeners() []Ref { return p.listeners }

// FlowRoutes returns the routes that conditions on flows name.
func (p *Policy) FlowRoutes() []Ref { return p.flowRoutes }

// Personal returns the conditions that look at users and platforms, by their
// keys: an egress knows neither.
func (p *Policy) Personal() []Ref { return p.personal }

// Clients returns the names by which rules of lists name those who ask, with the
// places of these lists in the policy: they may be devices, groups or nobody.
func (p *Policy) Clients() []Ref { return p.clients }

// Records returns the conditions that look at records other than addresses, by
// their keys: only a gateway sees those.
func (p *Policy) Records() []Ref { return p.records }

// Warnings returns what is odd in the file but no mistake.
func (p *Policy) Warnings() []string { return p.warnings }
