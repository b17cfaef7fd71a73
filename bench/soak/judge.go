package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// A report is all that is to be judged.
type report struct {
	span    time.Duration
	rate    int
	tally   *tally
	gaps    []gap
	samples []sample
	before  map[string]float64 // metrics, before and after the load
	after   map[string]float64
	late    time.Duration // that a question was asked at most after it was due
	unread  int           // answers that were lost in this program's sockets
	unheard int           // questions that were lost in the gateway's
	next    uint64        // number of the question behind the last

	reloads int      // that were asked for
	loaded  int      // and in force as soon as they should be
	wrong   []string // what went wrong besides
}

// period is how long a row of the table is: a minute, or a quarter of a shorter
// run.
func period(span time.Duration) time.Duration { return min(time.Minute, span/4) }

const (
	growth = 1.15 // that the last cycle may have over the second
	slack  = 8    // that files and goroutines may have besides
)

// failures returns what should not be; none if all is well.
func (r *report) failures() []string {
	all := append(append(r.invalid(), r.replies()...), r.growth()...)
	if ok := r.grown(`starferry_reloads_total{result="ok"}`); r.loaded < r.reloads || ok < float64(r.reloads) {
		all = append(all, fmt.Sprintf("%d of %d reloads took effect, and the gateway counts %.0f", r.loaded, r.reloads, ok))
	}
	if n := r.grown(`starferry_reloads_total{result="refused"}`); n > 0 {
		all = append(all, fmt.Sprintf("%.0f reloads were refused", n))
	}
	return append(all, r.wrong...)
}

func (r *report) grown(metric string) float64 { return r.after[metric] - r.before[metric] }

// invalid returns what this program, not the gateway, has done wrong, so that
// the run shows nothing.
func (r *report) invalid() []string {
	var all []string
	asked := 0
	for _, row := range r.tally.rows {
		asked += row.asked
	}
	if want := int(r.span.Seconds() * float64(r.rate)); asked < want*99/100 {
		all = append(all, fmt.Sprintf("not valid: only %d of %d questions could be asked: this machine is too busy", asked, want))
	}
	if r.late > tryTime {
		all = append(all, fmt.Sprintf("not valid: a question was asked %v after it was due: this machine is too busy", r.late.Round(time.Millisecond)))
	}
	if r.unread > 0 {
		all = append(all, fmt.Sprintf("not valid: %d answers were not read in time: this machine is too busy", r.unread))
	}
	return all
}

// replies returns what is wrong with replies.
func (r *report) replies() []string {
	var all []string
	count := map[string]int{}
	for _, f := range r.tally.faults {
		if !r.excuses(f) {
			count[fmt.Sprintf("%s: %v", f.kind, f.err)]++
		}
	}
	for _, what := range slices.Sorted(maps.Keys(count)) {
		all = append(all, fmt.Sprintf("%d × %s", count[what], what))
	}
	if r.tally.broken > 0 {
		all = append(all, fmt.Sprintf("%d connections were lost", r.tally.broken))
	}
	return all
}

// excuses: only who asks for what cannot be known may get SERVFAIL, and only
// while all upstreams are dead.
func (r *report) excuses(f fault) bool {
	return f.err == errServfail && f.kind == unique && excused(r.gaps, f.asked, f.answered)
}

// A size is one of how large the gateway is.
type size struct {
	name  string
	of    func(sample) float64
	slack float64
}

var sizes = []size{
	{"resident MB", func(s sample) float64 { return s.rss }, 0},
	{"open files", func(s sample) float64 { return s.fds }, slack},
	{"goroutines", func(s sample) float64 { return s.goroutines }, slack},
}

// growth returns what the gateway has grown by: in the last whole cycle, over the
// second. Parts of cycles cannot be compared: an outage takes sockets.
func (r *report) growth() []string {
	var all []string
	last := r.span.Truncate(cycle) - cycle
	if last <= cycle {
		return nil
	}
	for _, s := range sizes {
		early, n := typical(r.samples, cycle, 2*cycle, s.of)
		late, m := typical(r.samples, last, last+cycle, s.of)
		switch least := int(cycle.Seconds() / 2); {
		case n < least || m < least:
			all = append(all, fmt.Sprintf("%s: %d and %d samples are too few", s.name, n, m))
		case late > early*growth+s.slack:
			all = append(all, fmt.Sprintf("%s: from %.0f to %.0f", s.name, early, late))
		}
	}
	return all
}

// table writes what became of the questions, row by row.
func (r *report) table(w io.Writer) {
	fmt.Fprintln(w, "|     from |    asked | answered | retried | servfail | lost | rss MB | fds | goroutines | p50 ms | p99 ms |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	each := r.tally.each
	for i := range r.tally.rows {
		from, row := time.Duration(i)*each, &r.tally.rows[i]
		var v [3]float64
		for j, s := range sizes {
			v[j], _ = typical(r.samples, from, from+each, s.of)
		}
		fmt.Fprintf(w, "| %8v | %8d | %8d | %7d | %8d | %4d | %6.1f | %3.0f | %10.0f | %6.3f | %6.3f |\n",
			from, row.asked, row.answered, row.retried, row.servfail, row.lost, v[0], v[1], v[2], ms(row.times.rank(50)), ms(row.times.rank(99)))
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// examples writes the first few faults of each sort that are no excused ones.
func (r *report) examples(w io.Writer) {
	const few = 3
	seen := map[string]int{}
	for _, f := range r.tally.faults {
		what := fmt.Sprintf("%s: %v", f.kind, f.err)
		if seen[what]++; seen[what] <= few && !r.excuses(f) {
			fmt.Fprintf(w, "# %s; asked at %v, settled at %v, over TCP: %v\n", what, f.asked.Round(time.Millisecond), f.answered.Round(time.Millisecond), f.stream)
		}
	}
}

// facts writes what else is worth knowing.
func (r *report) facts(w io.Writer) {
	for _, g := range r.gaps {
		fmt.Fprintf(w, "# all upstreams were dead from %v to %v\n", g.from.Round(time.Millisecond), g.to.Round(time.Millisecond))
	}
	fmt.Fprintf(w, "# questions lost in the gateway's sockets: %d; answers lost in those of this program: %d; asked at most %v late\n",
		r.unheard, r.unread, r.late.Round(time.Millisecond))
	for _, name := range slices.Sorted(maps.Keys(r.after)) {
		dropped := strings.HasPrefix(name, "starferry_dns_dropped_total") || strings.HasPrefix(name, "starferry_reloads_total")
		if n := r.grown(name); n > 0 && dropped {
			fmt.Fprintf(w, "# %s %.0f\n", name, n)
		}
	}
}
