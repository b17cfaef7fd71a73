package main

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unanswered is how long the last answers are waited for, and what a question
// without one counts as.
const unanswered = time.Second

// A lane is one socket. Question k of lane l is number k*sockets+l of all, and
// has the low 16 bits of k for its id: what is due when follows from a number
// alone, and an id comes again only long after its answer does not count.
type lane struct {
	conn  *net.UDPConn
	first int // l
	step  int // how many sockets there are
	sent  atomic.Int64
	start time.Time
	left  []time.Duration // by number, shared: when each question left, from the start
	times []time.Duration // by number, shared; zero is not answered yet
}

// ask asks, and returns each question's time, and how late it left.
func (l load) ask() (times, late []time.Duration, err error) {
	every := time.Second / time.Duration(l.rate)
	times, left := make([]time.Duration, l.span/every), make([]time.Duration, l.span/every)
	lanes, err := l.open(times, left)
	if err != nil {
		return nil, nil, err
	}
	var wg sync.WaitGroup
	start := time.Now().Add(10 * time.Millisecond)
	for _, ln := range lanes {
		ln.start = start
		wg.Go(ln.receive)
	}
	err = l.send(lanes, start, every)
	deadline := time.Now().Add(unanswered)
	for _, ln := range lanes {
		err = errors.Join(err, ln.conn.SetReadDeadline(deadline))
	}
	wg.Wait()
	for _, ln := range lanes {
		err = errors.Join(err, ln.conn.Close())
	}
	for i, t := range times {
		if t <= 0 || t > unanswered {
			times[i] = unanswered
		}
		left[i] -= time.Duration(i) * every
	}
	return times, left, err
}

func (l load) open(times, left []time.Duration) ([]*lane, error) {
	lanes := make([]*lane, l.sockets)
	for i := range lanes {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(l.to))
		if err != nil {
			return nil, err
		}
		if err := stamp(c); err != nil {
			return nil, err
		}
		lanes[i] = &lane{conn: c, first: i, step: l.sockets, left: left, times: times}
	}
	return lanes, nil
}

// stamp has the kernel say of each datagram when it came.
func stamp(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	}), err)
}

// send asks everything when it is due. It sleeps by the kernel's clock on a
// thread of its own: the runtime's timers are too coarse for 50 µs.
func (l load) send(lanes []*lane, start time.Time, every time.Duration) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // else a sleep may last 50 µs longer; it only costs precision
	var b [512]byte
	for i := range lanes[0].left {
		if wait := time.Until(start.Add(time.Duration(i) * every)); wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&ts, nil) // woken early, it is asked early: no harm
		}
		ln := lanes[i%len(lanes)]
		q := b[:copy(b[:], l.queries[i%len(l.queries)])]
		ln.left[i] = time.Since(start)
		binary.BigEndian.PutUint16(q, uint16(ln.sent.Add(1)-1))
		// A refusal (nobody listens) is told of at a later write; the question is one without an answer.
		if _, err := ln.conn.Write(q); err != nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
	}
	return nil
}

// receive notes when answers came, until the deadline.
func (ln *lane) receive() {
	var b [4096]byte
	var oob [128]byte
	for {
		n, m, _, _, err := ln.conn.ReadMsgUDPAddrPort(b[:], oob[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err == nil {
			ln.note(b[:n], arrival(oob[:m]))
		}
	}
}

// note takes an answer into account. A refusal or a failure is none.
func (ln *lane) note(b []byte, at time.Time) {
	if len(b) < 12 || b[2]&0x80 == 0 || (b[3]&0xf != 0 && b[3]&0xf != 3) {
		return
	}
	last := ln.sent.Load() - 1
	k := last - int64(uint16(last)-binary.BigEndian.Uint16(b)) // the latest with this id
	i := int(k)*ln.step + ln.first
	if k < 0 || i >= len(ln.times) || ln.times[i] != 0 {
		return
	}
	ln.times[i] = max(1, at.Sub(ln.start.Add(ln.left[i])))
}

// arrival reads the kernel's stamp, which is by the wall clock.
func arrival(oob []byte) time.Time {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Now()
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			sec, ns := (*unix.Timespec)(unsafe.Pointer(&m.Data[0])).Unix()
			return time.Unix(sec, ns)
		}
	}
	return time.Now()
}
