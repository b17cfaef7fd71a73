package node

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
)

// A policy whose tests fail is not taken: not at the start, and not at a reload,
// after which the one before is in force.
func TestPolicyIsTested(t *testing.T) {
	text := ""
	load := func() (*Loaded, error) {
		p, err := policy.Parse("policy.yaml", []byte(text), nil)
		return &Loaded{Policy: p, Devices: []*device.Device{{ID: "alice", Groups: []string{"staff"}}}}, err
	}
	applied := 0
	start := func() (*rules, error) {
		apply := func(*Loaded) error { applied++; return nil }
		return newRules(load, apply, func() {}, slog.New(slog.NewTextHandler(io.Discard, nil)), &Surroundings{Metrics: prometheus.NewRegistry()})
	}
	const (
		good = "policies: [{name: a, if: {group: staff}, then: allow}]\ntests: [{device: alice, ask: x.example, want: allow}]\n"
		bad  = "policies: [{name: a, if: {group: staff}, then: block}]\ntests: [{device: alice, ask: x.example, want: allow}]\n"
		want = "1 of 1 test fails:\npolicy.yaml:2:9: x.example A by alice: want allow, got block refused by policy a"
	)
	text = bad
	if _, err := start(); err == nil || !strings.Contains(err.Error(), want) || applied > 0 {
		t.Fatalf("start: %v, %d applied, want %s", err, applied, want)
	}
	text = good
	r, err := start()
	if err != nil {
		t.Fatal(err)
	}
	version := r.now().Version()
	text = bad
	if err := r.reload("test"); err == nil || !strings.Contains(err.Error(), want) || errors.Unwrap(err) == nil {
		t.Fatalf("reload: %v", err)
	}
	if r.now().Version() != version || applied != 1 {
		t.Error("a policy whose tests fail is in force")
	}
}

// A file that is changed and then reloaded by command is read once, even if it
// is noticed that it has changed while the reload is in work.
func TestChangedWhileReloading(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte("policies: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	earlier := time.Now().Add(-time.Minute)
	if err := os.Chtimes(file, earlier, earlier); err != nil {
		t.Fatal(err)
	}
	entered, leave := make(chan bool), make(chan bool)
	var loads atomic.Int32
	load := func() (*Loaded, error) {
		if loads.Add(1) == 2 {
			entered <- true
			<-leave
		}
		p, err := policy.Parse(file, []byte("policies: []\n"), nil)
		return &Loaded{Policy: p, Files: []string{file}}, err
	}
	near := &Surroundings{}
	near.fill()
	r, err := newRules(load, func(*Loaded) error { return nil }, func() {}, near.Log, near)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, earlier, earlier.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	both.Go(func() { r.reload("asked") }) //nolint:errcheck // the policy is good
	<-entered
	both.Go(r.changed)
	for range 1000 {
		runtime.Gosched() // it may look now
	}
	close(leave)
	both.Wait()
	if n := loads.Load(); n != 2 {
		t.Errorf("%d readings, want 2", n)
	}
	if err := os.Chtimes(file, earlier, earlier.Add(2*time.Second)); err != nil {
		t.Fatal(err)
	}
	if r.changed(); loads.Load() != 3 {
		t.Error("a change is not read")
	}
}

// A local list that shrinks by more than it may, as one that is half written,
// keeps what runs.
func TestShrunkFileIsRefused(t *testing.T) {
	text := "a.test\nb.test\nc.test\n"
	r, err := testRules(func() (*Loaded, error) {
		p, err := policy.Parse("policy.yaml", []byte("lists: {own: {file: own.txt, format: plain, max_shrink: 50%}}\n"), func(string) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(text)), nil
		})
		return &Loaded{Policy: p}, err
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	was := r.now()
	text = "a.test\n"
	if err := r.reload("test"); err == nil || !strings.Contains(err.Error(), "policy.yaml:1:9: list own: own.txt shrank from 3 entries to 1") || r.now() != was {
		t.Errorf("half a list: %v", err)
	}
	text = "a.test\nb.test\nd.test\n"
	if err := r.reload("test"); err != nil || r.now() == was {
		t.Errorf("the whole list: %v", err)
	}
}
