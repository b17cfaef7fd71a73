package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A sample is how large the gateway is at a time.
type sample struct {
	at         time.Duration
	rss        float64 // MB
	fds        float64
	goroutines float64
}

// samples takes one each second until ctx is done. What cannot be read then is
// said at the end only, as too few samples.
func (w *world) samples(ctx context.Context, start time.Time) []sample {
	var all []sample
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return all
		case <-t.C:
		}
		rss, err := resident(w.server.pid())
		if err != nil {
			continue
		}
		m, err := w.scrape(ctx)
		if err != nil {
			continue
		}
		all = append(all, sample{time.Since(start), rss, m["process_open_fds"], m["go_goroutines"]})
	}
}

// resident returns the MB of memory that a process has.
func resident(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, fmt.Errorf("%q says no size", b)
	}
	pages, err := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize()) / (1 << 20), err
}

// scrape reads the gateway's metrics.
func (w *world) scrape(ctx context.Context) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.metrics.String()+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return metrics(b), err
}

// metrics reads the text form of Prometheus: a name, with its labels as they
// are written, and its value.
func metrics(text []byte) map[string]float64 {
	all := map[string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			all[line[:at]] = v
		}
	}
	return all
}

// typical returns the median of what was sampled in a span, and of how many.
func typical(all []sample, from, to time.Duration, of func(sample) float64) (median float64, n int) {
	var vs []float64
	for _, s := range all {
		if s.at >= from && s.at < to {
			vs = append(vs, of(s))
		}
	}
	if len(vs) == 0 {
		return 0, 0
	}
	slices.Sort(vs)
	return vs[len(vs)/2], len(vs)
}
