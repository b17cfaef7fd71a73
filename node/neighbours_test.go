package node

import (
	"log/slog"
	"testing"
	"time"

	"github.com/starferry/starferry/state"
)

// The round-trip time follows each answer, and only what changes is told.
func TestMeasured(t *testing.T) {
	store, told := state.New(), 0
	n := newNeighbours(store, slog.New(slog.DiscardHandler), func(string, bool) { told++ }, func(string) {})
	n.add("hk-1", "egress", false)
	n.measured("hk-1", 3*time.Millisecond)
	n.report("hk-1", true, 3*time.Millisecond, "")
	since, _ := store.View().Link("hk-1")
	for _, rtt := range []time.Duration{90 * time.Millisecond, 5 * time.Millisecond} {
		n.measured("hk-1", rtt)
		if l, ok := store.View().Link("hk-1"); !ok || l.RTT != rtt || !l.Up || l.Since != since.Since {
			t.Errorf("after an answer in %v: %+v", rtt, l)
		}
	}
	n.report("hk-1", false, 0, "silence")
	if l, _ := store.View().Link("hk-1"); l.Up || l.RTT != 5*time.Millisecond || told != 2 {
		t.Errorf("down: %+v, told %d times", l, told)
	}
	n.measured("nobody", time.Second)
}
