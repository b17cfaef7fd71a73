package node

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	if err := g.rules.first(); err != nil {
		t.Fatal(err)
	}
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

// network makes the only device a LAN, which routes the pool here or does not.
func (o *office) network(t *testing.T, routes bool) {
	t.Helper()
	lan := &device.Device{ID: "office", Kind: device.ByNetwork, LAN: prefixes("192.168.1.0/24"), Overlay: prefixes("100.72.8.0/24"), RoutesPool: routes}
	if err := o.store.Update(func(tx state.Tx) error { return tx.ReplaceDevices([]*device.Device{lan}) }); err != nil {
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
	o.postures.restore(nil, nil)
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

// A list of devices that WireGuard does not take changes nothing, though the
// tables would have taken it.
func TestRefusedDevicesChangeNothing(t *testing.T) {
	o := newOffice(t)
	o.report(t, "alice")
	o.report(t, "bob")
	o.devices = []device.ID{"alice", "carol"}
	o.set.Egresses = []configs.Peer{{Name: "hk-1"}} // has no key
	if err := o.rules.reload("test"); err == nil {
		t.Fatal("a peer without a key was taken")
	}
	for id, want := range map[device.ID]bool{"alice": true, "bob": true, "carol": false} {
		if _, has := o.store.Directory().ByID(id); has != want {
			t.Errorf("%s is there: %v", id, has)
		}
	}
	o.holds(t, "alice", "bob")
}

// Of two reports the later one counts, in whatever order they are judged.
func TestLaterReportCounts(t *testing.T) {
	o := newOffice(t)
	now := time.Now()
	if _, err := o.postures.take(t.Context(), "alice", []byte(`{"firewall": false}`), now); err != nil {
		t.Fatal(err)
	}
	early := now.Add(-time.Second)
	if _, err := o.postures.take(t.Context(), "alice", []byte(`{"firewall": true}`), early); !errors.Is(err, errOvertaken) {
		t.Errorf("an earlier report: %v", err)
	}
	well, err := posture.ParseReport([]byte(`{"firewall": true}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.postures.judge(t.Context(), "alice", received{well, early}); !errors.Is(err, errOvertaken) { // as a reload may
		t.Errorf("an earlier report, judged again: %v", err)
	}
	if e, _ := o.store.Directory().ByID("alice"); e.Verdicts["managed"].Result != posture.Failed {
		t.Errorf("alice stands %v", e.Verdicts)
	}
}

// What was reported before a restart is not undone by an older file.
func TestOldFileDoesNotCount(t *testing.T) {
	o := newOffice(t)
	failed := state.StoredVerdicts{Verdicts: posture.Verdicts{"managed": {Result: posture.Failed}}, Received: time.Now()}
	o.postures.restore(map[device.ID]state.StoredVerdicts{"alice": failed}, []device.ID{"alice"})
	file := filepath.Join(t.TempDir(), "alice.json")
	if err := os.WriteFile(file, []byte(`{"firewall": true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Minute)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
	o.postures.takeFile(t.Context(), file)
	if e, _ := o.store.Directory().ByID("alice"); e.Verdicts["managed"].Result != posture.Failed {
		t.Errorf("alice stands %v", e.Verdicts)
	}
}

// A secret that cannot be read is not replaced: egresses would take all devices
// for new ones.
func TestSecretIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	first, err := secret(path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := secret(path); err != nil || !slices.Equal(again, first) {
		t.Errorf("another secret, %v", err)
	}
	if _, err := secret(t.TempDir()); err == nil || !strings.Contains(err.Error(), "reading") {
		t.Errorf("a folder was taken for a secret: %v", err)
	}
}
