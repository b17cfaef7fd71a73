package node

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
)

// A policy whose tests fail is not taken: not at the start, and not at a reload,
// after which the one before is in force.
func TestPolicyIsTested(t *testing.T) {
	text := ""
	load := func() (*Loaded, error) {
		p, err := policy.Parse("policy.yaml", []byte(text), nil)
		return &Loaded{Policy: p, Devices: []*device.Device{{ID: "alice", Groups: []string{"staff"}}}}, err
	}
	applied := 0
	start := func() (*rules, error) {
		apply := func(*Loaded) error { applied++; return nil }
		return newRules(load, apply, func() {}, slog.New(slog.NewTextHandler(io.Discard, nil)), &Surroundings{Metrics: prometheus.NewRegistry()})
	}
	const (
		good = "policies: [{name: a, if: {group: staff}, then: allow}]\ntests: [{device: alice, ask: x.example, want: allow}]\n"
		bad  = "policies: [{name: a, if: {group: staff}, then: block}]\ntests: [{device: alice, ask: x.example, want: allow}]\n"
		want = "1 of 1 test fails:\npolicy.yaml:2:9: x.example A by alice: want allow, got block refused by policy a"
	)
	text = bad
	if _, err := start(); err == nil || !strings.Contains(err.Error(), want) || applied > 0 {
		t.Fatalf("start: %v, %d applied, want %s", err, applied, want)
	}
	text = good
	r, err := start()
	if err != nil {
		t.Fatal(err)
	}
	version := r.now().Version()
	text = bad
	if err := r.reload("test"); err == nil || !strings.Contains(err.Error(), want) || errors.Unwrap(err) == nil {
		t.Fatalf("reload: %v", err)
	}
	if r.now().Version() != version || applied != 1 {
		t.Error("a policy whose tests fail is in force")
	}
}
