//go:build unix

package upstream

import (
	"net"
	"os"
	"syscall"
	"time"
)

// useKernel lets the socket be used by system calls of our own: net.Conn would
// try to read before anything can have come, and lock twice.
func (s *socket) useKernel(conn *net.UDPConn) {
	if raw, err := conn.SyscallConn(); err == nil {
		s.raw, s.step = raw, s.next
	}
}

// exchangeRaw is exchange. To tell the poller when to end the waiting is a good
// part of its work, so what an earlier question has told it stays: if that ends
// the waiting before its time, as it seldom does, there is more of it.
func (s *socket) exchangeRaw(out, in []byte, until time.Time) (int, error) {
	s.out, s.in, s.n, s.err = out, in, 0, nil
	var err error
	if s.wake.IsZero() || until.Before(s.wake) {
		err = s.wakeAt(until)
	}
	for err == nil {
		err = s.raw.Read(s.step)
		if !timedOut(err) || !s.wake.Before(until) {
			break
		}
		err = s.wakeAt(until)
	}
	if err == nil {
		err = s.err
	}
	s.out, s.in = nil, nil
	return s.n, err
}

// wakeAt has the waiting end at that time, or at once if nobody waits any more.
func (s *socket) wakeAt(t time.Time) error {
	s.wake = t
	if err := s.conn.SetReadDeadline(t); err != nil {
		return err
	}
	if s.rung.Load() {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// next does what is next; false: it is to be called again when there is
// something to read. What comes between the sending here and the waiting after
// it is not missed: the poller was armed before.
func (s *socket) next(fd uintptr) bool {
	if s.out != nil {
		out := s.out
		s.out = nil
		s.err = send(fd, out)
		return s.err != nil
	}
	for {
		s.n, s.err = receive(fd, s.in)
		switch s.err {
		case syscall.EAGAIN:
			return false
		case syscall.EINTR:
			continue
		}
		return true
	}
}
