package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/resolver/querylog"
)

func logCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log COMMAND",
		Short: "Read the query log of a gateway",
		Long: `Log reads what a gateway has written of questions: JSON lines, also compressed.
With a file come the older ones that were put aside beside it. The file - is
standard input.`,
		Args: noSuchCommand,
		RunE: func(*cobra.Command, []string) error { return usageError{errors.New("which command?")} },
	}
	cmd.AddCommand(logTailCommand(), logTopCommand(), logGrepCommand())
	return cmd
}

// usualLog is where a log is looked for if none is named.
const usualLog = "/var/log/starferry/queries.jsonl"

// defaultLogFile returns the log of the node that a file describes, or of the
// one that is usual.
func defaultLogFile(config string) (string, error) {
	if config == "" {
		return logFileHere(usualLog)
	}
	return logFileOf(config)
}

// A selection is what of a log is wanted.
type selection struct {
	config                                    string
	device, name, policy, action, kind, rcode string
	sinceText, untilText                      string
	since, until                              time.Time
}

func (s *selection) add(cmd *cobra.Command) {
	configFlag(cmd, &s.config, "read the log of the node of this file")
	f := cmd.Flags()
	f.StringVar(&s.device, "device", "", "only questions of this device")
	f.StringVar(&s.name, "name", "", "only this name and those under it")
	f.StringVar(&s.policy, "policy", "", "only what this policy decided")
	f.StringVar(&s.action, "action", "", "only where this was done: "+strings.Join(actions, ", "))
	f.StringVar(&s.kind, "type", "", "only questions for this type of records")
	f.StringVar(&s.rcode, "rcode", "", "only answers with this code: NOERROR, NXDOMAIN, ...")
	f.StringVar(&s.sinceText, "since", "", "only from this time on: 2026-11-04T18:30:00Z, or 1h for the last hour, 7d for a week")
	f.StringVar(&s.untilText, "until", "", "only before this time, written likewise")
	cmd.PreRunE = func(*cobra.Command, []string) error { return s.read(time.Now()) }
}

func (s *selection) read(now time.Time) (err error) {
	s.name = strings.ToLower(strings.TrimSuffix(s.name, "."))
	if err := s.check(); err != nil {
		return usageError{err}
	}
	if s.since, err = moment(s.sinceText, now); err != nil {
		return usageError{fmt.Errorf("--since: %w", err)}
	}
	if s.until, err = moment(s.untilText, now); err != nil {
		return usageError{fmt.Errorf("--until: %w", err)}
	}
	return nil
}

// actions are those of records.
var actions = []string{string(resolver.Allowed), string(resolver.Blocked), string(resolver.Denied), string(resolver.Overridden), string(resolver.Steered),
	string(resolver.NoWay), string(resolver.Down), string(resolver.Refused), string(resolver.Failed), string(resolver.Local)}

// check turns words down that are in no record: that nothing is found would be
// taken for an answer.
func (s *selection) check() error {
	if s.kind != "" {
		var t querylog.Type
		if err := t.UnmarshalText([]byte(strings.ToUpper(s.kind))); err != nil {
			return fmt.Errorf("--type: %w", err)
		}
		s.kind = t.String()
	}
	if s.rcode != "" && !strings.EqualFold(s.rcode, querylog.Silence.String()) {
		var r querylog.Rcode
		if err := r.UnmarshalText([]byte(strings.ToUpper(s.rcode))); err != nil {
			return fmt.Errorf("--rcode: %w", err)
		}
		s.rcode = r.String()
	}
	if s.action != "" && !slices.Contains(actions, strings.ToLower(s.action)) {
		return fmt.Errorf("--action: %q is none of %s", s.action, strings.Join(actions, ", "))
	}
	return nil
}

// moment reads a time, or how long ago it was.
func moment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := span(text); err == nil {
		return now.Add(-ago), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("%q is neither a time like 2026-11-04T18:30:00Z nor a time span like 90m or 7d", text)
	}
	return t, nil
}

// span reads a time span as configuration files have it, or one ahead, as -1h.
func span(text string) (time.Duration, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return d, nil
	}
	return configs.ParseSpan(text)
}

func (s *selection) has(r *querylog.Record) bool {
	same := func(want, got string) bool { return want == "" || strings.EqualFold(want, got) }
	return same(s.device, r.Device) && same(s.policy, r.Policy) && same(s.action, r.Action) &&
		same(s.kind, r.Type.String()) && same(s.rcode, r.Rcode.String()) &&
		(s.name == "" || r.Name == s.name || strings.HasSuffix(r.Name, "."+s.name)) &&
		!r.Time.Before(s.since) && (s.until.IsZero() || r.Time.Before(s.until))
}

// named returns the files that are named, or the default one.
func (s *selection) named(args []string) ([]string, error) {
	if len(args) > 0 {
		return args, nil
	}
	file, err := defaultLogFile(s.config)
	return []string{file}, err
}

// files returns all files to be read, oldest first: those that are named and
// the older ones of each, but those that hold nothing of the wanted time.
func (s *selection) files(args []string) (all []string, err error) {
	args, err = s.named(args)
	if err != nil {
		return nil, err
	}
	for _, arg := range args {
		group := []string{arg}
		if arg != querylog.Stdout {
			if group, err = querylog.Files(arg); err != nil {
				return nil, err
			}
		}
		for _, name := range group {
			if !slices.Contains(all, name) && !s.tooOld(name) {
				all = append(all, name)
			}
		}
	}
	return all, nil
}

func (s *selection) tooOld(file string) bool {
	st, err := os.Stat(file)
	return err == nil && st.Mode().IsRegular() && st.ModTime().Before(s.since)
}

// A scan reads files and remembers what was wrong with them.
type scan struct {
	*selection
	in   io.Reader // for -
	bad  int
	errs []error
}

// open opens a file. One that was removed since the files were listed has no lines.
func (s *scan) open(ctx context.Context, file string, mustBe bool) (*querylog.Reader, func(), error) {
	if file == querylog.Stdout {
		return querylog.NewReader(interruptible(ctx, s.in)), func() {}, nil
	}
	r, c, err := querylog.Open(file)
	switch {
	case err == nil:
		return r, func() { c.Close() }, nil
	case errors.Is(err, fs.ErrNotExist) && !mustBe:
		return querylog.NewReader(strings.NewReader("")), func() {}, nil
	}
	return nil, nil, err
}

// interruptible reads what may say nothing for long, and ends with ctx: a read
// from a pipe or a terminal cannot be broken off.
func interruptible(ctx context.Context, from io.Reader) io.Reader {
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { w.Close() })
	go func() {
		_, err := io.Copy(w, from)
		w.CloseWithError(err)
	}()
	return r
}

// each calls do for each record that is wanted.
func (s *scan) each(ctx context.Context, args []string, do func(*querylog.Record, []byte)) error {
	files, err := s.files(args)
	if err != nil {
		return err
	}
	for _, file := range files {
		r, done, err := s.open(ctx, file, slices.Contains(args, file) || len(files) == 1)
		if err != nil {
			return err
		}
		s.through(ctx, file, r, do)
		done()
	}
	return nil
}

func (s *scan) through(ctx context.Context, file string, r *querylog.Reader, do func(*querylog.Record, []byte)) {
	for ctx.Err() == nil {
		rec, line, err := r.Next()
		if err != nil {
			s.failed(file, err)
			break
		}
		if s.has(&rec) {
			do(&rec, line)
		}
	}
	s.bad += r.Bad()
}

func (s *scan) failed(file string, err error) {
	if !errors.Is(err, io.EOF) {
		s.errs = append(s.errs, fmt.Errorf("reading %s: %w", file, err))
	}
}

// end says what was wrong.
func (s *scan) end(cmd *cobra.Command) error {
	if s.bad == 1 {
		fmt.Fprintln(cmd.ErrOrStderr(), "1 line is no record")
	} else if s.bad > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d lines are no records\n", s.bad)
	}
	return errors.Join(s.errs...)
}

func logGrepCommand() *cobra.Command {
	var s selection
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "grep [--name NAME] [--device ID] ... [FILE]...",
		Short:   "Print the records that are wanted",
		Example: "  starferry log grep --name example.com --action block --since 1h queries.jsonl",
		RunE:    func(cmd *cobra.Command, args []string) error { return logGrep(cmd, &s, asJSON, args) },
	}
	s.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the lines as they are in the log")
	return cmd
}

func logGrep(cmd *cobra.Command, s *selection, asJSON bool, args []string) error {
	out := bufio.NewWriter(cmd.OutOrStdout())
	sc := &scan{selection: s, in: cmd.InOrStdin()}
	err := sc.each(cmd.Context(), args, func(r *querylog.Record, line []byte) { printLogLine(out, r, line, asJSON) })
	return errors.Join(err, out.Flush(), sc.end(cmd))
}
