// Command policy measures what decisions and lists of names cost: for programs
// it prints "figure NAME VALUE UNIT", for people a table of the list beside
// other structures that hold names.
//
// All is measured in turn, round after round, so that what disturbs the machine for
// a while disturbs all of it; of the rounds the median counts.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"
	"time"
)

func main() {
	names := flag.Int("names", 1_000_000, "how many names the lists hold")
	rounds := flag.Int("rounds", 7, "how often each thing is measured")
	span := flag.Duration("for", 200*time.Millisecond, "how long each time")
	table := flag.String("table", "", "write the table to this file")
	flag.Parse()
	m := &meter{rounds: *rounds, span: *span}
	if err := run(m, *names, *table); err != nil {
		fmt.Fprintln(os.Stderr, "bench/policy:", err)
		os.Exit(1)
	}
}

// A measured is works, and what is told of them when it is known how many
// nanoseconds one step of each takes.
type measured struct {
	works []func(i int)
	tell  func(times []float64)
}

func run(m *meter, names int, table string) error {
	rows, l, err := lists(names) // first: what is built is weighed
	if err != nil {
		return err
	}
	d, err := decisions(names)
	if err != nil {
		return err
	}
	t := m.times(append(d.works, l.works...)...)
	d.tell(t[:len(d.works)])
	l.tell(t[len(d.works):])
	if table == "" {
		return nil
	}
	return os.WriteFile(table, []byte(markdown(rows, names)), 0o644)
}

func figure(name string, value float64, unit string) {
	fmt.Printf("figure %s %.4g %s\n", name, value, unit)
}

// A meter times things.
type meter struct {
	rounds int
	span   time.Duration
}

// times returns for each of the works how many nanoseconds one step of it takes.
func (m *meter) times(works ...func(i int)) []float64 {
	runtime.GC() // and none while it is measured
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	samples := make([][]float64, len(works))
	next := make([]int, len(works))
	for range m.rounds + 1 {
		for k, work := range works {
			samples[k] = append(samples[k], m.once(work, &next[k]))
		}
	}
	var out []float64
	for _, s := range samples {
		out = append(out, median(s[1:])) // the first round is thrown away
	}
	return out
}

// once goes on with a work for the span, by the processor's time: whoever else
// uses the machine takes none of that.
func (m *meter) once(work func(i int), next *int) float64 {
	const batch = 1000
	steps, began := 0, spent()
	for spent()-began < m.span {
		for range batch {
			work(*next)
			*next++
		}
		steps += batch
	}
	return float64((spent() - began).Nanoseconds()) / float64(steps)
}

// spent returns how much of the processor's time this process has had.
func spent() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err) // it has no errors that can be met here
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func median(s []float64) float64 {
	slices.Sort(s)
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// allocations returns how often one step of a work allocates.
func allocations(work func(i int)) float64 {
	const steps = 10_000
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	work(0)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range steps {
		work(i)
	}
	runtime.ReadMemStats(&after)
	return float64((after.Mallocs - before.Mallocs) / steps)
}

// size builds something and returns the bytes that it takes, and how many times
// as much there could be at once while it was built: all that was allocated,
// with the collector off.
func size[T any](build func() (T, error)) (built T, resident, peak float64, err error) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var before, during, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	built, err = build()
	runtime.ReadMemStats(&during)
	runtime.GC()
	runtime.ReadMemStats(&after)
	resident = float64(after.HeapAlloc) - float64(before.HeapAlloc)
	return built, resident, float64(during.TotalAlloc-before.TotalAlloc) / max(resident, 1), err
}
