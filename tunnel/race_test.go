package tunnel

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
)

// Everything at once; what must hold at the end is that nothing is left over,
// and that each admitted flow had its record.
func TestAtOnce(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Emit = func(Side, []byte) {}; c.MaxFlows = 20 })
	ctx, cancel := context.WithCancel(t.Context())
	running := make(chan error)
	go func() { running <- w.Run(ctx) }()
	var wg sync.WaitGroup
	for seed := range uint64(6) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, 2))
			for range 2000 {
				atOnce(w, r)
			}
		})
	}
	wg.Wait()
	for _, i := range w.Flows() {
		if i.State == Open && i.Device != "alice-laptop" {
			t.Errorf("%+v", i)
		}
	}
	cancel()
	if err := <-running; err != nil {
		t.Error(err)
	}
	if w.lease.held() != 0 || len(w.Flows()) != 0 || w.kept != 0 || len(w.held) != 0 || w.Switch.flows() != 0 {
		t.Errorf("left over: %d leases, %d flows, %d packets held", w.lease.held(), len(w.Flows()), w.kept)
	}
	for i := range w.table.shard {
		if n := len(w.table.shard[i].rows); n != 0 {
			t.Errorf("%d rows left in a shard", n)
		}
	}
}

// atOnce does one thing.
func atOnce(w *world, r *rand.Rand) {
	all := func(*Info) bool { return r.IntN(2) == 0 }
	switch op := r.IntN(60); op {
	case 0:
		w.set(func() { w.denied[443] = !w.denied[443] })
	case 1:
		w.set(func() { w.waiting = !w.waiting })
	case 2:
		w.Rejudge(all)
	case 3:
		w.Cut(all, CloseLinkDown)
	case 4, 5:
		w.wakeAll()
	case 6:
		w.set(func() { changes[5](w, r.IntN(2) == 0) })
	default:
		var raw [][]byte
		side, p := randomPkt(r.IntN)
		for range 4 {
			raw = append(raw, p.bytes())
		}
		w.Input(side, raw, 0)
	}
}
