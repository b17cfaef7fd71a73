package guard

import (
	"fmt"
	"hash/maphash"
	"net/netip"
	"time"
)

// A Kind is what an answer is, as far as its repetition goes.
type Kind uint8

// The kinds. To which name answers are counted together stands beside them:
// that of an attack is the same again and again, or is made up anew each time.
const (
	Answer   Kind = iota // the asked name
	NoData               // the asked name
	NXDomain             // the name of its zone, the owner of the SOA; see [Zone]
	Error                // none: all errors of a network are counted together
	kinds
)

// A Verdict is what to do with an answer.
type Verdict uint8

// The verdicts.
const (
	Drop      Verdict = iota // send nothing
	Truncate                 // send the header and the question with TC=1: a real client comes back over TCP
	Challenge                // send BADCOOKIE and a cookie in place of the answer: a real client brings it back
	Send
)

// A Standing is what is known of the address that an answer goes to.
type Standing uint8

// The standings.
const (
	Unproven Standing = iota // it may be forged
	Cookies                  // it may be forged, but who asks knows cookies (RFC 7873)
	Proven                   // who asks is there
)

// ResponseLimits bound how often the same goes to one network. A field that is
// zero has the default that stands behind it; a negative rate is no limit.
//
// A cache in front of the gateway asks for the same name once in a TTL, and 200
// people behind one network who all start the same program within a second
// still get all their answers. A victim gets, of each name that an attacker
// uses, at most half a thousand small packets a second.
type ResponseLimits struct {
	Answers, NoData, NXDomains, Errors int // the same ones to one network in a second, 200

	Window time.Duration // who gets too much has to be quieter for this time, 15 s
	Slip   int           // of the limited, every so many is sent truncated, 2; at most 15; negative: none

	Prefix4, Prefix6 int // bits of the prefix that is one network, 24 and 56

	Entries int            // what is remembered, 65,536; 8 bytes each
	Exempt  []netip.Prefix // never limited
}

// Responses is response rate limiting as BIND, NSD and Knot DNS know it: while
// one network gets the same answer too often, most of them are dropped.
// Limited answers count too, up to those of the window: the network has to get
// less than its rate for that long before it is answered as others are. It is safe
// for concurrent use.
type Responses struct {
	table  *table
	names  maphash.Seed
	cut    cutter
	paces  [kinds]pace
	window uint64 // ticks
	slip   uint64 // 0: none
	exempt networks

	dropped, truncated, challenged counter
}

// ResponseStats counts since the start.
type ResponseStats struct {
	Dropped    uint64
	Truncated  uint64
	Challenged uint64
	Displaced  uint64 // what was forgotten before its time, for others
}

// NewResponses makes the table.
func NewResponses(l ResponseLimits) (r *Responses, err error) {
	defer func() {
		if err != nil {
			r, err = nil, fmt.Errorf("limits of responses: %w", err)
		}
	}()
	r = &Responses{names: maphash.MakeSeed()}
	for kind, rate := range [kinds]int{Answer: l.Answers, NoData: l.NoData, NXDomain: l.NXDomains, Error: l.Errors} {
		rate = or(rate, 200)
		if r.paces[kind], err = (Limit{rate, rate}).pace(Limit{}); err != nil {
			return r, err
		}
	}
	window, slip := or(l.Window, 15*time.Second), or(l.Slip, 2)
	if window < time.Second || window > 10*time.Minute || slip > skipMask {
		return r, fmt.Errorf("a window of %v and a slip of %d: want 1s to 10m and at most %d", window, slip, skipMask)
	}
	r.window, r.slip = uint64(window)>>tickShift, uint64(max(slip, 0))
	if r.cut, err = newCutter(l.Prefix4, l.Prefix6, 24, 56); err != nil {
		return r, err
	}
	if r.exempt, err = newNetworks(l.Exempt); err != nil {
		return r, err
	}
	r.table, err = newTable(or(l.Entries, 65_536))
	return r, err
}

// Judge counts an answer of this kind about this name to a client and says what
// to do with it. The name is any form that is always the same, as the wire form
// in lower case. An answer to a proven source is always sent, and not counted.
//
// One who knows cookies is challenged instead of being dropped or truncated. As
// a victim gets challenges too, they are counted as errors are: of more than
// those may be, most are dropped.
func (r *Responses) Judge(a netip.Addr, of Standing, kind Kind, name []byte, now int64) Verdict {
	if of == Proven || kind >= kinds {
		return Send
	}
	v := r.verdict(a, kind, name, now)
	if v != Send && of == Cookies {
		if kind != Error {
			v = r.verdict(a, Error, nil, now)
		}
		if v != Drop {
			v = Challenge
		}
	}
	r.count(v)
	return v
}

func (r *Responses) verdict(a netip.Addr, kind Kind, name []byte, now int64) Verdict {
	p, k := r.paces[kind], keyOf(a)
	if p.cost == 0 || r.exempt.contains(k) {
		return Send
	}
	more := uint64(kind)
	if kind != Error {
		more = maphash.Bytes(r.names, name)&^0xff | more
	}
	return r.judge(r.table.hash(r.cut.cut(k), more), tick(now), p)
}

func (r *Responses) judge(hash, now uint64, p pace) Verdict {
	for {
		b := r.table.find(hash, now, p.full+r.window)
		level, v := b.level+p.cost, Send
		if level > p.full {
			level, v = min(level, p.full+r.window), Drop
			if r.slip > 0 {
				if b.skip++; b.skip >= r.slip {
					b.skip, v = 0, Truncate
				}
			}
		}
		if r.table.put(&b, now, level) {
			return v
		}
	}
}

func (r *Responses) count(v Verdict) {
	switch v {
	case Drop:
		r.dropped.Add(1)
	case Truncate:
		r.truncated.Add(1)
	case Challenge:
		r.challenged.Add(1)
	}
}

// Stats returns what was counted.
func (r *Responses) Stats() ResponseStats {
	return ResponseStats{r.dropped.Load(), r.truncated.Load(), r.challenged.Load(), r.table.displaced.Load()}
}

// Zone returns the last two labels of a name in wire form, for NXDOMAINs whose
// zone is not at hand: names that are made up differ before them. A name
// that is cut short, or compressed, is returned whole.
func Zone(name []byte) []byte {
	last, beforeLast := 0, 0 // labels
	for off := 0; off < len(name) && name[off] < 64; off += 1 + int(name[off]) {
		if name[off] == 0 {
			return name[beforeLast:]
		}
		beforeLast, last = last, off
	}
	return name
}

// Amplification bounds the bytes of an answer over UDP to a source that is not
// proven. Where a forged question brings its victim hardly more than the attacker
// has to send, there are better places to attack from.
type Amplification struct {
	Factor int            // times the question's bytes, 20; negative: no bound
	Exempt []netip.Prefix // not bounded
}

// MinAnswer is what every source may get: RFC 1035 section 4.2.1 lets a server
// send this much to all, and most answers fit.
const MinAnswer = 512

// An Amplifier is a bound that has been checked, ready to use.
type Amplifier struct {
	factor int
	exempt networks
}

// NewAmplifier checks the bound.
func NewAmplifier(a Amplification) (*Amplifier, error) {
	exempt, err := newNetworks(a.Exempt)
	if err != nil {
		return nil, fmt.Errorf("bound of amplification: %w", err)
	}
	return &Amplifier{factor: or(a.Factor, 20), exempt: exempt}, nil
}

// Size returns how many bytes the answer to a question of so many bytes may
// have, where size is what the asker and the transport can take. What is longer
// is sent truncated. A proven source gets size.
func (a *Amplifier) Size(client netip.Addr, proven bool, question, size int) int {
	if proven || a.factor < 0 || a.exempt.contains(keyOf(client)) {
		return size
	}
	return min(size, max(MinAnswer, a.factor*question))
}
