package fetch

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
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

// Copy returns where the fetcher of a folder has the copy of a list, for those
// who only look.
func Copy(dir, url string) string { return file(dir, url, ".list") }

// find returns the record of the copy that lies on disk: an empty one if there
// is no copy, or none of what is wanted. One that does not fit the copy's text,
// since something broke off between the two, is good for the text alone.
func (f *Fetcher) find(h *held) record {
	sum, err := sumOf(f.Path(h.url))
	if err != nil || h.pinned(sum) != nil {
		return record{}
	}
	text := hex.EncodeToString(sum[:])
	var r record
	b, err := os.ReadFile(f.file(h.url, ".json"))
	if err == nil && json.Unmarshal(b, &r) == nil && r.URL == h.url && r.Sum == text && r.counted(h.lists) && !r.Checked.After(time.Now()) {
		return r
	}
	counts, err := h.counts(f.Path(h.url))
	if err != nil {
		return record{}
	}
	return record{URL: h.url, Sum: text, Counts: counts}
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
	path := f.file(url, ".json")
	out, err := os.CreateTemp(f.cfg.Dir, "*.new") // mode 0600
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
