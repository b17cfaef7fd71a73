package querylog

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// asideLayout is the time in the names of files that were put aside. It sorts
// as text and has nothing that a file system could mind.
const asideLayout = "20060102T150405.000Z"

const gz = ".gz"

// asideName returns the name under which a file is put aside at a time:
// queries.jsonl becomes queries-20261104T183000.000Z.jsonl.
func asideName(file string, at time.Time) string {
	ext := filepath.Ext(file)
	return strings.TrimSuffix(file, ext) + "-" + at.UTC().Format(asideLayout) + ext
}

// asideTime reads the time of a name that asideName made, perhaps with .gz.
func asideTime(file, name string) (time.Time, bool) {
	ext := filepath.Ext(file)
	rest, ok := strings.CutPrefix(name, strings.TrimSuffix(file, ext)+"-")
	if !ok {
		return time.Time{}, false
	}
	rest, ok = strings.CutSuffix(strings.TrimSuffix(rest, gz), ext)
	if !ok {
		return time.Time{}, false
	}
	t, err := time.Parse(asideLayout, rest)
	return t, err == nil
}

// putAside renames a file, never over another one.
func putAside(file string, at time.Time) error {
	for {
		name := asideName(file, at)
		if !exists(name) && !exists(name+gz) {
			return os.Rename(file, name)
		}
		at = at.Add(time.Millisecond)
	}
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// aside lists the files that were put aside, oldest first.
func aside(file string) ([]string, error) {
	names, err := beside(file, func(name string) bool { _, ok := asideTime(file, name); return ok })
	slices.SortFunc(names, func(a, b string) int {
		return strings.Compare(strings.TrimSuffix(a, gz), strings.TrimSuffix(b, gz))
	})
	return names, err
}

// beside lists the regular files of the same folder that are wanted.
func beside(file string, wanted func(name string) bool) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(file))
	var names []string
	for _, e := range entries {
		name := filepath.Join(filepath.Dir(file), e.Name())
		if e.Type().IsRegular() && wanted(name) {
			names = append(names, name)
		}
	}
	return names, err
}

// Files returns the files of a log that are there, oldest first: those that
// were put aside here or by logrotate, and the file itself at the end, also if
// it is not there.
func Files(file string) ([]string, error) {
	file = filepath.Clean(file)
	older, err := aside(file)
	if err != nil {
		return nil, err
	}
	numbered, err := beside(file, func(name string) bool { return number(file, name) >= 0 })
	if err != nil {
		return nil, err
	}
	slices.SortFunc(numbered, func(a, b string) int { return cmp.Compare(number(file, b), number(file, a)) })
	return append(append(older, numbered...), file), nil
}

// number reads the number that logrotate gives to a file, 1 to the latest; -1 if
// there is none.
func number(file, name string) int {
	rest, ok := strings.CutPrefix(name, file+".")
	n, err := strconv.ParseUint(strings.TrimSuffix(rest, gz), 10, 31)
	if !ok || err != nil {
		return -1
	}
	return int(n)
}

// A shelf looks after the files that were put aside.
type shelf struct {
	file     string
	keep     int
	compress bool
	more     chan struct{}
}

func newShelf(file string, c *Config) *shelf {
	return &shelf{file: filepath.Clean(file), keep: c.Keep, compress: c.Compress, more: make(chan struct{}, 1)}
}

func (s *shelf) due() <-chan struct{} { return s.more }

// holds reports whether an open file is still the one of the log's name, and how
// long it is now. One that others have renamed or removed would take records that
// nobody finds. What cannot be looked at is taken to be as it was.
func (s *shelf) holds(f *os.File, size int64) (now int64, is bool) {
	at, err := os.Stat(s.file)
	if err != nil {
		return size, !errors.Is(err, fs.ErrNotExist)
	}
	own, err := f.Stat()
	if err != nil {
		return size, true
	}
	return at.Size(), os.SameFile(at, own)
}

// putAside puts the file aside, and has the shelf looked after.
func (s *shelf) putAside() error {
	if err := putAside(s.file, time.Now()); err != nil {
		return err
	}
	select {
	case s.more <- struct{}{}:
	default:
	}
	return nil
}

// tidy removes the files beyond those that are kept, and compresses the others.
func (s *shelf) tidy(ctx context.Context) error {
	names, err := aside(s.file)
	if err != nil {
		return err
	}
	extra := max(0, len(names)-s.keep)
	var failed []error
	for _, name := range names[:extra] {
		failed = append(failed, os.Remove(name))
	}
	for _, name := range names[extra:] {
		if s.compress && !strings.HasSuffix(name, gz) {
			failed = append(failed, compress(ctx, name))
		}
	}
	return errors.Join(failed...)
}

// compress replaces a file by its compressed form. What it does is seen at once
// or not at all: it works under a name that nobody looks for.
func compress(ctx context.Context, name string) (err error) {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(name+gz+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fileMode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(out.Name())
		}
	}()
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, &until{ctx.Err, in})
	if err = errors.Join(err, z.Close(), out.Close()); err != nil {
		return fmt.Errorf("compressing %s: %w", name, err)
	}
	if err := os.Rename(out.Name(), name+gz); err != nil {
		return err
	}
	return os.Remove(name)
}

// An until reads until there is a reason to stop.
type until struct {
	stop func() error
	r    io.Reader
}

func (u *until) Read(b []byte) (int, error) {
	if err := u.stop(); err != nil {
		return 0, err
	}
	return u.r.Read(b)
}
