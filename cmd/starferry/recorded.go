package main

import (
	"github.com/miekg/dns"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver"
	"github.com/starferry/starferry/resolver/querylog"
)

// A recorder makes questions of records again, as they were put to the policy.
// An answer that was given again out of the cache of answers was recorded
// without what it was made of: that is what was recorded last for this name.
type recorder struct {
	hops map[asked][]policy.Hop

	private int // records that do not say who asked
	others  int // records of what no policy decides
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

// query returns the question of a record, and whether its answer is known; nil
// for a record that cannot be decided again, which is counted.
func (c *recorder) query(r *querylog.Record) (q *policy.Query, answered bool) {
	switch {
	case !decided[resolver.Action(r.Action)] || r.Class != dns.ClassINET || r.Name == "":
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
	a := policy.Asker{Source: r.Source, Verdicts: posture.Verdicts{}}
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
