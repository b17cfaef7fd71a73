package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/resolver/querylog"
	"github.com/starferry/starferry/resolver/replay"
	dnswire "github.com/starferry/starferry/resolver/wire"
)

// queries writes the query log of a gateway. Without one, what was decided is
// told in the node's own log, and answers that are given again are not.
type queries struct {
	log      *querylog.Log  // nil: none
	recent   *replay.Recent // nil: there is no file of records
	records  *records
	messages bool // dnstap wants them
	pool     sync.Pool
}

func newQueries(g *Gateway) (*queries, error) {
	q := &queries{records: g.records, pool: sync.Pool{New: func() any { return new(querylog.Record) }}}
	set := g.set.QueryLog
	if set == nil {
		return q, nil
	}
	privacy, err := querylog.ParsePrivacy(set.Privacy)
	if err != nil {
		return nil, fmt.Errorf("query_log.privacy: %w", err)
	}
	c := querylog.Config{
		File: set.File, MaxSize: set.MaxSize, MaxAge: set.MaxAge, Keep: set.Keep, Compress: set.Compress,
		Privacy: privacy, KeyFile: set.KeyFile, Dnstap: tap(set.Dnstap),
	}
	c.Dnstap.Identity, c.Dnstap.Version = g.set.Name, "starferry "+g.near.Version
	q.messages = set.Dnstap.Address != ""
	if set.File != "" && set.File != querylog.Stdout {
		q.recent = &replay.Recent{File: set.File, Privacy: privacy}
	}
	if q.log, err = querylog.New(c, g.log); err != nil {
		return nil, fmt.Errorf("query_log: %w", err)
	}
	if err := g.near.Metrics.Register((*logMetrics)(q.log)); err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	return q, nil
}

func tap(d configs.Dnstap) (t querylog.Dnstap) {
	switch d.Network {
	case "unix":
		t.Socket = d.Address
	case "tcp":
		t.TCP = d.Address
	case "file":
		t.File = d.Address
	}
	return t
}

// Run takes records to where they go.
func (q *queries) Run(ctx context.Context) error {
	if q.log == nil {
		<-ctx.Done()
		return nil
	}
	return q.log.Run(ctx)
}

// repeat is told of answers that are given again; nil if nobody wants to know.
func (q *queries) repeat() func(*resolver.Record) {
	if q.log == nil {
		return nil
	}
	return q.record
}

// unrecorded reports that a record would go nowhere.
func (q *queries) unrecorded(as resolver.Action) bool {
	return q.log == nil && as == resolver.Allowed && !q.records.log.Enabled(context.Background(), slog.LevelDebug)
}

// record remembers what became of a question.
func (q *queries) record(d *resolver.Record) {
	if q.log == nil {
		q.records.told(d)
		return
	}
	r := q.pool.Get().(*querylog.Record)
	written(r, d)
	if q.messages {
		q.log.OfferWire(r, d.Query, d.Reply)
	} else {
		q.log.Offer(r)
	}
	q.pool.Put(r)
}

// written puts a record into the form in which it is written. What r holds is
// used again.
func written(r *querylog.Record, d *resolver.Record) {
	*r = querylog.Record{
		Time: d.Time, Took: d.Took,
		Client: querylog.Client{
			Addr: d.Client.Addr.Addr(), Port: d.Client.Addr.Port(), Listener: d.Client.Listener,
			Transport: d.Client.Transport, ServerName: d.Client.ServerName,
		},
		Identity: querylog.Identity{
			Device: d.Asker, Kind: d.Kind.String(), Strength: d.Kind.Strength().String(), Source: d.Who.Source,
			Posture: r.Posture[:0],
		},
		Question: querylog.Question{
			Name: d.Question.Name, Type: querylog.Type(d.Question.Type), Class: querylog.Class(d.Question.Class),
			DO: d.Question.DO, CD: d.Question.CD,
		},
		Verdict: querylog.Verdict{Action: string(d.Action), Policy: d.Policy, Reason: d.Reason, Shadow: d.Shadow, Learn: d.Learned, Route: d.Route, Hops: r.Hops[:0]},
		Answer: querylog.Answer{
			Rcode: querylog.Rcode(d.Rcode), EDE: d.EDE, Addrs: r.Addrs[:0], Cache: cached(d.From), Stale: d.Stale,
			Upstream: d.Group, Size: len(d.Reply),
		},
	}
	if dev := d.Who.Device; dev != nil {
		r.User, r.Groups = dev.User, dev.Groups
	}
	for profile, v := range d.Who.Verdicts {
		r.Posture = append(r.Posture, querylog.Posture{Profile: profile, Result: v.At(d.Time).Result.String()})
	}
	slices.SortFunc(r.Posture, func(a, b querylog.Posture) int { return strings.Compare(a.Profile, b.Profile) })
	for _, h := range d.Hops {
		r.Hops = append(r.Hops, querylog.Hop{Name: h.Name, Addrs: h.Addrs})
	}
	r.Addrs = answered(r.Addrs, d)
}

// answered appends the addresses that an asker got.
func answered(to []netip.Addr, d *resolver.Record) []netip.Addr {
	switch {
	case d.Addr.IsValid():
		return append(to, d.Addr)
	case d.Action == resolver.Allowed && len(d.Hops) > 0:
		return append(to, d.Hops[len(d.Hops)-1].Addrs...)
	}
	for rr := range dnswire.Records(d.Reply) {
		if rr.Section > 0 {
			break
		}
		if a, ok := rr.Addr(); ok {
			to = append(to, a)
		}
	}
	return to
}

// cached says which cache had an answer, as records do.
func cached(f resolver.From) string {
	switch f {
	case resolver.FromPacked:
		return "packed"
	case resolver.FromCache:
		return "lower"
	}
	return ""
}

// logMetrics tells Prometheus how the query log fares.
type logMetrics querylog.Log

var logDesc = prometheus.NewDesc("starferry_query_log_records_total",
	"Records of questions by sink and what became of them: written, dropped for want of room, lost at the end.", []string{"sink", "what"}, nil)

// Describe implements [prometheus.Collector].
func (l *logMetrics) Describe(to chan<- *prometheus.Desc) { to <- logDesc }

// Collect implements [prometheus.Collector].
func (l *logMetrics) Collect(to chan<- prometheus.Metric) {
	for _, s := range (*querylog.Log)(l).Stats() {
		for what, n := range map[string]uint64{"written": s.Written, "dropped": s.Dropped, "lost": s.Lost} {
			to <- prometheus.MustNewConstMetric(logDesc, prometheus.CounterValue, float64(n), s.Sink, what)
		}
	}
}
