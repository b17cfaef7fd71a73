package querylog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// fileMode lets a group read the log, since others ship it.
const fileMode = 0o640

// chunk is how many bytes are written at once, and about how many a file can
// have beyond its size.
const chunk = 64 << 10

// lines is the sink of JSON lines. A file that it writes to ends in a whole
// line, even if the disk is full in between.
type lines struct {
	*shelf
	maxSize int64
	maxAge  time.Duration
	file    *os.File // nil: not open
	regular bool
	size    int64
	born    time.Time // when the file was begun
	buf     []byte
	ends    []int // where the lines in buf end
}

func newLines(c *Config) *lines {
	return &lines{shelf: newShelf(c.File, c), maxSize: c.MaxSize, maxAge: c.MaxAge}
}

func (*lines) wantsWire() bool { return false }

func (l *lines) stdout() bool { return l.shelf.file == Stdout }

func (l *lines) tidy(ctx context.Context) error {
	if l.stdout() {
		return nil
	}
	err := l.shelf.tidy(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the folder comes later, or ready says that it is not there
	}
	return err
}

// ready opens the file, lets go of one that has another name by now, and puts it
// aside if it is too old.
func (l *lines) ready(context.Context) error {
	if l.file == nil && l.stdout() {
		return l.standard()
	}
	if l.file != nil && l.regular {
		var is bool
		if l.size, is = l.holds(l.file, l.size); !is {
			if err := l.close(); err != nil {
				return err
			}
		}
	}
	if l.file != nil && l.aged() {
		if err := l.turn(); err != nil {
			return err
		}
	}
	if l.file == nil {
		return l.open()
	}
	return nil
}

// standard opens the standard output once more. To a process that writes to the
// descriptor 1 itself, a reader that is gone is the end.
func (l *lines) standard() error {
	fd, err := syscall.Dup(int(os.Stdout.Fd()))
	if err != nil {
		return fmt.Errorf("opening the standard output: %w", err)
	}
	syscall.CloseOnExec(fd)
	l.file, l.regular = os.NewFile(uintptr(fd), "standard output"), false
	return nil
}

func (l *lines) aged() bool {
	return l.regular && l.maxAge > 0 && l.size > 0 && time.Since(l.born) >= l.maxAge
}

func (l *lines) open() error {
	f, err := os.OpenFile(l.shelf.file, os.O_RDWR|os.O_CREATE|os.O_APPEND, fileMode)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.regular, l.size, l.born = f, st.Mode().IsRegular(), st.Size(), time.Now()
	if l.regular && l.size > 0 {
		l.born = firstTime(f, st.ModTime())
		return l.mend()
	}
	return nil
}

// firstTime returns the time of the first record of a file.
func firstTime(f *os.File, otherwise time.Time) time.Time {
	line, err := bufio.NewReader(&fromStart{f, 0}).ReadBytes('\n')
	if err != nil {
		return otherwise
	}
	if r, err := Parse(line); err == nil {
		return r.Time
	}
	return otherwise
}

// A fromStart reads a file without moving its offset.
type fromStart struct {
	f  *os.File
	at int64
}

func (r *fromStart) Read(b []byte) (int, error) {
	n, err := r.f.ReadAt(b, r.at)
	r.at += int64(n)
	return n, err
}

// mend ends the last line, which a crash may have cut.
func (l *lines) mend() error {
	var last [1]byte
	if _, err := l.file.ReadAt(last[:], l.size-1); err != nil || last[0] == '\n' {
		return nil // who cannot read can still append
	}
	n, err := l.file.Write([]byte{'\n'})
	l.size += int64(n)
	return err
}

// turn puts the file aside. The next one is opened by ready.
func (l *lines) turn() error {
	if err := l.close(); err != nil {
		return err
	}
	err := l.putAside()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // somebody else has done so
	}
	return err
}

func (l *lines) write(batch []entry) (written int, err error) {
	for len(batch) > 0 && err == nil {
		n := l.fill(batch)
		var done int
		done, err = l.flush()
		written += done
		batch = batch[n:]
	}
	return written, err
}

// fill puts as many records into the buffer as are written at once.
func (l *lines) fill(batch []entry) (n int) {
	l.buf, l.ends = l.buf[:0], l.ends[:0]
	for n < len(batch) && len(l.buf) < chunk {
		l.buf = batch[n].Append(l.buf)
		l.ends = append(l.ends, len(l.buf))
		n++
	}
	return n
}

// flush writes the buffer, and returns how many records are now in the file.
func (l *lines) flush() (records int, err error) {
	if l.regular && l.size > 0 && l.size+int64(len(l.buf)) > l.maxSize {
		if err := l.turn(); err != nil {
			return 0, err
		}
		if err := l.open(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(l.buf)
	l.size += int64(n)
	if err == nil {
		return len(l.ends), nil
	}
	for records < len(l.ends) && l.ends[records] <= n {
		records++
	}
	return records, l.cut(n, err)
}

// cut takes the piece of a line off the file that a failed write of n bytes left
// there. Without that the next line would be lost with it.
func (l *lines) cut(n int, err error) error {
	piece := n - (bytes.LastIndexByte(l.buf[:n], '\n') + 1)
	if l.regular && piece > 0 {
		l.size -= int64(piece)
		if bad := l.file.Truncate(l.size); bad != nil {
			err = fmt.Errorf("%w; and then: %w", err, bad)
		}
	}
	return errors.Join(err, l.close())
}

func (l *lines) close() error {
	f := l.file
	l.file = nil
	if f == nil {
		return nil
	}
	return f.Close()
}
