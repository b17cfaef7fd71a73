package tunnel

import (
	"time"

	"github.com/starferry/starferry/tunnel/packet"
)

// effects are what changes of the table bring about elsewhere. They are
// collected under the lock, and carried out without it.
type effects struct {
	ended  []*Record
	leases []Lease // to be released
	resets []reset
	again  []kept // held packets, to be looked at once more
}

// A reset goes out by a side.
type reset struct {
	side Side
	packet.Reset
}

func (s *Switch) carryOut(e *effects) {
	for _, r := range e.ended {
		s.stats.closed[r.Close].Add(1)
		if s.cfg.Ended != nil {
			s.cfg.Ended(r)
		}
	}
	for _, l := range e.leases {
		l.Release()
	}
	for _, r := range e.resets {
		s.sendReset(r)
	}
	for _, k := range e.again {
		b := batch{side: k.side}
		s.one(&b, k.pkt)
		s.stats.merge(&b.out)
	}
}

// flows returns how many are in the table. s.mu is held.
func (s *Switch) flows() (n int) {
	for _, c := range s.count {
		n += c
	}
	return n
}

// insert puts a flow in the table. s.mu is held.
func (s *Switch) insert(f *flow) {
	for i := range f.keys {
		s.table.put(&f.keys[i], entry{f, uint8(i)})
	}
	s.count[f.state]++
	if f.state != Waiting {
		f.mu.Lock()
		s.wheel.add(f, f.deadline())
		f.mu.Unlock()
	}
}

// end takes a flow, which may be nil, out of the table. Of one that was
// admitted a record is made, and its lease is released; a denied one has had
// its record. Packets that it holds are looked at once more. s.mu is held.
func (s *Switch) end(f *flow, why CloseReason, e *effects) {
	if f == nil || f.gone {
		return
	}
	for i := range f.keys {
		s.table.remove(&f.keys[i], f)
	}
	s.count[f.state]--
	s.letGo(f, e)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = true
	if f.state != Open {
		return
	}
	e.ended = append(e.ended, f.record(why))
	if f.meta != nil && f.meta.Lease != nil {
		f.meta.Lease.Touch(s.wall(f.last))
		e.leases = append(e.leases, f.meta.Lease)
	}
}

// replaceByDenied ends an open flow and puts in its place, if it is of TCP, a
// denied one that resets what still comes. s.mu is held.
func (s *Switch) replaceByDenied(f *flow, why CloseReason, stamps [2]Stamp, idle time.Duration, e *effects) {
	s.end(f, why, e)
	if f.first.Proto != packet.TCP && stamps == [2]Stamp{} {
		return // the next packet is judged as a first one
	}
	s.insert(f.shadow(stamps, idle, time.Now(), s.clock()))
}

// displace ends a flow whose row another one takes. Its near end is reset; its
// far end is that of the new flow too. s.mu is held.
func (s *Switch) displace(f *flow, e *effects) {
	if f == nil {
		return
	}
	s.end(f, CloseDisplaced, e)
	if f.state == Open && f.first.Proto == packet.TCP {
		f.mu.Lock()
		e.resets = append(e.resets, f.resetsTo(fwd)...)
		f.mu.Unlock()
	}
}

// linger brings a flow that has just closed up sooner than the wheel would.
func (s *Switch) linger(f *flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	s.wheel.add(f, f.deadline())
}

// expireFlows ends what has idled for too long.
func (s *Switch) expireFlows(now int64) {
	var e effects
	s.mu.Lock()
	s.wheel.turn(now, func(f *flow) {
		if f.gone {
			return
		}
		f.mu.Lock()
		last, deadline := f.last, f.deadline()
		f.mu.Unlock()
		if deadline <= now {
			s.end(f, CloseIdle, &e)
			return
		}
		if f.state == Open && f.meta != nil && f.meta.Lease != nil {
			f.meta.Lease.Touch(s.wall(last))
		}
		s.wheel.add(f, deadline)
	})
	s.mu.Unlock()
	s.carryOut(&e)
}

// shutdown ends everything, quietly.
func (s *Switch) shutdown() {
	var e effects
	s.mu.Lock()
	for _, f := range s.table.flows(func(*flow) bool { return true }) {
		s.end(f, CloseShutdown, &e)
	}
	s.mu.Unlock()
	e.again = nil
	s.carryOut(&e)
}

// Cut ends the open flows that match, resets both of their ends, and gives
// why as the reason. What comes later of a UDP or ICMP flow is judged as new.
func (s *Switch) Cut(match func(*Info) bool, why CloseReason) {
	for _, f := range s.openFlows(match) {
		var e effects
		s.mu.Lock()
		if !f.gone {
			s.replaceByDenied(f, why, [2]Stamp{}, linger, &e)
			s.resetBoth(f, &e)
		}
		s.mu.Unlock()
		s.carryOut(&e)
	}
}

// Rejudge has the open flows that match judged now rather than at their next
// packet. Those that are admitted no more are reset on both sides.
func (s *Switch) Rejudge(match func(*Info) bool) {
	for _, f := range s.openFlows(match) {
		var e effects
		wakes := s.wakes.Load()
		r := s.cfg.Judge(f.again())
		s.mu.Lock()
		if r.Outcome != Wait && s.resettle(f, &r, wakes, &e) == tell { // who waits, waits for a packet
			s.resetBoth(f, &e)
		}
		s.mu.Unlock()
		s.carryOut(&e)
	}
}

func (s *Switch) openFlows(match func(*Info) bool) (open []*flow) {
	for _, f := range s.table.flows(func(f *flow) bool { return f.state == Open }) {
		if match(f.info()) {
			open = append(open, f)
		}
	}
	return open
}

// Flows returns what is in the table, in no order.
func (s *Switch) Flows() []Info {
	all := s.table.flows(func(*flow) bool { return true })
	infos := make([]Info, 0, len(all))
	for _, f := range all {
		infos = append(infos, *f.info())
	}
	return infos
}
