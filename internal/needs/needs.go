// Package needs says what a test needs of the machine: root, a tool, a folder
// of real data. Where it is missing the test is skipped with the way to get
// it; in CI (the environment variable CI is set), where nothing may be skipped,
// the test fails instead.
package needs

import (
	"os"
	"os/exec"
	"testing"
)

// Root skips the test unless it runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		missing(t, "needs root: it makes network namespaces or devices of its own")
	}
}

// Tools skips the test unless these programs are installed.
func Tools(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing(t, "needs the program %s: CONTRIBUTING.md names the package", name)
		}
	}
}

// Folder returns the folder that an environment variable names, and skips the
// test if it names none: real lists and cases are not shipped.
func Folder(t testing.TB, env string) string {
	t.Helper()
	dir := os.Getenv(env)
	if dir == "" {
		missing(t, "needs the folder of real data that %s names: CONTRIBUTING.md says what it holds", env)
	}
	return dir
}

func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
