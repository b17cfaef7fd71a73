package tunnel

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/starferry/starferry/tunnel/packet"
)

const (
	defaultMTU   = 1380
	defaultFlows = 1 << 18
	tick         = 100 * time.Millisecond // of the coarse clock and of held packets
)

// A Switch carries packets between its sides. See the package comment.
type Switch struct {
	cfg   Config
	table table
	made  time.Time
	now   atomic.Int64 // the coarse clock: nanoseconds since made, at the last tick
	wakes atomic.Uint64
	stats stats
	told  *rate.Limiter // of ICMP errors that are made here
	rooms sync.Pool     // of *[packet.ErrorMax]byte, to make packets in

	mu    sync.Mutex // guards changes of the table, and what follows; taken before any flow.mu
	wheel wheel
	count [states]int // flows in the table; Closing counts as Open
	held  map[*flow]struct{}
	kept  int // packets in held
}

// New makes a Switch. It carries packets at once; Run makes its time pass.
func New(cfg Config) *Switch {
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	if cfg.MaxFlows == 0 {
		cfg.MaxFlows = defaultFlows
	}
	s := &Switch{cfg: cfg, held: map[*flow]struct{}{}, told: rate.NewLimiter(1000, 200)}
	s.made = time.Now()
	s.rooms.New = func() any { return new([packet.ErrorMax]byte) }
	s.table.prepare()
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(&collector{s})
	}
	return s
}

// Run turns the clock: it ends idle flows and gives up on held packets until
// ctx is done, and then ends all flows without resetting them, so that
// connections outlive a restart.
func (s *Switch) Run(ctx context.Context) error {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			s.shutdown()
			return nil
		case <-t.C:
			now := int64(time.Since(s.made)) // by the monotonic clock: the other one may be set
			s.now.Store(now)
			s.expireHeld(now)
			s.expireFlows(now)
		}
	}
}

// clock returns the coarse time.
func (s *Switch) clock() int64 { return s.now.Load() }

// wall turns a coarse time into one for others.
func (s *Switch) wall(t int64) time.Time { return time.Now().Add(-time.Duration(s.clock() - t)) }

// A batch is what Input keeps while it goes over packets: the packet in hand,
// the flow of the last one (neighbours often share it), and counts.
type batch struct {
	side Side
	p    packet.Packet
	key  key
	last entry
	in   tally
	out  [sides]tally
}

// Input takes packets that came in from a side; each begins at off. They may
// be modified. It may be called from many goroutines, one call per flow at a
// time if packets shall keep their order.
func (s *Switch) Input(side Side, pkts [][]byte, off int) {
	b := batch{side: side}
	for _, pkt := range pkts {
		if len(pkt) > off {
			b.in.add(pkt[off:])
			s.one(&b, pkt[off:])
		}
	}
	s.stats.in[side].merge(&b.in)
	s.stats.merge(&b.out)
}

// emit sends the packet of a batch.
func (s *Switch) emit(b *batch, side Side, pkt []byte) {
	b.out[side].add(pkt)
	s.cfg.Emit(side, pkt)
}

// send sends a packet that was made here.
func (s *Switch) send(side Side, pkt []byte) {
	s.stats.out[side].merge(&tally{1, uint64(len(pkt))})
	s.cfg.Emit(side, pkt)
}

// one carries one packet.
func (s *Switch) one(b *batch, pkt []byte) {
	if b.side == Local {
		s.fromService(b, pkt)
		return
	}
	if why := packet.Decode(pkt, &b.p); why != packet.OK {
		s.undecoded(b, why)
		return
	}
	switch b.p.Kind {
	case packet.Error:
		s.icmpError(b)
		return
	case packet.Other:
		s.drop(DropProtocol)
		return
	}
	k := keyOf(b.side, &b.p)
	if b.last.f == nil || k != b.key {
		b.key, b.last = k, s.table.find(&k)
	}
	if b.last.f == nil || !s.pass(b) {
		s.slow(b)
		b.last = entry{} // it may have been replaced
	}
}

// pass sends the packet on by its flow, if the flow is open and nothing
// about the packet needs a second look.
func (s *Switch) pass(b *batch) bool {
	f, d, p := b.last.f, b.last.dir, &b.p
	if f.state != Open {
		return false
	}
	f.mu.Lock()
	if f.gone || !fresh(&f.stamps) || p.TTL() <= 1 || len(p.B) > s.cfg.MTU || isNew(p) && (f.closing || d == rev) {
		f.mu.Unlock()
		return false
	}
	closed := f.note(d, p, s.clock())
	f.mu.Unlock()
	if closed {
		s.linger(f)
	}
	p.DecrementTTL()
	if p.Flags&packet.SYN != 0 {
		p.ClampMSS(s.cfg.MTU)
	}
	f.rw[d].Apply(p)
	s.emit(b, f.out[d], p.B)
	return true
}

// fromService sends out what one of the node's own services sends.
func (s *Switch) fromService(b *batch, pkt []byte) {
	_, dst, ok := packet.Addrs(pkt)
	if !ok {
		s.drop(DropMalformed)
		return
	}
	if dst.IsMulticast() { // a stack that looks for routers and neighbours
		s.drop(DropNotALabel)
		return
	}
	side := Link
	if s.cfg.ServiceSide != nil {
		side = s.cfg.ServiceSide(dst)
	}
	s.emit(b, side, pkt)
}

// undecoded drops a packet, except that fragments for the node itself reach
// its services, which put them together.
func (s *Switch) undecoded(b *batch, why packet.Reason) {
	if why == packet.Fragment {
		if class, _ := s.cfg.Classify(b.side, b.p.Src, b.p.Dst); class == Service {
			s.emit(b, Local, b.p.B)
			return
		}
	}
	s.drop(undecodable(why))
}

func (s *Switch) drop(why Drop) { s.stats.drops[min(why, drops-1)].Add(1) }

// node returns the node's own address of a family.
func (s *Switch) node(v6 bool) netip.Addr {
	if v6 {
		return s.cfg.Node6
	}
	return s.cfg.Node4
}
