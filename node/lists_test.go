package node

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/fetch"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/policy/list"
	"github.com/starferry/starferry/resolver/upstream"
)

// A publisher has one list, at a name whose address only a resolver of its own knows.
type publisher struct {
	*httptest.Server
	group *upstream.Group

	mu    sync.Mutex
	text  string
	asked int
}

func newPublisher(t *testing.T, text string) *publisher {
	p := &publisher{text: text}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asked++
		io.WriteString(w, p.text) //nolint:errcheck // what is lost is asked for again
	}))
	t.Cleanup(p.Close)
	at := newResolverOf(t, net.IPv4(127, 0, 0, 1)).PacketConn.LocalAddr().(*net.UDPAddr).AddrPort()
	var err error
	if p.group, err = upstream.New(upstream.Config{Servers: []upstream.Server{{Addr: at}}}); err != nil {
		t.Fatal(err)
	}
	return p
}

// url names the publisher as its certificate does.
func (p *publisher) url() string {
	_, port, _ := net.SplitHostPort(p.Listener.Addr().String())
	return "https://example.com:" + port + "/ads.txt"
}

func (p *publisher) publish(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = text
}

func (p *publisher) lists(t *testing.T, dir string) *Lists {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(p.Certificate())
	l, err := newLists(fetch.Config{Dir: dir, Dial: dialBy(p.group), RootCAs: roots, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// loader reads a policy that blocks what is in the list and must not block
// needed.test. Another policy can be tried by setting broken.
func (p *publisher) loader(l *Lists, broken *error) func() (*Loaded, error) {
	text := fmt.Sprintf(`lists: {ads: {url: %q, format: plain}}
policies: [{name: ads, if: {name: {list: ads}}, then: {block: nxdomain}}]
tests: [{ask: needed.test, want: allow}]
default: allow
`, p.url())
	return func() (*Loaded, error) {
		all := []policy.Download{{Source: list.Source{Name: "ads", Format: "plain"}, URL: p.url(), Refresh: 20 * time.Millisecond, MaxShrink: 100}}
		if *broken != nil {
			l.Want(context.Background(), nil)
			return nil, *broken
		}
		l.Want(context.Background(), all)
		got, err := policy.Parse("policy.yaml", []byte(text), l.Open)
		return &Loaded{Policy: got, Devices: []*device.Device{
			{ID: "alice", Kind: device.ByWireGuard, Key: laptopKey.Public(), Overlay: singles(laptopAddrs[:1])},
		}}, err
	}
}

// A list that changes at its publisher is in force at a running gateway, unless
// the policy's tests fail with it: then the old one is.
func TestListIsRenewed(t *testing.T) {
	p := newPublisher(t, "old.test\n")
	dir := t.TempDir()
	lists, broken := p.lists(t, dir), error(nil)
	w := newTowerWith(t, lists, p.loader(lists, &broken))
	w.loaded(t)
	blocked := func(name string) bool { return strings.Contains(w.ask(t, name, "alice"), "status: NXDOMAIN") }
	if !blocked("old.test") || blocked("ads.test") || blocked("needed.test") {
		t.Fatal("the first list is not in force")
	}

	p.publish("old.test\nads.test\n")
	eventually(t, "the new entry blocks", func() bool { return blocked("ads.test") })
	eventually(t, "metrics tell of it", func() bool {
		_, text := w.fetched("/metrics")
		return strings.Contains(text, "starferry_list_entries{list=\"ads\"} 2\n") && strings.Contains(text, "starferry_list_failed{list=\"ads\"} 0\n") &&
			strings.Contains(text, "starferry_list_changed_timestamp_seconds{list=\"ads\"} 1.") && strings.Contains(text, "starferry_list_checked_timestamp_seconds{list=\"ads\"} 1.")
	})

	p.publish("needed.test\n")
	eventually(t, "status says why the list is refused", func() bool {
		s := w.status(t)
		return len(s.Lists) == 1 && strings.Contains(s.Lists[0].Error, "not taken: 1 of 1 test fails") && s.Lists[0].Entries == 2 && s.Policy.Error == ""
	})
	if blocked("needed.test") || !blocked("ads.test") {
		t.Error("a list with which a test fails is in force")
	}

	p.publish("other.test\n")
	eventually(t, "a better list is taken", func() bool { return !blocked("ads.test") && blocked("other.test") && w.status(t).Lists[0].Error == "" })
}

// A reload that is refused leaves the lists of the policy in force alone, and a
// start without the publisher takes the copies.
func TestListsOfRefusedPolicies(t *testing.T) {
	p := newPublisher(t, "old.test\n")
	dir := t.TempDir()
	lists, broken := p.lists(t, dir), error(nil)
	r, err := testRules(p.loader(lists, &broken), lists)
	if err != nil {
		t.Fatal(err)
	}
	broken = errors.New("a mistake")
	if err := r.reload("test"); err == nil || len(lists.status()) != 1 {
		t.Errorf("%v; lists %+v", err, lists.status())
	}
	if err := r.renew(&fetch.Newer{Open: lists.fetcher.Open}); !errors.Is(err, broken) || len(lists.status()) != 1 {
		t.Errorf("%v; lists %+v", err, lists.status())
	}
	if _, _, failed := r.status(); !strings.Contains(failed, "a mistake") {
		t.Errorf("status says %q", failed)
	}

	p.Close()
	broken = nil
	again := p.lists(t, dir)
	if _, err := testRules(p.loader(again, &broken), again); err != nil {
		t.Errorf("a start with the copy: %v", err)
	}
	none := p.lists(t, t.TempDir())
	if _, err := testRules(p.loader(none, &broken), none); err == nil || !strings.Contains(err.Error(), "policy.yaml:1:") || !strings.Contains(err.Error(), "no copy of https://example.com") {
		t.Errorf("a start without a copy: %v", err)
	}
}

func testRules(load func() (*Loaded, error), lists *Lists) (*rules, error) {
	near := &Surroundings{Lists: lists}
	near.fill()
	return newRules(load, func(*Loaded) error { return nil }, func() {}, near.Log, near)
}

// A reload that wants another text than the copy, and is refused, leaves the
// copy of the policy in force: a start finds it, though nobody else has it any more.
func TestCopyOutlivesRefusedReload(t *testing.T) {
	p := newPublisher(t, "old.test\n")
	dir := t.TempDir()
	lists, broken := p.lists(t, dir), error(nil)
	load := p.loader(lists, &broken)
	pinned := false
	r, err := testRules(func() (*Loaded, error) {
		if !pinned {
			return load()
		}
		lists.Want(context.Background(), []policy.Download{{Source: list.Source{Name: "ads", Format: "plain"}, URL: p.url(), Refresh: time.Hour, MaxShrink: 100, Sum: new(list.Sum(sha256.Sum256([]byte("needed.test\n"))))}})
		text, err := lists.Open(p.url())
		if err != nil {
			return nil, err
		}
		defer text.Close()
		if b, err := io.ReadAll(text); string(b) != "needed.test\n" {
			t.Errorf("the reload reads %q, %v", b, err)
		}
		return nil, errors.New("1 of 1 test fails")
	}, lists)
	if err != nil {
		t.Fatal(err)
	}
	p.publish("needed.test\n")
	pinned = true
	if err := r.reload("test"); err == nil || !strings.Contains(err.Error(), "1 of 1 test fails") {
		t.Fatal(err)
	}
	p.Close()
	again := p.lists(t, dir)
	if _, err := testRules(p.loader(again, &broken), again); err != nil {
		t.Errorf("a start with the copy of before: %v", err)
	}
}

// Who waits to read the policy anew while a newer list is put in force reads
// that list, and not the one of before.
func TestNewerListIsKeptInTurn(t *testing.T) {
	p := newPublisher(t, "old.test\n")
	lists, broken := p.lists(t, t.TempDir()), error(nil)
	near := &Surroundings{Lists: lists}
	near.fill()
	read := make(chan string, 1)
	after := func() {
		r, err := lists.Open(p.url())
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		b, _ := io.ReadAll(r)
		select {
		case read <- string(b):
		default:
		}
	}
	if _, err := newRules(p.loader(lists, &broken), func(*Loaded) error { return nil }, after, near.Log, near); err != nil {
		t.Fatal(err)
	}
	p.publish("new.test\n")
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { lists.run(ctx) }) //nolint:errcheck // it has none
	if got := <-read; got != "new.test\n" {
		t.Errorf("the copy is %q once the newer list is in force", got)
	}
	cancel()
	done.Wait()
}
