package tunnel

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// A tally counts packets of one call.
type tally struct{ packets, bytes uint64 }

func (t *tally) add(pkt []byte) { t.packets++; t.bytes += uint64(len(pkt)) }

// traffic is the sum of tallies.
type traffic struct{ packets, bytes atomic.Uint64 }

func (c *traffic) merge(t *tally) {
	if t.packets != 0 {
		c.packets.Add(t.packets)
		c.bytes.Add(t.bytes)
	}
}

// stats are the Switch's counters. Prometheus reads them; packets do not pay for it.
type stats struct {
	in, out [sides]traffic
	drops   [drops]atomic.Uint64
	closed  [closes]atomic.Uint64
}

func (s *stats) merge(out *[sides]tally) {
	for i := range out {
		s.out[i].merge(&out[i])
	}
}

var (
	droppedDesc = prometheus.NewDesc("starferry_packets_dropped_total", "Packets that were dropped, by reason.", []string{"reason"}, nil)
	packetsDesc = prometheus.NewDesc("starferry_packets_total", "Packets by the side that they came from or went to.", []string{"side", "direction"}, nil)
	bytesDesc   = prometheus.NewDesc("starferry_packet_bytes_total", "Bytes of packets, IP headers included.", []string{"side", "direction"}, nil)
	flowsDesc   = prometheus.NewDesc("starferry_flows", "Flows in the table.", []string{"state"}, nil)
	closedDesc  = prometheus.NewDesc("starferry_flows_closed_total", "Flows that have ended, by reason.", []string{"reason"}, nil)
	heldDesc    = prometheus.NewDesc("starferry_packets_held", "Packets that wait for the next hop to be asked.", nil, nil)
)

// A collector shows the counters of a Switch to Prometheus.
type collector struct{ s *Switch }

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{droppedDesc, packetsDesc, bytesDesc, flowsDesc, closedDesc, heldDesc} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	st := &c.s.stats
	for side := range Side(sides) {
		if side > Local && st.in[side].packets.Load()+st.out[side].packets.Load() == 0 {
			continue // a link that this node does not have
		}
		counter(packetsDesc, st.in[side].packets.Load(), side.String(), "in")
		counter(packetsDesc, st.out[side].packets.Load(), side.String(), "out")
		counter(bytesDesc, st.in[side].bytes.Load(), side.String(), "in")
		counter(bytesDesc, st.out[side].bytes.Load(), side.String(), "out")
	}
	for d := range drops {
		counter(droppedDesc, st.drops[d].Load(), d.String())
	}
	for why := range closes {
		counter(closedDesc, st.closed[why].Load(), why.String())
	}
	c.s.mu.Lock()
	count, kept := c.s.count, c.s.kept
	c.s.mu.Unlock()
	for _, state := range []State{Open, Denied, Waiting} {
		gauge(flowsDesc, count[state], state.String())
	}
	gauge(heldDesc, kept)
}

// Drops returns how many packets were dropped so far, by reason.
func (s *Switch) Drops() map[Drop]uint64 {
	counts := map[Drop]uint64{}
	for d := range drops {
		if n := s.stats.drops[d].Load(); n != 0 {
			counts[d] = n
		}
	}
	return counts
}
