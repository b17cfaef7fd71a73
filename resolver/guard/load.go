package guard

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry/internal/lifecycle"
)

// LoadLimits bound what is in work. A field that is zero has the default that
// stands behind it.
type LoadLimits struct {
	Questions int // in work on the slow way, 8,192: some 20 KB each while upstream is asked

	// Memory is how many bytes live objects and stacks may take before slow
	// questions are turned away; negative: any. Default: nine tenths of the
	// memory limit of the runtime (GOMEMLIMIT), where that is set, else 1 GiB.
	Memory int64
}

// Load says whether one more question may go the slow way: to an upstream, with
// goroutines and buffers of its own. Answers that were given before cost nothing that
// lasts and go on whatever it says. It is safe for concurrent use.
//
// Memory is sampled by [Load.Run]. What counts is what lives: garbage also
// fills the heap, most of all when a burst has just ended, and since cached
// answers make none, it might then lie there for minutes. So before anybody is
// turned away for it, the garbage is collected, at most once in a second.
type Load struct {
	most   int64
	memory uint64

	inWork   atomic.Int64
	shedding atomic.Bool
	used     atomic.Uint64

	overWork, overMemory counter

	sample  func() uint64 // bytes in use
	collect func()
}

// LoadStats is what is in work now, and what was counted since the start.
type LoadStats struct {
	InWork     int
	Memory     uint64 // bytes of objects and stacks in use at the last sample
	Shedding   bool   // for memory
	OverWork   uint64 // questions turned away since too many were in work
	OverMemory uint64 // and those turned away for memory
}

// How often memory is sampled, and how often garbage is collected for it.
const (
	samplePeriod  = 100 * time.Millisecond
	collectPeriod = time.Second
)

// NewLoad checks the limits. Without [Load.Run] memory is not looked at.
func NewLoad(l LoadLimits) (*Load, error) {
	const least = 64 << 20 // a gateway with small lists takes as much
	if l.Questions < 0 || l.Memory > 0 && l.Memory < least {
		return nil, fmt.Errorf("limits of load: %d questions in work and %d bytes: want more than 0 and at least %d", l.Questions, l.Memory, least)
	}
	load := &Load{most: int64(or(l.Questions, 8_192)), memory: uint64(l.Memory), sample: newSample(), collect: runtime.GC}
	switch {
	case l.Memory < 0:
		load.memory = math.MaxInt64
	case l.Memory == 0:
		load.memory = defaultMemory(debug.SetMemoryLimit(-1)) // a negative limit only asks
	}
	return load, nil
}

func defaultMemory(limit int64) uint64 {
	if limit == math.MaxInt64 {
		return 1 << 30
	}
	return uint64(limit) / 10 * 9
}

// Enter reports whether one more question may be worked on. Whoever got true
// calls [Load.Leave] when it is done.
func (l *Load) Enter() bool {
	if l.shedding.Load() {
		l.overMemory.Add(1)
		return false
	}
	if l.inWork.Add(1) > l.most {
		l.inWork.Add(-1)
		l.overWork.Add(1)
		return false
	}
	return true
}

// Sheds reports whether questions are turned away for memory.
func (l *Load) Sheds() bool { return l.shedding.Load() }

// Leave ends what Enter allowed.
func (l *Load) Leave() { l.inWork.Add(-1) }

// Run samples the memory in use until the context is done.
func (l *Load) Run(ctx context.Context) error {
	defer l.shedding.Store(false)
	collected := time.Now().Add(-collectPeriod)
	return lifecycle.Every(ctx, samplePeriod, func() {
		if now := time.Now(); l.look(now.Sub(collected) >= collectPeriod) {
			collected = now
		}
	})
}

// look samples once. Above the limit it collects first, if it may, and reports
// whether it has. Shedding ends a little below the limit, lest it flutter.
func (l *Load) look(mayCollect bool) (collected bool) {
	limit := l.memory
	if l.shedding.Load() {
		limit -= limit / 16
	}
	used := l.sample()
	if used > limit && mayCollect {
		l.collect()
		used, collected = l.sample(), true
	}
	l.used.Store(used)
	if used <= limit || collected || used > limit+limit/4 { // that far above, it is not garbage alone
		l.shedding.Store(used > limit)
	}
	return collected
}

// newSample returns a function that tells the bytes of objects and stacks. It
// keeps its buffer and is for one goroutine.
func newSample() func() uint64 {
	in := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	return func() (sum uint64) {
		metrics.Read(in)
		for _, s := range in {
			if s.Value.Kind() == metrics.KindUint64 {
				sum += s.Value.Uint64()
			}
		}
		return sum
	}
}

// Stats returns what is in work and what was counted.
func (l *Load) Stats() LoadStats {
	return LoadStats{int(l.inWork.Load()), l.used.Load(), l.shedding.Load(), l.overWork.Load(), l.overMemory.Load()}
}
