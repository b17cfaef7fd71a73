package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
)

// An Asker is who asks, as the policy sees it.
type Asker struct {
	Device   *device.Device // nil: not known
	Kind     device.Kind    // the evidence of this question
	Source   netip.Addr     // where the question or packet came from, before any mapping
	Verdicts posture.Verdicts

	Listener  string // that the question came to, its address and port or "link"; of a flow none
	Transport string // udp, tcp, dot or doh; of a flow none
}

func (a *Asker) isOne(devices []string) bool {
	return a.Device != nil && slices.Contains(devices, string(a.Device.ID))
}

func (a *Asker) inGroup(groups []string) bool {
	return a.Device != nil && slices.ContainsFunc(groups, a.Device.InGroup)
}

// A Hop is one name of an answer's CNAME chain with the addresses that it owns.
// The first hop is the name that was asked for.
type Hop struct {
	Name   string
	Addrs  []netip.Addr
	Values []Value // of its other records, as far as a policy may look at them
}

// String writes the hop as {name [addresses]}, with the values of other records
// behind, if there are any.
func (h Hop) String() string {
	if len(h.Values) == 0 {
		return fmt.Sprintf("{%s %v}", h.Name, h.Addrs)
	}
	return fmt.Sprintf("{%s %v %v}", h.Name, h.Addrs, h.Values)
}

// A Value is what a record holds: of MX, NS and PTR the name, lower case without
// the final dot; of TXT the text, all its strings in one.
type Value struct {
	Type uint16
	Text string
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

// hop returns the i-th name of the chain. The asked name always comes first,
// also where the answer does not begin with it.
func (q *Query) hop(i int) Hop {
	if !q.Answered {
		return Hop{Name: q.Name}
	}
	if len(q.Answer) == 0 || q.Answer[0].Name != q.Name {
		if i == 0 {
			return Hop{Name: q.Name}
		}
		i--
	}
	return q.Answer[i]
}

// alias returns the name that the i-th name of the chain is an alias of, as the
// answer says; empty: none.
func (q *Query) alias(i int) string {
	switch {
	case !q.Answered || len(q.Answer) == 0:
		return ""
	case q.Answer[0].Name != q.Name:
		i--
	}
	if i < 0 || i+1 >= len(q.Answer) {
		return ""
	}
	return q.Answer[i+1].Name
}

// hops returns how many names there are to be judged.
func (q *Query) hops() int {
	switch {
	case !q.Answered:
		return 1
	case len(q.Answer) == 0 || q.Answer[0].Name != q.Name:
		return len(q.Answer) + 1
	default:
		return len(q.Answer)
	}
}

// A Decision is a policy's answer to a query.
type Decision struct {
	Then       Then   // what to do; for a denial Action is Block and Block its form
	Rule       *Rule  // the policy that decided; nil if none did
	Hop        string // the name of the chain at which it decided
	Denied     string // not empty: the demand that was not met, and how the asker stands; EDE 18
	Shadow     *Rule  // the policy that would decide if those in mode shadow were enforced, where that is another one; else nil
	Learned    bool   // a default decided whose askers are learnt about: what they ask is to be recorded
	NeedAnswer bool   // undecided: the question has to go upstream first, as Then.Forward says; then ask again with Answered
	wouldDeny  bool
	Until      time.Time // zero, or when the decision may change by the passing of time alone
}

// Would says what would be decided if the policies in mode shadow were enforced,
// as [Decision.String] does; empty: the same.
func (d *Decision) Would() string {
	switch {
	case d.Shadow == nil:
		return ""
	case d.wouldDeny:
		return "deny " + d.Shadow.deny.Block.String()
	}
	return d.Shadow.Then.String()
}

// Text says in a line for people which policy decided and why. It is empty for
// a plain allow.
func (d *Decision) Text() string {
	s := ""
	switch {
	case d.NeedAnswer, d.Denied == "" && d.Then.Action == Allow && d.Then.Reason == "":
		return ""
	case d.Rule != nil:
		s = "policy " + d.Rule.Name
	}
	for _, more := range []string{d.Denied, d.Then.Reason} {
		switch {
		case more == "":
		case s == "":
			s = more
		default:
			s += ": " + more
		}
	}
	return s
}

// String says what was decided, for logs and traces: "steer hong-kong",
// "block nxdomain", "deny refused".
func (d *Decision) String() string {
	switch {
	case d.NeedAnswer:
		return strings.TrimSpace("ask upstream " + d.Then.Upstream)
	case d.Denied != "":
		return "deny " + d.Then.Block.String()
	}
	return d.Then.String()
}

// String names the action with its form or route.
func (t *Then) String() string {
	switch t.Action {
	case Block:
		return "block " + t.Block.String()
	case Steer:
		return "steer " + t.Route
	case Allow:
		if t.Upstream != "" {
			return "resolve " + t.Upstream
		}
		fallthrough
	default:
		return t.Action.String()
	}
}

// admits reports whether a steer lets a flow to this service pass.
func (t *Then) admits(s *Service) bool {
	if s.Proto == protoICMP || s.Proto == protoICMPv6 || len(t.Ports) == 0 {
		return true
	}
	return slices.ContainsFunc(t.Ports, s.among)
}

// unanswered is the query before its question has gone upstream.
func (q *Query) unanswered() Query {
	ask := *q
	ask.Answered, ask.Answer = false, nil
	return ask
}
