package priority

import (
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A thread aside is nicer than the others, and none of the others is nicer than
// before.
func TestNice(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	was, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var aside *unix.SchedAttr
	if err := Aside(func() (err error) {
		aside, err = unix.SchedGetAttr(0, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if want := min(was.Nice+nicer, 19); aside.Nice != want {
		t.Errorf("aside nice is %d, want %d", aside.Nice, want)
	}
	if is, err := unix.SchedGetAttr(0, 0); err != nil || is.Nice != was.Nice {
		t.Errorf("the others' nice is %+v, %v, want %d", is, err, was.Nice)
	}
}

// All threads have short slices, those included that come later, and stay as nice
// as they were.
func TestPrompt(t *testing.T) {
	was, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := Prompt(); err != nil {
		t.Fatal(err)
	}
	if a, err := unix.SchedGetAttr(0, 0); err != nil || a.Runtime == 0 {
		t.Logf("this kernel knows no slices (before Linux 6.12): %+v, %v", a, err)
		return
	}
	later := make(chan int)
	end := make(chan struct{})
	defer close(end)
	go func() {
		runtime.LockOSThread() // for good: a thread of its own
		later <- unix.Gettid()
		<-end
	}()
	<-later
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range threads {
		id, _ := strconv.Atoi(e.Name())
		a, err := unix.SchedGetAttr(id, 0)
		for until := time.Now().Add(10 * time.Second); err == nil && id != os.Getpid() && a.Nice == min(was.Nice+nicer, 19) && time.Now().Before(until); {
			runtime.Gosched() // it was aside in another test, and is about to end
			a, err = unix.SchedGetAttr(id, 0)
		}
		if err == unix.ESRCH || id == os.Getpid() && a.Nice > was.Nice { // the first thread never ends, also if it was aside
			continue
		}
		if err != nil || a.Runtime != uint64(slice) || a.Nice != was.Nice {
			t.Errorf("thread %d: %+v, %v", id, a, err)
		}
	}
}
