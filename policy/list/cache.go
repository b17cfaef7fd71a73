package list

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"weak"

	"github.com/starferry/starferry/policy/match"
)

// A Sum is the SHA-256 of a list's text.
type Sum [sha256.Size]byte

// An Opener opens the file of a list.
type Opener func(path string) (io.ReadCloser, error)

// A Cache spares those who read their lists again the building of sets whose
// text has not changed: it is read and hashed, and where the sum is the same the
// set is the one of before. A cache holds no set in memory that nobody else
// holds: what the last policy that used a list let go is built anew.
//
// The zero value is ready; nil is a cache that remembers nothing. It is safe for
// concurrent use.
type Cache struct {
	names    shelf[Set]
	networks shelf[match.Networks]
	answers  shelf[Answers]
}

// Names returns the list of names that lies at path, and the sum of its text.
func (c *Cache) Names(s Source, path string, open Opener) (*Set, Stats, Sum, error) {
	var on *shelf[Set]
	if c != nil {
		on = &c.names
	}
	return load(on, s, path, open, Source.Names)
}

// Networks returns the list of networks that lies at path, and the sum of its text.
func (c *Cache) Networks(s Source, path string, open Opener) (*match.Networks, Stats, Sum, error) {
	var on *shelf[match.Networks]
	if c != nil {
		on = &c.networks
	}
	return load(on, s, path, open, Source.Networks)
}

// Answers returns what the zone that lies at path answers with, and the sum of
// its text.
func (c *Cache) Answers(s Source, path string, open Opener) (*Answers, Stats, Sum, error) {
	var on *shelf[Answers]
	if c != nil {
		on = &c.answers
	}
	return load(on, s, path, open, Source.Answers)
}

// A shelf holds the sets of one kind.
type shelf[T any] struct {
	mu   sync.Mutex
	sets map[shelfKey]kept[T]
}

// A shelfKey is where a list lies and all that decides what is made of its text.
type shelfKey struct {
	path, format, except, selects string
	minLabels                     int
}

type kept[T any] struct {
	set   weak.Pointer[T]
	stats Stats
	paths []string // of all files that it was made of
	sum   Sum
}

// find returns the set that was made of a list, nil if there is none any more.
func (s *shelf[T]) find(k shelfKey) (*T, kept[T]) {
	if s == nil {
		return nil, kept[T]{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.sets[k]
	return was.set.Value(), was
}

// put keeps a set, and forgets those that are gone.
func (s *shelf[T]) put(k shelfKey, is kept[T]) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for old, was := range s.sets {
		if was.set.Value() == nil {
			delete(s.sets, old)
		}
	}
	if s.sets == nil {
		s.sets = map[shelfKey]kept[T]{}
	}
	s.sets[k] = is
}

// load returns what was made of the text that lies at path if that is still the
// same, and else makes it with read.
func load[T any](on *shelf[T], s Source, path string, open Opener, read func(Source, io.Reader) (*T, Stats, error)) (*T, Stats, Sum, error) {
	k := shelfKey{path, s.Format, strings.Join(s.Except, "\n"), strings.Join(s.Select, "\n"), s.MinLabels}
	if set, was := on.find(k); set != nil {
		again := texts{open: open}
		err := again.all(was.paths, s.drain)
		if err != nil || again.sum() == was.sum {
			was.stats.name = s.Name
			return set, was.stats, again.sum(), err
		}
	}
	var set *T
	var stats Stats
	t := texts{open: open}
	path, err := s.file(path, open)
	if err != nil {
		return nil, stats, Sum{}, err
	}
	s.Include, s.itself = t.beside(path), listName(path)
	err = t.take(path, func(r io.Reader) (err error) {
		set, stats, err = read(s, r)
		return err
	})
	if err != nil {
		return nil, stats, t.sum(), err
	}
	on.put(k, kept[T]{weak.Make(set), stats, t.paths, t.sum()})
	return set, stats, t.sum(), nil
}

// drain reads to the end.
func (s Source) drain(r io.Reader) error {
	buf := make([]byte, buffered)
	for {
		switch _, err := r.Read(buf); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading list %s: %w", s.Name, err)
		}
	}
}
