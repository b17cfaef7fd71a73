package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/tunnel/link"
	"github.com/starferry/starferry/tunnel/netstack"
)

const (
	reportEvery = time.Minute
	reportAgain = time.Second // after a report that was not taken
	reportTime  = 5 * time.Second
	maxStanding = 64 << 10 // bytes of the gateway's answer
)

// A laptop is the device: a WireGuard peer of the gateway like any client, with
// a network stack on its addresses in place of a kernel's.
type laptop struct {
	laptopConfig
	dev    *link.Device
	stack  *netstack.Stack
	client *http.Client

	mu      sync.Mutex // one report at a time, so that the last one said is the last one sent
	failing bool
}

type laptopConfig struct {
	key     link.PrivateKey
	device  *device.Device
	gateway link.Peer
	at      []netip.Addr   // where the gateway's services are
	pool    []netip.Prefix // virtual addresses
	mtu     int
	log     *slog.Logger
}

func newLaptop(c laptopConfig) (*laptop, error) {
	l := &laptop{laptopConfig: c}
	port := link.NewPort(c.mtu, func(pkts [][]byte, off int) {
		for _, p := range pkts {
			l.stack.Inject(p[off:])
		}
	})
	var addrs []netip.Addr
	for _, p := range c.device.Overlay {
		addrs = append(addrs, p.Addr())
	}
	var err error
	if l.stack, err = netstack.New(netstack.Config{Addrs: addrs, MTU: c.mtu, Out: port.Send}); err != nil {
		return nil, fmt.Errorf("making the device's network: %w", err)
	}
	l.dev, err = link.New(link.Config{Key: c.key, Listen: netip.MustParseAddrPort("127.0.0.1:0"), Port: port, Log: c.log})
	if err != nil {
		l.stack.Close()
		return nil, err
	}
	if err := l.dev.SetPeers([]link.Peer{c.gateway}); err != nil {
		l.Close()
		return nil, err
	}
	l.client = &http.Client{Timeout: reportTime, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return l.toGateway(ctx, "tcp", 80) },
	}}
	return l, nil
}

// Close gives up a laptop, run or not.
func (l *laptop) Close() {
	l.dev.Close()
	l.stack.Close()
}

// Run keeps the link up and reports the device's posture, until ctx is done.
func (l *laptop) Run(ctx context.Context) error {
	return lifecycle.Run(ctx,
		lifecycle.Task{Name: "link", Run: l.dev.Run},
		lifecycle.Task{Name: "reports", Run: l.reports},
	)
}

func (l *laptop) virtual(a netip.Addr) bool {
	return slices.ContainsFunc(l.pool, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (l *laptop) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return l.stack.DialContext(ctx, "tcp", to)
}

func (l *laptop) dialDNS(ctx context.Context, network string) (net.Conn, error) {
	return l.toGateway(ctx, network, 53)
}

func (l *laptop) toGateway(ctx context.Context, network string, port uint16) (net.Conn, error) {
	return l.stack.DialContext(ctx, network, netip.AddrPortFrom(l.at[0], port))
}

// reports sends one now and one each minute.
func (l *laptop) reports(ctx context.Context) error {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		next := reportEvery
		if _, err := l.report(ctx, nil); err != nil {
			l.log.Debug("the gateway did not take the report", "error", err)
			next = reportAgain
		}
		t.Reset(next)
	}
}

// flip answers "starferry demo posture": it reports at once, and waits for what
// the gateway says.
func (l *laptop) flip(ctx context.Context, args url.Values) (string, error) {
	var failing bool
	switch want := args.Get("want"); want {
	case "pass":
	case "fail":
		failing = true
	default:
		return "", fmt.Errorf("posture %q is neither pass nor fail", want)
	}
	standing, err := l.report(ctx, &failing)
	if err != nil {
		return "", fmt.Errorf("reporting the posture: %w", err)
	}
	return standing, nil
}

// report sends what the device says of itself, after setting whether that is
// fine if failing is not nil, and returns what the gateway says.
func (l *laptop) report(ctx context.Context, failing *bool) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if failing != nil {
		l.failing = *failing
	}
	body, err := json.Marshal(map[string]any{
		"hostname":        string(l.device.ID),
		"os":              l.device.Platform,
		"os_version":      "15.6.1",
		"firewall":        "on",
		"disk_encryption": map[string]any{"volumes": map[string]bool{"/": !l.failing, "/boot": false}},
	})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+l.at[0].String()+"/v1/posture", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := l.client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxStanding))
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", errors.New(strings.TrimSpace(string(answer)))
	}
	return l.standing(answer)
}

// standing says in words how the device stands by each profile.
func (l *laptop) standing(answer []byte) (string, error) {
	var by map[string]struct {
		Result string `json:"result"`
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal(answer, &by); err != nil {
		return "", fmt.Errorf("reading the gateway's answer: %w", err)
	}
	var b strings.Builder
	for _, profile := range slices.Sorted(maps.Keys(by)) {
		fmt.Fprintf(&b, "%s: %s %s", l.device.ID, profile, by[profile].Result)
		if r := by[profile].Reason; r != "" {
			fmt.Fprintf(&b, " (%s)", r)
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}
