package list

import (
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

// files are texts by their paths.
type files map[string]string

func (f files) open(path string) (io.ReadCloser, error) {
	text, ok := f[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

func TestCache(t *testing.T) {
	disk := files{"l": "a.test\ncn\n"}
	var c Cache
	src := Source{Name: "one", Format: "plain"}
	first, stats, sum, err := c.Names(src, "l", disk.open)
	if err != nil || stats.Entries != 2 || sum != sha256.Sum256([]byte(disk["l"])) {
		t.Fatal(stats, sum, err)
	}
	runtime.GC()
	again, stats, sum2, err := c.Names(Source{Name: "two", Format: "plain"}, "l", disk.open)
	if err != nil || again != first || sum2 != sum || stats.Entries != 2 || !strings.Contains(stats.Warnings()[0], "list two:") {
		t.Errorf("the same text again gives %p after %p, %+v, %v", again, first, stats, err)
	}
	for name, s := range map[string]Source{
		"format":     {Format: "adblock"},
		"min_labels": {Format: "plain", MinLabels: 2},
		"except":     {Format: "plain", Except: []string{"cn"}},
	} {
		if set, _, _, err := c.Names(s, "l", disk.open); err == nil && set == first {
			t.Errorf("another %s gives the same set", name)
		}
	}
	disk["l"] = "b.test\n"
	changed, stats, sum3, err := c.Names(src, "l", disk.open)
	if _, ok := changed.Lookup("b.test"); !ok || err != nil || stats.Entries != 1 || sum3 == sum {
		t.Errorf("another text gives %+v, %v", stats, err)
	}
	if again, _, _, _ := c.Names(src, "l", disk.open); again != changed {
		t.Error("the set of the new text is not kept")
	}
	runtime.KeepAlive(first)
}

// Sets that nobody uses are not held in memory.
func TestCacheLetsGo(t *testing.T) {
	disk := files{"l": "a.test\n", "m": "192.0.2.0/24\n", "n": "b.test\n"}
	var c Cache
	for _, path := range []string{"l", "n"} {
		if _, _, _, err := c.Names(Source{Format: "plain"}, path, disk.open); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.names.sets) == 0 {
		t.Fatal("nothing is kept")
	}
	runtime.GC()
	set, _, _, err := c.Names(Source{Format: "plain"}, "l", disk.open)
	if _, ok := set.Lookup("a.test"); !ok || err != nil || len(c.names.sets) != 1 {
		t.Errorf("%d sets are kept, %v", len(c.names.sets), err)
	}
}

func TestCacheOfNetworks(t *testing.T) {
	disk := files{"l": "192.0.2.0/24\n"}
	var c Cache
	src := Source{Format: "cidr"}
	first, stats, _, err := c.Networks(src, "l", disk.open)
	if err != nil || stats.Entries != 1 {
		t.Fatal(stats, err)
	}
	if again, _, _, err := c.Networks(src, "l", disk.open); err != nil || again != first {
		t.Errorf("the same text again gives %p after %p, %v", again, first, err)
	}
	runtime.KeepAlive(first)
}

func TestNoCache(t *testing.T) {
	disk := files{"l": "a.test\n", "m": "192.0.2.0/24\n"}
	var c *Cache
	a, _, _, err := c.Names(Source{Format: "plain"}, "l", disk.open)
	b, _, _, err2 := c.Names(Source{Format: "plain"}, "l", disk.open)
	if err != nil || err2 != nil || a == b || b.Len() != 1 {
		t.Errorf("no cache gives %p and %p, %v, %v", a, b, err, err2)
	}
	if n, _, _, err := c.Networks(Source{Format: "cidr"}, "m", disk.open); err != nil || n.Len() != 1 {
		t.Error(n.Len(), err)
	}
}

// A file that cannot be read any more is an error also where its set is known.
func TestCacheOfWhatIsGone(t *testing.T) {
	disk := files{"l": "a.test\n"}
	var c Cache
	src := Source{Format: "plain"}
	set, _, _, err := c.Names(src, "l", disk.open)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if _, _, _, err := c.Names(src, "l", func(string) (io.ReadCloser, error) { return io.NopCloser(iotest.ErrReader(broken)), nil }); !errors.Is(err, broken) {
		t.Errorf("a file that breaks off gives %v", err)
	}
	if _, _, _, err := c.Names(src, "l", files{}.open); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is gone gives %v", err)
	}
	disk["l"] = "<html>\n"
	if _, _, _, err := c.Names(src, "l", disk.open); err == nil {
		t.Error("a page in place of the list is taken")
	}
	runtime.KeepAlive(set)
}
