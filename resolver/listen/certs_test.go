package listen

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func move(t *testing.T, from, to KeyPair) {
	t.Helper()
	for _, p := range [][2]string{{from.Key, to.Key}, {from.Cert, to.Cert}} {
		if err := os.Rename(p[0], p[1]); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCertificatesFollowTheirFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, until := t.TempDir(), time.Now().Add(24*time.Hour)
		pair := writePair(t, dir, "it", until, "one.example")
		var reported []string
		c, err := LoadCertificates([]KeyPair{pair}, func(err error) { reported = append(reported, err.Error()) })
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { c.Run(ctx) })
		defer func() { cancel(); done.Wait() }()
		expect := func(what, name, problem string) {
			t.Helper()
			s := c.Status()[0]
			if s.Names[0] != name || !strings.Contains(s.Problem, problem) || (s.Problem == "") != (problem == "") || s.File != pair.Cert {
				t.Errorf("%s: %+v", what, s)
			}
		}
		expect("at first", "one.example", "")

		move(t, writePair(t, dir, "next", until, "two.example"), pair)
		time.Sleep(3 * lookEvery)
		synctest.Wait()
		expect("after a new pair", "two.example", "")

		next := writePair(t, dir, "next", until, "three.example")
		if err := os.Rename(next.Cert, pair.Cert); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * lookEvery)
		synctest.Wait()
		expect("a certificate without its key", "two.example", "private key does not match")
		if len(reported) != 1 || !strings.Contains(reported[0], pair.Cert) || !strings.Contains(reported[0], pair.Key) {
			t.Errorf("reported %q", reported)
		}
		if err := os.Rename(next.Key, pair.Key); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * lookEvery)
		synctest.Wait()
		expect("the key came too", "three.example", "")

		os.Remove(pair.Cert)
		time.Sleep(3 * lookEvery)
		synctest.Wait()
		expect("a file is gone", "three.example", "no such file")

		move(t, writePair(t, dir, "next", time.Now().Add(-time.Hour), "four.example"), pair)
		if err := c.Reload(); err == nil {
			t.Error("an expired certificate: no warning")
		}
		expect("an expired one", "four.example", "expired")
		if len(reported) != 3 {
			t.Errorf("reported %q", reported)
		}
	})
}

func TestBadCertificates(t *testing.T) {
	dir, until := t.TempDir(), time.Now().Add(time.Hour)
	a, b := writePair(t, dir, "a", until, "a.example"), writePair(t, dir, "b", until, "b.example")
	junk := filepath.Join(dir, "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		what  string
		pairs []KeyPair
		want  []string
	}{
		{"none", nil, []string{"there are none"}},
		{"a key that is another's", []KeyPair{a, {a.Cert, b.Key}}, []string{a.Cert, b.Key, "does not match"}},
		{"no file", []KeyPair{{"/no/cert", a.Key}}, []string{"/no/cert", "no such file"}},
		{"no key", []KeyPair{{a.Cert, "/no/key"}}, []string{"/no/key", "no such file"}},
		{"no PEM", []KeyPair{{junk, a.Key}}, []string{junk, "PEM"}},
		{"several", []KeyPair{{junk, a.Key}, {"/no/cert", a.Key}}, []string{junk, "/no/cert"}},
	}
	for _, tt := range tests {
		_, err := LoadCertificates(tt.pairs, func(error) {})
		if err == nil {
			t.Errorf("%s: taken", tt.what)
			continue
		}
		for _, w := range tt.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v; want %q in it", tt.what, err, w)
			}
		}
	}
	warned := 0
	old := writePair(t, dir, "old", time.Now().Add(-time.Hour), "old.example")
	if _, err := LoadCertificates([]KeyPair{old}, func(error) { warned++ }); err != nil || warned != 1 {
		t.Errorf("an expired certificate: %v and %d warnings, want 1 and no error", err, warned)
	}
}
