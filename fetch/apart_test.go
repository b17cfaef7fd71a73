package fetch

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/policy/list"
)

// at returns a list that lies elsewhere at the publisher.
func at(name string) policy.Download {
	d := plain(name)
	d.URL = "https://example.com/" + name
	return d
}

func pinnedTo(text string) policy.Download {
	d := plain("l")
	d.Sum = new(list.Sum(sha256.Sum256([]byte(text))))
	return d
}

// A copy that is not on disk any more as it came is asked for as if there were
// none, and what comes is held against the entries that it had.
func TestLostCopies(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"deleted": os.Remove,
		"changed": func(path string) error { return os.WriteFile(path, []byte("a.test\n"), 0o600) },
		"folder":  func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, filepath.Join(t.TempDir(), "lists"))
				w.run(t, time.Hour)
				if err := spoil(Copy(w.cfg.Dir, url)); err != nil {
					t.Fatal(err)
				}
				whole := w.text
				w.set(func() { w.text = "a.test\n" })
				w.run(t, 6*time.Hour)
				if s := w.Status()[0]; !strings.Contains(s.Err, "it shrank from 4 entries to 1") {
					t.Errorf("a shorter text in place of a lost one: %+v", s)
				}
				w.set(func() { w.text = whole })
				w.run(t, 6*time.Hour)
				w.copyIs(t, whole)
				if got := strings.Join(w.asked, ", "); got != "0s, 6h0m0s, 12h0m0s" {
					t.Errorf("asked at %s", got)
				}
				w.run(t, 6*time.Hour)
				if got := w.asked[len(w.asked)-1]; got != "18h0m0s "+tag(whole) {
					t.Errorf("once it is back it is asked for at %s", got)
				}
			})
		})
	}
}

// Who reads the policy anew has a copy that was deleted fetched at once.
func TestLostCopyOfReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		w.run(t, time.Hour)
		if err := os.Remove(Copy(w.cfg.Dir, url)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Open(url); err == nil || !strings.Contains(err.Error(), "is gone") {
			t.Errorf("a deleted copy opens with %v", err)
		}
		if err := w.missing(t); err != nil {
			t.Error(err)
		}
		w.copyIs(t, w.text)
	})
}

// A publisher that says nothing, or stops in the middle, holds up nobody else.
func TestSlowPublishers(t *testing.T) {
	for name, slow := range map[string]struct {
		begins bool
		want   string
	}{
		"silent":  {false, "timeout awaiting response headers"},
		"stalled": {true, "nothing more came for 30s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, t.TempDir())
				var asked []time.Duration
				w.serve = func(out http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/slow" {
						asked = append(asked, time.Since(w.began))
						io.WriteString(out, w.text)
						return
					}
					if slow.begins {
						io.WriteString(out, "a.test\n")
						out.(http.Flusher).Flush()
					}
					<-r.Context().Done()
				}
				short, hour := plain("l"), time.Hour
				short.Refresh = time.Minute
				all := []policy.Download{at("slow"), short}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				if err := w.Want(ctx, all); err == nil || !strings.Contains(err.Error(), "list slow: ") || strings.Contains(err.Error(), "list l: ") {
					t.Errorf("what is missing: %v", err)
				}
				w.copyIs(t, w.text)
				w.run(t, hour)
				for i, at := range asked {
					if at != time.Duration(i)*time.Minute {
						t.Fatalf("asked at %v", asked)
					}
				}
				if s := w.Status()[0]; len(asked) != 61 || !strings.Contains(s.Err, slow.want) {
					t.Errorf("asked at %v; %+v", asked, s)
				}
			})
		})
	}
}

// While a slow publisher is waited for, who reads a policy waits for nothing of
// which there is a copy.
func TestSlowPublisherAndReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		w.run(t, time.Hour)
		w.serve = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		var done sync.WaitGroup
		done.Go(func() { w.run(t, 5*time.Hour+10*time.Second) })
		time.Sleep(5*time.Hour + 5*time.Second) // in a bubble, in which the question is under way by now
		began := time.Now()
		if err := w.missing(t); err != nil || time.Since(began) > 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		w.copyIs(t, w.text)
		done.Wait()
	})
}

// However many lists there are, so many publishers are asked at once.
func TestAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		var mu sync.Mutex
		now, most := 0, 0
		w.serve = func(out http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Second) // of the bubble
			mu.Lock()
			now--
			mu.Unlock()
			io.WriteString(out, w.text)
		}
		var all []policy.Download
		for i := range 3 * atOnce {
			all = append(all, at(fmt.Sprint("list", i)))
		}
		if err := w.Want(t.Context(), all); err != nil || most != atOnce {
			t.Errorf("%v, %d at once", err, most)
		}
		most = 0
		w.run(t, 7*time.Hour)
		if most != atOnce || len(w.applied) != 0 {
			t.Errorf("%d at once, %d offers", most, len(w.applied))
		}
	})
}

// The copies of the policy in force outlive what was fetched for one that was
// refused, and that is there for the next try.
func TestCopiesOfRefusedPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		old, next := w.text, "next.test\nb.test\n"
		before, after := []policy.Download{pinnedTo(old)}, []policy.Download{pinnedTo(next)}
		if err := w.Want(t.Context(), before); err != nil {
			t.Fatal(err)
		}
		w.Keep()
		w.set(func() { w.text = next })
		if err := w.Want(t.Context(), after); err != nil {
			t.Fatal(err)
		}
		w.copyIs(t, next)
		w.wire.down = true
		w.Set(before) // the policy is refused
		w.copyIs(t, old)
		if b, err := os.ReadFile(Copy(w.cfg.Dir, url)); string(b) != old {
			t.Errorf("on disk is %q, %v", b, err)
		}
		if s := w.Status()[0]; s.Checked.IsZero() {
			t.Errorf("what was known of the copy is lost: %+v", s)
		}
		if err := w.Want(t.Context(), after); err != nil {
			t.Error(err)
		}
		w.copyIs(t, next)
		w.Keep()
		w.copyIs(t, next)
		w.Set(after)
		if s := w.Status()[0]; s.Entries != 2 || s.Err != "" {
			t.Errorf("%+v", s)
		}
		if files, err := filepath.Glob(filepath.Join(w.cfg.Dir, "*")); len(files) != 2 || err != nil {
			t.Errorf("%q are left, %v", files, err)
		}
	})
}

// What was fetched for a format in which it cannot be read takes no copy's place
// either, and a list that nobody pins is fetched anew at the next try.
func TestCopiesOfRefusedFormat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		w.run(t, time.Hour)
		old := w.text
		w.set(func() { w.text = "0.0.0.0 a.test\n" })
		hosts := plain("l")
		hosts.Source.Format = "hosts"
		for range 2 {
			if err := w.Want(t.Context(), []policy.Download{hosts}); err != nil {
				t.Fatal(err)
			}
			w.copyIs(t, w.text)
			w.Set([]policy.Download{plain("l")})
			w.copyIs(t, old)
			w.set(func() { w.text = "0.0.0.0 b.test\n" })
		}
	})
}

// Who has put a newer text to use says so before others can read the copies.
func TestKeepNewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		w.Fetcher.cfg.Apply = func(n *Newer) error {
			if _, err := w.Open(url); err == nil {
				t.Error("a text is the copy before it is taken")
			}
			n.Keep()
			w.copyIs(t, w.text)
			return nil
		}
		w.run(t, time.Hour)
		w.copyIs(t, w.text)
	})
}

// A text that comes for a definition of before is no copy for the one of now.
func TestDefinedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		w.Set([]policy.Download{pinnedTo(w.text)})
		w.serve = func(out http.ResponseWriter, _ *http.Request) {
			w.Set([]policy.Download{pinnedTo("another.test\n")})
			io.WriteString(out, w.text)
		}
		w.run(t, 50*time.Second)
		if err := w.Want(t.Context(), []policy.Download{pinnedTo(w.text)}); err == nil || !strings.Contains(err.Error(), "another definition") {
			t.Errorf("who wants the one of before is told %v", err)
		}
		if _, err := w.Open(url); err == nil {
			t.Error("it has a sum that nobody wants")
		}
		if len(w.applied) != 0 {
			t.Errorf("%q were offered", w.applied)
		}
	})
}
