// Package priority tells what is waited for from what is not.
//
// Go's scheduler has no priorities: a goroutine that computes keeps its
// processor for up to ten milliseconds, and where all processors compute nobody
// looks whether there is something to read from the network. The kernel does
// better, if it is left to choose between threads and told what they are for: it
// has a thread that wakes up run before one that computes. So work that nobody
// waits for, such as reading long lists anew, goes [Aside], and a program that
// answers others says that it has to be [Prompt].
package priority

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// slice is how long a thread may go on while another one waits. The kernel's own
// choice is some milliseconds.
const slice = 100 * time.Microsecond

// nicer is how much nicer a thread is whose work nobody waits for: it gets a
// tenth of what others get that compute on the same processor.
const nicer = 10

// Prompt asks the kernel for short slices for all threads that there are, and so
// for those that they start. A thread that wakes up is then run at once before
// others that go on. Kernels before Linux 6.12, and other systems, have no such
// thing and are not asked. After an error all is as it was, or partly so, which
// does no harm.
func Prompt() error { return promptly() }

// Aside calls f where it keeps nobody from work, and returns what f returns: on a
// nice thread of its own, which has a processor, in Go's sense, beyond those that
// there are. A panic is an error.
func Aside(f func() error) error {
	extra.lend()
	defer extra.giveBack()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		beNice()
		err := errEnded
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			}
			done <- err
		}()
		err = f()
	}()
	return <-done
}

// errEnded is the error of work that ended its goroutine.
var errEnded = errors.New("the work ended by itself")

// A spare is processors beyond those that there are: one that all who work aside
// share, and those that are lent.
type spare struct {
	mu    sync.Mutex
	aside int // so many work aside
	lent  int
	procs int // without them
}

var extra spare

func (s *spare) lend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(1, 0)
}

func (s *spare) giveBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(-1, 0)
}

// change must be called with the lock held.
func (s *spare) change(aside, lent int) {
	before := s.more()
	if before == 0 {
		s.procs = runtime.GOMAXPROCS(0)
	}
	s.aside, s.lent = s.aside+aside, s.lent+lent
	switch n := s.more(); {
	case n == before:
	case n > 0 || os.Getenv("GOMAXPROCS") != "":
		runtime.GOMAXPROCS(s.procs + n)
	default:
		runtime.SetDefaultGOMAXPROCS() // which follows changes of the machine
	}
}

func (s *spare) more() int { return s.lent + min(s.aside, 1) }

// Processors returns how many there are without those that are lent.
func Processors() int {
	extra.mu.Lock()
	defer extra.mu.Unlock()
	if extra.more() > 0 {
		return extra.procs
	}
	return runtime.GOMAXPROCS(0)
}

// Lend makes a processor, in Go's sense, beyond those that there are, for somebody
// who waits in the kernel in calls that the scheduler is not told of, so as not to
// keep others from work meanwhile. Such a call has to end when a signal comes (as
// ppoll does), by which the scheduler asks for the processor. It is to be given back by
// who needs it no more: the scheduler has others work on it too, and on few cores that
// costs more than it brings. To lend and to give back stops all for a moment.
//
// Not more are made than there are without, and ok is false if all of these are lent:
// of all of them together Go's collector takes a quarter. As long as some are lent
// their number does not follow the machine's.
func Lend() (giveBack func(), ok bool) {
	extra.mu.Lock()
	defer extra.mu.Unlock()
	if extra.more() > 0 && extra.lent >= extra.procs {
		return nil, false
	}
	extra.change(0, 1)
	return sync.OnceFunc(func() {
		extra.mu.Lock()
		defer extra.mu.Unlock()
		extra.change(0, -1)
	}), true
}
