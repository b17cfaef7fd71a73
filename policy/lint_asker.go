package policy

import (
	"net/netip"
	"slices"
	"time"

	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/internal/rrtype"
	"github.com/starferry/starferry/policy/match"
)

// The points of what conditions on who asks, how and when look at.

func kindPoints(leaves []*cond) (out [][]Truth) {
	for _, k := range kinds {
		out = append(out, pointOf(leaves, func(c *cond) Truth {
			if c.op == opKind {
				return truth(slices.Contains(c.kinds, k))
			}
			return truth(k.Strength() >= c.strength)
		}))
	}
	return out
}

// most is how many independent words or lists are told apart.
const most = 8

// wordPoints are those of what is one word or another: the device, the user.
func wordPoints(leaves []*cond) (out [][]Truth) {
	for _, w := range append(wordsOf(leaves), "") {
		out = append(out, pointOf(leaves, func(c *cond) Truth { return truth(slices.Contains(c.words, w)) }))
	}
	return out
}

// platformPoints are those of wordPoints, and of a platform that is not known.
func platformPoints(leaves []*cond) (out [][]Truth) {
	for _, w := range append(wordsOf(leaves), "") {
		out = append(out, pointOf(leaves, func(c *cond) Truth { return truth(containsFold(c.words, w)) }))
	}
	return append(out, pointOf(leaves, func(*cond) Truth { return Unknown }))
}

// groupPoints are those of any number of groups.
func groupPoints(leaves []*cond) (out [][]Truth) {
	words := wordsOf(leaves)
	if len(words) > most {
		return nil
	}
	for mask := range 1 << len(words) {
		out = append(out, pointOf(leaves, func(c *cond) Truth {
			return truth(slices.ContainsFunc(c.words, func(w string) bool { return mask>>slices.Index(words, w)&1 == 1 }))
		}))
	}
	return out
}

func posturePoints(leaves []*cond) (out [][]Truth) {
	for _, r := range []posture.Result{posture.Unknown, posture.Failed, posture.Passed} {
		out = append(out, pointOf(leaves, func(c *cond) Truth {
			if r == posture.Unknown && c.result != posture.Unknown {
				return Unknown
			}
			return truth(r == c.result)
		}))
	}
	return out
}

// edges are addresses one of which lies in each part into which the networks
// cut all addresses.
func edges(leaves []*cond) []netip.Addr {
	out := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	for _, c := range leaves {
		for _, w := range c.words {
			p, err := netip.ParsePrefix(w)
			if err != nil {
				continue
			}
			out = append(out, p.Addr())
			if next := match.Last(p).Next(); next.IsValid() {
				out = append(out, next)
			}
		}
	}
	return out
}

// sourcePoints are those of sources, and of one that is not known.
func sourcePoints(leaves []*cond) [][]Truth {
	out := addressPoints(leaves)
	if out == nil {
		return nil
	}
	return append(out, pointOf(leaves, (*cond).sourceless))
}

// A manner is how somebody asks: a question by a listener and a transport, or a
// flow to a service that goes by a route.
type manner struct {
	rrtype              uint16
	listener, transport string
	flow                *Service
	route               string
}

func (m *manner) truth(c *cond) Truth {
	q := Query{Type: m.rrtype, Flow: m.flow, Asker: Asker{Listener: m.listener, Transport: m.transport}}
	return c.leaf(&scene{q: &q, at: &spot{}, route: m.route})
}

// questionPoints are those of questions and flows. Flows have no listener and no
// transport, and are of type A or AAAA.
func questionPoints(leaves []*cond) (out [][]Truth) {
	of := manners(leaves)
	if len(of) > maxPoints {
		return nil
	}
	for i := range of {
		out = append(out, pointOf(leaves, of[i].truth))
	}
	return out
}

// manners returns one of each sort that the conditions tell apart, the plainest
// first.
func manners(leaves []*cond) (out []manner) {
	types, listeners, transports, routes := []uint16{rrtype.Numbers["A"], 0}, []string{""}, []string{""}, []string{""}
	services := []Service{}
	for _, c := range leaves {
		switch c.op {
		case opType:
			types = append(types, c.types...)
		case opListener:
			listeners = append(listeners, c.words...)
		case opTransport:
			transports = append(transports, c.words...)
		case opRoute:
			routes = slices.Concat(routes, c.words, []string{"-"})
			services = append(services, Service{protoTCP, 1})
		case opService:
			services = append(services, servicesAround(c.services)...)
		}
	}
	for _, t := range once(types) {
		for _, at := range once(listeners) {
			for _, over := range once(transports) {
				out = append(out, manner{rrtype: t, listener: at, transport: over})
			}
		}
	}
	if len(services) == 0 {
		return out
	}
	for _, t := range []uint16{rrtype.Numbers["A"], rrtype.Numbers["AAAA"]} {
		for _, s := range once(services) {
			for _, r := range once(routes) {
				out = append(out, manner{rrtype: t, flow: &s, route: r})
			}
		}
	}
	return out
}

// once returns each value once, in the order in which they come.
func once[T comparable](of []T) (out []T) {
	for _, v := range of {
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// servicesAround returns one of each sort of services that the ports tell apart.
func servicesAround(ports []Port) (out []Service) {
	var at []uint16
	for _, p := range ports {
		if p.From > 0 {
			at = append(at, p.From)
		}
		if p.From > 0 && p.To < 1<<16-1 {
			at = append(at, p.To+1)
		}
	}
	const protoGRE = 47 // any other
	for _, proto := range []uint8{protoTCP, protoUDP, protoGRE} {
		for _, p := range once(append(at, 1, 0)) {
			out = append(out, Service{proto, p})
		}
	}
	return append(out, Service{Proto: protoICMP}, Service{Proto: protoICMPv6})
}

// schedulePoints are those of the minutes of the week, by the clock of each zone
// that there is: which is more than can be, of zones that go together.
func schedulePoints(leaves []*cond) (out [][]Truth) {
	var all []*schedule
	for _, c := range leaves {
		all = append(all, c.schedules...)
	}
	out = [][]Truth{pointOf(leaves, func(*cond) Truth { return No })}
	for _, zone := range zonesOf(all) {
		var next [][]Truth
		for _, minute := range minutesOf(zone) {
			in := func(s *schedule) bool { return slices.Contains(zone, s) && s.shows(minute) }
			for _, p := range out {
				next = append(next, plus(p, pointOf(leaves, func(c *cond) Truth { return truth(slices.ContainsFunc(c.schedules, in)) })))
			}
		}
		if out = unique(next); len(out) > maxPoints {
			return nil
		}
	}
	return out
}

// zonesOf sorts schedules by their zones.
func zonesOf(all []*schedule) (out [][]*schedule) {
	by := map[string][]*schedule{}
	for _, s := range once(all) {
		by[s.zone.String()] = append(by[s.zone.String()], s)
	}
	for _, name := range sorted(by) {
		out = append(out, by[name])
	}
	return out
}

// minutesOf returns a minute of the week of each sort that schedules tell apart.
func minutesOf(all []*schedule) []int {
	at := []int{0}
	for _, s := range all {
		for _, p := range s.spans {
			at = append(at, p.from, p.to%week)
		}
	}
	return once(at)
}

// shows reports whether a minute of the week is in the schedule.
func (s *schedule) shows(minute int) bool {
	return slices.ContainsFunc(s.spans, func(p span) bool { return p.from <= minute && minute < p.to })
}

// plus returns the greater of two values, for each leaf.
func plus(a, b []Truth) []Truth {
	sum := make([]Truth, len(a))
	for i := range a {
		sum[i] = a[i].or(b[i])
	}
	return sum
}

// windowPoints are those of the moments before, between and after the ends of
// windows.
func windowPoints(leaves []*cond) (out [][]Truth) {
	at := []time.Time{{}}
	for _, c := range leaves {
		at = append(at, c.window.from, c.window.to)
	}
	for _, now := range at {
		out = append(out, pointOf(leaves, func(c *cond) Truth {
			return truth((&scene{q: &Query{Now: now}, until: new(time.Time)}).within(&c.window))
		}))
	}
	return out
}
