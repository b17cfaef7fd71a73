package node

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starferry/starferry/configs"
)

// serving runs something until stop is called.
func serving(t *testing.T, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// eventually waits, by the real clock, until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it is still not so that " + what)
		}
	}
}

// SIGHUP neither ends a connector nor goes unanswered.
func TestConnectorOutlivesHangup(t *testing.T) {
	guard := make(chan os.Signal, 1)
	signal.Notify(guard, syscall.SIGHUP) // the test itself must live before the connector listens
	defer signal.Stop(guard)
	told := &logs{}
	set := &configs.Connector{Node: configs.Node{Name: "cn", StateDir: t.TempDir(), Address: connectorAddrs(1), Pool: poolC(1), MTU: 1380}}
	c, err := NewConnector(set, fixedKey(11), Surroundings{
		Log:      slog.New(slog.NewTextHandler(told, nil)),
		Services: func(addrs []netip.Addr, _ int, out func([]byte)) (Services, error) { return newInet(addrs, out), nil },
		LAN:      func(func([]byte)) func([]byte) { return func([]byte) {} },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer serving(t, c.Run)()
	for range 2 {
		eventually(t, "the connector has said that it does nothing", func() bool {
			if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			told.mu.Lock()
			defer told.mu.Unlock()
			said := strings.Contains(told.String(), "nothing to reload")
			if said {
				told.Reset()
			}
			return said
		})
	}
}
