package querylog

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// running runs a log in the test's bubble until the function that it returns.
func running(t *testing.T, c Config) (l *Log, end func()) {
	t.Helper()
	l, err := New(c, quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	return l, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// waiting is running in a bubble, of a log that has looked for records and found
// none: all that is offered before time passes is written together.
func waiting(t *testing.T, c Config) (l *Log, end func()) {
	t.Helper()
	l, end = running(t, c)
	synctest.Wait()
	return l, end
}

// named returns a record of a name, so that an order can be seen.
func named(name string) *Record {
	r := full()
	r.Name, r.Time = name, time.Now()
	return r
}

func names(records []Record) string {
	var all []string
	for _, r := range records {
		all = append(all, r.Name)
	}
	return strings.Join(all, " ")
}

func TestFlushedWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "q.jsonl")
		l, end := waiting(t, Config{File: file})
		time.Sleep(10 * time.Minute)
		l.Offer(named("a"))
		time.Sleep(time.Second)
		if got := names(readAll(t, file)); got != "a" {
			t.Errorf("after a second: %q", got)
		}
		l.Offer(named("b"))
		end()
		if got := names(readAll(t, file)); got != "a b" {
			t.Errorf("at the end: %q", got)
		}
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o640 {
			t.Errorf("%v, %v", st.Mode(), err)
		}
	})
}

// Files are put aside by size; so many are kept, compressed, and in order.
func TestRotationBySize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, "q.jsonl")
		l, end := waiting(t, Config{File: file, MaxSize: int64(len(fullLine)) * 5 / 2, Keep: 3, Compress: true})
		for _, n := range strings.Fields("a b c d e f g h i j k") {
			l.Offer(named(n))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		end()
		if got := names(readAll(t, file)); got != "e f g h i j k" {
			t.Errorf("%q", got)
		}
		got, err := Files(file)
		if err != nil || len(got) != 4 {
			t.Fatal(got, err)
		}
		for _, name := range got[:3] {
			if !strings.HasSuffix(name, ".jsonl.gz") {
				t.Errorf("%s", name)
			}
		}
		all, _ := os.ReadDir(dir)
		if len(all) != 4 {
			t.Errorf("left behind: %v", all)
		}
	})
}

// Age counts from the first record, also over a restart.
func TestRotationByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "q")
		c := Config{File: file, MaxAge: time.Hour}
		l, end := waiting(t, c)
		l.Offer(named("a"))
		time.Sleep(40 * time.Minute)
		end()
		l, end = waiting(t, c)
		l.Offer(named("b"))
		time.Sleep(19 * time.Minute)
		if got, _ := Files(file); len(got) != 1 {
			t.Errorf("too early: %q", got)
		}
		time.Sleep(2 * time.Minute)
		l.Offer(named("c"))
		end()
		if got, _ := Files(file); len(got) != 2 {
			t.Errorf("%q", got)
		}
		if got := names(readAll(t, file)); got != "a b c" {
			t.Errorf("%q", got)
		}
	})
}

func TestReopen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "q.jsonl")
		l, end := waiting(t, Config{File: file})
		l.Offer(named("a"))
		time.Sleep(time.Second)
		if err := os.Rename(file, file+".1"); err != nil {
			t.Fatal(err)
		}
		l.Reopen()
		synctest.Wait()
		l.Offer(named("b"))
		end()
		if got, err := Files(file); err != nil || !slices.Equal(got, []string{file + ".1", file}) {
			t.Errorf("%q, %v", got, err)
		}
		if got := names(readAll(t, file)); got != "a b" {
			t.Errorf("%q", got)
		}
	})
}

// Nobody has to say that a file was removed or renamed. One that others cut has
// room again.
func TestFileIsTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "q.jsonl")
		l, end := waiting(t, Config{File: file, MaxSize: int64(3 * len(fullLine))})
		write := func(name string) {
			l.Offer(named(name))
			time.Sleep(time.Second)
			synctest.Wait() // it may look for the file at this very moment
		}
		write("a")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		write("b")
		if err := os.Rename(file, file+".1"); err != nil {
			t.Fatal(err)
		}
		write("c")
		write("d")
		if err := os.Truncate(file, 0); err != nil {
			t.Fatal(err)
		}
		write("e")
		write("f")
		end()
		if got, err := Files(file); err != nil || !slices.Equal(got, []string{file + ".1", file}) {
			t.Errorf("%q, %v", got, err)
		}
		if got := names(readAll(t, file)); got != "b e f" {
			t.Errorf("%q", got)
		}
		if s := l.Stats()[0]; s.Written != 6 {
			t.Errorf("%+v", s)
		}
	})
}

// What a crash has cut ends with its line, and so do those who read.
func TestCutLineIsMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "q.jsonl")
		if err := os.WriteFile(file, []byte(fullLine+fullLine[:50]), 0o600); err != nil {
			t.Fatal(err)
		}
		l, end := waiting(t, Config{File: file})
		l.Offer(named("b"))
		end()
		got, _ := os.ReadFile(file)
		lines := strings.Split(string(got), "\n")
		if len(lines) != 4 || lines[1] != fullLine[:50] || !strings.Contains(lines[2], `"name":"b"`) {
			t.Errorf("%q", lines)
		}
	})
}

func TestFullDevice(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip(err)
	}
	synctest.Test(t, func(t *testing.T) {
		l, end := waiting(t, Config{File: "/dev/full"})
		for range 3 {
			l.Offer(full())
		}
		time.Sleep(time.Second)
		if s := l.Stats()[0]; s.Waiting != 3 || !strings.Contains(s.Err, "no space left") {
			t.Errorf("%+v", s)
		}
		end()
		if s := l.Stats()[0]; s.Waiting != 0 || s.Lost != 3 {
			t.Errorf("at the end: %+v", s)
		}
	})
}

// On a disk that is full the file ends in a whole line; when there is room
// again it goes on where it stopped.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("mounting a small file system: ", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	synctest.Test(t, func(t *testing.T) {
		file, ballast := filepath.Join(dir, "q.jsonl"), filepath.Join(dir, "ballast")
		if err := os.WriteFile(ballast, make([]byte, 44<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		l, end := waiting(t, Config{File: file})
		var offered []string
		offer := func() {
			offered = append(offered, fmt.Sprint(len(offered)))
			l.Offer(named(offered[len(offered)-1]))
		}
		for range 50 {
			offer()
		}
		time.Sleep(time.Second)
		s := l.Stats()[0]
		if s.Written == 0 || s.Waiting == 0 || s.Written+uint64(s.Waiting) != 50 || s.Err == "" {
			t.Errorf("when it was full: %+v", s)
		}
		if n := len(readAll(t, file)); n != int(s.Written) {
			t.Errorf("%d whole lines, want %d", n, s.Written)
		}
		offer()
		time.Sleep(lastRetry)
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		offer()
		time.Sleep(lastRetry)
		if s := l.Stats()[0]; s != (Stats{Sink: "file", Written: 52}) {
			t.Errorf("when there was room again: %+v", s)
		}
		end()
		if got := names(readAll(t, file)); got != strings.Join(offered, " ") {
			t.Errorf("%q", got)
		}
	})
}

// Records wait for a folder that comes later.
func TestNoFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "log")
		file := filepath.Join(dir, "q.jsonl")
		l, end := waiting(t, Config{File: file})
		l.Offer(named("a"))
		time.Sleep(3 * time.Second)
		if s := l.Stats()[0]; s.Waiting != 1 || !strings.Contains(s.Err, "no such file") {
			t.Errorf("%+v", s)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lastRetry)
		if s := l.Stats()[0]; s.Written != 1 || s.Err != "" {
			t.Errorf("%+v", s)
		}
		end()
	})
}

// Compressing is given up when the log ends, and what was begun is no file of
// the log.
func TestCompressIsGivenUp(t *testing.T) {
	file := filepath.Join(t.TempDir(), "q.jsonl")
	old := asideName(file, time.Now())
	if err := os.WriteFile(old, []byte(fullLine), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newShelf(file, &Config{Keep: 1, Compress: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.tidy(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got, _ := aside(file); !slices.Equal(got, []string{old}) || exists(old+gz+".part") {
		t.Errorf("%q", got)
	}
	if err := s.tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := names(readAll(t, file)); got != "www.example.com" || exists(old) {
		t.Errorf("%q", got)
	}
}

func TestNames(t *testing.T) {
	at := time.Date(2026, 11, 4, 18, 30, 0, 5e6, time.UTC)
	for file, want := range map[string]string{
		"/var/log/queries.jsonl": "/var/log/queries-20261104T183000.005Z.jsonl",
		"log":                    "log-20261104T183000.005Z",
	} {
		if got := asideName(file, at); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		for _, suffix := range []string{"", gz} {
			if back, ok := asideTime(file, want+suffix); !ok || !back.Equal(at) {
				t.Errorf("%s: %v, %v", want+suffix, back, ok)
			}
		}
	}
	if _, ok := asideTime("/a/q.jsonl", "/a/q-other.jsonl"); ok {
		t.Error("another log's file is taken for one of this")
	}
	file := filepath.Join(t.TempDir(), "q")
	for range 3 { // in the same moment
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := putAside(file, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, other := range []string{"q.2.gz", "q.10", "q.1", "q.x"} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(file), other), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Files(file)
	for i := range got {
		got[i] = filepath.Base(got[i])
	}
	if want := "q-20261104T183000.005Z q-20261104T183000.006Z q-20261104T183000.007Z q.10 q.2.gz q.1 q"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("%q, %v", got, err)
	}
}

func TestCompressed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "q.gz")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	if _, err := z.Write([]byte(fullLine)); err != nil {
		t.Fatal(err)
	}
	z.Close()
	f.Close()
	r, c, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if rec, _, err := r.Next(); err != nil || rec.Name != "www.example.com" {
		t.Error(rec, err)
	}
	if _, _, err := Open(file + "s"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// The standard output is written to, and never put aside, closed or made a file
// of that name. A reader that is gone is a sink that fails.
func TestStandardOutput(t *testing.T) {
	t.Chdir(t.TempDir())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	was := os.Stdout
	os.Stdout = w
	defer func() { os.Stdout = was }()
	l, end := running(t, Config{File: Stdout, MaxSize: 1, MaxAge: time.Nanosecond})
	l.Offer(named("first"))
	in := NewReader(r)
	for _, name := range []string{"first", "second", "third"} {
		if name != "first" {
			l.Offer(named(name))
		}
		l.Reopen()
		if got, _, err := in.Next(); err != nil || got.Name != name {
			t.Errorf("%q, %v, want %s", got.Name, err, name)
		}
	}
	r.Close()
	for l.Stats()[0].Err == "" {
		l.Offer(named("d"))
	}
	if s := l.Stats()[0]; !strings.Contains(s.Err, "broken pipe") || s.Written != 3 {
		t.Errorf("%+v", s)
	}
	end()
	if _, err := w.Stat(); err != nil {
		t.Errorf("the standard output is closed: %v", err)
	}
	if left, err := os.ReadDir("."); len(left) > 0 || err != nil {
		t.Errorf("files are left: %v, %v", left, err)
	}
}
