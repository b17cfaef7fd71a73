// Package replay decides again what a query log has, by an old and by a new
// policy, and tells what the asker would notice of the change.
//
// A [Comparison] takes records one by one; its [Difference] is what came of
// them. [Recent] finds the latest records in the files of a node that runs.
//
// Each question is put to both policies as it was at its time: by who asked, the
// condition of the device, the answer of upstream and the time that the record
// has. What a record does not say enough of is counted and left out.
package replay

import (
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/resolver/querylog"
)

// A Comparison decides records by two policies. An answer that was given again
// out of the cache of answers was recorded without what it was made of: that is
// what was recorded last for this name.
type Comparison struct {
	policies policy.Replay
	hops     map[asked][]policy.Hop

	private int // records that do not say who asked
	others  int // records of what no policy decides
	since   time.Time
}

type asked struct {
	name  string
	qtype uint16
}

// maxRemembered bounds how many names the answers are remembered of.
const maxRemembered = 1 << 20

// decided are the actions of questions that a policy was asked about.
var decided = map[resolver.Action]bool{
	resolver.Allowed: true, resolver.Blocked: true, resolver.Denied: true, resolver.Overridden: true,
	resolver.Steered: true, resolver.NoWay: true, resolver.Down: true,
}

// Decided reports whether a policy was asked about the question of a record.
func Decided(r *querylog.Record) bool { return decided[resolver.Action(r.Action)] }

// Between compares what two policies decide.
func Between(before, after *policy.Policy) *Comparison {
	return &Comparison{policies: policy.Replay{Old: before, New: after}}
}

// Add decides a record again.
func (c *Comparison) Add(r *querylog.Record) {
	if c.since.IsZero() || r.Time.Before(c.since) {
		c.since = r.Time
	}
	if q, answered := c.query(r); q != nil {
		c.policies.Add(q, answered)
	}
}

// query returns the question of a record, and whether its answer is known; nil
// for a record that cannot be decided again, which is counted.
func (c *Comparison) query(r *querylog.Record) (q *policy.Query, answered bool) {
	switch {
	case !Decided(r) || r.Class != dns.ClassINET || r.Name == "":
		c.others++
		return nil, false
	case r.Privacy != querylog.Keep:
		c.private++
		return nil, false
	}
	q = &policy.Query{Name: r.Name, Type: uint16(r.Type), Now: r.Time, Asker: askerOf(r), Answered: true}
	for _, h := range r.Hops {
		q.Answer = append(q.Answer, policy.Hop{Name: h.Name, Addrs: h.Addrs})
	}
	key := asked{q.Name, q.Type}
	switch {
	case len(q.Answer) > 0 && (len(c.hops) < maxRemembered || c.hops[key] != nil):
		if c.hops == nil {
			c.hops = map[asked][]policy.Hop{}
		}
		c.hops[key] = q.Answer
	case len(q.Answer) == 0 && r.Cache == "packed":
		q.Answer = c.hops[key]
	}
	return q, len(q.Answer) > 0
}

// askerOf returns who asked, as far as the record says.
func askerOf(r *querylog.Record) policy.Asker {
	a := policy.Asker{Source: r.Source, Listener: r.Listener, Transport: r.Transport, Verdicts: posture.Verdicts{}}
	a.Kind, _ = device.ParseKind(r.Kind) // one that is not known is no evidence
	if r.Device != "" && a.Kind != device.Unidentified {
		a.Device = &device.Device{ID: device.ID(r.Device), Kind: a.Kind, Groups: r.Groups, User: r.User}
	}
	for _, p := range r.Posture {
		v := posture.Verdict{Reason: "as recorded"}
		v.Result, _ = posture.ParseResult(p.Result) // likewise
		if v.Result == posture.Passed {
			v.Expires = r.Time.AddDate(1, 0, 0)
		}
		a.Verdicts[p.Profile] = v
	}
	return a
}
