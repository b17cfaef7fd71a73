// Package netns gives tests hosts of their own: network namespaces of Linux,
// which vanish with the test's thread.
package netns

import (
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/starferry/starferry/internal/needs"
)

// A Host is a network namespace.
type Host int

// New makes a host and puts the test into it, on a thread that is never given
// back. Without root the test is skipped.
func New(t testing.TB) Host {
	t.Helper()
	needs.Root(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("making a network namespace: %v", err)
	}
	return Here(t)
}

// Here returns the host that the test is in.
func Here(t testing.TB) Host {
	t.Helper()
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return Host(fd)
}

// Enter moves the test's thread to the host.
func (h Host) Enter(t testing.TB) {
	t.Helper()
	if err := unix.Setns(int(h), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

// Run runs a command of the shell in the host that the test is in, and returns
// what it prints.
func Run(t testing.TB, line string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}
