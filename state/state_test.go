package state

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/internal/yamlpos"
)

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// machine returns a device at line n of devices.yaml.
func machine(id device.ID, n int, overlay ...string) *device.Device {
	return &device.Device{
		ID: id, Kind: device.ByWireGuard, Key: device.Key{byte(n), byte(n >> 8), 1}, Overlay: prefixes(overlay...),
		Groups: []string{"staff"}, At: yamlpos.Pos{File: "devices.yaml", Line: n, Col: 5},
	}
}

func passed(until time.Time) posture.Verdicts {
	return posture.Verdicts{"laptop": {Result: posture.Passed, Expires: until}}
}

func failed(why string) posture.Verdicts {
	return posture.Verdicts{"laptop": {Result: posture.Failed, Reason: why}}
}

func update(t testing.TB, s *Store, change func(Tx) error) {
	t.Helper()
	if err := s.Update(change); err != nil {
		t.Fatal(err)
	}
}

func TestDevices(t *testing.T) {
	s := New()
	laptop, phone := machine("laptop", 1, "100.72.1.1/32"), machine("phone", 2, "100.72.1.2/32")
	before := s.View()
	update(t, s, func(tx Tx) error { return tx.ReplaceDevices([]*device.Device{laptop, phone}) })
	if _, ok := before.Device("laptop"); ok {
		t.Error("an old view sees a new row")
	}
	if d, ok := s.View().DeviceByKey(phone.Key); !ok || d != phone {
		t.Errorf("the phone's key finds %v, %v", d, ok)
	}

	// The two exchange their keys, and one of them its place in the file.
	l, p := *laptop, *phone
	l.Key, p.Key, l.At.Line = phone.Key, laptop.Key, 9
	update(t, s, func(tx Tx) error { return tx.ReplaceDevices([]*device.Device{&l, &p}) })
	if d, ok := s.View().DeviceByKey(phone.Key); !ok || d.ID != "laptop" {
		t.Errorf("the phone's old key finds %v, %v", d, ok)
	}
	if d, ok := s.View().DeviceByKey(laptop.Key); !ok || d.ID != "phone" {
		t.Errorf("the laptop's old key finds %v, %v", d, ok)
	}

	// A row that is the same stays the same.
	same := p
	update(t, s, func(tx Tx) error { return tx.ReplaceDevices([]*device.Device{&same}) })
	if d, _ := s.View().Device("phone"); d != &p {
		t.Error("an equal row was replaced")
	}
	if _, ok := s.View().Device("laptop"); ok {
		t.Error("a row that is not listed is still there")
	}

	broken := errors.New("no")
	if err := s.Update(func(tx Tx) error { return errors.Join(tx.ReplaceDevices(nil), broken) }); !errors.Is(err, broken) {
		t.Errorf("a failing change: %v", err)
	}
	if _, ok := s.View().Device("phone"); !ok {
		t.Error("a change that failed has left its mark")
	}
}

func TestConflicts(t *testing.T) {
	office := &device.Device{ID: "office", Kind: device.ByNetwork, LAN: prefixes("192.168.1.0/24"), Overlay: prefixes("100.72.8.0/24")}
	branch := &device.Device{ID: "branch", Kind: device.ByNetwork, LAN: prefixes("192.168.1.0/24"), Overlay: prefixes("100.72.9.0/24")}
	a := machine("a", 3, "100.72.1.1/32")
	thief := machine("thief", 4, "100.72.1.4/32")
	thief.Key = a.Key
	for name, test := range map[string]struct {
		devices []*device.Device
		want    string
	}{
		"id": {[]*device.Device{a, machine("a", 5)},
			`a (devices.yaml:5:5): the id "a" belongs to a (devices.yaml:3:5) already`},
		"key": {[]*device.Device{a, thief},
			`thief (devices.yaml:4:5): the key ` + a.Key.String() + ` belongs to a (devices.yaml:3:5) already`},
		"address": {[]*device.Device{a, machine("b", 6, "fd00::1/128", "100.72.1.1/32")},
			`b (devices.yaml:6:5): the overlay address 100.72.1.1/32 belongs to a (devices.yaml:3:5) already`},
		"address inside": {[]*device.Device{machine("b", 6, "100.72.8.9/32"), office},
			`b (devices.yaml:6:5): the overlay range 100.72.8.0/24, which holds 100.72.8.9/32, belongs to office already`},
		"network": {[]*device.Device{office, branch},
			`branch: the network 192.168.1.0/24 belongs to office already`},
		"no id": {[]*device.Device{machine("", 7)}, ` (devices.yaml:7:5): a device without an id`},
	} {
		err := New().Update(func(tx Tx) error { return tx.ReplaceDevices(test.devices) })
		if err == nil || err.Error() != "replace devices: "+test.want {
			t.Errorf("%s:\n got %v\nwant %s", name, err, test.want)
		}
		var c *Conflict
		if errors.As(err, &c) != (name != "no id") {
			t.Errorf("%s: is a Conflict: %v", name, c)
		}
	}
	all := append([]*device.Device{a, a, thief}, office, branch)
	err := New().Update(func(tx Tx) error { return tx.ReplaceDevices(all) })
	if n := strings.Count(fmt.Sprint(err), "\n") + 1; n != 5 { // id, key twice, address, network
		t.Errorf("%d conflicts, want 5:\n%v", n, err)
	}
}

func TestLinksAndWatches(t *testing.T) {
	s := New()
	v := s.View()
	devices, verdicts, links := v.WatchDevices(), v.WatchVerdicts(), v.WatchLinks()
	hk := Link{Name: "hk-1", Role: "egress", Up: true, RTT: 31 * time.Millisecond}
	update(t, s, func(tx Tx) error { return errors.Join(tx.PutLink(hk), tx.PutLink(Link{Name: "cn-1"})) })
	select {
	case <-links:
	default:
		t.Error("nobody told of a new link")
	}
	select {
	case <-devices:
		t.Error("a link wakes who waits for devices")
	case <-verdicts:
		t.Error("a link wakes who waits for verdicts")
	default:
	}
	if l, ok := s.View().Link("hk-1"); !ok || l != hk {
		t.Errorf("hk-1 is %+v, %v", l, ok)
	}
	update(t, s, func(tx Tx) error { return errors.Join(tx.DeleteLink("hk-1"), tx.DeleteLink("never")) })
	if got := slices.Collect(s.View().Links()); len(got) != 1 || got[0].Name != "cn-1" {
		t.Errorf("links: %v", got)
	}
	update(t, s, func(tx Tx) error { return tx.PutVerdicts("stranger", nil, time.Now()) })
	if _, open := <-verdicts; open {
		t.Error("the channel of verdicts is not closed")
	}
}

// A model is a Store as anybody would write it who has no need for speed.
type model struct {
	devices  map[device.ID]*device.Device
	verdicts map[device.ID]posture.Verdicts
}

// see is what a decision can depend on of a device; "" if there is none.
func (m model) see(id device.ID, now time.Time) string {
	d, ok := m.devices[id]
	if !ok {
		return ""
	}
	var verdicts []string
	for profile, v := range m.verdicts[id] {
		v = v.At(now)
		verdicts = append(verdicts, fmt.Sprint(profile, v.Result, v.Reason))
	}
	slices.Sort(verdicts)
	return fmt.Sprint(d.Kind, d.Groups, d.Overlay, d.LAN, d.Key, verdicts)
}

// TestModel compares the Store with plain maps over random changes: what the
// tables say, whom each address finds, and that generations move exactly when
// something has changed that a decision can depend on.
func TestModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runModel(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

var ids = []device.ID{"a", "b", "c", "d", "e", "f"}

func runModel(t *testing.T, r *rand.Rand) {
	s, m := New(), model{map[device.ID]*device.Device{}, map[device.ID]posture.Verdicts{}}
	generations := map[device.ID]uint64{}
	for step := range 150 {
		seen := map[device.ID]string{}
		for _, id := range ids {
			seen[id] = m.see(id, time.Now())
		}
		change(t, s, m, r)
		for _, id := range ids {
			g := s.generationNow(id)
			if now := m.see(id, time.Now()); (now != seen[id]) != (g != generations[id]) {
				t.Fatalf("step %d: %s: generation %d to %d while it was %q and is %q", step, id, generations[id], g, seen[id], now)
			}
			generations[id] = g
		}
		compare(t, s, m)
	}
}

func (s *Store) generationNow(id device.ID) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generation(id).Load()
}

// change makes the same random change to both.
func change(t *testing.T, s *Store, m model, r *rand.Rand) {
	id, far := ids[r.IntN(len(ids))], time.Now().Add(time.Hour)
	some := []posture.Verdicts{passed(far), passed(far.Add(time.Hour)), failed("disk"), failed("firewall"), {}, passed(time.Now().Add(-time.Hour))}
	switch r.IntN(4) {
	case 0:
		clear(m.devices)
		var list []*device.Device
		for i, p := range r.Perm(len(ids)) {
			if r.IntN(3) > 0 {
				list = append(list, randomDevice(ids[i], p, r))
				m.devices[ids[i]] = list[len(list)-1]
			}
		}
		update(t, s, func(tx Tx) error { return tx.ReplaceDevices(list) })
	case 1, 2:
		m.verdicts[id] = some[r.IntN(len(some))]
		update(t, s, func(tx Tx) error { return tx.PutVerdicts(id, m.verdicts[id], time.Now()) })
	case 3:
		delete(m.verdicts, id)
		update(t, s, func(tx Tx) error { return tx.DeleteVerdicts(id) })
	}
}

// randomDevice takes its addresses from place p, which nobody else has.
func randomDevice(id device.ID, p int, r *rand.Rand) *device.Device {
	if r.IntN(3) == 0 {
		return &device.Device{ID: id, Kind: device.ByNetwork, LAN: prefixes(fmt.Sprintf("192.168.%d.0/24", p)), Overlay: prefixes(fmt.Sprintf("100.72.%d.0/24", 8+p))}
	}
	d := machine(id, p, fmt.Sprintf("100.72.1.%d/32", p), fmt.Sprintf("fd00::%d/128", p))
	d.Groups = [][]string{nil, {"staff"}, {"guest"}}[r.IntN(3)]
	d.At.Line = r.IntN(100) // moves about in its file, which is no change
	return d
}

func compare(t *testing.T, s *Store, m model) {
	t.Helper()
	v, dir := s.View(), s.Directory()
	if got, want := slices.Collect(v.Devices()), len(m.devices); len(got) != want {
		t.Fatalf("%d devices, want %d", len(got), want)
	}
	if got, want := len(slices.Collect(dir.All())), len(m.devices); got != want {
		t.Fatalf("%d entries, want %d", got, want)
	}
	owners := map[netip.Addr]device.ID{}
	for id, d := range m.devices {
		for _, p := range d.Overlay {
			owners[p.Addr()] = id
		}
		if got, ok := v.DeviceByKey(d.Key); !d.Key.IsZero() && (!ok || got.ID != id) {
			t.Fatalf("the key of %s finds %v", id, got)
		}
		e, ok := dir.ByID(id)
		if !ok || e.Stamp != e.Generation.Load() || !maps.EqualFunc(e.Verdicts, m.verdicts[id], func(a, b posture.Verdict) bool { return a.Result == b.At(time.Now()).Result }) {
			t.Fatalf("%s has entry %+v", id, e)
		}
	}
	for i := range len(ids) + 8 {
		for _, format := range []string{"100.72.1.%d", "fd00::%d", "100.72.%d.0"} {
			a := netip.MustParseAddr(fmt.Sprintf(format, i))
			e, ok := dir.BySource(a)
			if owner, want := owners[a]; ok != want || ok && e.Device.ID != owner {
				t.Fatalf("%v is of %v, %v, want %q", a, e, ok, owner)
			}
		}
		own := netip.AddrFrom4([4]byte{192, 168, byte(i), 77})
		e, mapped, ok := dir.ByLAN(own)
		if owner, want := owners[netip.AddrFrom4([4]byte{100, 72, byte(8 + i), 0})]; ok != want || ok && e.Device.ID != owner {
			t.Fatalf("%v is of %v, %v, want %q", own, e, ok, owner)
		}
		if back, there := dir.ToLAN(mapped); ok && (!there || back != own) {
			t.Fatalf("%v maps to %v, and that to %v", own, mapped, back)
		}
	}
}
