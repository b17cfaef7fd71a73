package netstack

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
)

// An outcome is what became of a flow's beginning.
type outcome string

const (
	opened      outcome = "opened"
	refused     outcome = "refused"     // by the origin
	unreachable outcome = "unreachable" // the origin, in any other way
	abandoned   outcome = "abandoned"   // by the device, before the handshake was over
	overLimit   outcome = "over_limit"
)

func outcomeOf(err error) outcome {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return refused
	}
	return unreachable
}

// forwarderMetrics counts also where nobody collects.
type forwarderMetrics struct {
	begun *prometheus.CounterVec
	open  prometheus.GaugeFunc
	limit prometheus.CounterFunc
}

func newForwarderMetrics(f *Forwarder) (*forwarderMetrics, error) {
	m := &forwarderMetrics{
		begun: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "starferry_forwarder_flows_total",
			Help: "Flows by network (tcp, udp, icmp) and by what became of their beginning.",
		}, []string{"network", "outcome"}),
		open: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "starferry_forwarder_open_flows",
			Help: "Flows that are open now.",
		}, func() float64 {
			f.mu.Lock()
			defer f.mu.Unlock()
			return float64(len(f.flows))
		}),
		limit: prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "starferry_forwarder_handshakes_dropped_total",
			Help: "TCP handshakes dropped because too many were in progress.",
		}, func() float64 { return float64(f.stack.Stats().TCP.ForwardMaxInFlightDrop.Value()) }),
	}
	if f.cfg.Metrics == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.begun, m.open, m.limit} {
		if err := f.cfg.Metrics.Register(c); err != nil {
			m.unregister(f.cfg.Metrics)
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}

func (m *forwarderMetrics) unregister(r prometheus.Registerer) {
	if r == nil {
		return
	}
	for _, c := range []prometheus.Collector{m.begun, m.open, m.limit} {
		r.Unregister(c)
	}
}

func (m *forwarderMetrics) flow(network string, o outcome) {
	m.begun.WithLabelValues(network, string(o)).Inc()
}
