package fetch

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/policy/list"
)

// A record is what is known of a copy, kept beside it.
type record struct {
	URL          string         `json:"url"`
	ETag         string         `json:"etag,omitempty"`
	LastModified string         `json:"last_modified,omitempty"`
	Sum          string         `json:"sha256"`
	Counts       map[string]int `json:"counts"` // of entries, by how the text is read
	Changed      time.Time      `json:"changed"`
	Checked      time.Time      `json:"checked"`
}

// how says how a list is read: read otherwise, its text has other entries.
func how(s list.Source) string {
	return fmt.Sprintf("%s %d %q %q", s.Format, s.MinLabels, s.Except, s.Select)
}

// have reports whether there is a copy.
func (r *record) have() bool { return r.Sum != "" }

func (r *record) sum() (s list.Sum) {
	hex.Decode(s[:], []byte(r.Sum)) // what is none stays zero, and is no text's sum
	return s
}

// file returns the path of a file of a list. URLs can be longer than names of
// files may be, and hold anything.
func (f *Fetcher) file(url, ext string) string { return file(f.cfg.Dir, url, ext) }

func file(dir, url, ext string) string {
	sum := sha256.Sum256([]byte(url))
	return filepath.Join(dir, hex.EncodeToString(sum[:16])+ext)
}

// The endings of what there is of a list.
const (
	asCopy   = ".list"
	asAside  = ".next" // what was fetched for a policy that is not in force yet
	asRecord = ".json" // of the copy
	asComing = ".new"  // what is being written; it has other names
)

// Copy returns where the fetcher of a folder has the copy of a list, for those
// who only look.
func Copy(dir, url string) string { return file(dir, url, asCopy) }

// path returns where the copy of a list lies, whether there is one or not.
func (f *Fetcher) path(h *held) string {
	if h.aside {
		return f.file(h.url, asAside)
	}
	return f.file(h.url, asCopy)
}

// find finds the copy that lies on disk: none if it is not what is wanted. One
// that a refused policy has left is good for the text that is pinned: no newer
// one can be meant.
func (f *Fetcher) find(h *held) {
	for _, aside := range []bool{false, true} {
		if h.aside = aside; aside && !h.isPinned() {
			continue
		}
		if h.copy = f.recorded(h); h.copy.have() {
			h.file, _ = os.Stat(f.path(h)) // nil is never untouched
			return
		}
	}
	h.aside = false
}

// recorded returns the record of the copy at its path. One that does not fit the
// copy's text, since something broke off between the two, is good for the text alone.
func (f *Fetcher) recorded(h *held) record {
	sum, err := sumOf(f.path(h))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			f.cfg.Log.Warn("the copy of a list cannot be read: it is fetched anew", "list", h.name(), "url", h.url, "err", err)
		}
		return record{}
	}
	if h.pinned(sum) != nil {
		return record{}
	}
	text := hex.EncodeToString(sum[:])
	var r record
	b, err := os.ReadFile(f.file(h.url, asRecord))
	if err == nil && json.Unmarshal(b, &r) == nil && r.URL == h.url && r.Sum == text && r.counted(h.lists) && !r.Checked.After(time.Now()) {
		return r
	}
	counts, err := h.counts(f.path(h))
	if err != nil {
		return record{}
	}
	return record{URL: h.url, Sum: text, Counts: counts}
}

// place makes a file the copy of a list, or has it lie beside that.
func (f *Fetcher) place(h *held, from string, aside bool, r record) error {
	to := *h
	to.aside = aside
	if err := os.Rename(from, f.path(&to)); err != nil {
		return fmt.Errorf("keeping the list: %w", err)
	}
	h.aside, h.copy = aside, r
	h.file, _ = os.Stat(f.path(h)) // nil is never untouched
	return syncFolder(f.cfg.Dir)
}

// untouched reports whether a copy is the file that was looked at, as far as its
// folder tells; it is if there was none.
func (f *Fetcher) untouched(h *held) bool {
	if !h.copy.have() {
		return true
	}
	is, err := os.Stat(f.path(h))
	return err == nil && h.file != nil && os.SameFile(is, h.file) && is.Size() == h.file.Size() && is.ModTime().Equal(h.file.ModTime())
}

// lose forgets what a publisher could call unchanged, if the copy is not on disk
// as it came: it would be away for as long as the list stays the same.
func (f *Fetcher) lose(h *held) {
	if !h.copy.have() {
		return
	}
	if sum, err := sumOf(f.path(h)); err != nil || sum != h.copy.sum() {
		f.cfg.Log.Warn("the copy of a list is gone or was changed: it is fetched anew", "list", h.name(), "file", f.path(h))
		h.copy = record{Counts: h.copy.Counts}
	}
}

// counted reports whether the entries of all the lists are known.
func (r *record) counted(lists []policy.Download) bool {
	for _, d := range lists {
		if _, ok := r.Counts[how(d.Source)]; !ok {
			return false
		}
	}
	return true
}

func sumOf(path string) (sum list.Sum, err error) {
	r, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer r.Close() // only read from
	h := sha256.New()
	_, err = io.Copy(h, r)
	h.Sum(sum[:0])
	return sum, err
}

// note writes a record beside its copy.
func (f *Fetcher) note(url string, r record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("keeping the list's record: %w", err)
	}
	path := f.file(url, asRecord)
	out, err := os.CreateTemp(f.cfg.Dir, "*"+asComing) // mode 0600
	if err != nil {
		return fmt.Errorf("keeping the list's record: %w", err)
	}
	_, err = out.Write(append(b, '\n'))
	if err = closed(out, err); err == nil {
		err = os.Rename(out.Name(), path)
	}
	if err != nil {
		os.Remove(out.Name()) // which is of no use
		return fmt.Errorf("keeping the list's record: %w", err)
	}
	return nil
}

// closed makes sure that what was written, if err is nil, is on disk.
func closed(out *os.File, err error) error {
	if err == nil {
		err = out.Sync()
	}
	if e := out.Close(); err == nil {
		err = e
	}
	return err
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close() // only read from
	return d.Sync()
}
