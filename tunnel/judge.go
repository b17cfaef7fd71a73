package tunnel

import (
	"net/netip"
	"time"

	"github.com/starferry/starferry/tunnel/packet"
)

// tries bounds how often a packet is looked at again because its flow was
// replaced meanwhile.
const tries = 8

// A step says what becomes of the packet in hand.
type step uint8

const (
	retry step = iota // the table has changed: look again
	done              // dropped, answered, held or sent
	await             // to be held
	tell              // its sender is to be told that it is denied
)

// slow carries the packet that pass would not.
func (s *Switch) slow(b *batch) {
	for range tries {
		b.last = s.table.find(&b.key)
		switch s.look(b) {
		case done:
			return
		case tell:
			s.deny(b)
			return
		case await:
			if s.keep(b) {
				return
			}
		}
	}
	s.drop(DropContended)
}

// look decides on the packet by the state of its flow.
func (s *Switch) look(b *batch) step {
	f := b.last.f
	switch {
	case f == nil:
		return s.open(b)
	case f.state == Open:
		return s.revisit(b)
	case b.p.TTL() <= 1, isNew(&b.p) && f.state == Denied:
		return s.open(b)
	case f.state == Waiting:
		if s.patient(f) {
			return await
		}
	case s.stillFresh(f):
		return tell
	}
	return s.ask(b, f.again())
}

func (s *Switch) stillFresh(f *flow) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fresh(&f.stamps)
}

// open deals with a packet that has no flow, or begins a new one in place of
// one that is closed or denied.
func (s *Switch) open(b *batch) step {
	p := &b.p
	class, why := s.cfg.Classify(b.side, p.Src, p.Dst)
	switch class {
	case Service:
		s.emit(b, Local, p.B)
		return done
	case Forward:
		if p.Kind == packet.EchoReply {
			s.drop(DropNoFlow)
			return done
		}
	case Reverse:
		// What comes back never opens anything; it may be in the middle of something that a restart forgot.
		if p.Kind == packet.EchoRequest || isNew(p) {
			s.drop(DropNoFlow)
			return done
		}
	default:
		s.drop(why)
		return done
	}
	first := &First{
		Side: b.side, Reverse: class == Reverse, Proto: p.Proto, Syn: isNew(p), Expired: p.TTL() <= 1,
		Src: netip.AddrPortFrom(p.Src, p.SrcPort), Dst: netip.AddrPortFrom(p.Dst, p.DstPort),
	}
	if first.Expired {
		return s.expiredFirst(b, first)
	}
	return s.ask(b, first)
}

// expiredFirst tells the sender of an expired packet where it ended, if it is
// one who may know: so traceroute shows the way.
func (s *Switch) expiredFirst(b *batch, first *First) step {
	if first.Reverse {
		s.drop(DropTTL)
		return done
	}
	switch r := s.cfg.Judge(first); r.Outcome {
	case Admit, Wait:
		s.drop(DropTTL)
		s.complain(b, packet.TimeExceeded)
	case Deny:
		s.drop(DropDenied)
	default:
		s.drop(r.Why)
	}
	return done
}

// ask has the flow of the packet in hand judged, and acts on the ruling.
func (s *Switch) ask(b *batch, first *First) step {
	wakes := s.wakes.Load()
	r := s.cfg.Judge(first)
	var e effects
	s.mu.Lock()
	next := retry
	if s.table.find(&b.key).f == b.last.f {
		next = s.settle(b.key, b.last.f, first, &r, wakes, &e)
	}
	s.mu.Unlock()
	s.carryOut(&e)
	if next == done && r.Outcome == Refuse {
		s.drop(r.Why)
	}
	return next
}

// settle acts on a ruling about the flow that is known by k, where old (which
// may be nil) is in the table. s.mu is held.
func (s *Switch) settle(k key, old *flow, first *First, r *Ruling, wakes uint64, e *effects) step {
	switch r.Outcome {
	case Admit:
		return s.admit(old, first, r, e)
	case Deny:
		if old != nil && old.state == Denied {
			old.mu.Lock()
			old.stamps = r.Stamps
			old.mu.Unlock()
			return tell
		}
		s.end(old, CloseDenied, e)
		s.insertDenied(newShut(Denied, k, first, r, time.Now(), s.clock()), e)
		return tell
	case Wait:
		if s.wakes.Load() != wakes { // what was waited for may have come before anybody waited
			return retry
		}
		if old != nil && old.state == Waiting {
			old.hold.judged = s.clock()
			return await
		}
		s.end(old, CloseDenied, e)
		return s.insertWaiting(newShut(Waiting, k, first, r, time.Now(), s.clock()))
	}
	s.end(old, CloseDenied, e)
	return done
}

// admit makes the flow of a ruling, if there is room.
func (s *Switch) admit(old *flow, first *First, r *Ruling, e *effects) step {
	path := r.Path.complete(first)
	if !path.valid() {
		s.end(old, CloseDenied, e)
		s.drop(DropNotALabel)
		return done
	}
	s.end(old, CloseDenied, e)
	f := newOpen(first, path, r, time.Now(), s.clock())
	if g := s.table.find(&f.keys[fwd]).f; g != nil && first.Reverse {
		// The device's flow goes another way already: what comes back by this one is late.
		s.drop(DropNoFlow)
		return done
	}
	if s.flows() >= s.cfg.MaxFlows {
		s.drop(DropTableFull)
		return done
	}
	for i := range f.keys {
		s.displace(s.table.find(&f.keys[i]).f, e)
	}
	s.insert(f)
	if f.meta != nil && f.meta.Lease != nil {
		f.meta.Lease.Hold()
		f.meta.Lease.Touch(f.start)
	}
	return retry
}

// insertDenied remembers a denial, unless denials would fill the table.
func (s *Switch) insertDenied(f *flow, e *effects) {
	if s.flows() >= s.cfg.MaxFlows/2 {
		return
	}
	e.ended = append(e.ended, f.record(CloseDenied))
	s.insert(f)
}

// revisit deals with a packet of an open flow that pass would not send.
func (s *Switch) revisit(b *batch) step {
	f, p := b.last.f, &b.p
	f.mu.Lock()
	gone, isFresh, closing := f.gone, fresh(&f.stamps), f.closing
	f.mu.Unlock()
	switch {
	case gone:
		return retry
	case isNew(p) && b.last.dir == rev:
		s.drop(DropNoFlow)
		return done
	case isNew(p) && closing:
		return s.open(b)
	case !isFresh:
		return s.askAgain(b)
	case p.TTL() <= 1:
		s.drop(DropTTL)
		s.complain(b, packet.TimeExceeded)
		return done
	case len(p.B) > s.cfg.MTU:
		s.drop(DropTooBig)
		if p.DontFragment() {
			s.complain(b, packet.TooBig)
		}
		return done
	case s.pass(b):
		return done
	}
	return retry
}

// askAgain has an open flow judged again, because of the packet in hand.
func (s *Switch) askAgain(b *batch) step {
	f := b.last.f
	if s.patient(f) {
		return await
	}
	wakes := s.wakes.Load()
	r := s.cfg.Judge(f.again())
	var e effects
	s.mu.Lock()
	next := s.resettle(f, &r, wakes, &e)
	s.mu.Unlock()
	if next == tell {
		s.resetReceiver(b, &e)
	}
	s.carryOut(&e)
	return next
}

// resettle acts on a new ruling about an open flow. It answers tell if the
// flow was admitted no more, and is denied now. s.mu is held.
func (s *Switch) resettle(f *flow, r *Ruling, wakes uint64, e *effects) step {
	if f.gone { // only changed under s.mu
		return retry
	}
	switch r.Outcome {
	case Admit:
		if r.Path.complete(&f.first) == f.path {
			f.mu.Lock()
			f.stamps = r.Stamps
			f.mu.Unlock()
			s.letGo(f, e)
			return retry
		}
		// It would have to go another way, on which nobody knows it: TCP begins anew, the rest moves over.
		if f.first.Proto != packet.TCP {
			s.end(f, CloseDisplaced, e)
			return retry
		}
		s.replaceByDenied(f, CloseDisplaced, [2]Stamp{}, linger, e)
		return tell
	case Wait:
		if s.wakes.Load() != wakes {
			return retry
		}
		if f.hold == nil {
			s.holdFor(f)
		}
		f.hold.judged = s.clock()
		return await
	case Deny:
		s.replaceByDenied(f, CloseRevoked, r.Stamps, idleTransitory, e)
	default: // unknown from now on; but its ends shall hear of it
		s.replaceByDenied(f, CloseRevoked, [2]Stamp{}, linger, e)
	}
	return tell
}
