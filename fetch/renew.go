package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/policy/list"
)

// A refusal is what is wrong with a text that came whole. Asking sooner for it
// again is of no use.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// renew looks for a newer text of a list. What it finds is offered to apply, if
// that is not nil, and kept if that takes it.
func (f *Fetcher) renew(ctx context.Context, h held, apply func(list.Opener) error) error {
	got, err := f.get(ctx, &h)
	if err == nil && got.file != "" {
		defer os.Remove(got.file) // where it was not kept
		err = f.take(&h, &got, apply)
	}
	if err == nil {
		got.record.Checked = time.Now()
		err = f.note(h.url, got.record)
	}
	f.settle(&h, got, err)
	return err
}

// take checks a new text, offers it and keeps it.
func (f *Fetcher) take(h *held, got *answer, apply func(list.Opener) error) error {
	if err := f.check(h, got); err != nil {
		return refusal{err}
	}
	if apply != nil {
		err := apply(func(url string) (io.ReadCloser, error) {
			if url == h.url {
				return os.Open(got.file)
			}
			return f.Open(url)
		})
		if err != nil {
			return refusal{fmt.Errorf("not taken: %w", err)}
		}
	}
	if err := os.Rename(got.file, f.Path(h.url)); err != nil {
		return fmt.Errorf("keeping the list: %w", err)
	}
	return syncFolder(f.cfg.Dir)
}

// check says why a text is not to be taken.
func (f *Fetcher) check(h *held, got *answer) error {
	if err := h.pinned(got.record.sum()); err != nil {
		return err
	}
	counts, err := h.counts(got.file)
	if err != nil {
		return err
	}
	if got.size == 0 {
		return errors.New("no entry in it")
	}
	got.record.Counts = counts
	for _, d := range h.lists {
		old, entries := h.copy.Counts[how(d.Source)], counts[how(d.Source)]
		if lost := old - entries; h.copy.have() && lost*100 > old*d.MaxShrink {
			return h.of(d, fmt.Errorf("it shrank from %d entries to %d, by more than %d%%: if that is right raise max_shrink", old, entries, d.MaxShrink))
		}
	}
	return nil
}

// pinned says why a text of this sum is not what each list names, if it is not.
func (h *held) pinned(sum list.Sum) error {
	for _, d := range h.lists {
		if d.Sum != nil && *d.Sum != sum {
			return h.of(d, fmt.Errorf("its SHA-256 sum is %x, not the one that the policy names", sum))
		}
	}
	return nil
}

// of says which list an error is of, where the text has the name of another one.
func (h *held) of(d policy.Download, err error) error {
	if d.Source.Name == h.name() {
		return err
	}
	return fmt.Errorf("list %s: %w", d.Source.Name, err)
}

// counts returns how many entries a text has as each list reads it.
func (h *held) counts(file string) (map[string]int, error) {
	out := map[string]int{}
	for _, d := range h.lists {
		k := how(d.Source)
		if _, have := out[k]; have {
			continue
		}
		var err error
		if out[k], err = count(d.Source, file); err != nil {
			return nil, err // which names the list
		}
	}
	return out, nil
}

// count reads a list as the policy will, and returns how many entries it has.
func count(s list.Source, file string) (int, error) {
	var stats list.Stats
	names := func(r io.Reader) (err error) { _, stats, err = s.Names(r); return err }
	networks := func(r io.Reader) (err error) { _, stats, err = s.Networks(r); return err }
	err := read(file, names, s.Format, list.NameFormats())
	if err != nil { // some formats are of names and of networks
		other := read(file, networks, s.Format, list.NetworkFormats())
		if other == nil || errors.Is(err, errOther) {
			err = other
		}
	}
	found := stats
	if err == nil && s.Format == "rpz" && !s.OfNetworks() { // what it answers with is in it too, whatever is selected
		answers := func(r io.Reader) (err error) { _, stats, err = s.Answers(r); return err }
		err = read(file, answers, s.Format, []string{"rpz"})
		found = found.Twice(stats)
	}
	return found.Entries, err
}

// errOther says that a format is not of the kind that was tried.
var errOther = errors.New("another kind of list")

func read(file string, take func(io.Reader) error, format string, of []string) error {
	for _, known := range of {
		if known != format {
			continue
		}
		r, err := os.Open(file)
		if err != nil {
			return err
		}
		defer r.Close() // only read from
		return take(r)
	}
	return errOther
}

// The interval after a failure doubles from the first to the last of these.
const (
	firstRetry = time.Minute
	lastRetry  = time.Hour
	longest    = 24 * time.Hour // that a publisher can ask for
)

// settle keeps how a list stands after it was looked for.
func (f *Fetcher) settle(was *held, got answer, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.copies[was.url]
	if h == nil {
		return // it is not wanted any more
	}
	now := time.Now()
	h.err, h.next = err, now.Add(h.refresh())
	var no refusal
	switch {
	case err == nil:
		h.copy, h.failures = got.record, 0
	case errors.As(err, &no) && h.copy.have():
		h.failures = 0
	default:
		wait := max(min(firstRetry<<min(h.failures, 10), lastRetry), min(got.wait, longest))
		h.failures++
		h.next = now.Add(wait)
		if got.wait == 0 {
			h.next = earlier(h.next, now.Add(h.refresh()))
		}
	}
}
