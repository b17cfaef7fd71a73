package fetch

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/policy/list"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A wire is a listener in memory: time passes for those who wait at it.
type wire struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	down  bool // nobody answers
}

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error   { w.once.Do(func() { close(w.done) }); return nil }
func (w *wire) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

func (w *wire) dial(ctx context.Context, _, address string) (net.Conn, error) {
	if address != "example.com:443" || w.down {
		return nil, fmt.Errorf("no way to %s", address)
	}
	ours, theirs := net.Pipe()
	select {
	case w.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A world is a publisher of lists and a fetcher.
type world struct {
	*Fetcher
	wire  *wire
	cfg   Config
	roots *x509.CertPool

	mu      sync.Mutex
	text    string
	status  int
	header  http.Header
	asked   []string // the times of questions, and what validators they had
	began   time.Time
	applied []string // the texts that were offered
	refuse  error

	serve http.HandlerFunc // if it is not nil, instead of all this
}

const url = "https://example.com/list.txt"

func (w *world) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	if w.serve != nil {
		w.serve(out, r)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, strings.TrimSpace(fmt.Sprint(time.Since(w.began), " ", r.Header.Get("If-None-Match"))))
	for k, v := range w.header {
		out.Header()[k] = v
	}
	etag := tag(w.text)
	switch {
	case w.status != 0:
		out.WriteHeader(w.status)
	case r.Header.Get("If-None-Match") == etag:
		out.WriteHeader(http.StatusNotModified)
	default:
		out.Header().Set("ETag", etag)
		io.WriteString(out, w.text)
	}
}

// tag returns the ETag of a text.
func tag(text string) string {
	sum := sha256.Sum256([]byte(text))
	return strconv.Quote(hex.EncodeToString(sum[:4]))
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *world) apply(n *Newer) error {
	r, err := n.Open(url)
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.applied = append(w.applied, string(b))
	return errors.Join(err, w.refuse)
}

func plain(name string) policy.Download {
	return policy.Download{Source: list.Source{Name: name, Format: "plain"}, URL: url, Refresh: 6 * time.Hour, MaxShrink: 50}
}

// newWorld begins a world in a bubble.
func newWorld(t *testing.T, dir string) *world {
	t.Helper()
	w := &world{wire: &wire{conns: make(chan net.Conn), done: make(chan struct{})}, text: "a.test\nb.test\nc.test\nd.test\n", began: time.Now()}
	srv := httptest.NewUnstartedServer(w)
	srv.Listener.Close() // it comes with one
	srv.Listener = w.wire
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	w.roots = x509.NewCertPool()
	w.roots.AddCert(srv.Certificate())
	w.cfg = Config{Dir: dir, Dial: w.wire.dial, RootCAs: w.roots, Apply: w.apply}
	var err error
	if w.Fetcher, err = New(w.cfg); err != nil {
		t.Fatal(err)
	}
	w.Set([]policy.Download{plain("l")})
	return w
}

// missing fetches the lists that are set and not there.
func (w *world) missing(t *testing.T) error {
	t.Helper()
	var all []policy.Download
	for _, u := range w.order {
		all = append(all, w.copies[u].lists...)
	}
	return w.Want(t.Context(), all)
}

// run runs the fetcher for some time.
func (w *world) run(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := w.Run(ctx); err != nil {
		t.Error(err)
	}
}

func (w *world) copyIs(t *testing.T, want string) {
	t.Helper()
	r, err := w.Open(url)
	if err != nil {
		t.Error(err)
		return
	}
	defer r.Close()
	if b, err := io.ReadAll(r); string(b) != want || err != nil {
		t.Errorf("the copy is %q, %v, want %q", b, err, want)
	}
}

func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		if _, err := w.Open(url); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("without a copy Open gives %v", err)
		}
		w.run(t, 13*time.Hour)
		w.copyIs(t, w.text)
		if got := strings.Join(w.asked, ", "); got != "0s, 6h0m0s "+tag(w.text)+", 12h0m0s "+tag(w.text) || len(w.applied) != 1 {
			t.Errorf("asked at %s; %d texts offered", got, len(w.applied))
		}
		s := w.Status()[0]
		if s.Name != "l" || s.Entries != 4 || s.Err != "" || s.Changed.Sub(w.began) != 0 || s.Checked.Sub(w.began) != 12*time.Hour || s.Next.Sub(w.began) != 18*time.Hour {
			t.Errorf("%+v", s)
		}
		w.set(func() { w.text = "new.test\nb.test\n" })
		w.run(t, 6*time.Hour)
		w.copyIs(t, "new.test\nb.test\n")
	})
}

// What is on disk is used before the network answers, and not asked for again
// before its time.
func TestStartFromDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		w := newWorld(t, dir)
		w.run(t, time.Hour)
		w.wire.down = true
		again := &world{wire: w.wire, cfg: w.cfg}
		var err error
		if again.Fetcher, err = New(w.cfg); err != nil {
			t.Fatal(err)
		}
		again.Set([]policy.Download{plain("l")})
		again.copyIs(t, w.text)
		if err := again.missing(t); err != nil {
			t.Error(err)
		}
		if s := again.Status()[0]; s.Entries != 4 || s.Next.Sub(w.began) != 6*time.Hour {
			t.Errorf("%+v", s)
		}
		// Another pin, or a text that was changed: there is no copy of that.
		pinned := plain("l")
		pinned.Sum = &list.Sum{1}
		again.Set([]policy.Download{pinned})
		if _, err := again.Open(url); err == nil {
			t.Error("a copy with another sum is taken")
		}
		if err := os.WriteFile(Copy(dir, url), []byte("x.test\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		again.Set(nil)
		again.Set([]policy.Download{plain("l")})
		again.copyIs(t, "x.test\n")
		if s := again.Status()[0]; s.Entries != 1 || s.Next.After(time.Now()) {
			t.Errorf("a text without its record: %+v", s)
		}
	})
}

func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		w.status = http.StatusBadGateway
		w.run(t, 2*time.Hour+10*time.Minute)
		if got := strings.Join(w.asked, " "); got != "0s 1m0s 3m0s 7m0s 15m0s 31m0s 1h3m0s 2h3m0s" {
			t.Errorf("asked at %s", got)
		}
		if s := w.Status()[0]; !strings.Contains(s.Err, "example.com answers 502 Bad Gateway") {
			t.Errorf("%+v", s)
		}
		if _, err := w.Open(url); err == nil || !strings.Contains(err.Error(), "502") {
			t.Errorf("Open gives %v", err)
		}
		w.set(func() { w.header, w.asked = http.Header{"Retry-After": {"7200"}}, nil })
		w.run(t, 4*time.Hour)
		if got := strings.Join(w.asked, " "); got != "3h3m0s 5h3m0s" {
			t.Errorf("asked at %s", got)
		}
		w.set(func() { w.status = 0 })
		w.run(t, 2*time.Hour)
		w.copyIs(t, w.text)
		w.wire.down = true
		w.run(t, 7*time.Hour)
		w.copyIs(t, w.text)
		if s := w.Status()[0]; !strings.Contains(s.Err, "no way to example.com:443") || s.Entries != 4 {
			t.Errorf("%+v", s)
		}
	})
}

// What is no newer list leaves the old one where it is.
func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(w *world, d *policy.Download)
		want   string
	}{
		"page":     {func(w *world, _ *policy.Download) { w.text = "<!DOCTYPE html><html>not found</html>" }, "a page (HTML) in place of a list"},
		"program":  {func(w *world, _ *policy.Download) { w.text = "\x7fELF\x00\x00" }, "no text in place of a list"},
		"archive":  {func(w *world, _ *policy.Download) { w.text = "PK\x03\x04abc" }, "but application/zip"},
		"nothing":  {func(w *world, _ *policy.Download) { w.text = "" }, "no entry in it"},
		"comments": {func(w *world, _ *policy.Download) { w.text = "# gone\n" }, "no entry in it"},
		"format":   {func(w *world, _ *policy.Download) { w.text = "a b\nc d\n" }, "is its format plain"},
		"shrunk":   {func(w *world, _ *policy.Download) { w.text = "a.test\n" }, "it shrank from 4 entries to 1, by more than 50%"},
		"large":    {func(w *world, _ *policy.Download) { w.text = strings.Repeat("a.test\n", 1000) }, "more than 1000 bytes"},
		"unwanted": {func(w *world, _ *policy.Download) { w.text, w.refuse = "x.test\ny.test\n", errors.New("a test fails") }, "not taken: a test fails"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, t.TempDir())
				w.Fetcher.cfg.MaxSize = 1000
				w.run(t, time.Hour)
				old := w.text
				d := plain("l")
				tt.change(w, &d)
				w.run(t, 6*time.Hour)
				if s := w.Status()[0]; !strings.Contains(s.Err, tt.want) || s.Next.Sub(w.began) != 12*time.Hour || s.Entries != 4 {
					t.Errorf("%+v, want %q", s, tt.want)
				}
				w.copyIs(t, old)
				w.set(func() { w.text, w.refuse = "e.test\nf.test\ng.test\n", nil })
				w.run(t, 6*time.Hour)
				w.copyIs(t, w.text)
				files, err := filepath.Glob(filepath.Join(w.cfg.Dir, "*"))
				if len(files) != 2 || err != nil {
					t.Errorf("%q are left, %v", files, err)
				}
			})
		})
	}
}

// Of a response policy zone all counts that can be taken of it, once: with local
// data alone it shrinks like others.
func TestCount(t *testing.T) {
	const blocks, data = "ads.test CNAME .\nspy.test CNAME *.\n", "a.test A 192.0.2.1\na.test AAAA 2001:db8::1\nb.test CNAME garden.example.\n"
	for _, tt := range []struct {
		text  string
		takes []string
		want  int
	}{
		{blocks, nil, 2},
		{data, nil, 3},
		{blocks + data, nil, 5},
		{blocks + data, []string{"nxdomain", "local"}, 4}, // of the blocks one, and of the data what is taken twice
		{blocks + data, []string{"cname:garden.example"}, 3},
		{data + "24.0.2.0.192.rpz-ip CNAME .\n", []string{"response-ip"}, 1},
	} {
		file := filepath.Join(t.TempDir(), "zone")
		if err := os.WriteFile(file, []byte("$TTL 60\n@ SOA a. b. 1 2 3 4 5\n"+tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := count(list.Source{Name: "zone", Format: "rpz", Select: tt.takes}, file)
		if err != nil || n != tt.want {
			t.Errorf("%q of\n%s: %d, %v, want %d", tt.takes, tt.text, n, err, tt.want)
		}
	}
}

func TestPin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		d := plain("l")
		sum := list.Sum(sha256.Sum256([]byte(w.text)))
		d.Sum = &sum
		w.Set([]policy.Download{d})
		if err := w.missing(t); err != nil {
			t.Fatal(err)
		}
		if len(w.applied) != 0 {
			t.Error("Want offers what it gets")
		}
		old := w.text
		w.set(func() { w.text += "e.test\n" })
		w.run(t, 7*time.Hour)
		if s := w.Status()[0]; !strings.Contains(s.Err, "its SHA-256 sum is") {
			t.Errorf("%+v", s)
		}
		w.copyIs(t, old)
	})
}

// Of several lists of one text, each has its say of it: what it is pinned to, how
// many of its own entries may go, and how often it is looked for.
func TestListsOfOneText(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*policy.Download)
		text   string
		want   string // empty: it is taken
		at     time.Duration
	}{
		"pinned": {func(d *policy.Download) {
			sum := list.Sum(sha256.Sum256([]byte("ads.test CNAME .\nspy.test CNAME rpz-drop.\n")))
			d.Sum = &sum
		}, "ads.test CNAME .\nspy.test CNAME rpz-drop.\nnew.test CNAME .\n", "list dropped: its SHA-256 sum is ", 6 * time.Hour},
		"shrunk":  {func(*policy.Download) {}, "ads.test CNAME .\nother.test CNAME .\n", "list dropped: it shrank from 1 entries to 0", 6 * time.Hour},
		"smaller": {func(d *policy.Download) { d.MaxShrink = 100 }, "ads.test CNAME .\nother.test CNAME .\n", "", 6 * time.Hour},
		"sooner":  {func(d *policy.Download) { d.Refresh = time.Hour }, "ads.test CNAME .\nspy.test CNAME rpz-drop.\nnew.test CNAME .\n", "", time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, t.TempDir())
				old := "ads.test CNAME .\nspy.test CNAME rpz-drop.\n"
				w.text = old
				all, dropped := plain("all"), plain("dropped")
				all.Source.Format, all.Source.Select = "rpz", []string{"nxdomain"}
				dropped.Source.Format, dropped.Source.Select = "rpz", []string{"drop"}
				tt.change(&dropped)
				w.Set([]policy.Download{all, dropped})
				w.run(t, time.Minute)
				if s := w.Status(); len(s) != 2 || s[0].Name != "all" || s[0].Entries != 1 || s[1].Name != "dropped" || s[1].Entries != 1 || s[1].Next.Sub(w.began) != tt.at {
					t.Errorf("%+v", s)
				}
				w.set(func() { w.text = tt.text })
				w.run(t, 6*time.Hour)
				want := tt.text
				if tt.want != "" {
					want = old
				}
				if s := w.Status()[1]; !strings.Contains(s.Err, tt.want) || tt.want == "" && s.Err != "" {
					t.Errorf("%+v, want %q", s, tt.want)
				}
				w.copyIs(t, want)
			})
		})
	}
}

// Nobody but the publisher, who has a certificate, is heard.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		w.Fetcher.cfg.RootCAs = x509.NewCertPool()
		if err := w.missing(t); err == nil || !strings.Contains(err.Error(), "list l: ") || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("an unknown issuer gives %v", err)
		}
		w.Fetcher.cfg.RootCAs = w.roots
		w.status, w.header = http.StatusFound, http.Header{"Location": {"http://example.com/other"}}
		if err := w.missing(t); err == nil || !strings.Contains(err.Error(), "which is not https") {
			t.Errorf("a way out of TLS gives %v", err)
		}
		w.header = http.Header{"Location": {url}}
		if err := w.missing(t); err == nil || !strings.Contains(err.Error(), "from one place to the next") {
			t.Errorf("a circle gives %v", err)
		}
	})
}

func TestIsURL(t *testing.T) {
	if !IsURL(url) || IsURL("lists/a.txt") || IsURL("/var/lib/a.txt") {
		t.Error("files and URLs are taken for each other")
	}
}

// A newer list is offered beside the copies of the others.
func TestOthersAreThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		other := plain("other")
		other.URL = "https://example.com/other.txt"
		seen := 0
		w.Fetcher.cfg.Apply = func(n *Newer) error {
			for _, u := range []string{url, other.URL} {
				r, err := n.Open(u)
				if err != nil {
					return err
				}
				r.Close()
			}
			seen++
			_, err := n.Open("https://example.com/none")
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("what is not wanted gives %v", err)
			}
			w.Set([]policy.Download{plain("l"), other}) // as a node does that read its policy anew
			return nil
		}
		w.Set([]policy.Download{plain("l"), other, plain("twice")})
		if err := w.missing(t); err != nil || len(w.Status()) != 3 {
			t.Fatal(err, w.Status())
		}
		w.set(func() { w.text += "more.test\n" })
		w.run(t, 7*time.Hour)
		if seen != 2 {
			t.Errorf("%d of two lists were taken: %+v", seen, w.Status())
		}
	})
}
