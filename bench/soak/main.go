// Command soak asks a gateway for minutes at four fifths of what it can do,
// while its policy and lists are reloaded and its upstreams are killed and
// revived, and says whether every question had its reply and nothing grew.
// bench/soak.sh writes what it needs and says how to run it.
//
// It is an open loop over several UDP sockets and some kept TCP connections. A
// question without an answer is asked again as a stub resolver does it; one that
// has none after three tries fails the run. So does SERVFAIL, but for names that
// nobody has asked for before, while all upstreams are dead: everything else is
// in the cache, be it as a stale answer (RFC 8767).
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	w := &world{}
	flag.StringVar(&w.dir, "dir", ".", "folder of the gateway's files")
	flag.StringVar(&w.bin, "bin", ".", "folder of the programs starferry and upstream")
	flag.DurationVar(&w.ttl, "ttl", 10*time.Second, "how long upstream's answers may be kept")
	flag.TextVar(&w.gateway, "gateway", netip.AddrPort{}, "where the gateway serves DNS")
	flag.TextVar(&w.metrics, "metrics", netip.AddrPort{}, "where the gateway serves metrics")
	flag.TextVar(&w.up[0], "up0", netip.AddrPort{}, "where the first upstream serves")
	flag.TextVar(&w.up[1], "up1", netip.AddrPort{}, "where the second upstream serves")
	flag.TextVar(&w.answer, "answer", netip.Addr{}, "what upstream answers")
	span := flag.Duration("for", 5*time.Minute, "how long")
	most := flag.Int("most", 100000, "questions a second at most")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := soak(ctx, w, *span, *most); err != nil {
		fmt.Printf("soak: FAILED: %v\n", err)
		os.Exit(1)
	}
	fmt.Println("soak: ok")
}

// soak runs everything, and returns what should not be.
func soak(ctx context.Context, w *world, span time.Duration, most int) error {
	if span < 10*time.Second || most < 1 {
		return errors.New("a run takes at least 10s, at a rate above zero")
	}
	m, markers, err := w.questions()
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.open(m); err != nil {
		return err
	}
	l := &load{mix: m, to: w.gateway}
	capacity, err := w.capacity(ctx, l, markers)
	if err != nil {
		return err
	}
	rate := min(most, max(1, capacity*share/100))
	fmt.Printf("# capacity: %d questions a second without a loss; load: %d (%d %%) for %v\n", capacity, rate, (100*rate+capacity/2)/capacity, span)
	r, err := w.suffer(ctx, l.with(rate, span, period(span)), scheduled(span), markers)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.verdict(r)
}

// suffer puts the load on, and does what is to be endured under it.
func (w *world) suffer(ctx context.Context, l *load, p plan, markers [2][]byte) (*report, error) {
	before, err := w.scrape(ctx)
	if err != nil {
		return nil, err
	}
	unheard, err := lostBefore(w.serves)
	if err != nil {
		return nil, err
	}
	r := &report{span: l.span, rate: l.rate, before: before, reloads: len(p.reloads)}
	c := &chaos{world: w, mix: l.mix, markers: markers, start: time.Now()}
	during, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { c.kill(during, p.turns) })
	wg.Go(func() { c.reload(during, p.reloads) })
	wg.Go(func() { r.samples = w.samples(during, c.start) })
	wg.Go(func() {
		select {
		case <-w.server.done:
			c.complain("the gateway: %v: %v", errEnded, w.server.err)
			cancel()
		case <-during.Done():
		}
	})
	r.tally, r.next, err = l.ask(during)
	cancel()
	wg.Wait()
	r.gaps, r.wrong, r.loaded = c.watch.gaps, c.wrong, c.loaded
	r.late, r.unread = l.late, l.unread
	if err == nil {
		r.unheard, err = lostBefore(w.serves)
		r.unheard -= unheard
	}
	return r, err
}

// verdict ends the gateway, prints what is known, and returns what should not be.
func (w *world) verdict(r *report) error {
	after, err := w.scrape(context.Background())
	if err != nil {
		r.wrong = append(r.wrong, err.Error())
	}
	r.after = after
	const within = 10 * time.Second
	if err := w.server.stop(within); err != nil {
		r.wrong = append(r.wrong, fmt.Sprintf("the gateway, asked to end: %v", err))
	}
	r.table(os.Stdout)
	r.facts(os.Stdout)
	r.examples(os.Stdout)
	used := w.server.cmd.ProcessState
	fmt.Printf("# CPU seconds of the gateway: %.1f\n", (used.UserTime() + used.SystemTime()).Seconds())
	wrong := r.failures()
	if len(wrong) == 0 {
		return nil
	}
	fmt.Printf("# the gateway's log ends so:\n%s\n", w.said())
	return errors.New(strings.Join(wrong, "; "))
}

// questions reads what is asked. The first lines of the files marker.0 and
// marker.1 are names that only this version of the list has.
func (w *world) questions() (m *mix, markers [2][]byte, err error) {
	var files [4][]string
	for i, name := range []string{"names", "blocked", "marker.0", "marker.1"} {
		if files[i], err = w.lines(name); err != nil {
			return nil, markers, err
		}
	}
	if m, err = newMix(files[0], files[1], w.answer.As4()); err != nil {
		return nil, markers, err
	}
	for i := range markers {
		all, err := packAll(files[2+i])
		if err != nil {
			return nil, markers, err
		}
		markers[i] = all[0]
	}
	return m, markers, nil
}

func (w *world) lines(name string) ([]string, error) {
	f, err := os.Open(w.file(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		all = append(all, s.Text())
	}
	return all, s.Err()
}
