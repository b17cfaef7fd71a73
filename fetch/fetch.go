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
// Lists are looked for independently of each other: a publisher that is slow, or
// says nothing, keeps nobody else's list waiting. What a policy needs that is only
// about to be read lies beside the copy of before until [Fetcher.Keep] says that
// this policy is in force: if it is refused, the one in force has its copies still.
//
// The names of publishers are resolved by [Config.Dial], which must not need the
// lists itself.
package fetch

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
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

	// Apply puts to use a newer text for one of the lists. An error says why not,
	// and that all is as it was. It may call the fetcher's methods, and is called
	// for one text at a time. Nil takes all.
	Apply func(*Newer) error
}

// DefaultMaxSize is enough for ten million names.
const DefaultMaxSize = 256 << 20

// A Fetcher keeps the copies. It is safe for concurrent use.
type Fetcher struct {
	cfg      Config
	changed  chan struct{} // has one element if the lists changed
	offering sync.Mutex    // held while a text is offered, until it is a copy or refused

	mu     sync.Mutex
	copies map[string]*held // by their URLs
	order  []string
	busy   map[string]int // how often each URL is being looked for
}

// New returns a fetcher of no lists. The folder is made when the first one comes.
func New(cfg Config) (*Fetcher, error) {
	left, err := filepath.Glob(filepath.Join(cfg.Dir, "*"+asComing))
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
	return &Fetcher{cfg: cfg, changed: make(chan struct{}, 1), busy: map[string]int{}}, nil
}

// IsURL reports whether a policy means a list that is fetched by this path.
func IsURL(path string) bool { return list.IsURL(path) }

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
	file     fs.FileInfo // of the copy, when it was looked at last
	aside    bool        // the copy lies beside the one of the policy in force
	next     time.Time
	failures int
	err      error
}

// Set says which lists to keep: those of the policy that is in use. Copies that
// are on disk are found again. Those of lists that nobody wants any more stay.
func (f *Fetcher) Set(lists []policy.Download) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set(lists)
	f.wake()
}

func (f *Fetcher) set(lists []policy.Download) {
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
		was := old[url]
		same := was != nil && slices.EqualFunc(was.lists, h.lists, isKeptAs)
		if same && f.untouched(was) {
			all := h.lists
			*h = *was
			h.lists = all
			continue
		}
		f.find(h)
		if same && !h.copy.have() {
			h.copy.Counts = was.copy.Counts // what comes in its place is held against them
		}
		h.next = h.copy.Checked.Add(h.refresh())
	}
}

// wake has Run look again at what is due when.
func (f *Fetcher) wake() {
	select {
	case f.changed <- struct{}{}:
	default: // it will
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

// Open opens the copy of a list. If there is none the error says why.
func (f *Fetcher) Open(url string) (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.copies[url]
	switch {
	case h == nil:
		return nil, fmt.Errorf("%q is no list that is fetched: %w", url, fs.ErrNotExist)
	case h.copy.have():
		r, err := os.Open(f.path(h))
		if err != nil {
			return nil, fmt.Errorf("the copy of %s is gone: %w", url, err)
		}
		return r, nil
	case h.err != nil:
		return nil, fmt.Errorf("no copy of %s yet: %w", url, h.err)
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
