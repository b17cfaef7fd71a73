package list

import (
	"bufio"
	"errors"
	"io"
	"strings"
)

// maxLine bounds a line. The longest that means something, in a zone, is a few
// hundred bytes.
const maxLine = 16 << 10

// lines reads a text line by line, in bounded memory. It takes off a byte order
// mark and the ends of lines, LF or CR LF.
type lines struct {
	in      *bufio.Reader
	text    string
	line    int // number of the line, from 1
	tooLong bool
	err     error // other than the end
}

func newLines(r io.Reader) *lines {
	return &lines{in: bufio.NewReaderSize(r, maxLine)}
}

func (l *lines) next() bool {
	b, err := l.in.ReadSlice('\n')
	if len(b) == 0 && err != nil {
		return l.end(err)
	}
	l.line++
	l.text = strings.TrimRight(string(b), "\r\n")
	if l.line == 1 {
		l.text = strings.TrimPrefix(l.text, "\ufeff")
	}
	l.tooLong = errors.Is(err, bufio.ErrBufferFull)
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = l.in.ReadSlice('\n')
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return l.end(err)
	}
	return true
}

func (l *lines) end(err error) bool {
	if !errors.Is(err, io.EOF) {
		l.err = err
	}
	return false
}

// uncomment takes off spaces and a comment that starts with one of the given
// characters, at the line's beginning or after a space.
func uncomment(line, marks string) string {
	for i := range len(line) {
		if strings.IndexByte(marks, line[i]) >= 0 && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			line = line[:i]
			break
		}
	}
	return strings.TrimSpace(line)
}
