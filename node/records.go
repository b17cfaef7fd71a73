package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/tunnel"
)

// records writes what a node has decided: one record a question, one a flow at
// its end. The flow's id is the same at every hop, so that records join.
type records struct {
	log       *slog.Logger
	decisions tallies
	flows     *prometheus.CounterVec
	bytes     *prometheus.CounterVec
}

func newRecords(log *slog.Logger, reg prometheus.Registerer) (*records, error) {
	r := &records{log: log}
	r.flows = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "starferry_flows_ended_total", Help: "Flows that ended, by policy and close reason.",
	}, []string{"policy", "close"})
	r.bytes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "starferry_flow_bytes_total", Help: "Bytes of ended flows, by direction: up is from the device.",
	}, []string{"direction"})
	for _, c := range []prometheus.Collector{&r.decisions, r.flows, r.bytes} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// decision counts and logs what an egress or a connector has decided.
func (r *records) decision(d *resolver.Record) {
	r.decisions.of(d.Action, d.Policy, d.Rcode).Add(1)
	r.told(d)
}

// told logs a decision. What is plainly allowed is most of all, and says little.
func (r *records) told(d *resolver.Record) {
	q := d.Question
	if q.Class == dns.ClassCHAOS && q.Name == resolver.NodeName {
		return // probes come each second
	}
	level := slog.LevelInfo
	if d.Action == resolver.Allowed {
		level = slog.LevelDebug
	}
	r.log.Log(context.Background(), level, "decision", "asker", d.Asker, "kind", d.Kind, "source", d.Client.Addr, "listener", d.Client.Listener,
		"transport", d.Client.Transport, "name", q.Name, "type", dns.Type(q.Type), "action", string(d.Action), "policy", d.Policy,
		"reason", d.Reason, "route", d.Route, "answer", d.Addr, "rcode", rcodeName(d.Rcode), "ede", d.EDE, "took", d.Took)
}

func (r *records) flow(f *tunnel.Record) {
	closed := fmt.Sprint(f.Close)
	r.flows.WithLabelValues(f.Policy, closed).Inc()
	r.bytes.WithLabelValues("up").Add(float64(f.BytesUp))
	r.bytes.WithLabelValues("down").Add(float64(f.BytesDown))
	r.log.Info("flow", "flow", f.FlowID, "device", f.Device, "name", f.Name, "policy", f.Policy, "route", f.Route, "far", f.Far,
		"proto", f.Proto, "source", f.Src, "label", f.Dst, "port", f.Port, "bytes_up", f.BytesUp, "bytes_down", f.BytesDown,
		"packets_up", f.PacketsUp, "packets_down", f.PacketsDown, "start", f.Start, "duration", f.Duration, "close", closed, "reason", f.Reason)
}

// serveHTTP serves until ctx is done.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

func now() time.Time { return time.Now() }
