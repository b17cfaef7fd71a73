package state

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
)

func TestOffices(t *testing.T) {
	s := New()
	update(t, s, func(tx Tx) error {
		return tx.ReplaceDevices([]*device.Device{
			{ID: "office", Kind: device.ByNetwork, LAN: prefixes("192.168.1.0/24", "fd12::/60"), Overlay: prefixes("100.72.8.0/24", "fd5f:57a6:7272:10::/60")},
			{ID: "odd", Kind: device.ByNetwork, LAN: prefixes("10.0.0.0/20"), Overlay: prefixes("100.72.16.0/20")},
			{ID: "lab", Kind: device.ByNetwork, LAN: prefixes("192.168.1.128/25")},
		})
	})
	for _, test := range []struct{ own, id, mapped string }{
		{"192.168.1.7", "office", "100.72.8.7"},
		{"::ffff:192.168.1.7", "office", "100.72.8.7"},
		{"192.168.1.200", "lab", ""},
		{"10.0.15.255", "odd", "100.72.31.255"},
		{"fd12:0:0:f::1", "office", "fd5f:57a6:7272:1f::1"},
		{"172.16.0.1", "", ""},
	} {
		e, mapped, ok := s.Directory().ByLAN(netip.MustParseAddr(test.own))
		if ok != (test.id != "") || ok && string(e.Device.ID) != test.id {
			t.Errorf("%s is of %v, %v, want %q", test.own, e, ok, test.id)
		}
		var want netip.Addr
		if test.mapped != "" {
			want = netip.MustParseAddr(test.mapped)
		}
		if mapped != want {
			t.Errorf("%s is mapped to %v, want %v", test.own, mapped, want)
		}
		if back, ok := s.Directory().ToLAN(mapped); ok != mapped.IsValid() || ok && back != netip.MustParseAddr(test.own).Unmap() {
			t.Errorf("%s is mapped to %v and back to %v", test.own, mapped, back)
		}
	}
}

// TestExpiry watches a verdict pass its time to the nanosecond.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		var told []string
		begin := time.Now()
		s.Changed = func(ids []device.ID) { told = append(told, fmt.Sprint(time.Since(begin), ids)) }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()

		const age = 15 * time.Minute
		update(t, s, func(tx Tx) error {
			return errors.Join(tx.PutVerdicts("a", passed(begin.Add(age)), begin),
				tx.ReplaceDevices([]*device.Device{machine("a", 1, "100.72.1.1/32"), machine("b", 2)}))
		})
		synctest.Wait()
		entry := func() *Entry { e, _ := s.Directory().ByID("a"); return e }
		e := entry()

		time.Sleep(10 * time.Minute) // a new report, with the same outcome
		update(t, s, func(tx Tx) error { return tx.PutVerdicts("a", passed(time.Now().Add(age)), time.Now()) })
		if g := e.Generation.Load(); g != e.Stamp || entry() == e {
			t.Errorf("a report that changes nothing moves the generation from %d to %d", e.Stamp, g)
		}
		time.Sleep(age - 1)
		synctest.Wait()
		if g := e.Generation.Load(); g != e.Stamp || entry().Verdicts["laptop"].Result != posture.Passed {
			t.Errorf("a nanosecond early: generation %d of %d, %v", g, e.Stamp, entry().Verdicts)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if g := e.Generation.Load(); g != e.Stamp+1 || entry().Stamp != g || entry().Verdicts["laptop"].Result != posture.Failed {
			t.Errorf("at its time: generation %d, was %d, %v", g, e.Stamp, entry())
		}
		if v, _, _ := s.View().Verdicts("a"); v["laptop"].Result != posture.Passed {
			t.Errorf("the table has been changed: %v", v)
		}
		update(t, s, func(tx Tx) error { return tx.ReplaceDevices(nil) })
		if g := e.Generation.Load(); g != e.Stamp+2 {
			t.Errorf("after the row is gone: generation %d, was %d", g, e.Stamp)
		}
		synctest.Wait()
		update(t, s, func(tx Tx) error { return tx.ReplaceDevices([]*device.Device{machine("a", 1)}) })
		if n := entry(); n.Generation != e.Generation || n.Stamp != e.Stamp+3 {
			t.Errorf("come back as %+v", n)
		}
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if want := []string{"0s [a b]", "25m0s [a]", "25m0s [a b]", "25m0s [a]"}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}

// TestRecheck: verdicts age by the wall clock. The timer runs by the
// other one, so Run has to look again.
func TestRecheck(t *testing.T) {
	s := New()
	if d := s.untilNext(time.Now()); d != recheck {
		t.Errorf("with nothing to wait for, Run sleeps %v", d)
	}
	update(t, s, func(tx Tx) error { return tx.ReplaceDevices([]*device.Device{machine("a", 1)}) })
	now := time.Now()
	update(t, s, func(tx Tx) error { return tx.PutVerdicts("a", passed(now.Add(time.Hour)), now) })
	for ahead, want := range map[time.Duration]time.Duration{0: recheck, time.Hour - time.Second: time.Second, time.Hour: 0, 2 * time.Hour: 0} {
		if d := s.untilNext(now.Add(ahead)); d != want {
			t.Errorf("after %v Run sleeps %v, want %v", ahead, d, want)
		}
	}
	s.expire(now.Add(2 * time.Hour)) // the clock is set forward, and back again
	if e, _ := s.Directory().ByID("a"); e.Verdicts["laptop"].Result != posture.Failed {
		t.Errorf("two hours on: %v", e.Verdicts)
	}
	s.expire(now)
	if e, _ := s.Directory().ByID("a"); e.Verdicts["laptop"].Result != posture.Failed {
		t.Errorf("without a new report: %v", e.Verdicts)
	}
}

// fleet returns a Store of n machines, each with two addresses and a verdict.
func fleet(t testing.TB, n int) *Store {
	s := New()
	var devices []*device.Device
	for i := range n {
		devices = append(devices, machine(device.ID(fmt.Sprintf("device-%05d", i)), i+1,
			fmt.Sprintf("100.72.%d.%d/32", i>>8, i&255), fmt.Sprintf("fd5f:57a6:7272:1::%x/128", i)))
	}
	update(t, s, func(tx Tx) error {
		for _, d := range devices {
			if err := tx.PutVerdicts(d.ID, passed(time.Now().Add(time.Hour)), time.Now()); err != nil {
				return err
			}
		}
		return tx.ReplaceDevices(devices)
	})
	return s
}

func TestLookupsDoNotAllocate(t *testing.T) {
	s := fleet(t, 100)
	office := &device.Device{ID: "office", LAN: prefixes("192.168.1.0/24"), Overlay: prefixes("100.73.8.0/24")}
	update(t, s, func(tx Tx) error { return tx.ReplaceDevices([]*device.Device{office, machine("a", 1, "fd00::1/128")}) })
	four, six, own := netip.MustParseAddr("100.73.8.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("192.168.1.1")
	for name, lookup := range map[string]func() bool{
		"v4":    func() bool { _, ok := s.Directory().BySource(four); return ok },
		"v6":    func() bool { _, ok := s.Directory().BySource(six); return ok },
		"miss":  func() bool { _, ok := s.Directory().BySource(own); return !ok },
		"LAN":   func() bool { _, _, ok := s.Directory().ByLAN(own); return ok },
		"ToLAN": func() bool { _, ok := s.Directory().ToLAN(four); return ok },
	} {
		if n := testing.AllocsPerRun(100, func() {
			if !lookup() {
				t.Errorf("%s: wrong answer", name)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkBySource(b *testing.B) {
	s := fleet(b, 10000)
	a := netip.MustParseAddr("100.72.7.7")
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := s.Directory().BySource(a); !ok {
			b.Fatal("gone")
		}
	}
}

func BenchmarkDeviceByKey(b *testing.B) {
	s := fleet(b, 10000)
	key := machine("", 777).Key
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := s.View().DeviceByKey(key); !ok {
			b.Fatal("gone")
		}
	}
}

// BenchmarkLoad is the begin: 10,000 devices at once.
func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		fleet(b, 10000)
	}
}

// BenchmarkPutVerdicts is a report of one device among 10,000.
func BenchmarkPutVerdicts(b *testing.B) {
	s := fleet(b, 10000)
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		update(b, s, func(tx Tx) error { return tx.PutVerdicts("device-00777", passed(now.Add(time.Hour)), now) })
	}
}

// BenchmarkReplaceDirectory is a change of nothing among 10,000 rows.
func BenchmarkReplaceDirectory(b *testing.B) {
	rows := fleet(b, 10000).View().DirectoryRows(Opaque([]byte("secret")))
	s := New()
	b.ReportAllocs()
	for b.Loop() {
		update(b, s, func(tx Tx) error { return tx.ReplaceDirectory(rows) })
	}
}
