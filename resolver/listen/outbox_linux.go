package listen

import (
	"runtime"
	"sync"
	"syscall"
)

// An outbox sends the answers of workers, as many as there are at a time.
type outbox struct {
	mu      sync.Mutex
	waiting []answered
	sending bool

	raw   syscall.RawConn
	post  *post // is only touched by who sends
	batch []answered
}

// An answered is an answer with the question's datagram.
type answered struct {
	p    *packet
	resp []byte
	done func(p *packet)
}

// newOutbox returns one for a kernel's socket, nil for others.
func newOutbox(sock socket) *outbox {
	if sock.kernel == nil {
		return nil
	}
	raw, err := sock.control()
	if err != nil {
		return nil
	}
	return &outbox{raw: raw, post: newPost(sock)}
}

// put sends an answer, or leaves that to somebody who is about to send. Whoever
// sends lets all others who are ready to run go first: what they have to say
// goes along. done is called when the packet is not needed any more.
func (o *outbox) put(s *Server, name string, a answered) {
	o.mu.Lock()
	o.waiting = append(o.waiting, a)
	mine := !o.sending
	o.sending = true
	o.mu.Unlock()
	if !mine {
		return
	}
	runtime.Gosched()
	for {
		o.mu.Lock()
		o.batch, o.waiting = o.waiting, o.batch[:0]
		if len(o.batch) == 0 {
			o.sending = false
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
		o.send(s, name)
	}
}

// send sends the batch. One that cannot be sent is counted and left out.
func (o *outbox) send(s *Server, name string) {
	for rest := o.batch; len(rest) > 0; {
		n := min(len(rest), lotLen)
		for _, a := range rest[:n] {
			o.post.add(&a.p.raw.name, a.p.raw.len, a.p.oob[:a.p.oobn], a.resp)
		}
		var unsent int
		err := o.raw.Control(func(fd uintptr) { unsent = o.post.send(fd) })
		if err != nil { // the socket is closed
			unsent = o.post.discard()
		}
		for range unsent {
			s.dropped(name, Unsent)
		}
		for _, a := range rest[:n] {
			a.done(a.p)
		}
		rest = rest[n:]
	}
}
