package listen

import (
	"context"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/wire"
)

// workers answer the questions of a socket that take longer. Some of them wait
// for the next question rather than end: a new goroutine has a small stack,
// and would pay for its growth with each.
type workers struct {
	s       *Server
	sock    socket
	name    string
	queue   *queue
	begin   func(*packet) // has a worker answer a question that has a place
	next    chan *packet  // to a worker who waits
	out     *outbox       // nil: there is none
	finish  func(*packet) // is done
	waiting atomic.Int32
	work    sync.WaitGroup
}

// maxWaiting bounds how many workers of a socket wait for work.
const maxWaiting = 256

func newWorkers(ctx context.Context, s *Server, sock socket, name string) *workers {
	w := &workers{s: s, sock: sock, name: name, queue: newQueue(s.Limits), next: make(chan *packet), out: newOutbox(sock)}
	w.begin = func(p *packet) {
		select {
		case w.next <- p:
		default:
			w.work.Go(func() { w.run(ctx, p) })
		}
	}
	w.finish = w.done
	return w
}

// close has those who wait for work end. What is in work goes on.
func (w *workers) close() {
	w.queue.close() // nobody begins anything from here on
	close(w.next)
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
	for p != nil {
		if resp := w.s.reply(ctx, w.name, p); len(resp) == 0 {
			w.done(p)
		} else if w.out != nil && p.raw.len > 0 {
			w.out.put(w.s, w.name, answered{p, resp, w.finish})
		} else {
			w.s.send(ctx, w.sock, w.name, p, resp)
			w.done(p)
		}
		if w.waiting.Add(1) > maxWaiting {
			w.waiting.Add(-1)
			return
		}
		p = <-w.next // nil once the socket is closed
		w.waiting.Add(-1)
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
