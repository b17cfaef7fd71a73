package tunnel

import (
	"net/netip"

	"github.com/starferry/starferry/tunnel/packet"
)

// icmpError translates an ICMP error about a packet that was sent here, and
// sends it to where that packet came from. The flow is found by the quoted
// packet turned round: the error travels the other way.
func (s *Switch) icmpError(b *batch) {
	p := &b.p
	var q packet.Quote
	why := p.Quoted(&q)
	var e entry
	if why == packet.OK {
		e = s.table.find(&key{q.Dst.As16(), q.Src.As16(), q.DstPort, q.SrcPort, q.Proto, b.side})
	}
	switch {
	case e.f == nil || e.f.state != Open:
		s.strayError(b, why, e.f)
	case p.Dst != q.Src: // nobody sends it there but a forger
		s.drop(DropMalformed)
	case p.TTL() <= 1:
		s.drop(DropTTL)
	default:
		s.translate(b, &q, e)
	}
}

// strayError deals with an error about no open flow: it may be for one of the
// node's own services.
func (s *Switch) strayError(b *batch, why packet.Reason, f *flow) {
	class, drop := s.cfg.Classify(b.side, b.p.Src, b.p.Dst)
	switch {
	case class == Service:
		s.emit(b, Local, b.p.B)
	case why != packet.OK:
		s.drop(undecodable(why))
	case f != nil:
		s.drop(DropDenied)
	case class == Stray:
		s.drop(drop)
	default:
		s.drop(DropNoFlow)
	}
}

// translate rewrites and sends an ICMP error that travels in direction e.dir.
func (s *Switch) translate(b *batch, q *packet.Quote, e entry) {
	f, p := e.f, &b.p
	src, dst := f.path.Dst, f.path.Src // as the near end sees the flow's packets that come back
	if e.dir == fwd {
		src, dst = f.path.NewSrc, f.path.NewDst
	}
	from := s.errorSource(b.side, p.Src, q.Dst, src)
	if !from.IsValid() {
		s.drop(DropForgedSource)
		return
	}
	p.DecrementTTL()
	p.Translate(q, from, dst, dst, src)
	s.emit(b, f.out[e.dir], p.B)
}

// errorSource returns from whom an error appears to come: from the end itself,
// by the name that it has on the other side; from a node of the fleet; or,
// for a router of an office or of the mainland, from this node, since the
// address of that router means nothing over there and would not be let
// through. Over a link come no errors of unknown routers, because the node
// there has done the same: whoever sends one is a device that meddles with the
// flow of another.
func (s *Switch) errorSource(side Side, from, end, shown netip.Addr) netip.Addr {
	_, link := side.LinkIndex()
	switch {
	case from == end:
		return shown
	case s.cfg.KeepRouter != nil && s.cfg.KeepRouter(from):
		return from
	case link:
		return netip.Addr{}
	}
	return s.node(from.Is6())
}

// complain sends an ICMP error about the packet in hand, which has not been
// changed, to its sender, at a bounded rate.
func (s *Switch) complain(b *batch, what packet.Problem) {
	if !s.told.Allow() {
		return
	}
	room := s.rooms.Get().(*[packet.ErrorMax]byte)
	defer s.rooms.Put(room)
	if e, ok := packet.AppendError(room[:0], s.node(b.p.V6), &b.p, what, s.cfg.MTU); ok {
		s.send(b.side, e)
	}
}
