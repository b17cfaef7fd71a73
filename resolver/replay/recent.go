package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/querylog"
)

// Recent are the latest records of the query log of a node that runs, read back
// from its files: so questions cost nothing more than to be logged, and nothing
// is in memory that the privacy of the log keeps from the disk.
type Recent struct {
	File string
	// Privacy is that of the log now. Where it is not Keep, records from before
	// that still say who asked are counted as if they did not.
	Privacy querylog.Privacy

	bounds
}

// bounds are the most that is read: a reload tells soon what it changes, or of
// fewer questions. What is zero has the default.
type bounds struct {
	bytes int64         // 4 MiB, some 10,000 records
	time  time.Duration // a second
}

// The pieces in which records are decided, and the pause after each: those who
// ask at the time have most of a core to themselves.
const (
	piece = 300 * time.Microsecond
	pause = time.Millisecond
)

// Compare decides the latest records by two policies, in small pieces, until
// its time is over or ctx is done.
func (r *Recent) Compare(ctx context.Context, before, after *policy.Policy, most int) *Difference {
	c := Between(before, after)
	s := &sweep{
		Comparison: c, hidden: r.Privacy != querylog.Keep,
		until: time.Now().Add(cmp.Or(r.time, time.Second)), rest: time.Now().Add(piece),
	}
	short := s.files(ctx, r.File, cmp.Or(r.bytes, 4<<20))
	d := c.Difference(most)
	d.Short = short
	return d
}

// A sweep goes through the records of a log.
type sweep struct {
	*Comparison
	hidden bool // who asked must not be told, whatever a record says
	until  time.Time
	rest   time.Time // when to pause
}

// files reads the end of a log, so many bytes of it, and says why that was not
// all; empty: it was.
func (s *sweep) files(ctx context.Context, file string, most int64) (short string) {
	names, err := querylog.Files(file)
	if err != nil {
		return "the query log cannot be read: " + err.Error()
	}
	sections, err := ends(names, most)
	if err != nil {
		short = "the query log cannot be read: " + err.Error()
	}
	for i := range sections {
		if why := s.section(ctx, &sections[i]); why != "" {
			return why
		}
	}
	return short
}

// A section is the end of a file as it is now.
type section struct {
	file     string
	from, to int64
}

// ends returns where to begin to read so many bytes of files, which are given
// oldest first. What is compressed cannot be read from its middle, and is not
// read; neither is what is no plain file, from which others read.
func ends(names []string, most int64) (out []section, err error) {
	for i := len(names) - 1; i >= 0 && most > 0; i-- {
		st, bad := os.Stat(names[i])
		switch {
		case errors.Is(bad, os.ErrNotExist):
			continue // it comes with the first record
		case bad != nil:
			return out, bad
		case strings.HasSuffix(names[i], ".gz"), !st.Mode().IsRegular():
			return out, nil
		}
		out = append([]section{{names[i], max(0, st.Size()-most), st.Size()}}, out...)
		most -= st.Size()
	}
	return out, nil
}

// section reads a section to its end.
func (s *sweep) section(ctx context.Context, at *section) (short string) {
	f, err := os.Open(at.file)
	if err != nil {
		return "the query log cannot be read: " + err.Error()
	}
	defer f.Close()
	r := querylog.NewReader(io.NewSectionReader(f, at.from, at.to-at.from))
	if at.from > 0 {
		if _, err := r.Line(); err != nil { // the rest of a line
			return ""
		}
	}
	for {
		rec, _, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return ""
		case err != nil:
			return "the query log cannot be read: " + err.Error()
		}
		if s.hidden && rec.Privacy == querylog.Keep {
			rec.Privacy = querylog.Drop
		}
		s.Add(&rec)
		if why := s.breathe(ctx); why != "" {
			return why
		}
	}
}

// breathe pauses after each piece of work, and says when it is time to end.
func (s *sweep) breathe(ctx context.Context) (why string) {
	now := time.Now()
	switch {
	case now.After(s.until):
		return fmt.Sprintf("not all of the recent questions were replayed: the time was over after %d", s.Replayed())
	case ctx.Err() != nil:
		return fmt.Sprintf("not all of the recent questions were replayed: another reload ended it after %d", s.Replayed())
	case now.Before(s.rest):
		return ""
	}
	wait := time.NewTimer(pause)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
	}
	s.rest = time.Now().Add(piece)
	return ""
}

// Replayed returns how many records were decided so far.
func (c *Comparison) Replayed() int { return c.policies.Replayed }
