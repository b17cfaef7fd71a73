package node

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/resolver/upstream"
)

// cacheDesc makes a description of what a cache counts; group is empty for the
// packed level, which has none.
func cacheDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("starferry_cache_"+name, help, labels, nil)
}

var (
	cacheEntriesDesc    = cacheDesc("entries", "Answers that are kept, by level of the cache.", "level")
	cacheBytesDesc      = cacheDesc("bytes", "Bytes that the kept answers take, by level of the cache.", "level")
	cacheDisplacedDesc  = cacheDesc("displaced_total", "Answers that still served and were given up for want of room, by level of the cache.", "level")
	cacheHitsDesc       = cacheDesc("hits_total", "Answers that the cache had and that were good.", "level", "group")
	cacheMissesDesc     = cacheDesc("misses_total", "Questions for which resolvers had to be asked.", "level", "group")
	cacheStaleDesc      = cacheDesc("stale_total", "Answers that were given after their end, for want of a better one.", "level", "group")
	cachePrefetchedDesc = cacheDesc("prefetched_total", "Answers that were asked for anew before their end.", "level", "group")
	scopesBeyondDesc    = cacheDesc("scopes_beyond_total", "Askers whose answers were not packed since there were too many kinds of askers.")
)

func upstreamDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("starferry_upstream_"+name, help, append([]string{"group"}, labels...), nil)
}

var (
	upstreamQuestionsDesc = upstreamDesc("questions_total", "Questions to the group.")
	upstreamSharedDesc    = upstreamDesc("shared_total", "Of these, those that were answered together with an equal one.")
	upstreamHedgedDesc    = upstreamDesc("hedged_total", "Times that a further server was asked because an earlier one was slow.")
	upstreamUpDesc        = upstreamDesc("up", "Whether the server's last answer came in time.", "server")
	upstreamRTTDesc       = upstreamDesc("rtt_seconds", "How long answers of the server took.", "server")
)

// serverCounters are what is counted of each server.
var serverCounters = []struct {
	desc *prometheus.Desc
	of   func(*upstream.ServerStats) uint64
}{
	{upstreamDesc("asked_total", "Questions that the server was asked.", "server"), func(s *upstream.ServerStats) uint64 { return s.Asked }},
	{upstreamDesc("answered_total", "Questions that it answered.", "server"), func(s *upstream.ServerStats) uint64 { return s.Answered }},
	{upstreamDesc("failures_total", "Questions without an answer that can be used.", "server"), func(s *upstream.ServerStats) uint64 { return s.Failures }},
	{upstreamDesc("refusals_total", "Answers with SERVFAIL, REFUSED and the like.", "server"), func(s *upstream.ServerStats) uint64 { return s.Refusals }},
	{upstreamDesc("truncated_total", "Answers over UDP that had to be asked for over TCP.", "server"), func(s *upstream.ServerStats) uint64 { return s.Truncated }},
	{upstreamDesc("silent_total", "Questions without an answer over UDP that were asked over TCP.", "server"), func(s *upstream.ServerStats) uint64 { return s.Silent }},
	{upstreamDesc("mismatched_total", "Messages that answer nothing that was asked: forgeries, mostly.", "server"), func(s *upstream.ServerStats) uint64 { return s.Mismatched }},
	{upstreamDesc("case_lost_total", "Answers that did not keep the case of letters.", "server"), func(s *upstream.ServerStats) uint64 { return s.CaseLost }},
	{upstreamDesc("probes_total", "Probes while it was down.", "server"), func(s *upstream.ServerStats) uint64 { return s.Probes }},
	{upstreamDesc("opened_total", "Sockets and connections that were opened to it.", "server"), func(s *upstream.ServerStats) uint64 { return s.Opened }},
}

// outsideMetrics tell of the resolvers that are asked, and of the cache before
// them.
type outsideMetrics outside

// Describe implements [prometheus.Collector].
func (o *outsideMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		cacheEntriesDesc, cacheBytesDesc, cacheDisplacedDesc, cacheHitsDesc, cacheMissesDesc, cacheStaleDesc, cachePrefetchedDesc,
		upstreamQuestionsDesc, upstreamSharedDesc, upstreamHedgedDesc, upstreamUpDesc, upstreamRTTDesc,
	} {
		to <- d
	}
	for _, c := range serverCounters {
		to <- c.desc
	}
}

// Collect implements [prometheus.Collector].
func (o *outsideMetrics) Collect(to chan<- prometheus.Metric) {
	w := telling(to)
	entries, bytes := o.cache.Size()
	w.gauge(cacheEntriesDesc, float64(entries), lowerLevel)
	w.gauge(cacheBytesDesc, float64(bytes), lowerLevel)
	w.counter(cacheDisplacedDesc, o.cache.Displaced.Load(), lowerLevel)
	for name, g := range o.groups {
		n := &g.Count
		w.counter(cacheHitsDesc, n.Hits.Load(), lowerLevel, name)
		w.counter(cacheMissesDesc, n.Misses.Load(), lowerLevel, name)
		w.counter(cacheStaleDesc, n.Stale.Load(), lowerLevel, name)
		w.counter(cachePrefetchedDesc, n.Prefetched.Load(), lowerLevel, name)
		w.group(name, g.resolvers)
	}
}

// telling is the writing side of a Collect.
type telling chan<- prometheus.Metric

func (w telling) gauge(d *prometheus.Desc, v float64, labels ...string) {
	w <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (w telling) counter(d *prometheus.Desc, n uint64, labels ...string) {
	w <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

// group tells of one group. A server that is written twice is told of once: no
// metric may come twice.
func (w telling) group(name string, g *upstream.Group) {
	n := g.Stats()
	w.counter(upstreamQuestionsDesc, n.Questions, name)
	w.counter(upstreamSharedDesc, n.Shared, name)
	w.counter(upstreamHedgedDesc, n.Hedged, name)
	var told []string
	for i, status := range g.Status() {
		if slices.Contains(told, status.Server) {
			continue
		}
		told = append(told, status.Server)
		s := &n.Servers[i]
		w.gauge(upstreamUpDesc, truth(status.Up), name, s.Server)
		for _, c := range serverCounters {
			w.counter(c.desc, c.of(s), name, s.Server)
		}
		count, buckets := cumulated(s)
		w <- prometheus.MustNewConstHistogram(upstreamRTTDesc, count, s.RTTSum.Seconds(), buckets, name, s.Server)
	}
}

// cumulated returns the classes of round trips as Prometheus has them: each
// holds those below it.
func cumulated(s *upstream.ServerStats) (count uint64, buckets map[float64]uint64) {
	buckets = map[float64]uint64{}
	for i, n := range s.RTT {
		count += n
		if i < len(upstream.Bounds) {
			buckets[upstream.Bounds[i].Seconds()] = count
		}
	}
	return count, buckets
}

func guardDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("starferry_guard_"+name, help, labels, nil)
}

var (
	guardLimitedDesc   = guardDesc("limited_total", "Questions that were not answered since too many came, by whose rate was exceeded.", "rate")
	guardResponsesDesc = guardDesc("responses_total", "Answers over UDP that a network got too often, by what was done with them.", "what")
	guardDisplacedDesc = guardDesc("displaced_total", "What was forgotten before its time for want of room, by table.", "table")
	guardShedDesc      = guardDesc("shed_total", "Questions that were turned away since there was too much of something.", "why")
	guardInWorkDesc    = guardDesc("in_work", "Questions that are in work now, but for those that are answered at once.")
	guardMemoryDesc    = guardDesc("memory_bytes", "Bytes of objects and stacks that were in use lately.")

	certificateExpiryDesc = prometheus.NewDesc("starferry_certificate_expiry_timestamp_seconds",
		"When the certificate in use ends, in Unix time.", []string{"file"}, nil)
	certificateProblemDesc = prometheus.NewDesc("starferry_certificate_problem",
		"1 while what the files hold is not used, or will be no use to clients.", []string{"file"}, nil)
	logWaitingDesc = prometheus.NewDesc("starferry_query_log_waiting",
		"Records that wait for the sink.", []string{"sink"}, nil)
	logFailingDesc = prometheus.NewDesc("starferry_query_log_failing",
		"1 while the sink takes no records.", []string{"sink"}, nil)
)

// gatewayMetrics tell of the rest of a gateway's DNS.
type gatewayMetrics gatewayDNS

// Describe implements [prometheus.Collector]. What the levels of the cache have
// in common is described by [outsideMetrics]: nothing may be described twice.
func (d *gatewayMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		scopesBeyondDesc, guardLimitedDesc, guardResponsesDesc, guardDisplacedDesc, guardShedDesc, guardInWorkDesc, guardMemoryDesc,
		certificateExpiryDesc, certificateProblemDesc, logWaitingDesc, logFailingDesc,
	} {
		to <- desc
	}
}

// Collect implements [prometheus.Collector].
func (d *gatewayMetrics) Collect(to chan<- prometheus.Metric) {
	w := telling(to)
	w.guard(&d.server.Guard)
	if k := d.handler.Quick; k != nil {
		entries, bytes := k.Size()
		w.gauge(cacheEntriesDesc, float64(entries), packedLevel)
		w.gauge(cacheBytesDesc, float64(bytes), packedLevel)
		w.counter(cacheDisplacedDesc, k.Displaced(), packedLevel)
		w.counter(cacheHitsDesc, k.Hits.Load(), packedLevel, "")
		w.counter(scopesBeyondDesc, k.Beyond())
	}
	if d.certs != nil {
		for _, c := range d.certs.Status() {
			w.gauge(certificateExpiryDesc, float64(c.NotAfter.Unix()), c.File)
			w.gauge(certificateProblemDesc, truth(c.Problem != ""), c.File)
		}
	}
	for _, s := range d.queries.log.Stats() {
		w.gauge(logWaitingDesc, float64(s.Waiting), s.Sink)
		w.gauge(logFailingDesc, truth(s.Err != ""), s.Sink)
	}
}

func (w telling) guard(g *listen.Guard) {
	if g.Clients != nil {
		n := g.Clients.Stats()
		w.counter(guardLimitedDesc, n.OverClient, "client")
		w.counter(guardLimitedDesc, n.OverPrefix, "network")
		w.counter(guardDisplacedDesc, n.Displaced, "clients")
	}
	if g.Responses != nil {
		n := g.Responses.Stats()
		w.counter(guardResponsesDesc, n.Dropped, "dropped")
		w.counter(guardResponsesDesc, n.Truncated, "truncated")
		w.counter(guardResponsesDesc, n.Challenged, "challenged")
		w.counter(guardDisplacedDesc, n.Displaced, "responses")
	}
	if g.Load != nil {
		n := g.Load.Stats()
		w.counter(guardShedDesc, n.OverWork, "work")
		w.counter(guardShedDesc, n.OverMemory, "memory")
		w.gauge(guardInWorkDesc, float64(n.InWork))
		w.gauge(guardMemoryDesc, float64(n.Memory))
	}
}

// timed has a handler's answers counted by transport and by the time that they
// took. What is answered at once does not come here: to read the clock would be
// a good part of its work.
func timed(handle listen.Handler, took *prometheus.HistogramVec) listen.Handler {
	by := map[string]prometheus.Observer{}
	for _, t := range []string{listen.UDP, listen.TCP, listen.DoT, listen.DoH} {
		by[t] = took.WithLabelValues(t)
	}
	return func(ctx context.Context, c *listen.Client, req []byte) []byte {
		start := c.At
		if start.IsZero() {
			start = time.Now()
		}
		resp := handle(ctx, c, req)
		if o := by[c.Transport]; o != nil {
			o.Observe(time.Since(start).Seconds())
		}
		return resp
	}
}
