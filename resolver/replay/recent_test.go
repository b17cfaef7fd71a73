package replay

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/querylog"
)

func parse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("policy.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func policies(t testing.TB) (before, after *policy.Policy) {
	return parse(t, "policies: []\ndefault: allow\n"),
		parse(t, "policies: [{name: games, if: {name: {suffix: game.example}}, then: block}]\ndefault: allow\n")
}

var monday = time.Date(2026, 11, 2, 8, 0, 0, 0, time.UTC)

// asks is a record of a question; each is a second after the one before.
func asks(n int, device, name string, privacy querylog.Privacy) []byte {
	r := querylog.Record{
		Time: monday.Add(time.Duration(n) * time.Second), Privacy: privacy,
		Identity: querylog.Identity{Device: device, Kind: "wireguard"},
		Question: querylog.Question{Name: name, Type: 1, Class: 1},
		Verdict:  querylog.Verdict{Action: "allow", Hops: []querylog.Hop{{Name: name, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.7")}}}},
		Answer:   querylog.Answer{EDE: -1},
	}
	return r.Append(nil)
}

// write makes a file of n questions, of which each tenth is for a game, asked in
// turn by three devices.
func write(t testing.TB, file string, from, n int, privacy querylog.Privacy) {
	t.Helper()
	var b []byte
	for i := from; i < from+n; i++ {
		name := fmt.Sprintf("w%02d.host.example", i)
		if i%10 == 0 {
			name = "all.game.example"
		}
		b = append(b, asks(i, fmt.Sprint("laptop-", i%3), name, privacy)...)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRecent(t *testing.T) {
	before, after := policies(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "q.jsonl")
	write(t, filepath.Join(dir, "q-20261101T000000.000Z.jsonl.gz"), 0, 10, querylog.Keep) // is not looked into
	write(t, filepath.Join(dir, "q-20261102T080100.000Z.jsonl"), 0, 60, querylog.Keep)
	write(t, file, 60, 40, querylog.Keep)
	line := int64(len(asks(60, "laptop-0", "all.game.example", querylog.Keep)))
	for what, c := range map[string]struct {
		recent                               Recent
		replayed, changed, devices, privates int
		since                                int
	}{
		"all":           {Recent{}, 100, 10, 3, 0, 0},
		"one file":      {Recent{bounds: bounds{bytes: 20*line + 9}}, 20, 2, 2, 0, 80},
		"kept back now": {Recent{Privacy: querylog.Drop}, 0, 0, 0, 100, 0},
	} {
		c.recent.File = file
		d := c.recent.Compare(t.Context(), before, after, 2)
		since := d.Since.Sub(monday) / time.Second
		if d.Replayed != c.replayed || d.Changed != c.changed || d.Devices != c.devices || d.Left.Privacy != c.privates || int(since) != c.since {
			t.Errorf("%s: %+v, since %v", what, d, since)
		}
		if d.Short != "" || len(d.Changes) > 2 {
			t.Errorf("%s: %q, %d changes", what, d.Short, len(d.Changes))
		}
		if c.privates > 0 && strings.Contains(d.Brief(), "example") {
			t.Errorf("names are told: %s", d.Brief())
		}
	}
}

func TestRecentIsBounded(t *testing.T) {
	before, after := policies(t)
	file := filepath.Join(t.TempDir(), "q.jsonl")
	write(t, file, 0, 50, querylog.Keep)
	r := Recent{File: file, bounds: bounds{time: -1}}
	if d := r.Compare(t.Context(), before, after, 2); d.Replayed != 1 || !strings.Contains(d.Short, "the time was over after 1") {
		t.Errorf("without time: %+v", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r = Recent{File: file}
	if d := r.Compare(ctx, before, after, 2); d.Replayed != 1 || !strings.Contains(d.Short, "another reload ended it after 1") {
		t.Errorf("without anybody who waits: %+v", d)
	}
	r.File = filepath.Join(t.TempDir(), "none.jsonl")
	if d := r.Compare(t.Context(), before, after, 2); d.Replayed != 0 || d.Short != "" {
		t.Errorf("without a file: %+v", d)
	}
	r.File = t.TempDir()
	if d := r.Compare(t.Context(), before, after, 2); d.Replayed != 0 {
		t.Errorf("of a folder: %+v", d)
	}
	r.File = filepath.Join(t.TempDir(), "no", "folder.jsonl")
	if d := r.Compare(t.Context(), before, after, 2); !strings.Contains(d.Brief(), "cannot be read") {
		t.Errorf("without a folder: %s", d.Brief())
	}
}

// After each piece of work there is a pause, whatever there is to do.
func TestRecentPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sweep{Comparison: Between(nil, nil), until: time.Now().Add(time.Second), rest: time.Now().Add(piece)}
		began := time.Now()
		if s.breathe(t.Context()) != "" || time.Since(began) != 0 {
			t.Error("pauses at once")
		}
		time.Sleep(piece)
		if s.breathe(t.Context()) != "" || time.Since(began) != piece+pause {
			t.Errorf("no pause after a piece: %v", time.Since(began))
		}
		if s.breathe(t.Context()) != "" || time.Since(began) != piece+pause {
			t.Error("pauses twice")
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	before, after := policies(b)
	c := Between(before, after)
	line := asks(10, "laptop-1", "www.game.example", querylog.Keep)
	b.ReportAllocs()
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		r, err := querylog.Parse(line)
		if err != nil {
			b.Fatal(err)
		}
		c.Add(&r)
	}
}

// Policies for a transport or a listener decide again what came by it.
func TestWaysAreReplayed(t *testing.T) {
	before, _ := policies(t)
	after := parse(t, "policies: [{name: far, if: {any: [{transport: dot}, {listener: \"192.0.2.1:53\"}]}, then: block}]\ndefault: allow\n")
	for _, tt := range []struct {
		listener, transport string
		changed             int
	}{{"", "", 0}, {"192.0.2.1:53", "udp", 1}, {"192.0.2.2:853", "dot", 1}, {"192.0.2.2:53", "udp", 0}} {
		r, err := querylog.Parse(asks(1, "laptop-1", "www.example.com", querylog.Keep))
		if err != nil {
			t.Fatal(err)
		}
		r.Listener, r.Transport = tt.listener, tt.transport
		c := Between(before, after)
		c.Add(&r)
		if d := c.Difference(1); d.Changed != tt.changed {
			t.Errorf("%+v: %d changed", tt, d.Changed)
		}
	}
}
