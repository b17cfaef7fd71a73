package list

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
)

// maxLine bounds a line. The longest that means something, in a zone, is a few
// hundred bytes.
const maxLine = 16 << 10

// buffered is how much of a file is read at once.
const buffered = 4 * maxLine

// lines reads a text line by line, in bounded memory. It takes off a byte order
// mark and the ends of lines, LF or CR LF.
type lines struct {
	in      *bufio.Reader
	text    []byte // good until next is called again
	line    int    // number of the line, from 1
	tooLong bool
	err     error // other than the end
}

func newLines(r io.Reader) *lines {
	return &lines{in: bufio.NewReaderSize(r, buffered)}
}

func (l *lines) next() bool {
	b, err := l.in.ReadSlice('\n')
	if len(b) == 0 && err != nil {
		return l.end(err)
	}
	l.line++
	l.tooLong = len(b) > maxLine
	if l.text = trimEnd(b); l.line == 1 {
		l.text = bytes.TrimPrefix(l.text, []byte("\ufeff"))
	}
	if err == nil {
		return true
	}
	return l.rest(err)
}

// rest ends a line that the end of the buffer or of the file cut off.
func (l *lines) rest(err error) bool {
	if errors.Is(err, bufio.ErrBufferFull) {
		l.text = bytes.Clone(l.text[:min(len(l.text), maxLine)])
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = l.in.ReadSlice('\n')
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return l.end(err)
	}
	return true
}

func trimEnd(line []byte) []byte {
	for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == '\r') {
		line = line[:len(line)-1]
	}
	return line
}

func (l *lines) end(err error) bool {
	if !errors.Is(err, io.EOF) {
		l.err = err
	}
	return false
}

// uncomment takes off spaces and a comment that starts with one of the given
// characters, at the line's beginning or after a space.
func uncomment(line []byte, marks string) []byte {
	starts := true // whether a comment can start here
	for i, c := range line {
		if starts && strings.IndexByte(marks, c) >= 0 {
			line = line[:i]
			break
		}
		starts = c == ' ' || c == '\t'
	}
	return bytes.TrimSpace(line)
}
