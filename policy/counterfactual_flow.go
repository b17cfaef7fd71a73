package policy

import (
	"fmt"
	"slices"
)

// serviceCauses are other services of a flow: those that steers admit it to,
// those that conditions want, and for those that it is among ones beside them.
func (p *Policy) serviceCauses(q *Query) (out []cause) {
	if q.Flow == nil {
		return nil
	}
	seen := map[string]bool{}
	add := func(text string, to Service) {
		if !seen[text] {
			seen[text] = true
			out = append(out, cause{text: text, field: "service", who: func(q *Query) { q.Flow = &to }})
		}
	}
	wanted := func(ports []Port) {
		for _, port := range ports {
			if !q.Flow.among(port) {
				to := port.nearest(q.Flow)
				port.Proto = to.Proto
				add("flow to "+port.String(), to)
			}
		}
	}
	for i := range p.rules {
		wanted(p.rules[i].Then.Ports)
	}
	p.leaves(func(c *cond) {
		switch {
		case c.op != opService:
		case !slices.ContainsFunc(c.services, q.Flow.among):
			wanted(c.services)
		default:
			if to, ok := q.Flow.beside(c.services); ok {
				add("flow not to "+c.text, to)
			}
		}
	})
	return out
}

// nearest returns the service among those of a port that is most like another.
func (p Port) nearest(to *Service) Service {
	s := Service{p.Proto, p.From}
	if s.Proto == 0 {
		if s.Proto = to.Proto; to.Proto != protoUDP {
			s.Proto = protoTCP
		}
	}
	if s.Port == 0 && s.Proto != protoICMP {
		s.Port = max(to.Port, 1) // a ping has none
	}
	return s
}

// beside returns a service that is none of those, the most like this one that
// is found: of the same port first, then of the same protocol.
func (s *Service) beside(these []Port) (Service, bool) {
	var near []Service
	if s.Port > 0 {
		near = append(near, Service{protoTCP, s.Port}, Service{protoUDP, s.Port})
	}
	for _, proto := range []uint8{s.Proto, protoTCP, protoUDP} {
		if proto == protoICMP || proto == protoICMPv6 {
			continue
		}
		for _, p := range these {
			near = append(near, Service{proto, p.From - 1}, Service{proto, p.To + 1})
		}
	}
	for _, n := range append(near, Service{protoTCP, 1}, Service{protoUDP, 1}, Service{Proto: protoICMP}) {
		if (n.Port > 0 || n.Proto == protoICMP) && !slices.ContainsFunc(these, n.among) {
			return n, true
		}
	}
	return Service{}, false
}

// portCauses are steers whose ports a flow's service is not among, and could be.
func (p *Policy) portCauses(q *Query) (out []cause) {
	if q.Flow == nil {
		return nil
	}
	for i := range p.rules {
		r, to := &p.rules[i], *q.Flow
		if r.Then.Action != Steer || r.Then.admits(&to) {
			continue
		}
		out = append(out, cause{text: fmt.Sprintf("%v among the ports of policy %s", to, r.Name), edit: func(e *Rule) {
			if e.Name == r.Name {
				e.Then.Ports = append(slices.Clone(e.Then.Ports), Port{to.Proto, to.Port, to.Port})
			}
		}})
	}
	return out
}
