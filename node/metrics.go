package node

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/state"
	"github.com/starferry/starferry/steer"
)

var (
	leasesDesc = prometheus.NewDesc("starferry_leases",
		"Addresses of the pool, by family and state: capacity is all that can be given out, used those that are leased or resting, resting those that wait to serve another name.",
		[]string{"family", "state"}, nil)
	neighbourUpDesc = prometheus.NewDesc("starferry_neighbour_up",
		"Whether the neighbour answers, or asks if it is the one that dials.", []string{"neighbour", "role"}, nil)
	neighbourRTTDesc = prometheus.NewDesc("starferry_neighbour_rtt_seconds",
		"How long the latest answer to a probe took; of neighbours that are dialed.", []string{"neighbour", "role"}, nil)
	directoryUpDesc = prometheus.NewDesc("starferry_directory_up",
		"Whether the directory of the gateway is being followed.", []string{"gateway"}, nil)
	clockSkewDesc = prometheus.NewDesc("starferry_clock_skew_seconds",
		"By how much the gateway's clock is ahead of this node's.", []string{"gateway"}, nil)
	policyLoadedDesc = prometheus.NewDesc("starferry_policy_loaded_timestamp_seconds",
		"Since when the policy in force is in force, in Unix time.", nil, nil)
	reloadFailedDesc = prometheus.NewDesc("starferry_reload_failed",
		"1 while the last reload was refused and an older policy is in force.", nil, nil)
	listEntriesDesc = prometheus.NewDesc("starferry_list_entries",
		"Entries of the copy of a list that is fetched.", []string{"list"}, nil)
	listChangedDesc = prometheus.NewDesc("starferry_list_changed_timestamp_seconds",
		"When the copy was fetched, in Unix time; 0 if it is not known.", []string{"list"}, nil)
	listCheckedDesc = prometheus.NewDesc("starferry_list_checked_timestamp_seconds",
		"When the publisher had nothing newer last, in Unix time; 0 if it is not known.", []string{"list"}, nil)
	listFailedDesc = prometheus.NewDesc("starferry_list_failed",
		"1 while the list could not be renewed.", []string{"list"}, nil)
)

// metrics tells Prometheus what a node keeps anyway: it is read when it is
// asked for. What a role does not have is nil.
type metrics struct {
	leases   *steer.Table
	store    *state.Store
	rules    *rules
	gateways []configs.Peer // whose directories are followed,
	feeds    *feeds         // as it says
	outside  *outside
	gateway  *gatewayDNS
}

// register adds the metrics, and those of the DNS server's own.
func (m *metrics) register(reg prometheus.Registerer, dns *listen.Server) error {
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "starferry_dns_dropped_total", Help: "Messages to the DNS listeners that were not answered as usual, by reason.",
	}, []string{"listener", "why"})
	dns.Dropped = func(listener, why string) { dropped.WithLabelValues(listener, why).Inc() }
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "starferry_dns_answer_seconds", Help: "How long answers took that could not be given at once, by transport.",
		Buckets: []float64{.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5},
	}, []string{"transport"})
	dns.Handle = timed(dns.Handle, took)
	all := []prometheus.Collector{m, dropped, took}
	if m.outside != nil {
		all = append(all, (*outsideMetrics)(m.outside))
	}
	if m.gateway != nil {
		all = append(all, (*gatewayMetrics)(m.gateway))
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

// Describe implements [prometheus.Collector].
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		leasesDesc, neighbourUpDesc, neighbourRTTDesc, directoryUpDesc, clockSkewDesc, policyLoadedDesc, reloadFailedDesc,
		listEntriesDesc, listChangedDesc, listCheckedDesc, listFailedDesc,
	} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	v4, v6 := m.leases.Stats()
	collectLeases(gauge, "ipv4", v4)
	collectLeases(gauge, "ipv6", v6)
	for l := range m.store.View().Links() {
		gauge(neighbourUpDesc, truth(l.Up), l.Name, l.Role)
		if l.RTT > 0 {
			gauge(neighbourRTTDesc, l.RTT.Seconds(), l.Name, l.Role)
		}
	}
	if m.rules != nil {
		_, at, failed := m.rules.status()
		gauge(policyLoadedDesc, unixTime(at))
		gauge(reloadFailedDesc, truth(failed != ""))
		collectLists(gauge, m.rules.lists.status())
	}
	for _, g := range m.gateways {
		s := m.feeds.of(g.Name)
		gauge(directoryUpDesc, truth(s.up), g.Name)
		if s.timed {
			gauge(clockSkewDesc, s.skew.Seconds(), g.Name)
		}
	}
}

type gauging func(d *prometheus.Desc, v float64, labels ...string)

func collectLists(gauge gauging, lists []control.List) {
	for _, l := range lists {
		gauge(listEntriesDesc, float64(l.Entries), l.Name)
		gauge(listChangedDesc, unixTime(l.Changed), l.Name)
		gauge(listCheckedDesc, unixTime(l.Checked), l.Name)
		gauge(listFailedDesc, truth(l.Error != ""), l.Name)
	}
}

// unixTime is a time as Prometheus wants it; 0 stands for none.
func unixTime(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / float64(time.Second)
}

// collectLeases tells of one pool, if there is one of the family.
func collectLeases(gauge gauging, family string, s steer.Stats) {
	if s.Capacity == 0 {
		return
	}
	gauge(leasesDesc, float64(s.Capacity), family, "capacity")
	gauge(leasesDesc, float64(s.Used), family, "used")
	gauge(leasesDesc, float64(s.Resting), family, "resting")
}

// countRefused registers what the directory of a gateway refuses.
func (s *Shared) countRefused(reg prometheus.Registerer) error {
	if s.Refused == nil {
		return nil
	}
	err := reg.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "starferry_directory_refused_total",
		Help: "Requests to the directory that were refused: by strangers, for what is another's, or other than reading.",
	}, func() float64 { return float64(s.Refused()) }))
	if err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return nil
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
