package priority

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func promptly() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("listing threads: %w", err)
	}
	var all error
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		err = change(id, func(a *unix.SchedAttr) { a.Runtime = uint64(slice) })
		if !errors.Is(err, unix.ESRCH) { // it has ended since
			all = errors.Join(all, err)
		}
	}
	return all
}

// beNice makes the calling thread nice. What is refused is done without.
func beNice() {
	change(0, func(a *unix.SchedAttr) { //nolint:errcheck // only the order of work is worse then
		a.Runtime = uint64(slice)
		a.Nice = min(a.Nice+nicer, 19)
	})
}

// change changes how a thread, 0 for the calling one, is scheduled, unless an
// administrator has chosen another policy than the usual ones.
func change(id int, to func(*unix.SchedAttr)) error {
	a, err := unix.SchedGetAttr(id, 0)
	if err != nil {
		return fmt.Errorf("asking how thread %d is scheduled: %w", id, err)
	}
	if a.Policy != unix.SCHED_NORMAL && a.Policy != unix.SCHED_BATCH {
		return nil
	}
	to(a)
	if err := unix.SchedSetAttr(id, a, 0); err != nil {
		return fmt.Errorf("changing how thread %d is scheduled: %w", id, err)
	}
	return nil
}
