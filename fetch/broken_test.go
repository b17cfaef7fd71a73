package fetch

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starferry/starferry/policy"
)

// What breaks off, or comes otherwise than it says, leaves the old list where it
// is, and nothing else.
func TestBrokenAnswers(t *testing.T) {
	const text = "new.test\nb.test\nc.test\nd.test\n"
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	io.WriteString(z, text)
	z.Close()
	var bomb bytes.Buffer
	z = gzip.NewWriter(&bomb)
	io.WriteString(z, strings.Repeat("a.test\n", 1<<16))
	z.Close()
	zipped := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(b)
		}
	}
	for name, tt := range map[string]struct {
		serve http.HandlerFunc
		want  string // empty: it is taken
	}{
		"gzip":      {zipped(packed.Bytes()), ""},
		"half gzip": {zipped(packed.Bytes()[:packed.Len()/2]), "unexpected EOF"},
		"no gzip":   {zipped([]byte(text)), "gzip: invalid header"},
		"bomb":      {zipped(bomb.Bytes()), "more than 1000 bytes"},
		"short": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(text)+1))
			io.WriteString(w, text)
		}, "unexpected EOF"},
		"broken off": {func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, text)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, "unexpected EOF"},
		"a part": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusPartialContent) }, "answers 206"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, t.TempDir())
				w.Fetcher.cfg.MaxSize = 1000
				w.run(t, time.Hour)
				w.serve = tt.serve
				w.run(t, 5*time.Hour+30*time.Second)
				want := text
				if tt.want != "" {
					want = w.text
				}
				if s := w.Status()[0]; tt.want == "" && s.Err != "" || !strings.Contains(s.Err, tt.want) || s.Entries != 4 {
					t.Errorf("%+v, want %q", s, tt.want)
				}
				w.copyIs(t, want)
				if files, err := filepath.Glob(filepath.Join(w.cfg.Dir, "*")); len(files) != 2 || err != nil {
					t.Errorf("%q are left, %v", files, err)
				}
			})
		})
	}
}

// Where nothing can be noted of a list that was taken, as on a full disk, it is
// the copy all the same, and status says what is wrong.
func TestNothingCanBeNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		if err := os.MkdirAll(filepath.Join(w.file(url, asRecord), "in the way"), 0o700); err != nil {
			t.Fatal(err)
		}
		w.run(t, 7*time.Hour)
		w.copyIs(t, w.text)
		if got := strings.Join(w.asked, ", "); got != "0s, 6h0m0s "+tag(w.text) || len(w.applied) != 1 {
			t.Errorf("asked at %s; %d texts offered", got, len(w.applied))
		}
		if s := w.Status()[0]; !strings.Contains(s.Err, "keeping the list's record") || s.Entries != 4 {
			t.Errorf("%+v", s)
		}
	})
}

// A folder in which nothing can be kept is named.
func TestNoFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "lists")
		w := newWorld(t, dir)
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.Want(t.Context(), []policy.Download{plain("l")}); err == nil || !strings.Contains(err.Error(), "making a folder for lists: mkdir "+dir) {
			t.Error(err)
		}
	})
}
