package node

import (
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/starferry/starferry/resolver"
)

// tallies count answers. A counter is looked up once and then only added to:
// whoever gives the same answer again keeps it. The zero value is ready.
type tallies struct{ by sync.Map } // tally → *atomic.Uint64

type tally struct {
	action resolver.Action
	policy string
	rcode  int // unassigned for all that have no name: a resolver may say any, and each would be a time series
}

// unassigned stands beyond the response codes, which have twelve bits (RFC 6891
// section 6.1.3).
const unassigned = 1 << 12

var decisionsDesc = prometheus.NewDesc("starferry_decisions_total",
	"Questions answered, by what was done and the policy that decided.", []string{"action", "policy", "rcode"}, nil)

// of returns the counter of answers of a kind.
func (t *tallies) of(action resolver.Action, policy string, rcode int) *atomic.Uint64 {
	if _, named := dns.RcodeToString[rcode]; rcode >= 0 && !named {
		rcode = unassigned
	}
	k := tally{action, policy, rcode}
	if n, ok := t.by.Load(k); ok {
		return n.(*atomic.Uint64)
	}
	n, _ := t.by.LoadOrStore(k, new(atomic.Uint64))
	return n.(*atomic.Uint64)
}

// Describe implements [prometheus.Collector].
func (t *tallies) Describe(to chan<- *prometheus.Desc) { to <- decisionsDesc }

// Collect implements [prometheus.Collector].
func (t *tallies) Collect(to chan<- prometheus.Metric) {
	t.by.Range(func(key, n any) bool {
		k := key.(tally)
		to <- prometheus.MustNewConstMetric(decisionsDesc, prometheus.CounterValue,
			float64(n.(*atomic.Uint64).Load()), string(k.action), k.policy, rcodeName(k.rcode))
		return true
	})
}

// rcodeName returns the name of a response code or its number, none for silence,
// and other for all without a name.
func rcodeName(rcode int) string {
	switch name, named := dns.RcodeToString[rcode]; {
	case named:
		return name
	case rcode < 0:
		return "none"
	case rcode == unassigned:
		return "other"
	}
	return strconv.Itoa(rcode)
}
