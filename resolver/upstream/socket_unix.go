//go:build unix

package upstream

import (
	"net"
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

func (s *socket) exchangeRaw(out, in []byte, until time.Time) (int, error) {
	if err := s.conn.SetReadDeadline(until); err != nil {
		return 0, err
	}
	s.out, s.in, s.n, s.err = out, in, 0, nil
	err := s.raw.Read(s.step)
	if err == nil {
		err = s.err
	}
	s.out, s.in = nil, nil
	return s.n, err
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
