package tunnel

import (
	"net/netip"
	"time"

	"github.com/starferry/starferry/tunnel/packet"
)

// tellEvery is how often the sender of a denied flow other than TCP is told.
const tellEvery = 250 * time.Millisecond

// deny drops the packet in hand, whose flow is denied, and tells its sender.
func (s *Switch) deny(b *batch) {
	s.drop(DropDenied)
	e := s.table.find(&b.key)
	if f := e.f; f != nil && f.state == Denied && !f.noteDenied(e.dir, &b.p, s.clock()) {
		return
	}
	if b.p.Proto != packet.TCP {
		s.complain(b, packet.Prohibited)
		return
	}
	if r, ok := b.p.Answer(); ok {
		s.sendReset(reset{b.side, r})
	}
}

func (s *Switch) sendReset(r reset) {
	room := s.rooms.Get().(*[packet.ErrorMax]byte)
	defer s.rooms.Put(room)
	s.send(r.side, packet.AppendReset(room[:0], r.Reset))
}

// noteDenied keeps a denied flow from being forgotten, and reports whether it
// is time to tell its sender: each segment of TCP, the rest at a rate.
func (f *flow) noteDenied(d uint8, p *packet.Packet, now int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note(d, p, now)
	if p.Proto == packet.TCP {
		return true
	}
	if f.told != 0 && now+1-f.told < int64(tellEvery) {
		return false
	}
	f.told = now + 1
	return true
}

// resetReceiver resets the end to which the packet in hand would have gone:
// its flow was admitted until now. The segment's own number is what the
// receiver expects next if all went well (the reset arrives behind what was
// sent before); for one that repeats something it is the last number seen.
func (s *Switch) resetReceiver(b *batch, e *effects) {
	f, d, p := b.last.f, b.last.dir, &b.p
	if p.Proto != packet.TCP {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	to := f.endpoint(1 - d)
	to.Seq = p.Seq()
	e.resets = append(e.resets, to)
	if h := &f.half[d]; h.seqOK && h.next != p.Seq() {
		to.Seq = h.next
		e.resets = append(e.resets, to)
	}
}

// resetBoth resets both ends of a flow unasked, unless they have closed it
// themselves. s.mu is held.
func (s *Switch) resetBoth(f *flow, e *effects) {
	if f.first.Proto != packet.TCP {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		return
	}
	e.resets = append(append(e.resets, f.resetsTo(fwd)...), f.resetsTo(rev)...)
}

// resetsTo returns the resets for the end that sends in direction d. It
// expects what the other end sends next, unless some of that is lost; then
// what it acknowledged last, unless that acknowledgement is lost: so both, if
// they differ. An end of which only a SYN was seen takes a reset by the
// number that it acknowledges. f.mu is held.
func (f *flow) resetsTo(d uint8) (resets []reset) {
	own, other := &f.half[d], &f.half[1-d]
	to := f.endpoint(d)
	if other.seqOK {
		to.Seq = other.next
		resets = append(resets, to)
	}
	if own.ackOK && (!other.seqOK || own.ack != other.next) {
		to.Seq = own.ack
		resets = append(resets, to)
	}
	if len(resets) == 0 && own.seqOK {
		to.Ack, to.WithAck = own.next, true
		resets = append(resets, to)
	}
	return resets
}

// endpoint returns a reset addressed to the end that sends in direction d, as
// if the other end had sent it.
func (f *flow) endpoint(d uint8) reset {
	near, service := f.first.ports()
	p := &f.path
	if d == fwd {
		return reset{p.In, packet.Reset{Src: netip.AddrPortFrom(p.Dst, service), Dst: netip.AddrPortFrom(p.Src, near)}}
	}
	return reset{p.Out, packet.Reset{Src: netip.AddrPortFrom(p.NewSrc, near), Dst: netip.AddrPortFrom(p.NewDst, service)}}
}
