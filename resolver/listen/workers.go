package listen

import (
	"context"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/wire"
)

// workers answer the questions of a socket that take longer. Some of them wait
// for the next question rather than end: a new goroutine has a small stack,
// and would pay for its growth with each.
type workers struct {
	s      *Server
	sock   socket
	name   string
	queue  *queue
	begin  func(*packet) // has a worker answer a question that has a place
	idle   bench
	out    *outbox       // nil: there is none
	finish func(*packet) // is done
	work   sync.WaitGroup
}

// maxWaiting bounds how many workers of a socket wait for work.
const maxWaiting = 256

// A bench is where workers wait for work. Who came last goes first: what a worker
// has used last, its stack above all, is in the processor's caches. Were they to
// take turns, all of that would be that of some hundred of them.
type bench struct {
	mu     sync.Mutex
	idle   []chan *packet
	closed bool
}

// sit has a worker wait whose work comes by next, unless there is to be none.
func (b *bench) sit(next chan *packet) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.idle) >= maxWaiting {
		return false
	}
	b.idle = append(b.idle, next)
	return true
}

// call gives work to one who waits, if somebody does.
func (b *bench) call(p *packet) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.idle) - 1
	if n < 0 {
		return false
	}
	b.idle[n] <- p // which has room for it
	b.idle = b.idle[:n]
	return true
}

// close sends those home who wait, and who comes.
func (b *bench) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, next := range b.idle {
		close(next)
	}
	b.idle = nil
}

func newWorkers(ctx context.Context, s *Server, sock socket, name string) *workers {
	w := &workers{s: s, sock: sock, name: name, queue: newQueue(s.Limits), out: newOutbox(sock)}
	w.begin = func(p *packet) {
		if !w.idle.call(p) {
			w.work.Go(func() { w.run(ctx, p) })
		}
	}
	w.finish = w.done
	return w
}

// close has those who wait for work end. What is in work goes on.
func (w *workers) close() {
	w.queue.close() // nobody begins anything from here on
	w.idle.close()
}

// take has a question answered when there is a place for it. It does not wait for
// one: what can be answered at once shall not queue behind what cannot.
func (w *workers) take(ctx context.Context, p *packet) {
	switch w.queue.enter(p.addr.Addr().Unmap(), p) {
	case taken:
		w.begin(p)
	case later:
		// Workers that need nothing but to be run go first, or the reader, who
		// finds ever more under a high load, would fill the queue before they do.
		runtime.Gosched()
	case full:
		if resp := w.s.busy(w.name, p); len(resp) > 0 {
			w.s.send(ctx, w.sock, w.name, p, resp)
		}
		packets.Put(p)
	}
}

// done gives back what a question held.
func (w *workers) done(p *packet) {
	from := p.addr.Addr().Unmap()
	packets.Put(p)
	w.queue.leave(from, w.begin)
}

// run answers questions until there is nothing to do and nobody has to wait for
// more.
func (w *workers) run(ctx context.Context, p *packet) {
	next := make(chan *packet, 1)
	for p != nil {
		if resp := w.s.reply(ctx, w.name, p); len(resp) == 0 {
			w.done(p)
		} else if w.out != nil && p.raw.len > 0 {
			w.out.put(w.s, w.name, answered{p, resp, w.finish})
		} else {
			w.s.send(ctx, w.sock, w.name, p, resp)
			w.done(p)
		}
		if !w.idle.sit(next) {
			return
		}
		p = <-next // nil once the socket is closed
	}
}

// worth is how long a question that has to wait for a place is worth an answer
// of its own: most clients have asked again, or somebody else, before.
const worth = 2 * time.Second

// asker returns who sent a packet.
func (p *packet) asker(name string) *Client {
	return &Client{Addr: netip.AddrPortFrom(p.addr.Addr().Unmap(), p.addr.Port()), Listener: name, Transport: UDP, At: p.at}
}

func (s *Server) reply(ctx context.Context, name string, p *packet) []byte {
	if p.waited && time.Since(p.at) > worth {
		return s.busy(name, p)
	}
	c, req, most := p.asker(name), p.buf, or(s.Limits.UDPSize, udpLen)
	q, plain := wire.Parse(req)
	if !plain {
		resp := truncated(s.answerOdd(ctx, c, req), s.most(c, false, len(req), min(offered(req), most)))
		return s.limitsOdd(c, resp)
	}
	w := s.look(c, &q)
	resp := truncated(s.handled(ctx, c, req, &w), s.most(c, w.proven, len(req), min(q.Size, most)))
	return s.limits(c, &q, &w, resp, 0)
}

// busy answers a question that nobody has time for. To say so costs less than to
// be asked again, and who hears it can ask another server at once.
func (s *Server) busy(name string, p *packet) []byte {
	s.dropped(name, Busy)
	q, plain := wire.Parse(p.buf)
	if !plain {
		return nil
	}
	c := p.asker(name)
	w := s.look(c, &q)
	out := q.AppendShort(nil, dns.RcodeServerFailure, false)
	out = wire.AppendOPT(out, 0, &q, dns.RcodeServerFailure, &wire.Explanation{Given: true, Code: dns.ExtendedErrorCodeOther, Text: "too many questions are in work"})
	return s.limits(c, &q, &w, wire.AppendOption(out, 0, w.option[:w.n]), 0)
}
