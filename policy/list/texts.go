package list

import (
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"io/fs"
	"path"
	"strings"
)

// A texts opens the files that a list is made of, the list's own and those that
// it includes, and keeps the sum of what each holds: zeros for one that is not there.
type texts struct {
	open  Opener
	paths []string
	sums  []Sum
}

// take opens a file and passes it to read.
func (t *texts) take(path string, read func(io.Reader) error) error {
	f, err := t.opened(path)
	if err != nil {
		return err
	}
	defer f.Close() // only read from
	return read(f)
}

// opened opens a file. Its sum is known once it is closed.
func (t *texts) opened(path string) (io.ReadCloser, error) {
	f, err := t.open(path)
	t.paths, t.sums = append(t.paths, path), append(t.sums, Sum{})
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	return &summed{io.TeeReader(f, h), f, h, t, len(t.sums) - 1}, nil
}

type summed struct {
	io.Reader
	file io.Closer
	hash hash.Hash
	of   *texts
	i    int
}

func (s *summed) Close() error {
	s.hash.Sum(s.of.sums[s.i][:0])
	return s.file.Close()
}

// all passes the files at these paths to read. Those after the first one may be
// missing.
func (t *texts) all(paths []string, read func(io.Reader) error) error {
	for i, p := range paths {
		if err := t.take(p, read); err != nil && (i == 0 || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// sum returns the sum of a text that is alone, or the sum of the sums of several.
func (t *texts) sum() Sum {
	switch len(t.sums) {
	case 0:
		return Sum{}
	case 1:
		return t.sums[0]
	}
	h := sha256.New()
	for _, s := range t.sums {
		h.Write(s[:])
	}
	return Sum(h.Sum(nil))
}

// IsURL reports whether a policy means a list of another machine by this path. No
// others lie beside one that was fetched.
func IsURL(path string) bool { return strings.Contains(path, "://") }

// beside returns an opener of the lists that lie in the folder of a file, whose
// names end as its own does.
func (t *texts) beside(file string) Opener {
	if IsURL(file) {
		return nil
	}
	return func(name string) (io.ReadCloser, error) {
		return t.opened(path.Join(path.Dir(file), name+path.Ext(file)))
	}
}

// listName returns the name by which lists beside it include the one of a file.
func listName(file string) string { return strings.TrimSuffix(path.Base(file), path.Ext(file)) }

// file returns the path of the list's own file: where a list is selected by its
// name, path is that of a folder; of a URL the text is the list.
func (s Source) file(folder string, open Opener) (string, error) {
	name := s.list()
	if name == "" || IsURL(folder) {
		return folder, nil
	}
	file := path.Join(folder, name)
	for _, p := range []string{file, file + ".txt"} {
		f, err := open(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = f.Close()
		}
		return p, err
	}
	return file, nil // and opening it says what is wrong
}
