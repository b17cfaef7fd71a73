package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/control"
)

// A gateway listens before it has read its policy. Until it has, everybody is
// answered SERVFAIL, known or not, and it is not ready and says why.
func TestAnswersWhileItLoads(t *testing.T) {
	read := make(chan struct{})
	release := sync.OnceFunc(func() { close(read) })
	var w *tower
	w = newTowerWith(t, nil, func() (*Loaded, error) {
		<-read
		return w.load()
	})
	t.Cleanup(release)
	s := w.status(t)
	if s.Policy.Version != "" || !slices.Contains(s.NotReady, "the policy and its lists are being loaded") {
		t.Errorf("policy %+v, not ready: %q", s.Policy, s.NotReady)
	}
	if code, body := w.fetched("/readyz"); code != 503 || !strings.Contains(body, "being loaded") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	for _, l := range s.DNS.Listeners {
		if l.Address == onLink || l.Transport != "udp" {
			continue
		}
		m := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
		m.SetEdns0(1232, false)
		r, _, err := new(dns.Client).Exchange(m, l.Address)
		if err != nil || r.Rcode != dns.RcodeServerFailure || len(r.Answer) > 0 || !strings.Contains(r.String(), "EDE: 14 (Not Ready)") {
			t.Errorf("over %s: %v, %v", l.Transport, r, err)
		}
	}
	q := control.Question{Name: "www.example.com", Device: "alice"}
	for what, do := range map[string]func() error{
		"reload":  func() error { _, err := w.client.Reload(t.Context()); return err },
		"explain": func() error { _, _, err := w.explain(t.Context(), q); return err },
		"query":   func() error { _, err := w.query(t.Context(), q); return err },
	} {
		if err := do(); err == nil || !strings.Contains(err.Error(), "still being loaded") {
			t.Errorf("%s while it loads: %v", what, err)
		}
	}
	release()
	w.loaded(t)
	if s := w.status(t); len(s.NotReady) > 0 {
		t.Errorf("not ready: %q", s.NotReady)
	}
	if text := w.ask(t, "www.example.com", "alice"); !strings.Contains(text, "NOERROR") {
		t.Errorf("once it has loaded:\n%s", text)
	}
}

// A port that is taken is told at once, however long the rest takes; and so is a
// mistake in what is read.
func TestGatewaysThatCannotStart(t *testing.T) {
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	w := &tower{dir: t.TempDir(), resolver: newResolver(t)}
	w.certificate(t, "dns.example")
	start := func(at netip.AddrPort, load func() (*Loaded, error)) error {
		set := w.settings()
		set.Control, set.StateDir, set.DNS.Listen = "", t.TempDir(), []netip.AddrPort{at}
		g, err := NewGateway(set, gatewayKey, load, Surroundings{
			Log:      slog.New(slog.DiscardHandler),
			Services: func(addrs []netip.Addr, _ int, out func([]byte)) (Services, error) { return newInet(addrs, out), nil },
			Shared:   lonelyState,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return g.Run(ctx)
	}
	at := taken.LocalAddr().(*net.UDPAddr).AddrPort()
	if err := start(at, func() (*Loaded, error) { t.Error("read before it listens"); return nil, errors.New("") }); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a port that is taken: %v", err)
	}
	mistake := errors.New("policy.yaml:1:1: a mistake")
	if err := start(netip.MustParseAddrPort("127.0.0.1:0"), func() (*Loaded, error) { return nil, mistake }); !errors.Is(err, mistake) {
		t.Errorf("a mistake: %v", err)
	}
}

// SIGHUP is a wish also while the policy is loaded for the first time, and no end.
func TestHangUpWhileLoading(t *testing.T) {
	read, loads := make(chan struct{}), make(chan struct{}, 8)
	var w *tower
	w = newTowerWith(t, nil, func() (*Loaded, error) {
		<-read
		loads <- struct{}{}
		return w.load()
	})
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	close(read)
	<-loads
	<-loads // once more, for the signal
	w.loaded(t)
}

// A stop while the policy is loaded is no failure.
func TestStopWhileLoading(t *testing.T) {
	w := &tower{dir: t.TempDir(), resolver: newResolver(t)}
	w.certificate(t, "dns.example")
	set := w.settings()
	set.Control, set.StateDir, set.DNS.Listen = "", t.TempDir(), []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
	ctx, cancel := context.WithCancel(t.Context())
	g, err := NewGateway(set, gatewayKey, func() (*Loaded, error) {
		cancel()
		return nil, context.Canceled
	}, Surroundings{
		Log:      slog.New(slog.DiscardHandler),
		Services: func(addrs []netip.Addr, _ int, out func([]byte)) (Services, error) { return newInet(addrs, out), nil },
		Shared:   lonelyState,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(ctx); err != nil {
		t.Errorf("stopped while it loads: %v", err)
	}
}

// There is no policy in force before the verdicts of before can be known.
func TestSharedStateComesFirst(t *testing.T) {
	w := &tower{dir: t.TempDir(), resolver: newResolver(t)}
	w.certificate(t, "dns.example")
	set := w.settings()
	set.Control, set.StateDir, set.DNS.Listen = "", t.TempDir(), []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
	closed := errors.New("the shared state cannot be opened")
	g, err := NewGateway(set, gatewayKey, func() (*Loaded, error) { t.Error("loaded before"); return nil, closed }, Surroundings{
		Log:      slog.New(slog.DiscardHandler),
		Services: func(addrs []netip.Addr, _ int, out func([]byte)) (Services, error) { return newInet(addrs, out), nil },
		Shared:   func(context.Context) (*Shared, error) { return nil, closed },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); !errors.Is(err, closed) {
		t.Errorf("Run returns %v", err)
	}
}
