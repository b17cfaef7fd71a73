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

// Sockets of the kernel are read in one of two ways. Mostly by Go's poller, which is
// best where little comes, and where much of it has to be passed on: who answers that
// runs next on the same processor. But one thread learns by it of all that comes: while
// the machine has that one stand still all sockets are silent; and where many questions
// come, each of which finds the thread asleep, waking up by way of Go's scheduler costs
// as much as all the rest. So a reader who is busy, and has the answers, goes apart: it
// waits in the kernel, and has a thread, then, and a processor in Go's sense, which it
// keeps while it waits. Nobody else is kept from work by that, as it is one more.

// apart makes a descriptor of a kernel's socket of which Go's poller knows nothing,
// and would not be woken up for; it is what the socket is used by from here on, and
// closed by close.
func (s socket) apart() (socket, error) {
	if s.kernel == nil {
		return s, nil
	}
	defer s.kernel.Close()
	raw, err := s.kernel.SyscallConn()
	if err != nil {
		return s, err
	}
	fd, err := duplicate(raw)
	if err != nil {
		return s, err
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

// polled returns another descriptor of a socket that is apart, which the poller
// knows.
func (s socket) polled() (*os.File, error) {
	fd, err := duplicate(s.raw)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "udp"), nil
}

func duplicate(raw syscall.RawConn) (fd int, err error) {
	failed := raw.Control(func(of uintptr) { fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(failed, err)
}

// mates are the sockets of one address. The kernel deals what comes to them out by
// who asks; a reader who is apart and awake looks after all of them, so that nobody
// waits for one whose thread stands still.
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

// A reader answers what comes to a socket, and passes on what it cannot answer at once.
type reader struct {
	b     *batch
	m     *mates
	later func(p *packet)
	load  load
}

// serve answers what comes to the socket until ctx is done; it returns when that
// fails. What is not answered at once is passed on, by later.
func (b *batch) serve(ctx context.Context, later func(p *packet)) error {
	stop, done, err := stopBy(ctx)
	if err != nil {
		return err
	}
	defer done()
	r := &reader{b: b, m: b.s.matesOf(b.sock)}
	r.later = func(p *packet) { r.load.passed++; later(p) }
	r.m.join(b.sock.raw)
	defer r.m.leave(b.sock.raw)
	r.load.begin(time.Now())
	for err == nil && ctx.Err() == nil {
		if err = r.poll(ctx); err == nil && ctx.Err() == nil {
			err = r.apart(ctx, stop)
		}
	}
	return errors.Join(err, ctx.Err())
}

// poll reads by way of Go's poller until there is so much that it is better to be
// apart.
func (r *reader) poll(ctx context.Context) error {
	f, err := r.b.sock.polled()
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
	var failed error
	// The function is called again when there is more to read. That it returns
	// false without having seen an empty queue is what saves a system call: what
	// comes from here on is told of by the poller (epoll, edge-triggered).
	err = raw.Read(func(fd uintptr) bool {
		if failed = r.drain(ctx, fd); failed != nil || ctx.Err() != nil {
			return true
		}
		much, _ := r.load.look(r.b.at, span)
		return much
	})
	if ctx.Err() != nil { // which ends the reading by a deadline
		return nil
	}
	return errors.Join(failed, err)
}

// apart reads apart from Go's poller, while there is much to answer at once; stop is
// a descriptor that can be read when ctx is done.
func (r *reader) apart(ctx context.Context, stop int) error {
	giveBack, ok := priority.Lend()
	if !ok {
		r.load.begin(time.Now().Add(quiet)) // before it is asked for again
		return nil
	}
	defer giveBack()
	r.load.begin(time.Now())
	var failed error
	err := r.b.sock.raw.Control(func(fd uintptr) {
		fds := [...]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
		for ctx.Err() == nil && failed == nil {
			most := unix.NsecToTimespec(int64(quiet))
			n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), uintptr(len(fds)), uintptr(unsafe.Pointer(&most)), 0, 0, 0)
			if n == 0 && errno == 0 {
				return
			}
			before := r.load
			failed = r.sweep(ctx, fd)
			if r.load.passed != before.passed {
				runtime.Gosched() // who answers them is ready on this processor
			}
			now := r.b.at
			if r.load.read == before.read {
				now = time.Now() // it was the scheduler that wanted something, by a signal
			}
			if _, little := r.load.look(now, quiet); little {
				return
			}
		}
	})
	return errors.Join(failed, err)
}

// sweep answers what there is on the own socket, and on those of its mates.
func (r *reader) sweep(ctx context.Context, own uintptr) error {
	if err := r.drain(ctx, own); err != nil {
		return err
	}
	for _, raw := range r.m.list() {
		if raw == r.b.sock.raw {
			continue
		}
		// That one fails is for its own reader to find.
		_ = raw.Control(func(fd uintptr) {
			if n, errno := r.b.read(fd); errno == 0 {
				r.answer(own, n)
			}
		})
	}
	return nil
}

// drain answers all that there is on the own socket.
func (r *reader) drain(ctx context.Context, own uintptr) error {
	for n := lotLen; n == lotLen && ctx.Err() == nil; {
		var errno syscall.Errno
		n, errno = r.b.read(own)
		switch errno {
		case 0:
			r.answer(own, n)
		case unix.EINTR:
			n = lotLen // once more
		case unix.EAGAIN:
		default:
			return errno
		}
	}
	return nil
}

func (r *reader) answer(own uintptr, n int) {
	r.load.read += n
	r.b.answer(own, n, r.later)
}

// A load is what a reader has to do. By it the reader finds how to wait; it changes
// that seldom, as all stand still for a moment when it does.
type load struct {
	since        time.Time
	read, passed int // questions, and how many of them were passed on
}

// A reader goes apart when for a span there are more questions in a second than many,
// and most of them are answered at once. It comes back when for the time of quiet there
// are none, or fewer than few, or most are passed on.
const (
	span      = 100 * time.Millisecond
	many, few = 1000, 250
	quiet     = time.Second
)

func (l *load) begin(at time.Time) { *l = load{since: at} }

// look reports whether for some time there has been so much to do, or so little, that
// another way of waiting is better.
func (l *load) look(now time.Time, after time.Duration) (much, little bool) {
	took := now.Sub(l.since)
	if took < after {
		return false, false
	}
	rate := float64(l.read) / took.Seconds()
	much = rate >= many && l.passed*4 < l.read
	little = rate < few || l.passed*2 > l.read
	l.begin(now)
	return much, little
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
