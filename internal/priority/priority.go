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
// share, and those that somebody has for himself.
type spare struct {
	mu    sync.Mutex
	aside int // so many work aside
	owned int
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
func (s *spare) change(aside, owned int) {
	before := s.more()
	if before == 0 {
		s.procs = runtime.GOMAXPROCS(0)
	}
	s.aside, s.owned = s.aside+aside, s.owned+owned
	switch n := s.more(); {
	case n == before:
	case n > 0 || os.Getenv("GOMAXPROCS") != "":
		runtime.GOMAXPROCS(s.procs + n)
	default:
		runtime.SetDefaultGOMAXPROCS() // which follows changes of the machine
	}
}

func (s *spare) more() int { return s.owned + min(s.aside, 1) }

// Processors returns how many there are without those that are lent.
func Processors() int {
	extra.mu.Lock()
	defer extra.mu.Unlock()
	if extra.more() > 0 {
		return extra.procs
	}
	return runtime.GOMAXPROCS(0)
}

// Own lends a goroutine a processor, in Go's sense, beyond those that there are, so
// that it can wait in the kernel, in calls that the scheduler is not told of, without
// keeping others from work. Not more are lent than there are without: of all of
// them together Go's collector takes a quarter. Such a call has to end when a
// signal comes (as ppoll does), by which the scheduler asks for the processor.
func Own() (lent bool, giveBack func()) {
	extra.mu.Lock()
	defer extra.mu.Unlock()
	if extra.more() > 0 && extra.owned >= extra.procs {
		return false, func() {}
	}
	extra.change(0, 1)
	return true, sync.OnceFunc(func() {
		extra.mu.Lock()
		defer extra.mu.Unlock()
		extra.change(0, -1)
	})
}
