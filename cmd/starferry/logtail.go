package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/resolver/querylog"
)

func logTailCommand() *cobra.Command {
	var s selection
	var n int
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use:     "tail [-f] [-n COUNT] [FILE]...",
		Short:   "Print the latest records, and with -f those that come",
		Example: "  starferry log tail -f --device alice-laptop queries.jsonl",
		RunE: func(cmd *cobra.Command, args []string) error {
			if follow && len(args) > 1 {
				return usageError{errors.New("-f follows one file")}
			}
			if n < 0 {
				return usageError{errors.New("-n: want no number below zero")}
			}
			return logTail(cmd, &s, tailing{n: n, follow: follow, asJSON: asJSON}, args)
		},
	}
	s.add(cmd)
	cmd.Flags().IntVarP(&n, "lines", "n", 20, "how many to print")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is written, also when the file is put aside")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the lines as they are in the log")
	return cmd
}

// A tailing is how the latest records are wanted.
type tailing struct {
	n              int
	follow, asJSON bool
}

func logTail(cmd *cobra.Command, s *selection, t tailing, args []string) error {
	args, err := s.named(args)
	if err != nil {
		return err
	}
	sc := &scan{selection: s, in: cmd.InOrStdin()}
	out := bufio.NewWriter(cmd.OutOrStdout())
	show := func(r *querylog.Record, line []byte) { printLogLine(out, r, line, t.asJSON) }
	now := func(r *querylog.Record, line []byte) { show(r, line); out.Flush() }
	switch {
	case !t.follow:
		err = sc.latest(cmd.Context(), args, t.n, nil, show)
	case args[0] == querylog.Stdout:
		err = sc.each(cmd.Context(), args, now)
	default:
		err = sc.followed(cmd.Context(), args[0], t.n, now)
	}
	return errors.Join(err, out.Flush(), sc.end(cmd))
}

// followed calls do for the latest records of a file, and then for those that come.
func (s *scan) followed(ctx context.Context, file string, n int, do func(*querylog.Record, []byte)) error {
	f, err := newFollower(file)
	if err != nil {
		return err
	}
	defer f.close()
	if err := s.latest(ctx, []string{file}, n, f, do); err != nil {
		return err
	}
	return f.follow(ctx, func(line []byte) {
		if r, ok := s.parse(line); ok && s.has(&r) {
			do(&r, line)
		}
	})
}

// latest calls do for the latest n records. It reads from the newest file back,
// and no more files than it must. The newest is read by f if there is one.
func (s *scan) latest(ctx context.Context, args []string, n int, f *follower, do func(*querylog.Record, []byte)) error {
	files, err := s.files(args)
	if err != nil {
		return err
	}
	var found [][][]byte
	for left := n; len(files) > 0 && (left > 0 || f != nil) && ctx.Err() == nil; files = files[:len(files)-1] {
		last := &ring{n: left}
		if f != nil {
			err = f.drain(s.into(last))
		} else {
			err = s.lines(ctx, files[len(files)-1], slices.Contains(args, files[len(files)-1]), s.into(last))
		}
		if err != nil {
			return err
		}
		f = nil
		found = append(found, last.all())
		left -= len(last.lines)
	}
	for _, lines := range slices.Backward(found) {
		for _, line := range lines {
			if r, ok := s.parse(line); ok {
				do(&r, line)
			}
		}
	}
	return nil
}

// lines calls do for each line of a file.
func (s *scan) lines(ctx context.Context, file string, mustBe bool, do func([]byte)) error {
	r, done, err := s.open(ctx, file, mustBe)
	if err != nil {
		return err
	}
	defer done()
	for ctx.Err() == nil {
		line, err := r.Line()
		if err != nil {
			s.failed(file, err)
			break
		}
		do(line)
	}
	s.bad += r.Bad()
	return nil
}

// into returns what puts wanted lines into a ring. If all are wanted they are
// not read before it is known which are the last.
func (s *scan) into(last *ring) func([]byte) {
	if *s.selection == (selection{config: s.config}) {
		return last.add
	}
	return func(line []byte) {
		if r, err := querylog.Parse(line); err != nil {
			s.bad++
		} else if s.has(&r) {
			last.add(line)
		}
	}
}

func (s *scan) parse(line []byte) (querylog.Record, bool) {
	r, err := querylog.Parse(line)
	if err != nil {
		s.bad++
	}
	return r, err == nil
}

// A ring holds the last n lines that were added.
type ring struct {
	n     int
	next  int // that is overwritten, once there are n
	lines [][]byte
}

func (r *ring) add(line []byte) {
	switch {
	case r.n == 0:
	case len(r.lines) < r.n:
		r.lines = append(r.lines, bytes.Clone(line))
	default:
		r.lines[r.next] = append(r.lines[r.next][:0], line...)
		r.next = (r.next + 1) % r.n
	}
}

func (r *ring) all() [][]byte { return slices.Concat(r.lines[r.next:], r.lines[:r.next]) }

// A follower reads the lines of a file that grows, is put aside, and begins anew.
type follower struct {
	path string
	f    *os.File
	r    *bufio.Reader
	at   int64
	part []byte // of a line that has no end yet
}

func newFollower(path string) (*follower, error) {
	f := &follower{path: path}
	return f, f.open()
}

func (f *follower) open() (err error) {
	if f.f, err = os.Open(f.path); err != nil {
		return err
	}
	f.r, f.at, f.part = bufio.NewReaderSize(f.f, 64<<10), 0, f.part[:0]
	return nil
}

func (f *follower) close() { f.f.Close() }

// maxPart is how much of a line is kept until it has an end.
const maxPart = 1 << 20

// drain calls do for each line that is there.
func (f *follower) drain(do func(line []byte)) error {
	for {
		piece, err := f.r.ReadSlice('\n')
		f.at += int64(len(piece))
		if f.part = append(f.part, piece...); len(f.part) > maxPart {
			f.part = f.part[:0] // no record is that long
		}
		switch {
		case err == nil:
			if line := bytes.TrimSpace(f.part); len(line) > 0 {
				do(line)
			}
			f.part = f.part[:0]
		case errors.Is(err, io.EOF):
			return nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("reading %s: %w", f.path, err)
		}
	}
}

// followEvery is how often a followed file is looked at.
const followEvery = 200 * time.Millisecond

// follow calls do for each line that comes, until ctx is done.
func (f *follower) follow(ctx context.Context, do func(line []byte)) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// What was written between the two is still in the old file.
		replaced := f.replaced()
		if err := f.drain(do); err != nil {
			return err
		}
		if replaced {
			f.close()
			if err := f.open(); err != nil {
				return err
			}
		}
	}
}

// replaced reports whether there is another file of that name now. One that got
// shorter counts as another.
func (f *follower) replaced() bool {
	now, err := os.Stat(f.path)
	if err != nil {
		return false // the next one is not there yet
	}
	open, err := f.f.Stat()
	return err == nil && (!os.SameFile(now, open) || now.Size() < f.at)
}

// printLogLine prints a record for people, or its line.
func printLogLine(to io.Writer, r *querylog.Record, line []byte, asJSON bool) {
	if asJSON {
		fmt.Fprintf(to, "%s\n", line)
		return
	}
	what := r.Action
	if r.Policy != "" {
		what += " " + r.Policy
	}
	said := r.Reason
	if r.Rcode != 0 {
		said = strings.TrimSpace(r.Rcode.String() + " " + said)
	}
	text := fmt.Sprintf("%s  %-16s  %-36s %-5s  %-20s  %8s  %s", r.Time.Local().Format("2006-01-02 15:04:05.000"),
		plain(who(r)), plain(cmp.Or(r.Name, ".")), r.Type, plain(what), brief(r.Took), plain(said))
	fmt.Fprintln(to, strings.TrimRight(text, " "))
}

// who returns the best name there is for who asked.
func who(r *querylog.Record) string {
	if r.Device == "" && r.Client.Addr.IsValid() {
		return r.Client.Addr.String()
	}
	return cmp.Or(r.Device, "-")
}

// brief rounds a time span to three digits, and a long one to seconds.
func brief(d time.Duration) string {
	unit := time.Nanosecond
	for unit < time.Second && d >= 1000*unit {
		unit *= 10
	}
	return d.Round(unit).String()
}

// plain takes what a terminal would not print from a text of somebody else's.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
