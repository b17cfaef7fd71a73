package tunnel

import (
	"bytes"
	"net/netip"
	"time"
)

const (
	holdFlow  = 4    // packets held of one flow
	holdAll   = 1024 // and of all
	holdFor   = 3 * time.Second
	holdAgain = time.Second // when a flow is judged again, unwoken
)

// A hold keeps packets of a flow that waits for its ruling. Switch.mu guards it.
type hold struct {
	pkts          []kept
	since, judged int64 // by the coarse clock
}

// A kept packet is a copy.
type kept struct {
	side Side
	pkt  []byte
}

// holdFor begins to hold packets of f. s.mu is held.
func (s *Switch) holdFor(f *flow) {
	now := s.clock()
	f.hold = &hold{since: now, judged: now}
	s.held[f] = struct{}{}
}

// insertWaiting puts a waiting flow in the table, if there is room for what it
// will hold. s.mu is held.
func (s *Switch) insertWaiting(f *flow) step {
	switch {
	case s.kept >= holdAll:
		s.drop(DropHeldFull)
		return done
	case s.flows() >= s.cfg.MaxFlows:
		s.drop(DropTableFull)
		return done
	}
	s.insert(f)
	s.holdFor(f)
	return await
}

// patient reports whether f waits, and was judged so recently that its
// packets are to be held unasked.
func (s *Switch) patient(f *flow) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.hold != nil && s.clock()-f.hold.judged < int64(holdAgain)
}

// keep holds the packet in hand, if its flow still waits.
func (s *Switch) keep(b *batch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.table.find(&b.key).f
	if f == nil || f.hold == nil {
		return false
	}
	if len(f.hold.pkts) == holdFlow || s.kept >= holdAll {
		s.drop(DropHeldFull)
		return true
	}
	f.hold.pkts = append(f.hold.pkts, kept{b.side, bytes.Clone(b.p.B)})
	s.kept++
	return true
}

// letGo ends the holding of packets. They are looked at again. s.mu is held.
func (s *Switch) letGo(f *flow, e *effects) {
	if f.hold != nil {
		e.again = append(e.again, s.release(f)...)
	}
}

// release takes what f holds. s.mu is held.
func (s *Switch) release(f *flow) []kept {
	pkts := f.hold.pkts
	s.kept -= len(pkts)
	f.hold = nil
	delete(s.held, f)
	return pkts
}

// label is the address whose next hop the flow waits for.
func (f *flow) label() netip.Addr {
	if f.first.Reverse {
		return f.first.Src.Addr()
	}
	return f.first.Dst.Addr()
}

// Wake says that the judge has learnt what it waited for about a label: held
// packets to it (or back from it) are judged again.
func (s *Switch) Wake(label netip.Addr) {
	s.wakes.Add(1) // before looking: whoever is about to wait sees that it must ask once more
	var woken []*flow
	s.mu.Lock()
	for f := range s.held {
		if f.label() == label {
			woken = append(woken, f)
		}
	}
	s.mu.Unlock()
	for _, f := range woken {
		s.resolve(f)
	}
}

// resolve has a flow that waits judged again.
func (s *Switch) resolve(f *flow) {
	for range tries {
		wakes := s.wakes.Load()
		first := f.again()
		r := s.cfg.Judge(first)
		var e effects
		s.mu.Lock()
		if f.gone || f.hold == nil {
			s.mu.Unlock()
			return
		}
		var next step
		if f.state == Open {
			if next = s.resettle(f, &r, wakes, &e); next == tell {
				s.resetBoth(f, &e)
			}
		} else {
			next = s.settle(f.keys[0], f, first, &r, wakes, &e)
		}
		if r.Outcome == Refuse { // they would be judged one by one to the same end
			for range e.again {
				s.drop(r.Why)
			}
			e.again = nil
		}
		s.mu.Unlock()
		s.carryOut(&e)
		if r.Outcome != Wait || next != retry {
			return
		}
	}
}

// expireHeld gives up on what has waited too long, and asks again for what
// was last asked a second ago.
func (s *Switch) expireHeld(now int64) {
	var due []*flow
	var e effects
	s.mu.Lock()
	for f := range s.held {
		switch {
		case now-f.hold.since >= int64(holdFor):
			for range s.release(f) {
				s.drop(DropWaitingTooLong)
			}
			if f.state == Waiting {
				s.end(f, CloseDenied, &e)
			}
		case now-f.hold.judged >= int64(holdAgain):
			due = append(due, f)
		}
	}
	s.mu.Unlock()
	for _, f := range due {
		s.resolve(f)
	}
}
