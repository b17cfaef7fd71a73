package control

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// DemoDir returns the folder in which a running demo has its control sockets,
// one for each user of the machine.
func DemoDir() string {
	base := cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), os.TempDir())
	return filepath.Join(base, "starferry-demo-"+strconv.Itoa(os.Getuid()))
}

// DemoSocket returns the control socket of a part of the running demo:
// gateway, egress, connector, or demo for the demo itself.
func DemoSocket(part string) string { return filepath.Join(DemoDir(), part+".sock") }

// MakePrivate makes a folder that only this user can enter, or checks that it
// is one. In a shared folder such as /tmp another user could have made it
// first, to listen there.
func MakePrivate(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return CheckPrivate(dir)
}

// CheckPrivate reports whether dir is a folder of this user that nobody else
// can enter.
func CheckPrivate(dir string) error {
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !st.IsDir():
		return fmt.Errorf("%s is no folder", dir)
	case !ok || int(sys.Uid) != os.Getuid():
		return fmt.Errorf("%s belongs to another user", dir)
	case st.Mode().Perm() != 0o700:
		return fmt.Errorf("%s can be entered by others (mode %04o): chmod 700 it", dir, st.Mode().Perm())
	}
	return nil
}
