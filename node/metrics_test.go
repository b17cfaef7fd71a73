package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/state"
	"github.com/starferry/starferry/steer"
)

// gathered returns the values of a registry by name and labels.
func gathered(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := strings.TrimPrefix(f.GetName(), "starferry_")
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

// hold checks some values of those that there are.
func hold(t *testing.T, got, want map[string]float64) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if v, ok := got[name]; !ok || v != want[name] {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want[name])
		}
	}
}

// A whole fleet tells of its links, leases and policies.
func TestFleetMetrics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		w.laptop.resolve("www.china.test")
		w.sleepUntil(w.at() + 2*time.Second)
		hold(t, gathered(t, w.gateway.near.Metrics), map[string]float64{
			"leases ipv4 capacity": 16256, "leases ipv4 used": 1, "leases ipv4 resting": 0, "leases ipv6 used": 0,
			"neighbour_up hk-1 egress": 1, "neighbour_rtt_seconds hk-1 egress": (2 * toEgress).Seconds(),
			"policy_loaded_timestamp_seconds": float64(w.start.Unix()), "reload_failed": 0,
		})
		egress := gathered(t, w.egress.near.Metrics)
		hold(t, egress, map[string]float64{
			"leases ipv4 used": 1, "neighbour_up gw-sjc gateway": 1, "neighbour_up cn-1 connector": 1, "neighbour_up cn-2 connector": 0,
			"directory_up gw-sjc": 0, "policy_loaded_timestamp_seconds": float64(w.start.Unix()), "reload_failed": 0,
		})
		for _, name := range []string{"neighbour_rtt_seconds gw-sjc gateway", "clock_skew_seconds gw-sjc", "directory_refused_total"} {
			if v, ok := egress[name]; ok {
				t.Errorf("%s is %v and cannot be known", name, v)
			}
		}
		connector := gathered(t, w.connectors["cn-1"].near.Metrics)
		hold(t, connector, map[string]float64{
			"leases ipv4 used": 1, "neighbour_up hk-1 egress": 1, "neighbour_rtt_seconds hk-1 egress": (2 * toChina).Seconds(),
		})
		if _, ok := connector["reload_failed"]; ok {
			t.Error("a connector tells of a policy")
		}
	})
}

func TestEgressMetrics(t *testing.T) {
	table, err := steer.Open(steer.Config{Path: t.TempDir() + "/leases", V4: poolB[0]})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	f, reg, s := &feeds{told: map[string]feedStatus{}}, prometheus.NewRegistry(), &listen.Server{}
	m := &metrics{leases: table, store: state.New(), gateways: []configs.Peer{{Name: "gw-1"}, {Name: "gw-2"}}, feeds: f}
	if err := m.register(reg, s); err != nil {
		t.Fatal(err)
	}
	f.health("gw-1", true, "")
	f.skew("gw-1", -1500*time.Millisecond)
	s.Dropped("link", listen.Malformed)
	s.Dropped("link", listen.Malformed)
	shared := &Shared{Refused: func() uint64 { return 7 }}
	if err := errors.Join(shared.countRefused(reg), new(Shared).countRefused(reg)); err != nil {
		t.Fatal(err)
	}
	got := gathered(t, reg)
	hold(t, got, map[string]float64{
		"directory_up gw-1": 1, "directory_up gw-2": 0, "clock_skew_seconds gw-1": -1.5,
		"dns_dropped_total link malformed": 2, "directory_refused_total": 7,
	})
	if _, ok := got["leases ipv6 used"]; ok {
		t.Error("a pool that is not there has leases")
	}
}

// While the last reload was refused, the old policy is in force and its time stays.
func TestReloadMetrics(t *testing.T) {
	o := newOffice(t)
	before := gathered(t, o.near.Metrics)
	hold(t, before, map[string]float64{"reload_failed": 0})
	load := o.rules.load
	o.rules.load = func() (*Loaded, error) { return nil, errors.New("a mistake") }
	if o.rules.reload("test") == nil {
		t.Fatal("a mistake was taken")
	}
	hold(t, gathered(t, o.near.Metrics), map[string]float64{
		"reload_failed": 1, "policy_loaded_timestamp_seconds": before["policy_loaded_timestamp_seconds"],
	})
	o.rules.load = load
	o.list(t, "alice")
	after := gathered(t, o.near.Metrics)
	hold(t, after, map[string]float64{"reload_failed": 0})
	if after["policy_loaded_timestamp_seconds"] <= before["policy_loaded_timestamp_seconds"] {
		t.Error("a reload does not move the time")
	}
}

// What comes to a listener and is no question is counted there.
func TestDroppedQuestionsAreCounted(t *testing.T) {
	o := newOffice(t)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := serving(t, func(ctx context.Context) error { return o.dns.server.ServeUDP(ctx, pc, onLink) })
	defer stop()
	conn, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "short")
	eventually(t, "the message is counted", func() bool {
		return gathered(t, o.near.Metrics)["dns_dropped_total link malformed"] == 1
	})
}
