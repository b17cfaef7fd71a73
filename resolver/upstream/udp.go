package upstream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// forgeries is how many answers to other questions than ours are read before
// the question goes over TCP, where guessing is of no use.
const forgeries = 16

var errForged = errors.New("answers to other questions than the one asked")

const (
	// remembered is how long a server is known not to do a thing.
	remembered = 15 * time.Minute
	// caseLosses is how many answers in a row do not keep the case of letters
	// until the server is known not to. One alone may be forged.
	caseLosses = 3
)

// habits are what a server is known not to do.
type habits struct {
	noEDNS   atomic.Int64 // until then, in ns since 1970
	noCase   atomic.Int64
	caseLost atomic.Int32 // in a row
}

func avoids(until *atomic.Int64, now time.Time) bool {
	t := until.Load()
	return t != 0 && now.UnixNano() < t
}

func remember(until *atomic.Int64, now time.Time) { until.Store(now.Add(remembered).UnixNano()) }

// loseCase notes an answer that does not keep the case of letters.
func (h *habits) loseCase(now time.Time) {
	if h.caseLost.Add(1) >= caseLosses {
		h.caseLost.Store(0)
		remember(&h.noCase, now)
	}
}

// A try is one question on its way over UDP.
type try struct {
	server *server
	sock   *socket
	q      Question
	how    manner
	begun  time.Time
	wrong  int    // answers to other questions
	sent   []byte // the query, in out
	spent  bool   // the socket has more to say, or nothing ever again
	out    [maxQuery]byte
	in     [4096]byte
}

var tries = sync.Pool{New: func() any { return new(try) }}

// try asks over UDP: it sends the question.
func (s *server) try(q *Question, how manner, now time.Time) *try {
	t := tries.Get().(*try)
	t.server, t.q, t.how, t.begun, t.wrong, t.spent = s, *q, how, now, 0, false
	t.sent = appendQuery(t.out[:0], q, uint16(rand.Uint32()), how)
	return t
}

// listen returns the answer to the try, which lies in it, or the error that it
// is os.ErrDeadlineExceeded if it did not come until then. The first call sends
// the question; one that was not answered in time may be followed by another.
func (t *try) listen(ctx context.Context, until time.Time) ([]byte, error) {
	n, err := 0, error(nil)
	if t.sock == nil {
		n, err = t.send(ctx, until)
	} else {
		n, err = t.sock.exchange(nil, t.in[:], until)
	}
	for err == nil {
		reply, err := check(t.in[:n], t.sent, &t.q, t.how.mixed)
		if n == len(t.in) {
			err = errTruncated // by ourselves
		}
		if err != errMismatch {
			return reply, err
		}
		t.server.counts.mismatched.Add(1)
		t.spent = true
		if t.wrong++; t.wrong == forgeries {
			return nil, errForged
		}
		if n, err = t.sock.exchange(nil, t.in[:], until); err != nil {
			return nil, t.broken(err)
		}
	}
	return nil, t.broken(err)
}

// broken notes that the socket is of no more use: not even late answers, or
// errors of the network, may reach the next question.
func (t *try) broken(err error) error {
	t.spent = true
	return err
}

// send sends the question and waits for the first message. A used socket may
// hold an error that came of an earlier question: then another is taken.
func (t *try) send(ctx context.Context, until time.Time) (int, error) {
	for {
		sock, reused, err := t.server.sockets.take(ctx, t.begun)
		if err != nil {
			return 0, err
		}
		t.sock = sock
		n, err := sock.exchange(t.sent, t.in[:], until)
		if !reused || !errors.Is(err, syscall.ECONNREFUSED) {
			return n, err
		}
		t.server.sockets.drop(sock)
		t.sock = nil
	}
}

// watch lets listen end when ctx does. It returns what ends the watching.
func (t *try) watch(ctx context.Context) (unwatch func()) {
	sock := t.sock
	if sock == nil || ctx.Done() == nil {
		return func() {}
	}
	stop := context.AfterFunc(ctx, sock.callOff)
	return func() {
		if !stop() {
			t.spent = true // else its deadline may fall upon the next question
		}
	}
}

// free ends the try. What listen returned is gone then.
func (t *try) free(now time.Time) {
	if t.sock != nil && t.spent {
		t.server.sockets.drop(t.sock)
	} else if t.sock != nil {
		t.server.sockets.put(t.sock, now)
	}
	t.server, t.sock, t.q = nil, nil, Question{}
	tries.Put(t)
}

// datagram asks over UDP, or goes on with a try that was begun, until ctx ends,
// and over TCP what has to be.
func (s *server) datagram(ctx context.Context, q *Question, how manner, t *try) ([]byte, error) {
	if t == nil {
		t = s.try(q, how, time.Now())
	}
	reply, err := t.await(ctx)
	reply = bytes.Clone(reply)
	t.free(time.Now())
	if timedOut(err) {
		err = errSilent
	}
	return s.settle(ctx, q, how, reply, err)
}

// await listens until ctx ends.
func (t *try) await(ctx context.Context) ([]byte, error) {
	until, ok := ctx.Deadline()
	if !ok {
		until = time.Now().Add(maxPenalty) // never: all have a deadline
	}
	if t.sock == nil { // so that there is one to be watched
		if reply, err := t.listen(ctx, soon(until)); !timedOut(err) {
			return reply, err
		}
	}
	defer t.watch(ctx)()
	return t.listen(ctx, until)
}

// deaf is how long a question over UDP may not notice that nobody waits for it
// any more: watching costs more than asking.
const deaf = 50 * time.Millisecond

func soon(until time.Time) time.Time {
	if d := time.Now().Add(deaf); d.Before(until) {
		return d
	}
	return until
}

// settle does what an answer over UDP asks for: what was cut, and what may be
// forged, is asked for over TCP.
func (s *server) settle(ctx context.Context, q *Question, how manner, reply []byte, err error) ([]byte, error) {
	switch {
	case err == nil && how.mixed && s.habits.caseLost.Load() > 0:
		s.habits.caseLost.Store(0)
		return reply, nil
	case errors.Is(err, errTruncated):
		s.counts.truncated.Add(1)
	case errors.Is(err, errCase):
		s.counts.caseLost.Add(1)
		s.habits.loseCase(time.Now())
	case !errors.Is(err, errForged):
		return reply, err
	}
	reply, tcp := s.streams.ask(ctx, q, manner{edns: how.edns, ad: how.ad})
	if tcp != nil && errors.Is(err, errCase) && ctx.Err() == nil { // one that has no TCP either
		return s.datagram(ctx, q, manner{edns: how.edns, ad: how.ad}, nil)
	}
	if tcp != nil {
		tcp = &overTCPError{err, tcp}
	}
	return reply, tcp
}

// overTCPError says why TCP was used, and what came of it.
type overTCPError struct{ why, err error }

func (e *overTCPError) Error() string   { return e.why.Error() + ", and over TCP: " + e.err.Error() }
func (e *overTCPError) Unwrap() []error { return []error{e.why, e.err} }

// id returns the id of a message.
func id(msg []byte) uint16 { return binary.BigEndian.Uint16(msg) }
