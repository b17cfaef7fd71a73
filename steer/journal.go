package steer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"syscall"
)

// A journal is a file of frames. A frame is what was written and synced at
// once: a mark, the length of its records, their CRC-32C, and the records.
// Since a frame is on disk before the next one is begun, only the last can be
// torn by a crash. A broken frame before a whole one is damage.
type journal struct {
	path     string
	lock     *os.File
	file     *os.File
	size     int64 // bytes that are on disk
	pure     int64 // size when it last held nothing that is over
	broken   bool  // something may lie beyond size
	nameless bool  // the folder may not yet hold this file under the journal's name
}

const headLen = 12

var (
	// mark begins a frame. No name holds such bytes.
	mark   = []byte{0xf5, 'S', 'f', 0xff}
	crc32c = crc32.MakeTable(crc32.Castagnoli)
)

// appendFrame appends records as one frame.
func appendFrame(b, records []byte) []byte {
	b = append(b, mark...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(records)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(records, crc32c))
	return append(b, records...)
}

// cutFrame returns the records of the frame that b begins with, and what follows it.
func cutFrame(b []byte) (records, rest []byte, ok bool) {
	if len(b) < headLen || !bytes.HasPrefix(b, mark) {
		return nil, nil, false
	}
	n := int64(binary.BigEndian.Uint32(b[4:]))
	if n > int64(len(b)-headLen) {
		return nil, nil, false
	}
	records, rest = b[headLen:headLen+n], b[headLen+n:]
	return records, rest, crc32.Checksum(records, crc32c) == binary.BigEndian.Uint32(b[8:])
}

// frameIn reports whether a whole frame begins somewhere in b.
func frameIn(b []byte) bool {
	for {
		i := bytes.Index(b, mark)
		if i < 0 {
			return false
		}
		if _, _, ok := cutFrame(b[i:]); ok {
			return true
		}
		b = b[i+1:]
	}
}

// openJournal locks the journal and passes the records of each frame to
// replay. A journal that does not exist is made, with what create returns in it.
// It returns how many bytes of a torn frame were cut off.
func openJournal(path string, create func() []byte, replay func(records []byte) error) (j *journal, torn int, err error) {
	j = &journal{path: path}
	defer func() {
		if err != nil {
			j.close()
		}
	}()
	if j.lock, err = lockFile(path + ".lock"); err != nil {
		return j, 0, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return j, 0, j.replace(appendFrame(nil, create()))
	}
	if err != nil {
		return j, 0, fmt.Errorf("reading lease journal: %w", err)
	}
	if j.size, err = replayFrames(path, data, replay); err != nil {
		return j, 0, err
	}
	if j.file, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		return j, 0, fmt.Errorf("opening lease journal: %w", err)
	}
	if torn = len(data) - int(j.size); torn > 0 {
		j.broken = true
		err = j.mend()
	}
	return j, torn, err
}

// replayFrames returns how many bytes of whole frames there are.
func replayFrames(path string, data []byte, replay func(records []byte) error) (int64, error) {
	rest := data
	for len(rest) > 0 {
		at := len(data) - len(rest)
		records, after, ok := cutFrame(rest)
		if !ok && (at == 0 || frameIn(rest[1:])) {
			return 0, damage(path, at, "it is not as it was written")
		}
		if !ok {
			return int64(at), nil
		}
		if err := replay(records); err != nil {
			return 0, damage(path, at, err.Error())
		}
		rest = after
	}
	if len(data) == 0 {
		return 0, damage(path, 0, "it is empty")
	}
	return int64(len(data)), nil
}

func damage(path string, at int, what string) error {
	return fmt.Errorf("lease journal %s is damaged at byte %d: %s: put back a copy of it; "+
		"if there is none, move it away and give the node another pool, so that no address which a device still holds comes to serve another name", path, at, what)
}

// lockFile makes sure that one process at a time has the journal.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking lease journal: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking lease journal: %s is in use by another process: is the node running already? (%w)", path, err)
	}
	return f, nil
}

// write appends records and returns once they are on disk. After a failure the
// file is as it was before, or nothing more is written until it is.
func (j *journal) write(records []byte) error {
	if err := j.mend(); err != nil {
		return err
	}
	frame := appendFrame(nil, records)
	j.broken = true
	if _, err := j.file.WriteAt(frame, j.size); err != nil {
		return errors.Join(fmt.Errorf("writing lease journal: %w", err), j.mend())
	}
	if err := j.file.Sync(); err != nil {
		return errors.Join(fmt.Errorf("syncing lease journal: %w", err), j.mend())
	}
	j.size += int64(len(frame))
	j.broken = false
	return nil
}

// mend cuts off what a failed write has left.
func (j *journal) mend() error {
	if j.nameless {
		if err := syncFolder(filepath.Dir(j.path)); err != nil {
			return fmt.Errorf("mending lease journal: %w", err)
		}
		j.nameless = false
	}
	if !j.broken {
		return nil
	}
	if err := j.file.Truncate(j.size); err != nil {
		return fmt.Errorf("mending lease journal: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("mending lease journal: %w", err)
	}
	j.broken = false
	return nil
}

// replace puts a new file in the journal's place. If it fails the old one
// goes on.
func (j *journal) replace(frames []byte) error {
	next := j.path + ".new"
	f, err := writeSynced(next, frames)
	if err != nil {
		return fmt.Errorf("writing lease journal anew: %w", err)
	}
	if err := os.Rename(next, j.path); err != nil {
		f.Close()
		return fmt.Errorf("writing lease journal anew: %w", err)
	}
	if j.file != nil {
		j.file.Close() // nothing of it is needed
	}
	j.file, j.size, j.broken, j.nameless = f, int64(len(frames)), false, true
	return j.mend()
}

func writeSynced(path string, b []byte) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err != nil {
		f.Close()
		os.Remove(path)
		return nil, err
	}
	return f, nil
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (j *journal) close() error {
	var errs []error
	for _, f := range []*os.File{j.file, j.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	j.file, j.lock = nil, nil
	return errors.Join(errs...)
}
