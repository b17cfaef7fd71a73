package list

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"testing"
)

// million is a list of 1,000,000 names in format plain, most of them of two or
// three labels, as large blocklists are.
func million() []byte {
	var b bytes.Buffer
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 1_000_000 {
		if r.IntN(2) == 0 {
			fmt.Fprintf(&b, "%x.", r.IntN(1<<16))
		}
		fmt.Fprintf(&b, "host-%d.%s\n", i, []string{"com", "net", "example", "co.uk"}[r.IntN(4)])
	}
	return b.Bytes()
}

// What a list takes once it is built, and what building it allocates on the
// way: with the collector off that is the most that can lie in memory at once.
func TestMillionTakesLittle(t *testing.T) {
	text := million()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var before, built, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	set, _, err := Names("plain", bytes.NewReader(text), "l")
	if err != nil || set.Len() != 1_000_000 {
		t.Fatal(set.Len(), err)
	}
	runtime.ReadMemStats(&built)
	runtime.GC()
	runtime.ReadMemStats(&after)
	resident := after.HeapAlloc - before.HeapAlloc
	taken := built.TotalAlloc - before.TotalAlloc
	t.Logf("%d bytes resident, %d taken while building, in %d allocations", resident, taken, built.Mallocs-before.Mallocs)
	if resident > 20_000_000 {
		t.Errorf("%d bytes for a million names", resident)
	}
	if taken > resident*3/2 {
		t.Errorf("building takes %d bytes for a list of %d", taken, resident)
	}
	runtime.KeepAlive(text)
	runtime.KeepAlive(set)
}

var sink *Set

func BenchmarkLoadMillion(b *testing.B) {
	text := million()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if sink, _, err = Names("plain", bytes.NewReader(text), "l"); err != nil {
			b.Fatal(err)
		}
	}
}
