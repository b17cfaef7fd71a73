package tunnel

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/starferry/starferry/tunnel/packet"
)

// The model is what the Switch must look like from outside, written without
// regard to cost: a list of flows that is searched from its beginning, and a
// judge that is asked about each packet anew. It has no stamps, no table, no
// wheel. All segments have sequence number 1, so that all resets fit.
type model struct {
	w     *world
	flows []*mflow
	now   int64  // seconds
	out   []sent // what must come out, in order
	reset bool   // besides it, resets and errors to these may come
}

// A mflow is a flow of the model.
type mflow struct {
	state  State
	first  First // forward, if it was ever admitted
	ask    First // what a waiting one is judged by
	path   Path
	fin    [2]bool
	syn    [2]bool
	seen   [2]bool
	hot    bool // established
	closed bool
	cut    bool // denied for good
	last   int64
	idle   int64 // of denied
	held   []sent
	since  int64
}

// dir returns the direction in which the flow would carry p.
func (f *mflow) dir(side Side, p *pkt) int {
	near, service := f.first.ports()
	switch {
	case f.first.Side == side && f.first.Src == p.src && f.first.Dst == p.dst && f.first.Proto == p.proto:
		return fwd
	case f.path.NewDst.IsValid() && f.path.Out == side && f.first.Proto == p.proto &&
		p.src == netip.AddrPortFrom(f.path.NewDst, service) && p.dst == netip.AddrPortFrom(f.path.NewSrc, near):
		return rev
	}
	return -1
}

func (m *model) find(side Side, p *pkt) (*mflow, int) {
	for _, f := range m.flows {
		if d := f.dir(side, p); d >= 0 {
			return f, d
		}
	}
	return nil, -1
}

func (m *model) remove(f *mflow) {
	for i := range m.flows {
		if m.flows[i] == f {
			m.flows = append(m.flows[:i:i], m.flows[i+1:]...)
			return
		}
	}
}

// rule asks the same judge as the Switch does.
func (m *model) rule(f First) (Outcome, Path) {
	r := m.w.judge(&f)
	if r.Outcome != Admit {
		return r.Outcome, Path{}
	}
	return Admit, r.Path.complete(&f)
}

// packet is what must happen to a packet.
func (m *model) packet(side Side, p pkt) {
	f, d := m.find(side, &p)
	syn := p.proto == packet.TCP && p.flags == synF
	switch {
	case f == nil:
		m.open(nil, side, p)
	case f.state == Open:
		m.through(f, d, side, p)
	case f.state == Waiting:
		m.hold(f, side, p)
	case syn:
		m.open(f, side, p)
	case f.cut:
		m.tell(f, d, p)
	default:
		m.ruled(f, f.first, side, p)
	}
}

func (m *model) through(f *mflow, d int, side Side, p pkt) {
	syn := p.proto == packet.TCP && p.flags == synF
	if syn && d == rev {
		return
	}
	if syn && f.closed {
		m.open(f, side, p)
		return
	}
	if f.held != nil {
		m.hold(f, side, p)
		return
	}
	outcome, path := m.rule(f.first)
	switch {
	case outcome == Wait:
		m.hold(f, side, p)
	case outcome == Admit && path == f.path:
		m.forward(f, d, p)
	case outcome == Admit && p.proto != packet.TCP:
		m.remove(f)
		m.packet(side, p)
	case outcome == Deny:
		f.state, f.idle, f.seen = Denied, 240, [2]bool{}
		m.tell(f, d, p)
	case p.proto == packet.TCP: // gone, or another way
		f.state, f.cut, f.idle = Denied, true, 10
		m.tell(f, d, p)
	default:
		m.remove(f)
		m.reset = true // the packet is answered once
	}
}

func (m *model) forward(f *mflow, d int, p pkt) {
	f.seen[d], f.last = true, m.now
	if p.proto == packet.TCP {
		f.closed = f.closed || p.flags&rstF != 0
		if p.flags&rstF == 0 {
			f.syn[d], f.fin[d] = f.syn[d] || p.flags&synF != 0, f.fin[d] || p.flags&finF != 0
			f.hot = f.hot || d == fwd && p.flags&ackF != 0 && f.syn[fwd] && f.syn[rev]
		}
		f.closed = f.closed || f.fin[fwd] && f.fin[rev]
	}
	q, side := p, f.path.Out
	if d == fwd {
		q.src, q.dst = netip.AddrPortFrom(f.path.NewSrc, p.src.Port()), netip.AddrPortFrom(f.path.NewDst, p.dst.Port())
	} else {
		side = f.path.In
		q.src, q.dst = netip.AddrPortFrom(f.path.Dst, p.src.Port()), netip.AddrPortFrom(f.path.Src, p.dst.Port())
	}
	m.out = append(m.out, out(side, q))
}

func (m *model) open(old *mflow, side Side, p pkt) {
	class, _ := m.w.classify(side, p.src.Addr(), p.dst.Addr())
	echo := p.proto == packet.ICMP
	syn := p.proto == packet.TCP && p.flags == synF
	switch {
	case class != Forward && class != Reverse,
		class == Forward && echo && p.src.Port() == 0,
		class == Reverse && (syn || echo && p.src.Port() != 0):
		return
	}
	m.ruled(old, First{Side: side, Reverse: class == Reverse, Src: p.src, Dst: p.dst, Proto: p.proto, Syn: syn}, side, p)
}

// ruled acts on a ruling about a packet whose flow is old: none, denied or closed.
func (m *model) ruled(old *mflow, first First, side Side, p pkt) {
	outcome, path := m.rule(first)
	if outcome == Deny && old != nil && old.state == Denied {
		old.cut = false
		_, d := m.find(side, &p)
		m.tell(old, d, p)
		return
	}
	m.remove(old)
	f := &mflow{state: Denied, first: first, last: m.now, idle: 60}
	switch outcome {
	case Deny:
		m.flows = append(m.flows, f)
		m.tell(f, fwd, p)
	case Wait:
		f.state, f.ask = Waiting, first
		if first.Src != p.src { // known by the packet that waits; the model knows it by the device's
			f.first.Src, f.first.Dst, f.first.Side, f.first.Reverse = p.src, p.dst, side, true
		}
		m.flows = append(m.flows, f)
		m.hold(f, side, p)
	case Admit:
		m.admit(f, path, first)
		m.packet(side, p)
	}
}

func (m *model) admit(f *mflow, path Path, first First) {
	near, service := first.ports()
	f.state, f.path, f.hot = Open, path, !first.Syn
	f.first = First{Side: path.In, Proto: first.Proto, Src: netip.AddrPortFrom(path.Src, near), Dst: netip.AddrPortFrom(path.Dst, service)}
	there := pkt{proto: first.Proto, src: f.first.Src, dst: f.first.Dst}
	back := pkt{proto: first.Proto, src: netip.AddrPortFrom(path.NewDst, service), dst: netip.AddrPortFrom(path.NewSrc, near)}
	if g, _ := m.find(path.In, &there); g != nil && first.Reverse {
		panic(lateReverse{})
	}
	var again []sent
	for _, q := range []struct {
		side Side
		p    pkt
	}{{path.In, there}, {path.Out, back}} {
		if g, _ := m.find(q.side, &q.p); g != nil {
			m.remove(g)
			again = append(again, g.held...)
			g.held = nil
			m.reset = true
		}
	}
	m.flows = append(m.flows, f)
	for _, h := range again {
		m.packet(h.side, h.pkt)
	}
}

// lateReverse unwinds a packet that comes back by a way that its device has left.
type lateReverse struct{}

func (m *model) hold(f *mflow, side Side, p pkt) {
	if f.held == nil {
		f.since = m.now
	}
	if len(f.held) < holdFlow {
		f.held = append(f.held, sent{side, p})
	}
}

func (m *model) tell(f *mflow, d int, p pkt) {
	f.last = m.now
	m.reset = true
}

// label is what the flow waits for.
func (f *mflow) label() string {
	first := &f.first
	if f.state == Waiting {
		first = &f.ask
	}
	if first.Reverse {
		return first.Src.Addr().String()
	}
	return first.Dst.Addr().String()
}

// wake judges all that waits again.
func (m *model) wake() {
	waiting := slices.Clone(m.flows)
	slices.SortStableFunc(waiting, func(a, b *mflow) int { // as wakeAll does
		return cmp.Compare(slices.Index(wakeOrder, a.label()), slices.Index(wakeOrder, b.label()))
	})
	for _, f := range waiting {
		if f.held == nil {
			continue
		}
		first := f.first
		if f.state == Waiting {
			first = f.ask
		}
		outcome, _ := m.rule(first)
		if outcome == Wait {
			continue
		}
		held := f.held
		f.held = nil
		if f.state == Waiting {
			m.remove(f)
		}
		if outcome == Refuse && f.state == Waiting {
			continue
		}
		for _, h := range held {
			m.catch(func() { m.packet(h.side, h.pkt) })
		}
	}
}

func (m *model) catch(f func()) {
	defer func() {
		if x := recover(); x != nil {
			if _, late := x.(lateReverse); !late {
				panic(x)
			}
		}
	}()
	f()
}

// patience is how long the flow is kept, in seconds.
func (f *mflow) patience() int64 {
	switch {
	case f.state == Denied:
		return f.idle
	case f.closed:
		return 10
	case f.first.Proto == packet.TCP && f.hot && !f.fin[fwd] && !f.fin[rev]:
		return 7440
	case f.first.Proto == packet.TCP:
		return 240
	case f.first.Proto == packet.UDP && f.seen[fwd] && f.seen[rev]:
		return 300
	case f.first.Proto == packet.UDP:
		return 120
	}
	return 60
}

// pass lets seconds pass, and compares who is left.
func (m *model) pass(seconds int) {
	for range seconds {
		m.now++
		for f := range m.w.held { // a second is over: it is judged again, to the same end
			f.hold.judged = m.now * int64(time.Second)
		}
		m.w.now.Store(m.now * int64(time.Second))
		m.w.expireHeld(m.now * int64(time.Second))
		m.w.expireFlows(m.now * int64(time.Second))
	}
	there := map[string]bool{}
	for _, f := range m.w.table.flows(func(*flow) bool { return true }) {
		there[fmt.Sprint(f.first.Side, f.first.Src, f.first.Dst, f.first.Proto)] = true
	}
	for _, f := range slices.Clone(m.flows) {
		if f.held != nil && m.now-f.since >= 3 {
			if f.held = nil; f.state == Waiting {
				m.remove(f)
				continue
			}
		}
		if f.state == Waiting {
			continue
		}
		is := there[fmt.Sprint(f.first.Side, f.first.Src, f.first.Dst, f.first.Proto)]
		over := m.now - f.last - f.patience()
		if !is && over < 0 || is && over > 130 { // between, the wheel may take its time
			m.w.t.Fatalf("flow %+v: there %v, %d s over", f, is, over)
		}
		if !is {
			m.remove(f)
		}
	}
}

// check compares what came out with what must.
func (m *model) check(what string, got []sent) {
	m.w.t.Helper()
	var carried []sent
	for _, s := range got {
		if s.pkt.quote != nil || s.pkt.proto == packet.TCP && s.pkt.flags&rstF != 0 && s.pkt.ttl == 64 {
			if !m.reset {
				m.w.t.Fatalf("%s: nobody was to be told, but: %v", what, s)
			}
			continue
		}
		carried = append(carried, s)
	}
	if fmt.Sprint(carried) != fmt.Sprint(m.out) {
		m.w.t.Fatalf("%s:\n sent %v\nmodel %v", what, carried, m.out)
	}
	m.out, m.reset = nil, false
}

// randomPkt is from a world so small that everything meets everything.
func randomPkt(pick func(n int) int) (Side, pkt) {
	port := func(a string, p int) netip.AddrPort { return netip.AddrPortFrom(ip(a), uint16(p)) }
	near := []string{alice, "100.72.1.11", "192.168.1.5", "100.72.2.9"}[pick(4)]
	sport, dport := 1000+pick(2), []int{443, 22}[pick(2)]
	p := pkt{proto: []uint8{packet.TCP, packet.UDP, packet.ICMP}[pick(3)], ttl: 64, seq: 1, ack: 1}
	if p.proto == packet.TCP {
		p.flags = []uint8{synF, ackF, synF | ackF, ackF, finF | ackF, rstF, ackF, ackF}[pick(8)]
	}
	if p.proto == packet.ICMP {
		dport = 0
	}
	if pick(2) == 0 {
		p.src, p.dst = port(near, sport), port([]string{"198.19.0.7", "198.19.0.8", "198.19.0.9"}[pick(3)], dport)
		if near == "192.168.1.5" {
			return LAN, p
		}
		return Link, p
	}
	if near == "192.168.1.5" {
		near = "100.72.8.5"
	}
	p.src, p.dst = port([]string{"240.1.0.7", "240.1.0.8", "240.1.0.9"}[pick(3)], dport), port(near, sport)
	return Link, p
}

// newLife is a Switch after a (re)start.
func (m *model) newLife(t testing.TB, old *world) {
	w := newWorld(t, nil)
	w.told = rate.NewLimiter(rate.Inf, 0)
	w.leased = map[netip.Addr]bool{ip("198.19.0.7"): true, ip("198.19.0.8"): true}
	if old != nil {
		w.denied, w.far, w.waiting, w.refuse, w.adopt = old.denied, old.far, old.waiting, old.refuse, true
	}
	m.w, m.flows, m.now = w, nil, 0
}

// changes are what may happen besides packets.
var changes = []func(w *world, yes bool){
	func(w *world, yes bool) { w.denied[22] = yes },
	func(w *world, yes bool) { w.denied[443] = yes },
	func(w *world, yes bool) { w.refuse = yes },
	func(w *world, yes bool) { w.waiting = yes },
	func(w *world, yes bool) { w.adopt = yes },
	func(w *world, yes bool) { // two labels of one origin
		if delete(w.far, ip("198.19.0.8")); yes {
			w.far[ip("198.19.0.8")] = ip("240.1.0.7")
		}
	},
}

func (m *model) run(t *testing.T, data []byte) {
	m.newLife(t, nil)
	pick := func(n int) int {
		if len(data) == 0 {
			return 0
		}
		v := int(data[0])
		data = data[1:]
		return v % n
	}
	for step := 0; len(data) > 0; step++ {
		switch op := pick(40); {
		case op < 33:
			side, p := randomPkt(pick)
			m.catch(func() { m.packet(side, p) })
			m.check(fmt.Sprintf("step %d, %v: %v", step, side, p), m.w.in(side, p))
		case op < 36:
			change, yes := changes[pick(len(changes))], pick(2) == 0
			m.w.set(func() { change(m.w, yes) })
			m.wake()
			m.w.wakeAll()
			m.sameSet(step)
		case op < 38:
			m.pass([]int{1, 2, 11, 61, 130, 300}[pick(6)])
			m.w.taken()
		case op == 38:
			m.w.Cut(func(*Info) bool { return true }, CloseLinkDown)
			m.w.taken()
			m.cutAll()
		default:
			m.newLife(t, m.w)
		}
	}
}

var wakeOrder = []string{"198.19.0.7", "198.19.0.8", "198.19.0.9", "240.1.0.7", "240.1.0.8", "240.1.0.9"}

// wakeAll wakes every label.
func (w *world) wakeAll() {
	for _, a := range wakeOrder {
		w.Wake(ip(a))
	}
}

// sameSet compares what wakening sent: flows wake in no order.
func (m *model) sameSet(step int) {
	got := map[string]int{}
	for _, s := range m.w.taken() {
		if s.pkt.quote == nil && (s.pkt.proto != packet.TCP || s.pkt.flags&rstF == 0 || s.pkt.ttl != 64) {
			got[s.String()]++
		}
	}
	for _, s := range m.out {
		got[s.String()]--
	}
	for s, n := range got {
		if n != 0 {
			m.w.t.Fatalf("step %d: woken: %d times too often: %s", step, n, s)
		}
	}
	m.out, m.reset = nil, false
}

func (m *model) cutAll() {
	for _, f := range slices.Clone(m.flows) {
		if f.state != Open {
			continue
		}
		held := f.held
		f.held = nil
		if f.first.Proto == packet.TCP {
			f.state, f.cut, f.idle, f.last = Denied, true, 10, m.now
		} else {
			m.remove(f)
		}
		for _, h := range held {
			m.catch(func() { m.packet(h.side, h.pkt) })
		}
	}
	m.out, m.reset = nil, false
}

func FuzzModel(f *testing.F) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		data := make([]byte, 2000)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 20000 {
			new(model).run(t, data)
		}
	})
}
