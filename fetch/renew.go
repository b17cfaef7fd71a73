package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/policy/list"
)

// A refusal is what is wrong with a text that came whole. Asking sooner for it
// again is of no use.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// A Newer is a text that is offered for one of the lists.
type Newer struct {
	// Open opens lists by their URLs: the newer text of the one, and the copies
	// of the others.
	Open list.Opener

	keep func()
}

// Keep makes the text the copy of its list. Who puts it to use calls it before
// anybody else can read the copies, or would read the old one after it. If nobody
// does it is kept when the offer was taken.
func (n *Newer) Keep() {
	if n != nil && n.keep != nil {
		n.keep()
	}
}

// renew looks for a newer text of a list, once there is a slot. What it finds is
// offered to apply, if that is not nil, and kept if that takes it. It returns how
// the list stood.
func (f *Fetcher) renew(ctx context.Context, url string, slots chan struct{}, apply func(*Newer) error) (h held, err error) {
	h, got, err := f.ask(ctx, url, slots)
	if h.url == "" {
		return h, nil // nobody wants it any more
	}
	if err == nil && got.file != "" {
		defer os.Remove(got.file) // where it was not kept
		err = f.take(ctx, &h, &got, apply)
	}
	return h, f.settle(&h, got, err)
}

// ask asks the publisher of a list for a newer text, once there is a slot.
func (f *Fetcher) ask(ctx context.Context, url string, slots chan struct{}) (h held, got answer, err error) {
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		err = ctx.Err()
	}
	f.mu.Lock()
	if now := f.copies[url]; now != nil {
		h = *now
	}
	f.mu.Unlock()
	if h.url == "" || err != nil {
		return h, got, err
	}
	f.lose(&h)
	got, err = f.get(ctx, &h)
	return h, got, err
}

// take checks a new text, offers it and keeps it.
func (f *Fetcher) take(ctx context.Context, h *held, got *answer, apply func(*Newer) error) error {
	if err := f.check(h, got); err != nil {
		return refusal{err}
	}
	if apply == nil {
		_, err := os.Lstat(f.file(h.url, asCopy))
		return f.put(h, got, err == nil) // it may be what the policy in force was read from
	}
	f.offering.Lock()
	defer f.offering.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	keep := sync.OnceValue(func() error { return f.put(h, got, false) })
	err := apply(&Newer{
		Open: func(url string) (io.ReadCloser, error) {
			if url == h.url && f.wants(url, got.record) {
				return os.Open(got.file)
			}
			return f.Open(url)
		},
		keep: func() { keep() }, //nolint:errcheck // said below
	})
	if err != nil {
		return refusal{fmt.Errorf("not taken: %w", err)}
	}
	return keep()
}

// wants reports whether a text is good for a list as it is defined now: while it
// was looked for the policy may have been read anew.
func (f *Fetcher) wants(url string, r record) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.copies[url].wants(r)
}

func (h *held) wants(r record) bool {
	return h != nil && h.pinned(r.sum()) == nil && r.counted(h.lists)
}

// errOutdated is what is wrong with a text for a list that has been defined anew.
var errOutdated = errors.New("the policy has another definition of the list by now")

// put makes a new text the copy, or has it lie beside that.
func (f *Fetcher) put(was *held, got *answer, aside bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.copies[was.url]
	if !h.wants(got.record) {
		return errOutdated
	}
	return f.place(h, got.file, aside, got.record)
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
		if err := policy.Shrunk(h.copy.Counts[how(d.Source)], counts[how(d.Source)], d.MaxShrink); err != nil {
			return h.of(d, fmt.Errorf("it %w", err))
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

// isPinned reports whether one text alone is wanted.
func (h *held) isPinned() bool {
	return slices.ContainsFunc(h.lists, func(d policy.Download) bool { return d.Sum != nil })
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

// settle keeps how a list stands after it was looked for, and returns what is
// wrong with that. What was taken is the copy though nothing can be written of it.
func (f *Fetcher) settle(was *held, got answer, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.copies[was.url]
	if h == nil || err == nil && h.copy.Sum != got.record.Sum || err != nil && !slices.EqualFunc(was.lists, h.lists, isKeptAs) {
		return err // it has been defined anew, and is looked for as it is wanted now
	}
	now := time.Now()
	h.next = now.Add(h.refresh())
	var no refusal
	switch {
	case err == nil:
		h.copy, h.failures = got.record, 0
		h.copy.Checked = now
		if !h.aside {
			err = f.note(h.url, h.copy)
		}
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
	h.err = err
	return err
}
