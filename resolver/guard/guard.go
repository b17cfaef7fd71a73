// Package guard keeps a few askers from taking what belongs to all, and the
// gateway from being made a weapon against others:
//
//   - [Clients] bounds how many questions an address and a network may ask;
//   - [Responses] bounds how often the same answer goes to one network over
//     UDP, where the source of a question can be forged;
//   - [Amplification] bounds how much longer than its question an answer to a
//     source that has not been proven may be;
//   - [Load] bounds what is in work, and sheds before memory runs out.
//
// A source is proven if it asks over TCP or with a good cookie: then it is
// where it says it is. What forged sources do shall not hurt proven ones, so
// they are counted apart.
//
// Time comes from the caller as nanoseconds of a clock that does not go back,
// of any origin: [Clock] has one. An int64 is one register, and the caller
// reads its clock once for a whole batch of questions; reading it for each
// would cost as much as all that is done here. What concurrent callers pass
// may differ by up to a second.
//
// The tables have a fixed size and take no locks; nothing here allocates after
// construction.
package guard

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// A Clock counts the nanoseconds since it was started.
type Clock struct{ start time.Time }

// StartClock starts a clock.
func StartClock() Clock { return Clock{time.Now()} }

// Now returns the time that the clock shows.
func (c Clock) Now() int64 { return int64(time.Since(c.start)) }

// Loopback returns the prefixes of the host itself, which are usually exempt:
// nobody can come from there but processes of this machine.
func Loopback() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// A key is an address cut to a prefix. IPv4 addresses are in their mapped form.
type key struct{ hi, lo uint64 }

// A cutter cuts addresses of both families to prefixes of fixed lengths.
type cutter struct{ four, six key } // masks

// newCutter makes a cutter for these lengths; where they are zero it takes
// those of otherwise.
func newCutter(four, six, otherwise4, otherwise6 int) (cutter, error) {
	four, six = or(four, otherwise4), or(six, otherwise6)
	if four < 1 || four > 32 || six < 1 || six > 128 {
		return cutter{}, fmt.Errorf("prefix lengths %d for IPv4 and %d for IPv6: want 1 to 32 and 1 to 128", four, six)
	}
	return cutter{mask(96 + four), mask(six)}, nil
}

func (c *cutter) cut(a key) key {
	m := &c.six
	if a.is4() {
		m = &c.four
	}
	return key{a.hi & m.hi, a.lo & m.lo}
}

// keyOf returns all of an address. The zero address is an address as others are.
func keyOf(a netip.Addr) key {
	b := a.As16()
	return key{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (k key) is4() bool { return k.hi == 0 && k.lo>>32 == 0xffff }

// mask returns the mask of a prefix of n bits.
func mask(n int) key {
	return key{^uint64(0) << max(0, 64-n), ^uint64(0) << min(64, 128-n)}
}

// networks is a short list of prefixes. Lists of a few are the rule, and faster
// to walk than a table of prefixes is to search.
type networks []struct{ at, mask key }

func newNetworks(prefixes []netip.Prefix) (networks, error) {
	n := make(networks, 0, len(prefixes))
	for _, p := range prefixes {
		if !p.IsValid() {
			return nil, fmt.Errorf("exempt network %v is no prefix", p)
		}
		bits := p.Bits()
		if p.Addr().Is4() {
			bits += 96
		}
		n = append(n, struct{ at, mask key }{keyOf(p.Masked().Addr()), mask(bits)})
	}
	return n, nil
}

func (n networks) contains(k key) bool {
	for i := range n {
		if e := &n[i]; k.hi&e.mask.hi == e.at.hi && k.lo&e.mask.lo == e.at.lo {
			return true
		}
	}
	return false
}

// A counter has a cache line of its own: under attack several processors count.
type counter struct {
	atomic.Uint64
	_ [56]byte
}

func or[T int | int64 | uint64 | time.Duration](v, otherwise T) T {
	if v != 0 {
		return v
	}
	return otherwise
}
