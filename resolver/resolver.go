// Package resolver is a question's way through the nodes. It has three
// handlers, one for each role, that fit [listen.Server]; a question for a
// steered name passes all three:
//
//	device ──► [Gateway] ──► [Egress] ──► [Connector] ──► a resolver behind it
//	       ◄── A ──────  ◄── B ─────  ◄── C ────────  ◄── the origin's address
//
// Each leases an address of its own for the name, and answers with that. The
// gateway identifies who asks, lets the policy decide and does what it says:
//
//  1. An asker in no known network is REFUSED.
//  2. The policy decides by the asked name. If it needs the answer for that,
//     the question goes upstream and it decides again, by the names of the
//     answer's chain and the addresses of each.
//  3. A name that is allowed is answered as upstream does; one that is blocked,
//     denied, or overridden is answered here.
//  4. A steered name is asked along the chain, if the asker has a way to send
//     packets to the address that comes of it.
//
// What must hold whoever asks: an answer never holds an address that its chain
// does not lead to, nor, but for leases, one that belongs to the fleet itself
// (rebinding). Private EDNS options pass between nodes only: handlers make
// each message anew and never copy options. All that is said for one device
// is said in extended errors (RFC 8914), only to askers with EDNS.
//
// What the handlers need of other packages comes as function values; nothing
// here does I/O but [AskNode] and [Probe], over connections that are given.
package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/cache"
	"github.com/starferry/starferry/resolver/listen"
)

// Facts are the names of an answer's chain with the addresses that each of
// them owns: what a decision was made by.
type Facts = []policy.Hop

// A Question is what is asked of a name. The name is lower case and has no
// final dot; in it, bytes that are not printable are written as RFC 1035
// section 5.1 has it.
type Question struct {
	Name        string
	Type, Class uint16
	DO, CD      bool
}

// A NodeReply is the answer of another node.
type NodeReply struct {
	Msg     *dns.Msg
	Node    string       // how the node calls itself; whoever knows better overwrites it
	Journal uint64       // of the lease table that its addresses come from; 0: not said
	Addrs   []netip.Addr // of the asked name and type
}

// Why a node could not be asked. The Ask functions wrap them.
var (
	ErrLinkDown = errors.New("link down")       // EDE 23
	ErrNoAnswer = errors.New("no node answers") // EDE 22
)

// steeredTTL is how long steered answers are good, unless a policy says
// otherwise: short, since who asks again is judged again.
const steeredTTL = 30 * time.Second

// blockTTL is the TTL of synthesized answers: short, since a policy that
// changes shall be felt.
const blockTTL = 10 * time.Second

// An Action is what was done with a question, for its record.
type Action string

// The actions, and all of them.
const (
	Allowed    Action = "allow"
	Blocked    Action = "block"
	Denied     Action = "deny"     // a demand was not met
	Overridden Action = "override" // answered by the policy itself
	Steered    Action = "steer"    // also if the name turned out not to exist
	NoWay      Action = "no-way"   // the asker cannot send to a virtual address
	Down       Action = "down"     // no node along the route answers
	Refused    Action = "refuse"   // unknown asker, or nothing that is answered here
	Failed     Action = "fail"     // SERVFAIL for a reason of ours
	Local      Action = "local"    // about this node: whoami, explain, PTR of a lease
)

// A From says where an answer came from.
type From string

// The places that answers come from.
const (
	FromHere     From = ""         // made here
	FromPacked   From = "packed"   // given before to the same scope
	FromCache    From = "cache"    // known of upstream, and decided anew
	FromUpstream From = "upstream" // asked for now
)

// A Record is what is to be remembered of one question.
type Record struct {
	Time   time.Time
	Took   time.Duration
	Client listen.Client
	Asker  string // device id, or the name of a node
	Kind   device.Kind
	Who    policy.Asker
	Result

	Query, Reply []byte // the messages
}

// A Result is what came of a question, whoever asked.
type Result struct {
	Question Question
	Action   Action
	Policy   string
	Reason   string
	Route    string
	Rcode    int        // -1: silence
	EDE      int        // -1: none; else the code that an asker with EDNS is told
	Addr     netip.Addr // of a steered answer
	From     From
	Stale    bool
	Learned  bool   // a default decided whose askers are learnt about
	Shadow   string // what a policy in mode shadow would have made of it: "block nxdomain by NAME"; empty: the same
	Group    string // of upstream resolvers that was asked; empty: none, or by the name
	Hops     Facts  // that the decision was made by
}

// question reads the name and types of a question.
func question(m *dns.Msg) Question {
	q := m.Question[0]
	return Question{
		Name: strings.TrimSuffix(strings.ToLower(q.Name), "."),
		Type: q.Qtype, Class: q.Qclass, CD: m.CheckingDisabled,
	}
}

// message makes the message that asks a question, with no trace of who asks.
func (q Question) message() *dns.Msg {
	m := &dns.Msg{Question: []dns.Question{{Name: q.Name + ".", Qtype: q.Type, Qclass: q.Class}}}
	m.RecursionDesired, m.CheckingDisabled = true, q.CD
	if q.DO {
		m.SetEdns0(udpSize, true)
	}
	return m
}

// upstream returns the question as upstream is asked.
func (q Question) upstream() (cache.Question, error) {
	var name [256]byte
	n, err := dns.PackDomainName(q.Name+".", name[:], 0, nil, false)
	if err != nil {
		return cache.Question{}, fmt.Errorf("%q is no name: %w", q.Name, err)
	}
	return cache.Question{Name: string(name[:n]), Type: q.Type, Class: q.Class, DO: q.DO, CD: q.CD}, nil
}

// header returns the header of a record of the asked name and type.
func (q Question) header(ttl time.Duration) dns.RR_Header {
	return dns.RR_Header{Name: q.Name + ".", Rrtype: q.Type, Class: q.Class, Ttl: uint32(ttl / time.Second)}
}

// address returns the record of an address for the asked name.
func (q Question) address(a netip.Addr, ttl time.Duration) dns.RR {
	h := q.header(ttl)
	if a.Is4() {
		h.Rrtype = dns.TypeA
		return &dns.A{Hdr: h, A: a.AsSlice()}
	}
	h.Rrtype = dns.TypeAAAA
	return &dns.AAAA{Hdr: h, AAAA: a.AsSlice()}
}

// asksAddress reports whether the question is for addresses of one family.
func (q Question) asksAddress() bool { return q.Type == dns.TypeA || q.Type == dns.TypeAAAA }

// soa is the record of authority that goes with a negative answer made here
// (RFC 2308), so that who asks does not ask again at once.
func (q Question) soa() dns.RR {
	h := q.header(blockTTL)
	h.Rrtype = dns.TypeSOA
	return &dns.SOA{Hdr: h, Ns: "starferry.", Mbox: "nobody.invalid.", Serial: 1, Refresh: 1800, Retry: 900, Expire: 604800, Minttl: h.Ttl}
}

// denied returns the authority section of a negative answer, with a SOA record
// made here if it has none: without one nobody may keep it (RFC 2308 section 5),
// and who asks does so again at once.
func (q Question) denied(ns []dns.RR) []dns.RR {
	for _, rr := range ns {
		if rr.Header().Rrtype == dns.TypeSOA {
			return ns
		}
	}
	return append(ns[:len(ns):len(ns)], q.soa())
}
