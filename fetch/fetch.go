// Package fetch keeps copies of lists that others publish, so that a node has
// them before the network answers and whatever becomes of their publisher.
//
// A list is looked for again when its time has come (If-None-Match,
// If-Modified-Since; RFC 9110, section 13.1), and after a failure sooner, at
// growing intervals. What comes must be what was pinned, must not be a page or
// a program in place of a list, must have entries, and must not lack more of
// those of before than is allowed. Then it is offered to [Config.Apply], which
// builds from it what it is for and puts that to use, while questions are
// answered by the old one. Only what was taken there replaces the copy on disk:
// a start finds nothing that was refused before.
//
// The names of publishers are resolved by [Config.Dial], which must not need the
// lists itself.
package fetch

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/policy/list"
)

// A Config is what a [Fetcher] works with.
type Config struct {
	Dir     string // where the copies lie
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	RootCAs *x509.CertPool // nil: those of the system
	MaxSize int64          // of a list, in bytes
	Log     *slog.Logger

	// Apply puts to use what can be opened by the given opener, by the URLs of
	// all lists: a newer text for one of them, and the copies that there are. An
	// error says why not, and that all is as it was. It may call the fetcher's
	// methods. Nil takes all.
	Apply func(open list.Opener) error
}

// DefaultMaxSize is enough for ten million names.
const DefaultMaxSize = 256 << 20

// A Fetcher keeps the copies. It is safe for concurrent use.
type Fetcher struct {
	cfg     Config
	changed chan struct{} // has one element if the lists changed

	mu     sync.Mutex
	copies map[string]*held // by their URLs
	order  []string
}

// New returns a fetcher of no lists. The folder is made when the first one comes.
func New(cfg Config) (*Fetcher, error) {
	left, err := filepath.Glob(filepath.Join(cfg.Dir, "*.new"))
	if err != nil {
		return nil, fmt.Errorf("looking for what a broken download left: %w", err)
	}
	for _, file := range left {
		os.Remove(file) // or it is found the next time
	}
	if cfg.MaxSize <= 0 {
		cfg.MaxSize = DefaultMaxSize
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Fetcher{cfg: cfg, changed: make(chan struct{}, 1)}, nil
}

// IsURL reports whether a policy means a list that is fetched by this path.
func IsURL(path string) bool { return strings.Contains(path, "://") }

// A Status says how a list stands.
type Status struct {
	Name, URL string
	Entries   int       // of the copy; 0 if there is none
	Changed   time.Time // when the copy was fetched
	Checked   time.Time // when the publisher was last heard to have nothing newer
	Next      time.Time // when it will be looked for again
	Err       string    // what went wrong last; empty after a success
}

// A held is a text with the copy that there is of it. Several lists can be made
// of one, as of a zone those of its actions.
type held struct {
	url      string
	lists    []policy.Download
	copy     record
	next     time.Time
	failures int
	err      error
}

// Set says which lists to keep: those of the policy that is in use. Copies that
// are on disk are found again. Those of lists that nobody wants any more stay.
func (f *Fetcher) Set(lists []policy.Download) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.copies
	f.copies, f.order = map[string]*held{}, nil
	for _, d := range lists {
		h := f.copies[d.URL]
		if h == nil {
			h = &held{url: d.URL}
			f.copies[d.URL] = h
			f.order = append(f.order, d.URL)
		}
		h.lists = append(h.lists, d)
	}
	for url, h := range f.copies {
		if was := old[url]; was != nil && slices.EqualFunc(was.lists, h.lists, isKeptAs) {
			all := h.lists
			*h = *was
			h.lists = all
			continue
		}
		h.copy = f.find(h)
		h.next = h.copy.Checked.Add(h.refresh())
	}
	select {
	case f.changed <- struct{}{}:
	default: // it is known already
	}
}

// isKeptAs reports whether two lists of one text ask the same of its copy.
func isKeptAs(a, b policy.Download) bool {
	return samePin(a.Sum, b.Sum) && how(a.Source) == how(b.Source) && a.Refresh == b.Refresh
}

func samePin(a, b *list.Sum) bool { return a == b || a != nil && b != nil && *a == *b }

// name returns what the text is called in messages.
func (h *held) name() string { return h.lists[0].Source.Name }

// refresh returns how often a newer text is looked for: as often as the list
// wants it that wants it most.
func (h *held) refresh() time.Duration {
	every := h.lists[0].Refresh
	for _, d := range h.lists {
		every = min(every, d.Refresh)
	}
	return every
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Path returns where the copy of a list lies, whether there is one or not.
func (f *Fetcher) Path(url string) string { return Copy(f.cfg.Dir, url) }

// Open opens the copy of a list. If there is none the error says why.
func (f *Fetcher) Open(url string) (io.ReadCloser, error) {
	f.mu.Lock()
	h := f.copies[url]
	var have bool
	var why error
	if h != nil {
		have, why = h.copy.have(), h.err
	}
	f.mu.Unlock()
	switch {
	case h == nil:
		return nil, fmt.Errorf("%q is no list that is fetched: %w", url, fs.ErrNotExist)
	case have:
		return os.Open(f.Path(url))
	case why != nil:
		return nil, fmt.Errorf("no copy of %s yet: %w", url, why)
	}
	return nil, fmt.Errorf("no copy of %s yet: %w", url, fs.ErrNotExist)
}

// Status returns how each list stands, in the order in which they were set; those
// of one text together.
func (f *Fetcher) Status() []Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Status
	for _, url := range f.order {
		h := f.copies[url]
		for _, d := range h.lists {
			s := Status{d.Source.Name, url, h.copy.Counts[how(d.Source)], h.copy.Changed, h.copy.Checked, h.next, ""}
			if h.err != nil {
				s.Err = h.err.Error()
			}
			out = append(out, s)
		}
	}
	return out
}

// Missing fetches the lists that there is no copy of, and keeps what it gets
// without offering it to anybody: it is for those who are about to read a
// policy. The error is of all those that are missing still.
func (f *Fetcher) Missing(ctx context.Context) error {
	var errs []error
	for _, h := range f.which(func(h *held) bool { return !h.copy.have() }) {
		if err := f.renew(ctx, h, nil); err != nil {
			errs = append(errs, fmt.Errorf("list %s: %w", h.name(), err))
		}
	}
	return errors.Join(errs...)
}

// Run looks for newer lists until the context is done.
func (f *Fetcher) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		f.due(ctx)
		wait := time.NewTimer(time.Until(f.nextDue()))
		select {
		case <-ctx.Done():
		case <-f.changed:
		case <-wait.C:
		}
		wait.Stop()
	}
	return nil
}

// due renews the lists whose time has come, one after the other: each is taken
// or refused for itself.
func (f *Fetcher) due(ctx context.Context) {
	now := time.Now()
	for _, h := range f.which(func(h *held) bool { return !h.next.After(now) }) {
		if ctx.Err() != nil {
			return
		}
		if err := f.renew(ctx, h, f.cfg.Apply); err != nil && ctx.Err() == nil {
			f.cfg.Log.Warn("a list could not be renewed, the old one stays", "list", h.name(), "url", h.url, "err", err)
		}
	}
}

// which returns copies of what is held of those lists for which want is true.
func (f *Fetcher) which(want func(*held) bool) (out []held) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, url := range f.order {
		if h := f.copies[url]; want(h) {
			out = append(out, *h)
		}
	}
	return out
}

// idle is how long Run waits if there is no list.
const idle = 24 * time.Hour

func (f *Fetcher) nextDue() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := time.Now().Add(idle)
	for _, h := range f.copies {
		next = earlier(next, h.next)
	}
	return next
}
