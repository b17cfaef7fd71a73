package querylog

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// A Record is what is remembered of one question, as it is written: one JSON
// object on a line, flat, with the keys that stand behind the fields. Keys are
// never renamed nor used for something else; what is empty, zero or false is
// left out, but for time, took_ns, name, type, class, action and rcode. Readers
// ignore keys that they do not know.
type Record struct {
	Time time.Time     `json:"time"`    // of the question, RFC 3339 in UTC with nanoseconds
	Took time.Duration `json:"took_ns"` // until the answer was made, in nanoseconds
	Client
	Identity
	Question
	Verdict
	Answer
	// What was done to the fields of who asked; keep is left out. A record that
	// has another word here cannot be decided again.
	Privacy Privacy `json:"privacy,omitempty"`
}

// A Client is where a question came from.
type Client struct {
	Addr       netip.Addr `json:"client"`
	Port       uint16     `json:"port"`
	Listener   string     `json:"listener"`
	Transport  string     `json:"transport"`
	ServerName string     `json:"server_name"` // that the TLS handshake asked for
}

// An Identity is whom a question was taken to be from: all of the asker that a
// policy may look at, so that the decision can be made again later.
type Identity struct {
	Device   string     `json:"device"` // its id, or the name of a node
	User     string     `json:"user"`
	Kind     string     `json:"identity"` // the evidence, as package device calls it
	Strength string     `json:"strength"` // of the evidence
	Groups   []string   `json:"groups"`
	Posture  []Posture  `json:"posture"` // by profile, as at the time of the question
	Source   netip.Addr `json:"source"`  // before any mapping
}

// A Posture is how the device stood by one profile; written as "profile=passed".
type Posture struct{ Profile, Result string }

// A Question is what was asked. The name is lower case, has no final dot, and
// what is not printable is written as RFC 1035 section 5.1 has it.
type Question struct {
	Name  string `json:"name"`
	Type  Type   `json:"type"`
	Class Class  `json:"class"`
	DO    bool   `json:"do"`
	CD    bool   `json:"cd"`
}

// A Verdict is what was decided, and why.
type Verdict struct {
	Action string `json:"action"`
	Policy string `json:"policy"`
	Reason string `json:"reason"`
	Shadow string `json:"shadow"`  // what a policy in mode shadow would have made of it; empty: the same
	Learn  bool   `json:"learned"` // a default decided whose askers are learnt about
	Route  string `json:"route"`
	Hops   []Hop  `json:"hops"` // of the upstream's answer: what the decision was made by
}

// A Hop is one name of an answer's CNAME chain with the addresses that it owns.
type Hop struct {
	Name  string       `json:"name"`
	Addrs []netip.Addr `json:"addrs,omitempty"`
}

// An Answer is what the asker got.
type Answer struct {
	Rcode    Rcode        `json:"rcode"`
	EDE      int          `json:"ede"`      // RFC 8914; -1 for none, which is left out
	Addrs    []netip.Addr `json:"answer"`   // addresses of the answer
	Cache    string       `json:"cache"`    // packed or lower: the cache that had it; empty: none
	Stale    bool         `json:"stale"`    // RFC 8767
	Upstream string       `json:"upstream"` // the group that was asked
	Size     int          `json:"size"`     // bytes of the answer
}

// Silence is the Rcode of a question that got no answer; written as "none".
const Silence Rcode = -1

// A Type is a type of records; written by name, or as RFC 3597 has it.
type Type uint16

// A Class is a class of records; written like a type.
type Class uint16

// An Rcode is a response code with its extended bits; written by name, or as a
// number if it has none.
type Rcode int

func (t Type) String() string {
	if s, ok := dns.TypeToString[uint16(t)]; ok {
		return s
	}
	return "TYPE" + strconv.Itoa(int(t))
}

func (c Class) String() string {
	if s, ok := dns.ClassToString[uint16(c)]; ok {
		return s
	}
	return "CLASS" + strconv.Itoa(int(c))
}

// badVers is both BADVERS (RFC 6891) and BADSIG (RFC 8945); questions with a
// TSIG do not get that far.
const badVers Rcode = dns.RcodeBadVers

func (r Rcode) String() string {
	switch {
	case r == Silence:
		return "none"
	case r == badVers:
		return "BADVERS"
	}
	if s, ok := dns.RcodeToString[int(r)]; ok {
		return s
	}
	return strconv.Itoa(int(r))
}

// UnmarshalText reads a type by its name or number.
func (t *Type) UnmarshalText(b []byte) error {
	n, err := code16(string(b), dns.StringToType, "TYPE")
	*t = Type(n)
	return err
}

// UnmarshalText reads a class by its name or number.
func (c *Class) UnmarshalText(b []byte) error {
	n, err := code16(string(b), dns.StringToClass, "CLASS")
	*c = Class(n)
	return err
}

// code16 reads a name that is known, or a number behind the prefix.
func code16(s string, known map[string]uint16, prefix string) (uint16, error) {
	if n, ok := known[s]; ok {
		return n, nil
	}
	digits, _ := strings.CutPrefix(s, prefix)
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is neither a known name nor %s with a number", s, prefix)
	}
	return uint16(n), nil
}

// UnmarshalText reads a response code by its name or number.
func (r *Rcode) UnmarshalText(b []byte) error {
	s := string(b)
	if s == "none" {
		*r = Silence
		return nil
	}
	if s == "BADVERS" {
		*r = badVers
		return nil
	}
	if n, ok := dns.StringToRcode[s]; ok {
		*r = Rcode(n)
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 12) // bits, by RFC 6891 section 6.1.3
	if err != nil {
		return fmt.Errorf("%q is no response code", s)
	}
	*r = Rcode(n)
	return nil
}

// String writes the posture as one word.
func (p Posture) String() string { return p.Profile + "=" + p.Result }

// UnmarshalText reads what String writes.
func (p *Posture) UnmarshalText(b []byte) error {
	profile, result, ok := strings.Cut(string(b), "=")
	if !ok {
		return fmt.Errorf("%q is not PROFILE=RESULT", b)
	}
	p.Profile, p.Result = profile, result
	return nil
}
