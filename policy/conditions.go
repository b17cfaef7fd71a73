package policy

import (
	"net/netip"
	"slices"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy/match"
	"github.com/starferry/starferry/steer/geo"
)

// An op says what a condition looks at.
type op uint8

const (
	opAll op = iota
	opAny
	opNot
	opName
	opCountry
	opNetwork
	opDevice
	opGroup
	opIdentity
	opKind
	opPosture
	opSource
	opType
)

// A cond is a compiled condition. It is a plain tree walked by one function
// rather than a tree of closures or interfaces, so that what it looks at stays
// on the stack.
type cond struct {
	op   op
	kids []cond // of all, any and not
	text string // what is wanted, as people would say it

	names    *match.Names
	nets     *match.Networks
	geo      *geo.DB
	words    []string // countries, devices or groups
	strength device.Strength
	kinds    []device.Kind
	types    []uint16
	profile  string
	result   posture.Result
}

// chained reports whether the condition looks at a name or an answer.
func (c *cond) chained() bool {
	return c.op == opName || c.op == opCountry || c.op == opNetwork || slices.ContainsFunc(c.kids, func(k cond) bool { return k.chained() })
}

// judges reports whether the condition looks at posture.
func (c *cond) judges() bool {
	return c.op == opPosture || slices.ContainsFunc(c.kids, func(k cond) bool { return k.judges() })
}

// namesIn adds the sets of names that the condition looks into.
func (c *cond) namesIn(sets map[*match.Names]bool) {
	if c.op == opName && c.names != nil {
		sets[c.names] = true
	}
	for i := range c.kids {
		c.kids[i].namesIn(sets)
	}
}

// A view says from where the conditions are looked at.
type view uint8

const (
	answered view = iota // what is not known will not be known
	before               // the answer is still to come: conditions on it are open
	possible             // nothing is known of who asks, nor of its type: those conditions are open
)

// A scene is all that conditions look at for one name of the chain. What it
// holds of others is behind pointers: were the name in it, the compiler would
// take it that with the name, which decisions carry away, the query escapes.
type scene struct {
	q      *Query
	at     *Hop
	answer view // answered or before
	asker  view // answered or possible
	until  *time.Time
	trace  *Trace

	filter *match.Filter
	hashes *match.Hashes // of the name of at, once hashed is true
	hashed bool
}

// turn turns the scene to another name of the chain.
func (s *scene) turn(at Hop) { *s.at, s.hashed = at, false }

// nameHashes returns the hashes of the scene's name, which all sets share.
func (s *scene) nameHashes() *match.Hashes {
	if !s.hashed {
		s.hashes.Reset(s.at.Name)
		s.filter.Sift(s.hashes)
		s.hashed = true
	}
	return s.hashes
}

// eval returns the truth of the condition. With a trace it leaves there the
// notes of those leaves that made it so.
func (c *cond) eval(s *scene) Truth {
	switch c.op {
	case opAll:
		return c.all(s)
	case opAny:
		return c.any(s)
	case opNot:
		return c.kids[0].eval(s).not()
	}
	t := c.leaf(s)
	if s.trace != nil {
		s.trace.note(c.say(s, t))
	}
	return t
}

func (c *cond) all(s *scene) Truth {
	t, from := Yes, s.trace.mark()
	for i := range c.kids {
		kid := s.trace.mark()
		k := c.kids[i].eval(s)
		if k == No {
			s.trace.cut(from, kid)
			return No
		}
		if t == Yes && k != Yes {
			s.trace.cut(from, kid)
		} else if t != Yes && k == Yes {
			s.trace.cut(kid, s.trace.mark())
		}
		t = t.and(k)
	}
	return t
}

func (c *cond) any(s *scene) Truth {
	t, from := No, s.trace.mark()
	for i := range c.kids {
		kid := s.trace.mark()
		k := c.kids[i].eval(s)
		if k == Yes {
			s.trace.cut(from, kid)
			return Yes
		}
		if t == No && k != No {
			s.trace.cut(from, kid)
		} else if t != No && k == No {
			s.trace.cut(kid, s.trace.mark())
		}
		t = t.or(k)
	}
	return t
}

func (c *cond) leaf(s *scene) Truth {
	switch c.op {
	case opName:
		_, ok := c.names.LookupHashes(s.nameHashes())
		return truth(ok)
	case opCountry, opNetwork:
		return c.answer(s)
	}
	if s.asker == possible {
		return open
	}
	return c.who(s)
}

// answer judges a condition on the addresses of a name: true if one of them
// meets it, false if it is known of each that it does not.
func (c *cond) answer(s *scene) Truth {
	if s.answer == before {
		return open
	}
	if len(s.at.Addrs) == 0 {
		return Unknown
	}
	t := No
	for _, a := range s.at.Addrs {
		t = t.or(c.address(a))
	}
	return t
}

func (c *cond) address(a netip.Addr) Truth {
	if c.op == opNetwork {
		return truth(c.nets.Contains(a))
	}
	code, known := c.geo.Country(a)
	if !known {
		return Unknown
	}
	return truth(slices.Contains(c.words, code))
}

// who judges a condition on who asks and what type.
func (c *cond) who(s *scene) Truth {
	a := &s.q.Asker
	switch c.op {
	case opDevice:
		return truth(a.Device != nil && slices.Contains(c.words, string(a.Device.ID)))
	case opGroup:
		return truth(a.Device != nil && slices.ContainsFunc(c.words, a.Device.InGroup))
	case opIdentity:
		return truth(a.Kind.Strength() >= c.strength)
	case opKind:
		return truth(slices.Contains(c.kinds, a.Kind))
	case opSource:
		if !a.Source.IsValid() {
			return Unknown
		}
		return truth(c.nets.Contains(a.Source))
	case opType:
		return truth(slices.Contains(c.types, s.q.Type))
	}
	v := s.verdict(c.profile)
	if v.Result == posture.Unknown && c.result != posture.Unknown {
		return Unknown
	}
	return truth(v.Result == c.result)
}

// verdict returns how the asker stands by a profile now, and keeps when that
// may change by itself.
func (s *scene) verdict(profile string) posture.Verdict {
	v := s.q.Asker.Verdicts[profile].At(s.q.Now)
	if v.Result == posture.Passed && (s.until.IsZero() || v.Expires.Before(*s.until)) {
		*s.until = v.Expires
	}
	return v
}
