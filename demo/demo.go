// Package demo runs the whole of Starferry in one process, for people to try
// and for tests to ask: a gateway, an egress and a connector from the example
// files, a device, and the world around them. It needs no root and no network.
//
//	dig, curl ── stub, proxy ── alice-laptop ═══ gw-sjc ═══ hk-1 ═══ cn-sha-1 ── origin
//	  127.0.0.1:5300, :5380         │              │                   │      in China
//	  127.0.0.1:5301 ───────────────┼── the office ┘                   └── resolver
//	                                └ ═ is WireGuard over loopback
//
// The nodes are those of package node, with their settings from the files; what
// is replaced is only what a machine of its own would bring: keys, ports,
// folders, and for the connector the network outside, which is package world.
// What the device runs is small and stands in proxy (its local proxy), stub
// (its DNS) and laptop.go (its link, and the reports of its posture).
package demo

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"path/filepath"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/demo/proxy"
	"github.com/starferry/starferry/demo/stub"
	"github.com/starferry/starferry/demo/world"
	"github.com/starferry/starferry/internal/lifecycle"
)

// Options say where the demo can be reached. What is empty has its default.
type Options struct {
	DNS     string // the device's stub, UDP and TCP: 127.0.0.1:5300
	LANDNS  string // the gateway's office listener: 127.0.0.1:5301
	Proxy   string // the device's proxy: 127.0.0.1:5380
	Dir     string // folder for sockets and files, of this user alone: [control.DemoDir]
	Version string
	Out     io.Writer // gets what to type, and the line "ready"; nil: nobody
	Log     *slog.Logger
}

// The defaults of [Options].
const (
	DefaultDNS    = "127.0.0.1:5300"
	DefaultLANDNS = "127.0.0.1:5301"
	DefaultProxy  = "127.0.0.1:5380"
)

func (o *Options) fill() {
	o.DNS = cmp.Or(o.DNS, DefaultDNS)
	o.LANDNS = cmp.Or(o.LANDNS, DefaultLANDNS)
	o.Proxy = cmp.Or(o.Proxy, DefaultProxy)
	o.Dir = cmp.Or(o.Dir, control.DemoDir())
	if o.Out == nil {
		o.Out = io.Discard
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Run serves the demo until ctx is done.
func Run(ctx context.Context, o Options) error {
	o.fill()
	unlock, err := claim(o.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	local, err := openLocal(&o)
	if err != nil {
		return err
	}
	defer local.Close()
	w, err := world.New(o.Log.With("node", "world"))
	if err != nil {
		return err
	}
	defer w.Close()
	f, err := makeFleet(&o, w)
	if err != nil {
		return fmt.Errorf("making the demo: %w", err)
	}
	defer f.laptop.Close()
	return f.run(ctx, &o, local, w)
}

// run runs all parts, and says that they are ready when they are.
func (f *fleet) run(ctx context.Context, o *Options, local *local, w *world.World) error {
	s := &stub.Stub{Dial: f.laptop.dialDNS, Log: o.Log}
	p := &proxy.Proxy{Resolve: s.Lookup, Virtual: f.laptop.virtual, Dial: f.laptop.dial, Log: o.Log}
	check := &checks{fleet: f, stub: s, opts: o}
	return lifecycle.Run(ctx,
		lifecycle.Task{Name: "world", Run: w.Run},
		lifecycle.Task{Name: "egress", Run: f.egress.Run},
		lifecycle.Task{Name: "connector", Run: f.connector.Run},
		lifecycle.Task{Name: "gateway", Run: f.gateway.Run},
		lifecycle.Task{Name: "device", Run: f.laptop.Run},
		lifecycle.Task{Name: "stub", Run: func(ctx context.Context) error { return s.Serve(ctx, local.udp, local.tcp) }},
		lifecycle.Task{Name: "proxy", Run: func(ctx context.Context) error { return p.Serve(ctx, local.proxy) }},
		lifecycle.Task{Name: "control", Run: func(ctx context.Context) error {
			return control.Serve(ctx, filepath.Join(o.Dir, "demo.sock"), control.Handlers{
				Do:  map[string]func(context.Context, url.Values) (string, error){"posture": f.laptop.flip},
				Log: o.Log,
			})
		}},
		lifecycle.Task{Name: "checks", Run: check.Run},
	)
}

// Posture has the device of a running demo report that its posture is pass or
// fail, and returns what the gateway made of it. An empty dir is the default.
func Posture(ctx context.Context, dir, want string) (string, error) {
	at := control.Client(filepath.Join(cmp.Or(dir, control.DemoDir()), "demo.sock"))
	return at.Do(ctx, "posture", url.Values{"want": {want}})
}
