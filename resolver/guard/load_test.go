package guard

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestQuestionsInWork(t *testing.T) {
	l, err := NewLoad(LoadLimits{Questions: 200})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var in atomic.Int64
	for range 500 {
		wg.Go(func() {
			if l.Enter() {
				in.Add(1)
			}
		})
	}
	wg.Wait()
	if s := l.Stats(); in.Load() != 200 || s.InWork != 200 || s.OverWork != 300 {
		t.Errorf("%d entered of 200; %+v", in.Load(), s)
	}
	for range 200 {
		l.Leave()
	}
	if s := l.Stats(); s.InWork != 0 || !l.Enter() {
		t.Errorf("%+v after all left", s)
	}
}

// A heap stands in for the runtime's: what lives, and garbage that goes when
// it is collected.
type heap struct{ live, garbage, collections atomic.Uint64 }

func (h *heap) sample() uint64 { return h.live.Load() + h.garbage.Load() }
func (h *heap) collect()       { h.garbage.Store(0); h.collections.Add(1) }

func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := NewLoad(LoadLimits{Memory: 100 << 20})
		if err != nil {
			t.Fatal(err)
		}
		var h heap
		l.sample, l.collect = h.sample, h.collect
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		at := func(what string, live, garbage uint64, wait time.Duration, want bool) {
			t.Helper()
			h.live.Store(live << 20)
			h.garbage.Store(garbage << 20)
			time.Sleep(wait)
			synctest.Wait()
			if got := l.Enter(); got != want {
				t.Errorf("%s: entered is %v, want %v (%+v)", what, got, want, l.Stats())
			}
		}
		at("at rest", 50, 0, time.Second, true)
		at("garbage", 50, 60, 150*time.Millisecond, true)
		if h.collections.Load() != 1 {
			t.Errorf("%d collections, want 1", h.collections.Load())
		}
		at("garbage again, within a second", 50, 60, 150*time.Millisecond, true)
		at("very much at once", 50, 90, 150*time.Millisecond, false)
		at("collected", 50, 0, 150*time.Millisecond, true)
		at("full", 101, 0, 1200*time.Millisecond, false)
		at("hardly better", 99, 0, 1200*time.Millisecond, false)
		at("better", 90, 0, 1200*time.Millisecond, true)
		if s := l.Stats(); s.OverMemory != 3 || s.Memory != 90<<20 || s.Shedding {
			t.Errorf("%+v", s)
		}
		at("full again", 200, 0, 1200*time.Millisecond, false)
		cancel()
		if err := <-done; err != nil || !l.Enter() {
			t.Errorf("run ended with %v; nobody looks at memory any more, and nobody shall shed for it", err)
		}
	})
}

func TestLoadLimits(t *testing.T) {
	for _, bad := range []LoadLimits{{Questions: -1}, {Memory: 1}} {
		if _, err := NewLoad(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if got := defaultMemory(math.MaxInt64); got != 1<<30 {
		t.Errorf("default without a limit: %d", got)
	}
	if got := defaultMemory(1000 << 20); got != 900<<20 {
		t.Errorf("default with a limit of 1,000 MiB: %d", got)
	}
	l, err := NewLoad(LoadLimits{Memory: -1})
	if err != nil {
		t.Fatal(err)
	}
	l.sample = func() uint64 { return 1 << 50 }
	if l.look(true); !l.Enter() {
		t.Error("shed for memory without a limit")
	}
}

// The runtime knows the metrics that are asked for.
func TestSample(t *testing.T) {
	if n := newSample()(); n < 1<<16 || n > 1<<40 {
		t.Errorf("%d bytes in use", n)
	}
}

func TestEnterDoesNotAllocate(t *testing.T) {
	l, err := NewLoad(LoadLimits{})
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if l.Enter() {
			l.Leave()
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkEnter(b *testing.B) {
	l, err := NewLoad(LoadLimits{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if l.Enter() {
			l.Leave()
		}
	}
}
