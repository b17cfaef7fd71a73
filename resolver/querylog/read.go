package querylog

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
)

// maxLine is how long a line can be. Longer ones are bad.
const maxLine = 1 << 20

// A Reader reads lines of a log. What is not a record it counts and passes over.
type Reader struct {
	r    *bufio.Reader
	line []byte
	bad  int
}

// NewReader returns a reader of lines, compressed or not.
func NewReader(r io.Reader) *Reader {
	b := bufio.NewReaderSize(r, 64<<10)
	if magic, err := b.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		return &Reader{r: bufio.NewReaderSize(&lazyGzip{from: b}, 64<<10)}
	}
	return &Reader{r: b}
}

// A lazyGzip reads what is compressed. It begins with the first read, so that
// what is wrong is said there.
type lazyGzip struct {
	from io.Reader
	z    *gzip.Reader
}

func (l *lazyGzip) Read(b []byte) (n int, err error) {
	if l.z == nil {
		if l.z, err = gzip.NewReader(l.from); err != nil {
			return 0, err
		}
	}
	return l.z.Read(b)
}

// Line returns the next line that is not empty, without its newline, whether it
// is a record or not. It is good until the next call. The end is io.EOF.
func (r *Reader) Line() ([]byte, error) {
	for {
		line, long, err := r.next()
		if long {
			r.bad++
		} else if line = bytes.TrimSpace(line); len(line) > 0 {
			return line, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// next reads up to the next newline. Of what is too long nothing is kept.
func (r *Reader) next() (line []byte, long bool, err error) {
	r.line = r.line[:0]
	for {
		piece, err := r.r.ReadSlice('\n')
		if long = long || len(r.line)+len(piece) > maxLine; !long {
			r.line = append(r.line, piece...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return r.line, long, err
		}
	}
}

// Next returns the next record and its line, which is good until the next call.
func (r *Reader) Next() (Record, []byte, error) {
	for {
		line, err := r.Line()
		if err != nil {
			return Record{}, nil, err
		}
		rec, err := Parse(line)
		if err == nil {
			return rec, line, nil
		}
		r.bad++
	}
}

// Bad returns how many lines were no records.
func (r *Reader) Bad() int { return r.bad }

// Open opens a file of a log, compressed or not.
func Open(file string) (*Reader, io.Closer, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	return NewReader(f), f, nil
}
