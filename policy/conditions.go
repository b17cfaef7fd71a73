package policy

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy/list"
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
	opRegexp
	opContinent
	opASN
	opRecord
	opUser
	opPlatform
	opListener
	opTransport
	opSchedule
	opWindow
	opService
	opRoute
)

// A sight is a set of what conditions look at.
type sight uint8

const (
	atFlow sight = 1 << iota
	atType
	atAsker
	atName
	atAnswer
	atClock // what changes by itself: how the asker stands as reports age, and the time

	atScope = atAsker | atClock // who asks and when
)

// sights says what the leaves look at. Who adds one that looks at who asks or
// when gives it atAsker, and lowers [scene.until] where time alone may change
// it: scopes take it in by that.
var sights = [...]sight{
	opName: atName, opCountry: atAnswer, opNetwork: atAnswer,
	opDevice: atAsker, opGroup: atAsker, opIdentity: atAsker, opKind: atAsker, opSource: atAsker,
	opUser: atAsker, opPlatform: atAsker, opListener: atAsker, opTransport: atAsker,
	opPosture: atClock, opSchedule: atClock, opWindow: atClock, opType: atType,
	opRegexp: atName, opContinent: atAnswer, opASN: atAnswer, opRecord: atAnswer,
	opService: atFlow, opRoute: atFlow,
}

// A cond is a compiled condition. It is a plain tree walked by one function
// rather than a tree of closures or interfaces, so that what it looks at stays
// on the stack.
type cond struct {
	op   op
	kids []cond // of all, any and not
	text string // what is wanted, as people would say it

	names    *match.Names
	entries  []entry // of names that stand in the policy itself
	slot     int     // of a list of names: where a scene keeps what was found; 0 for nowhere
	nets     *match.Networks
	geo      *geo.DB
	words    []string // countries, devices, groups and the like, networks of a source, or the list of names
	strength device.Strength
	kinds    []device.Kind
	types    []uint16
	profile  string
	result   posture.Result
	*rare
}

// rare is what few conditions have.
type rare struct {
	re        *regexp.Regexp
	record    uint16   // the type of records that are looked at
	numbers   []uint32 // of autonomous systems
	services  []Port   // of a flow
	schedules []*schedule
	window    window
	rules     *list.Rules // of a list, where some are for certain questions only
	zone      bool        // the names are those that a zone has answers for
	made      bool        // of the rules of a list
	unsaid    Truth       // what a source is that is not known, where that is settled
}

// sees returns what the condition looks at.
func (c *cond) sees() sight {
	on := sights[c.op]
	for i := range c.kids {
		on |= c.kids[i].sees()
	}
	return on
}

// A spot is the name of the chain that is looked at.
type spot struct {
	Hop
	alias string // the name that this one is an alias of, as far as the answer says
}

// A scene is all that conditions look at for one name of the chain. What it
// holds of others is behind pointers: were the name in it, the compiler would
// take it that with the name, which decisions carry away, the query escapes.
type scene struct {
	q     *Query
	at    *spot
	open  sight // what is not known yet: conditions on it are open
	until *time.Time
	trace *Trace

	shadows bool   // policies in mode shadow are enforced
	route   string // of a flow: by which it goes, unless conditions on that say otherwise; empty: not known

	asked, found uint64 // lists that were looked through for the name, and those that have it

	filter *match.Filter
	hashes *match.Hashes // of the name, once hashed is true
	hashed bool
}

// turn forgets what was found out about the name before.
func (s *scene) turn() { s.asked, s.found, s.hashed = 0, 0, false }

// nameHashes returns the hashes of the scene's name, which all sets share.
func (s *scene) nameHashes() *match.Hashes {
	if !s.hashed {
		s.hashes.Reset(s.at.Name)
		s.filter.Sift(s.hashes)
		s.hashed = true
	}
	return s.hashes
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
		if say := c.say(s, t); say != "" {
			s.trace.note(say)
		}
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
	on := sights[c.op]
	switch {
	case on&s.open != 0:
		return open
	case on == atName:
		return truth(c.named(s))
	case on == atAsker || on == atType:
		return c.who(s)
	case on == atAnswer:
		return c.answer(s)
	case on == atFlow:
		return c.flow(s)
	}
	return c.clock(s)
}

// named looks for the name of the scene, in a list once for each name.
func (c *cond) named(s *scene) bool {
	switch {
	case c.op == opRegexp:
		return c.re.MatchString(s.at.Name)
	case c.slot == 0:
		return c.covers(s)
	}
	bit := uint64(1) << (c.slot - 1)
	if s.asked&bit == 0 {
		s.asked |= bit
		if c.covers(s) {
			s.found |= bit
		}
	}
	return s.found&bit != 0
}

func (c *cond) covers(s *scene) bool {
	_, ok := c.names.LookupHashes(s.nameHashes())
	return ok
}

// answer judges a condition on the addresses of a name: true if one of them
// meets it, false if it is known of each that it does not.
func (c *cond) answer(s *scene) Truth {
	switch {
	case c.op == opRecord:
		return c.recorded(s)
	case len(s.at.Addrs) == 0:
		return Unknown
	}
	t := No
	for _, a := range s.at.Addrs {
		t = t.or(c.address(a))
	}
	return t
}

func (c *cond) address(a netip.Addr) Truth {
	var code string
	var known bool
	switch c.op {
	case opNetwork:
		return truth(c.nets.Contains(a))
	case opASN:
		n, known := c.geo.ASN(a)
		if !known {
			return Unknown
		}
		return truth(slices.Contains(c.numbers, n))
	case opContinent:
		code, known = c.geo.Continent(a)
	default:
		code, known = c.geo.Country(a)
	}
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
		return truth(a.isOne(c.words))
	case opGroup:
		return truth(a.inGroup(c.words))
	case opIdentity:
		return truth(a.Kind.Strength() >= c.strength)
	case opKind:
		return truth(slices.Contains(c.kinds, a.Kind))
	case opSource:
		if !a.Source.IsValid() {
			return c.sourceless()
		}
		return truth(c.nets.Contains(a.Source))
	case opType:
		return truth(slices.Contains(c.types, s.q.Type))
	}
	return c.whoElse(a)
}

// sourceless is the truth of a condition on a source that is not known.
func (c *cond) sourceless() Truth {
	if c.rare == nil || c.unsaid == 0 {
		return Unknown
	}
	return c.unsaid
}

// whoElse judges the less usual conditions on who asks.
func (c *cond) whoElse(a *Asker) Truth {
	switch c.op {
	case opUser:
		return truth(a.Device != nil && slices.Contains(c.words, a.Device.User))
	case opPlatform:
		if a.Device == nil || a.Device.Platform == "" {
			return Unknown
		}
		return truth(containsFold(c.words, a.Device.Platform))
	case opListener:
		return truth(slices.Contains(c.words, a.Listener))
	}
	return truth(slices.Contains(c.words, a.Transport))
}

func containsFold(words []string, word string) bool {
	for _, w := range words {
		if strings.EqualFold(w, word) {
			return true
		}
	}
	return false
}

// flow judges a condition on what a flow wants to reach and by which way, which
// is false of DNS questions.
func (c *cond) flow(s *scene) Truth {
	switch f := s.q.Flow; {
	case f == nil:
		return No
	case c.op == opService:
		return truth(slices.ContainsFunc(c.services, f.among))
	case s.route == "":
		return Unknown
	default:
		return truth(slices.Contains(c.words, s.route))
	}
}

// clock judges a condition that may change by itself.
func (c *cond) clock(s *scene) Truth {
	switch c.op {
	case opSchedule:
		return truth(s.during(c.schedules))
	case opWindow:
		return truth(s.within(&c.window))
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
	if v.Result == posture.Passed {
		s.lower(v.Expires)
	}
	return v
}
