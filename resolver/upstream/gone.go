package upstream

import (
	"errors"
	"syscall"
	"time"
)

// A gone is the error of a question at a time when none of the servers was there
// at all: their machines, or ways to them, refused what was sent.
type gone struct {
	until time.Time
	err   error
}

// goneFor is how long nobody is asked then, for any name. It is the same for all
// of them, and to try costs more than an answer: sockets that were refused are of
// no more use.
const goneFor = 100 * time.Millisecond

// nobody is the error of who asks while nobody is there.
func (g *Group) nobody(now time.Time) error {
	if was := g.gone.Load(); was != nil && now.Before(was.until) {
		return was.err
	}
	return nil
}

// fail makes the error of a question that no server answered, and remembers it
// if all have refused. Silence is not remembered: it may be about the name.
func (g *Group) fail(errs []error) error {
	err := noAnswer(errs)
	for _, e := range errs {
		if !refused(e) {
			return err
		}
	}
	g.gone.Store(&gone{time.Now().Add(goneFor), err})
	return err
}

func refused(err error) bool {
	if errors.Is(err, errUnheard) { // over TCP, which says nothing of UDP
		return false
	}
	for _, no := range []error{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}
