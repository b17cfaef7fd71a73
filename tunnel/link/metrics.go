package link

import "github.com/prometheus/client_golang/prometheus"

// Per-peer series carry the peer's name.
var (
	descReceived  = desc("received_bytes_total", "Bytes received from the peer, WireGuard's own included.", "peer")
	descSent      = desc("sent_bytes_total", "Bytes sent to the peer, WireGuard's own included.", "peer")
	descHandshake = desc("last_handshake_seconds", "Unix time of the last handshake with the peer, 0 for never.", "peer")
	descChanges   = desc("endpoint_changes_total", "Observed changes of the peer's address.", "peer")
	descRejected  = desc("handshakes_rejected_total", "Handshakes of the peer dropped because their time was not after the last one's.", "peer")
	descForged    = desc("forged_sources_total", "Packets dropped because their source is not of the peer that sent them.")
	descDropped   = desc("dropped_packets_total", "Packets dropped because too many waited for encryption.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("starferry_link_"+name, help, labels, nil)
}

// A collector reads the device when it is asked.
type collector struct{ d *Device }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descReceived, descSent, descHandshake, descChanges, descRejected, descForged, descDropped} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	if p, ok := c.d.cfg.Port.(interface{ Dropped() uint64 }); ok {
		put(descDropped, prometheus.CounterValue, float64(p.Dropped()))
	}
	put(descForged, prometheus.CounterValue, float64(c.d.Forged()))
	for _, s := range c.d.Status() {
		at := 0.0
		if !s.LastHandshake.IsZero() {
			at = float64(s.LastHandshake.UnixMilli()) / 1000
		}
		put(descReceived, prometheus.CounterValue, float64(s.RxBytes), s.Name)
		put(descSent, prometheus.CounterValue, float64(s.TxBytes), s.Name)
		put(descHandshake, prometheus.GaugeValue, at, s.Name)
		put(descChanges, prometheus.CounterValue, float64(c.d.changes(s)), s.Name)
		put(descRejected, prometheus.CounterValue, float64(c.d.log.rejectedBy(s.Key)), s.Name)
	}
}

func (d *Device) changes(s Status) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.peers[s.Key]; p != nil {
		return p.changes.total
	}
	return 0
}
