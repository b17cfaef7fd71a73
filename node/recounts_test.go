package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/querylog"
	"github.com/starferry/starferry/resolver/replay"
)

const noGames = "policies: [{name: games, if: {name: {suffix: game.example}}, then: block}]\ndefault: allow\n"

// written waits until the query log has so many questions.
func (w *tower) written(t *testing.T, n uint64) {
	t.Helper()
	eventually(t, "all questions are written down", func() bool { return w.status(t).DNS.QueryLog[0].Written == n })
}

// A reload says in its answer and in its line of the log how many of the recent
// questions are answered otherwise from now on.
func TestReloadTellsWhatItChanges(t *testing.T) {
	w := newTower(t)
	for _, name := range []string{"www.game.example", "www.game.example", "a.game.example", "www.example.com"} {
		w.ask(t, name, "alice")
	}
	w.ask(t, "www.game.example", "office")
	w.written(t, 5)
	w.text.Store(noGames)
	done, err := w.client.Reload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := done.Changes
	if d == nil || d.Replayed != 5 || d.Changed != 4 || d.Devices != 2 || d.Names != 2 || d.Left != (replay.LeftOut{}) || d.Short != "" {
		t.Fatalf("%+v", d)
	}
	if got := d.Changes[0].String(); got != "alice www.game.example A: allow -> block refused (default -> games)" || d.Changes[0].Times != 2 {
		t.Errorf("first of the changes: %s, %d times", got, d.Changes[0].Times)
	}
	lines := w.said.lines(`"msg":"reloaded"`)
	var line struct {
		Because, Version, Examples        string
		Changed, Replayed, Devices, Names int
	}
	if len(lines) != 1 || json.Unmarshal([]byte(lines[0]), &line) != nil {
		t.Fatalf("logged: %q", lines)
	}
	if line.Because != "asked by the control socket" || line.Version != done.Version || line.Changed != 4 || line.Replayed != 5 ||
		line.Devices != 2 || line.Names != 2 || !strings.Contains(line.Examples, "alice www.game.example A: allow -> block refused") {
		t.Errorf("logged: %s", lines[0])
	}
	// Once more, and nothing is read: the policy is the same.
	if done, err = w.client.Reload(t.Context()); err != nil || !done.Same || done.Changes != nil {
		t.Errorf("once more: %+v, %v", done, err)
	}
}

// Where the log does not say who asks, nothing is told but how many these were.
func TestReloadTellsNothingPrivate(t *testing.T) {
	w := newTower(t)
	w.ask(t, "www.game.example", "alice")
	w.written(t, 1)
	w.dns.queries.recent.Privacy = querylog.Drop // from now on; what was kept before is in the file
	w.text.Store(noGames)
	done, err := w.client.Reload(t.Context())
	if err != nil || done.Changes == nil || done.Changes.Replayed != 0 || done.Changes.Left.Privacy != 1 || len(done.Changes.Changes) != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	if lines := w.said.lines("reloaded"); len(lines) != 1 || strings.Contains(lines[0], "example") || !strings.Contains(lines[0], `"not_replayed":1`) {
		t.Errorf("logged: %q", lines)
	}
}

// What a reload changes is told behind it; another one does not wait for that.
func TestReloadsDoNotWait(t *testing.T) {
	parse := func(i int) *policy.Policy {
		p, err := policy.Parse("policy.yaml", fmt.Appendf(nil, "policies: [{name: p%d, then: allow}]\n", i), nil)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	var log said
	r := newRecounts(slog.New(slog.NewJSONHandler(&log, nil)))
	file := t.TempDir() + "/q.jsonl"
	if err := os.WriteFile(file, []byte(strings.Repeat(`{"time":"2026-11-04T18:30:00Z","name":"x.example","type":"A","action":"allow"}`+"\n", 3)), 0o600); err != nil {
		t.Fatal(err)
	}
	r.recent = &replay.Recent{File: file}
	// Nobody takes them yet: those that find no room are told of without a count.
	var all []*recount
	for i := range maxRecounts + 1 {
		r.hurry()
		all = append(all, r.put("test", [2]*policy.Policy{parse(i), parse(i + 1)}))
	}
	last := all[maxRecounts]
	if last.wait(t.Context()) != nil || last.before != nil {
		t.Error("a policy is kept of a reload that was told of")
	}
	if got := log.lines("reloaded"); len(got) != 1 || strings.Contains(got[0], "replayed") {
		t.Errorf("logged: %q", got)
	}
	stop := serving(t, func(ctx context.Context) error { r.run(ctx); return nil })
	for i, c := range all[:maxRecounts] { // all are of before the last reload
		if d := c.wait(t.Context()); d == nil || d.Replayed != 1 || !strings.Contains(d.Short, "another reload") {
			t.Errorf("%d: %+v", i, d)
		}
	}
	c := r.put("test", [2]*policy.Policy{parse(1), parse(2)})
	if d := c.wait(t.Context()); d == nil || d.Replayed != 3 || d.Short != "" {
		t.Errorf("the latest: %+v", d)
	}
	stop()
	if got := log.lines("reloaded"); len(got) != maxRecounts+2 {
		t.Errorf("%d lines, want one for each reload", len(got))
	}
}
