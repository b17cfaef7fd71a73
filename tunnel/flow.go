package tunnel

import (
	"net/netip"
	"sync"
	"time"

	"github.com/starferry/starferry/tunnel/packet"
)

// How long flows are remembered after their last packet. TCP: RFC 5382,
// REQ-5; UDP: RFC 4787, REQ-5 (2 minutes at least, 5 recommended); ICMP:
// RFC 5508, REQ-1. Closed flows stay for a last acknowledgement and for
// repeated FINs.
const (
	idleEstablished = 2*time.Hour + 4*time.Minute
	idleTransitory  = 4 * time.Minute
	idleUDP         = 5 * time.Minute
	idleUnreplied   = 2 * time.Minute
	idleICMP        = 60 * time.Second
	linger          = 10 * time.Second
	idleDenied      = 60 * time.Second // a denial of something that was never admitted
)

// The directions of a flow.
const (
	fwd = 0 // as Path says: from the device
	rev = 1
)

// A key names one direction of a flow. IPv4 addresses are mapped; package
// packet refuses mapped ones in IPv6.
type key struct {
	src, dst     [16]byte
	sport, dport uint16
	proto        uint8
	side         Side
}

func keyOf(side Side, p *packet.Packet) key {
	return key{p.Src.As16(), p.Dst.As16(), p.SrcPort, p.DstPort, p.Proto, side}
}

// A half is one direction of a flow: what was seen of it.
type half struct {
	packets, bytes uint64
	next           uint32 // the sequence number after the last one sent
	ack            uint32 // the last acknowledgement: what its sender expects next
	seqOK, ackOK   bool   // they are known
	syn, fin       bool
}

// A flow is a row of the table: one that is open (or closing), one that is
// denied, or one that waits for its ruling. It never changes from one to
// another; it is replaced.
type flow struct {
	state State // Open, Denied or Waiting
	keys  []key // fwd and rev, or of a flow that was never admitted only the one that was seen
	first First // by which it is judged again
	path  Path
	rw    [2]packet.Rewrite
	out   [2]Side
	meta  *Meta
	id    FlowID
	start time.Time
	began int64         // the coarse clock at start
	idle  time.Duration // of Denied

	mu          sync.Mutex // guards what follows, except hold
	stamps      [2]Stamp
	half        [2]half
	last        int64 // the coarse clock at the last packet
	told        int64 // the coarse clock when the sender was last told that it is denied, plus one; 0: never
	established bool
	closing     bool
	why         CloseReason // of closing
	gone        bool        // not in the table any more

	hold *hold // guarded by Switch.mu
}

// ports returns the near port and the service port of a first packet.
func (f *First) ports() (near, service uint16) {
	if f.Reverse {
		return f.Dst.Port(), f.Src.Port()
	}
	return f.Src.Port(), f.Dst.Port()
}

// complete fills in what of the path is known from the first packet.
func (p Path) complete(f *First) Path {
	if f.Reverse {
		p.Out, p.NewSrc, p.NewDst = f.Side, f.Dst.Addr(), f.Src.Addr()
		return p
	}
	p.In, p.Src, p.Dst = f.Side, f.Src.Addr(), f.Dst.Addr()
	if !p.NewSrc.IsValid() {
		p.NewSrc = p.Src
	}
	return p
}

// valid reports whether the path has four addresses of one family, and two ends.
func (p *Path) valid() bool {
	n := p.Src.BitLen()
	return n != 0 && p.Dst.BitLen() == n && p.NewSrc.BitLen() == n && p.NewDst.BitLen() == n &&
		int(p.In) < sides && int(p.Out) < sides && !(p.In == p.Out && p.Src == p.NewDst && p.Dst == p.NewSrc)
}

// newOpen makes the flow that a ruling admits.
func newOpen(first *First, path Path, r *Ruling, start time.Time, now int64) *flow {
	near, service := first.ports()
	f := &flow{state: Open, path: path, meta: r.Meta, stamps: r.Stamps, start: start, began: now, last: now}
	f.first = First{
		Side: path.In, Proto: first.Proto,
		Src: netip.AddrPortFrom(path.Src, near), Dst: netip.AddrPortFrom(path.Dst, service),
	}
	f.keys = []key{
		{path.Src.As16(), path.Dst.As16(), near, service, first.Proto, path.In},
		{path.NewDst.As16(), path.NewSrc.As16(), service, near, first.Proto, path.Out},
	}
	f.out = [2]Side{path.Out, path.In}
	f.rw[fwd] = packet.NewRewrite(path.Src, path.Dst, path.NewSrc, path.NewDst)
	f.rw[rev] = packet.NewRewrite(path.NewDst, path.NewSrc, path.Dst, path.Src)
	f.id = flowID(path.NewSrc, near, service, first.Proto, f.name())
	f.established = !first.Syn // adopted in its middle
	return f
}

// newShut makes a flow that is denied or waits, known by one direction only.
func newShut(state State, k key, first *First, r *Ruling, start time.Time, now int64) *flow {
	f := &flow{
		state: state, keys: []key{k}, first: *first, meta: r.Meta, stamps: r.Stamps,
		start: start, began: now, last: now, idle: idleDenied,
	}
	f.first.Path, f.first.Meta, f.first.Expired = nil, nil, false
	f.path = Path{In: first.Side, Src: first.Src.Addr(), Dst: first.Dst.Addr()}
	near, service := first.ports()
	f.id = flowID(first.Src.Addr(), near, service, first.Proto, f.name())
	return f
}

// shadow makes the denied flow that takes the place of f, which was admitted
// before. With stamps it is judged again when they move.
func (f *flow) shadow(stamps [2]Stamp, idle time.Duration, start time.Time, now int64) *flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &flow{
		state: Denied, keys: f.keys, first: f.first, path: f.path, rw: f.rw, out: f.out, meta: f.meta, id: f.id,
		start: start, began: now, last: now, idle: idle, stamps: stamps, half: f.half,
	}
}

func (f *flow) name() string {
	if f.meta == nil {
		return ""
	}
	return f.meta.Name
}

// again is the question by which the flow is judged again.
func (f *flow) again() *First {
	first := f.first
	if f.state == Open {
		path := f.path
		first.Path, first.Meta = &path, f.meta
	}
	return &first
}

// isNew reports whether p opens a TCP connection.
func isNew(p *packet.Packet) bool {
	return p.Proto == packet.TCP && p.Flags&(packet.SYN|packet.ACK|packet.RST) == packet.SYN
}

// note counts a packet that passes in direction d, and follows TCP. It
// reports whether the packet closed the flow. f.mu is held.
func (f *flow) note(d uint8, p *packet.Packet, now int64) (closed bool) {
	h := &f.half[d]
	h.packets++
	h.bytes += uint64(len(p.B))
	f.last = now
	if p.Proto != packet.TCP {
		return false
	}
	was := f.closing
	f.track(d, p)
	return f.closing && !was
}

// track follows sequence numbers and the state of a connection.
func (f *flow) track(d uint8, p *packet.Packet) {
	h, other := &f.half[d], &f.half[1-d]
	if p.Flags&packet.RST != 0 {
		if !f.closing && f.believable(d, p.Seq()) {
			f.closing, f.why = true, CloseReset
		}
		return
	}
	if end := p.Seq() + p.SegLen(); !h.seqOK || int32(end-h.next) > 0 {
		h.next, h.seqOK = end, true
	}
	if p.Flags&packet.ACK != 0 {
		if a := p.Ack(); !h.ackOK || int32(a-h.ack) > 0 {
			h.ack, h.ackOK = a, true
		}
	}
	h.syn = h.syn || p.Flags&packet.SYN != 0
	h.fin = h.fin || p.Flags&packet.FIN != 0
	if f.half[fwd].syn && f.half[rev].syn && d == fwd && h.ackOK {
		f.established = true
	}
	if h.fin && other.fin && !f.closing {
		f.closing, f.why = true, CloseFin
	}
}

// believable reports whether the receiver may take a reset with this sequence
// number for a real one (RFC 5961, section 3.2): one far off is challenged or
// dropped there, and the connection lives on.
func (f *flow) believable(d uint8, seq uint32) bool {
	h, other := &f.half[d], &f.half[1-d]
	switch {
	case !h.seqOK || seq == h.next || !other.ackOK:
		return true
	default:
		return int32(seq-other.ack) >= 0 && int32(h.next-seq) >= 0
	}
}

// deadline returns when the flow is forgotten if nothing comes. f.mu is held.
func (f *flow) deadline() int64 { return f.last + int64(f.patience()) }

func (f *flow) patience() time.Duration {
	switch {
	case f.state == Denied:
		return f.idle
	case f.closing:
		return linger
	case f.first.Proto == packet.TCP:
		if f.established && !f.half[fwd].fin && !f.half[rev].fin {
			return idleEstablished
		}
		return idleTransitory
	case f.first.Proto == packet.UDP:
		if f.half[rev].packets > 0 && f.half[fwd].packets > 0 {
			return idleUDP
		}
		return idleUnreplied
	}
	return idleICMP
}

// record tells of the flow. f.mu is held.
func (f *flow) record(why CloseReason) *Record {
	if f.closing {
		why = f.why
	}
	near, service := f.first.ports()
	r := &Record{
		FlowID: f.id, Proto: f.first.Proto, Overlay: f.path.NewSrc, Port: service,
		Src: netip.AddrPortFrom(f.path.Src, near), Dst: netip.AddrPortFrom(f.path.Dst, service),
		BytesUp: f.half[fwd].bytes, BytesDown: f.half[rev].bytes, PacketsUp: f.half[fwd].packets, PacketsDown: f.half[rev].packets,
		Start: f.start, Duration: time.Duration(f.last - f.began), Close: why,
	}
	if f.first.Reverse {
		r.Src, r.Dst = f.first.Src, f.first.Dst
	}
	if f.meta != nil {
		r.Meta = *f.meta
		r.Meta.Lease = nil
	}
	return r
}

// info describes the flow.
func (f *flow) info() *Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	near, service := f.first.ports()
	i := &Info{
		FlowID: f.id, Proto: f.first.Proto, Path: f.path, SrcPort: near, Port: service, State: f.state,
		BytesUp: f.half[fwd].bytes, BytesDown: f.half[rev].bytes, PacketsUp: f.half[fwd].packets, PacketsDown: f.half[rev].packets,
		Start: f.start, Last: f.start.Add(time.Duration(f.last - f.began)),
	}
	if f.state == Open && f.closing {
		i.State = Closing
	}
	if f.meta != nil {
		i.Meta = *f.meta
		i.Meta.Lease = nil
	}
	return i
}
