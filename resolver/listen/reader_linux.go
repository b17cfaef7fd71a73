package listen

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/starferry/starferry/internal/priority"
)

// Sockets of the kernel are read by who waits for them in the kernel, rather than
// by Go's poller. With a poller one thread learns of all that comes: while the
// machine has that thread stand still all sockets are silent, and at loads at
// which it sleeps in between, waking up by way of Go's scheduler costs as much
// as all the rest. A reader has a thread, then, and a processor in Go's sense, which
// it keeps while it waits: nobody else is kept from work, as it is one more.

// patience is how long a reader keeps its processor without a question.
const patience = 5 * time.Millisecond

// apart takes a socket of the kernel away from Go's poller, which would be woken
// up by all that comes. From here on it is closed by close.
func (s socket) apart() (socket, error) {
	if s.kernel == nil {
		return s, nil
	}
	defer s.kernel.Close()
	raw, err := s.kernel.SyscallConn()
	if err != nil {
		return s, err
	}
	fd := -1
	if failed := raw.Control(func(of uintptr) { fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) }); failed != nil || err != nil {
		return s, errors.Join(failed, err)
	}
	// What is blocking is not given to the poller. No call here blocks: each says so itself.
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return s, err
	}
	s.file = os.NewFile(uintptr(fd), "udp")
	s.raw, err = s.file.SyscallConn()
	return s, err
}

// mates are the sockets of one address. The kernel deals what comes to them out by
// who asks; a reader who is awake looks after all of them, so that nobody waits
// for one whose thread stands still.
type mates struct {
	mu  sync.Mutex // held by those who join and leave
	all atomic.Pointer[[]syscall.RawConn]
}

// matesOf returns those of the socket's address.
func (s *Server) matesOf(sock socket) *mates {
	m, _ := s.mates.LoadOrStore(sock.conn.LocalAddr().String(), &mates{})
	return m.(*mates)
}

func (m *mates) join(raw syscall.RawConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := append(slices.Clone(m.list()), raw)
	m.all.Store(&all)
}

func (m *mates) leave(raw syscall.RawConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(m.list()), func(r syscall.RawConn) bool { return r == raw })
	m.all.Store(&all)
}

func (m *mates) list() []syscall.RawConn {
	if all := m.all.Load(); all != nil {
		return *all
	}
	return nil
}

// A waiter waits for questions until it is told to stop.
type waiter struct {
	fds  [2]unix.PollFd // the socket, and what tells to stop
	keep bool           // a processor, while it waits
}

func (w *waiter) wait() {
	if w.keep = w.keep || priority.Take(); w.keep {
		quiet := unix.NsecToTimespec(int64(patience))
		n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&w.fds)), 2, uintptr(unsafe.Pointer(&quiet)), 0, 0, 0)
		if n > 0 || errno != 0 { // also where the scheduler wants something, by a signal
			return
		}
		w.release()
	}
	_, _, _ = unix.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&w.fds)), 2, 0, 0, 0, 0)
}

func (w *waiter) release() {
	if w.keep {
		priority.Release()
	}
	w.keep = false
}

// stopBy returns a descriptor that can be read when ctx is done, and what closes it.
func stopBy(ctx context.Context) (fd int, done func(), err error) {
	if fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return -1, nil, err
	}
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(told)
		_, _ = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // cannot fail: it counts to 1
	})
	return fd, func() {
		if !stop() {
			<-told
		}
		unix.Close(fd)
	}, nil
}

// serve answers what comes to the socket until ctx is done; it returns when that
// fails. What is not answered at once is passed on, by later.
func (b *batch) serve(ctx context.Context, later func(p *packet)) error {
	stop, done, err := stopBy(ctx)
	if err != nil {
		return err
	}
	defer done()
	m := b.s.matesOf(b.sock)
	m.join(b.sock.raw)
	defer m.leave(b.sock.raw)
	defer priority.Lend()()
	passed := false
	pass := func(p *packet) { passed = true; later(p) }
	var failed error
	err = b.sock.raw.Control(func(fd uintptr) {
		w := &waiter{}
		defer w.release()
		w.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
		w.fds[1] = unix.PollFd{Fd: int32(stop), Events: unix.POLLIN}
		for ctx.Err() == nil && failed == nil {
			w.wait()
			passed = false
			failed = b.sweep(ctx, fd, m.list(), pass)
			if passed {
				runtime.Gosched() // who answers them is ready on this processor
			}
		}
	})
	return errors.Join(failed, err, ctx.Err())
}

// sweep answers what there is on the own socket, and on those of its mates.
func (b *batch) sweep(ctx context.Context, own uintptr, all []syscall.RawConn, later func(p *packet)) error {
	for n := lotLen; n == lotLen && ctx.Err() == nil; {
		var errno syscall.Errno
		n, errno = b.read(own)
		switch errno {
		case 0:
			b.answer(own, n, later)
		case unix.EINTR, unix.EAGAIN:
		default:
			return errno
		}
	}
	for _, raw := range all {
		if raw == b.sock.raw {
			continue
		}
		// That one fails is for its own reader to find.
		_ = raw.Control(func(fd uintptr) {
			if n, errno := b.read(fd); errno == 0 {
				b.answer(own, n, later)
			}
		})
	}
	return nil
}

// writeRaw sends one answer on a socket that is apart.
func (s socket) writeRaw(p *packet, b []byte) (err error) {
	turn(p.oob[:p.oobn])
	iov := unix.Iovec{Base: unsafe.SliceData(b)}
	iov.SetLen(len(b))
	h := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&p.raw.name)), Namelen: p.raw.len, Iov: &iov}
	h.SetIovlen(1)
	if p.oobn > 0 {
		h.Control = &p.oob[0]
		h.SetControllen(p.oobn)
	}
	failed := s.raw.Control(func(fd uintptr) {
		if _, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT); errno != 0 {
			err = errno
		}
	})
	return errors.Join(failed, err)
}
