package node

import (
	"maps"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starferry/starferry/resolver"
)

// A resolver may answer with any of 4,096 response codes. Those without a name
// are counted together: else they would be time series without end, and two of
// one name would leave the node without metrics at all.
func TestTalliesOfUnassignedCodes(t *testing.T) {
	var tallied tallies
	for rcode := -1; rcode < 1<<12; rcode++ {
		tallied.of(resolver.Allowed, "rest", rcode).Add(1)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(&tallied)
	families, err := reg.Gather()
	if err != nil || len(families) != 1 {
		t.Fatalf("%d families, %v", len(families), err)
	}
	counts, sum := map[string]float64{}, 0.0
	for _, m := range families[0].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "rcode" {
				counts[l.GetValue()] = m.GetCounter().GetValue()
				sum += m.GetCounter().GetValue()
			}
		}
	}
	if len(counts) > 30 || sum != 1+1<<12 {
		t.Errorf("%v counted as %q", sum, slices.Sorted(maps.Keys(counts)))
	}
	if counts["none"] != 1 || counts["NXDOMAIN"] != 1 || counts["other"] < 4000 || counts[""] != 0 {
		t.Errorf("%v", counts)
	}
	if got := rcodeName(12); got != "12" {
		t.Errorf("12 is %q on record", got)
	}
}
