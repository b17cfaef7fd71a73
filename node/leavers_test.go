package node

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/state"
)

// An office is a gateway that does not run, with the shared state in memory and
// a list of devices that can be changed.
type office struct {
	*Gateway
	mu      sync.Mutex
	stored  map[device.ID]state.StoredVerdicts
	devices []device.ID
}

func newOffice(t *testing.T) *office {
	o := &office{stored: map[device.ID]state.StoredVerdicts{}, devices: []device.ID{"alice", "bob"}}
	set := &configs.Gateway{Node: configs.Node{Name: "gw", StateDir: t.TempDir(), Address: gatewayAddrs, Pool: poolA, MTU: 1380}}
	set.Upstreams = []configs.Upstream{{Name: "default"}}
	g, err := NewGateway(set, gatewayKey, o.load, Surroundings{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.labels.table.Close() })
	o.Gateway = g
	g.shared = &Shared{
		PutVerdicts: func(_ context.Context, id device.ID, v posture.Verdicts, at time.Time) error {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.stored[id] = state.StoredVerdicts{Verdicts: v, Received: at}
			return nil
		},
		DeleteVerdicts: func(_ context.Context, id device.ID) error {
			o.mu.Lock()
			defer o.mu.Unlock()
			delete(o.stored, id)
			return nil
		},
	}
	return o
}

func (o *office) load() (*Loaded, error) {
	p, err := policy.Parse("policy.yaml", []byte(gatewayPolicy), nil)
	l := &Loaded{Policy: p}
	for _, id := range o.devices {
		l.Devices = append(l.Devices, &device.Device{ID: id, Kind: device.ByNetwork})
	}
	return l, err
}

func (o *office) list(t *testing.T, ids ...device.ID) {
	t.Helper()
	o.devices = ids
	if err := o.rules.reload("test"); err != nil {
		t.Fatal(err)
	}
}

func (o *office) report(t *testing.T, id device.ID) {
	t.Helper()
	if _, err := o.postures.take(t.Context(), id, []byte(`{"firewall": true}`), time.Now()); err != nil {
		t.Fatal(err)
	}
}

// holds checks who is known to be well, in the tables and in the shared state.
func (o *office) holds(t *testing.T, want ...device.ID) {
	t.Helper()
	o.mu.Lock()
	stored := slices.Sorted(maps.Keys(o.stored))
	o.mu.Unlock()
	if !slices.Equal(stored, want) {
		t.Errorf("the shared state holds verdicts of %v, want %v", stored, want)
	}
	for _, id := range []device.ID{"alice", "bob", "carol"} {
		if _, _, has := o.store.View().Verdicts(id); has != slices.Contains(want, id) {
			t.Errorf("%s has verdicts: %v", id, has)
		}
	}
}

// A device that is taken out of the list takes its verdicts with it: one that
// comes later under its name has not reported.
func TestLeaverIsForgotten(t *testing.T) {
	o := newOffice(t)
	o.report(t, "alice")
	o.report(t, "bob")
	o.holds(t, "alice", "bob")
	o.list(t, "alice")
	o.holds(t, "alice")
	o.list(t, "alice", "bob")
	o.holds(t, "alice")
	o.report(t, "bob")
	o.holds(t, "alice", "bob")
}

// So does one that left while the gateway did not run, or while its report was
// being judged.
func TestLeaverIsForgottenLater(t *testing.T) {
	o := newOffice(t)
	well := state.StoredVerdicts{Verdicts: posture.Verdicts{"managed": {Result: posture.Passed}}, Received: time.Now()}
	o.stored["alice"], o.stored["carol"] = well, well
	o.postures.restore(maps.Clone(o.stored), []device.ID{"alice", "carol"})
	o.holds(t, "alice")
	if _, err := o.postures.take(t.Context(), "carol", []byte(`{"firewall": true}`), time.Now()); err == nil {
		t.Error("a report of no device was taken")
	}
	o.holds(t, "alice")

	// In a cluster it may be at home at another gateway.
	o.set.Etcd = &configs.Etcd{}
	o.stored["carol"] = well
	o.postures.restore(maps.Clone(o.stored), []device.ID{"carol"})
	o.holds(t, "alice", "carol")
}

// The folder for reports is made, for this node alone, and is watched.
func TestDropFolderIsMade(t *testing.T) {
	o := newOffice(t)
	dir := filepath.Join(t.TempDir(), "of", "reports")
	defer serving(t, func(ctx context.Context) error { return o.postures.watch(ctx, dir) })()
	report := filepath.Join(t.TempDir(), "alice")
	eventually(t, "the report in the new folder is taken", func() bool {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			return false
		}
		if err := os.WriteFile(report, []byte(`{"firewall": true}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(report, filepath.Join(dir, "alice.json")); err != nil {
			t.Fatal(err)
		}
		_, _, has := o.store.View().Verdicts("alice")
		return has
	})
}
