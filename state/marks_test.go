package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/starferry/starferry/device"
)

// phone returns a machine without a link.
func phone(id device.ID, m device.Marks) *device.Device {
	return &device.Device{ID: id, Kind: m.Evidence(), Marks: m, Groups: []string{"staff"}}
}

// A modelled lookup is one way to find a device, and its key as a word.
type modelled struct {
	find func(*Directory, int) (*Entry, bool)
	mark func(int) device.Marks
}

var lookups = map[string]modelled{
	"token": {
		func(d *Directory, n int) (*Entry, bool) { return d.ByToken(device.HashToken(fmt.Sprint(n))) },
		func(n int) device.Marks { return device.Marks{Token: device.HashToken(fmt.Sprint(n))} },
	},
	"server name": {
		func(d *Directory, n int) (*Entry, bool) { return d.ByServerName(fmt.Sprint("name-", n)) },
		func(n int) device.Marks { return device.Marks{ServerName: fmt.Sprint("name-", n)} },
	},
	"mac": {
		func(d *Directory, n int) (*Entry, bool) { return d.ByMAC(device.MAC{2, 0, 0, 0, 0, byte(n)}) },
		func(n int) device.Marks { return device.Marks{MAC: device.MAC{2, 0, 0, 0, 0, byte(n)}} },
	},
	"cpe": {
		func(d *Directory, n int) (*Entry, bool) { return d.ByCPE(fmt.Sprint("cpe ", n)) },
		func(n int) device.Marks { return device.Marks{CPE: fmt.Sprint("cpe ", n)} },
	},
}

// Marks wander between devices at random; after each step each of them finds
// whom a plain map says, and an old Directory what it always found.
func TestMarksAgainstModel(t *testing.T) {
	const devices, marks, steps = 6, 8, 300
	for name, lookup := range lookups {
		rnd := rand.New(rand.NewPCG(7, uint64(len(name))))
		s := New()
		for range steps {
			owners := map[int]device.ID{}
			var list []*device.Device
			for i, n := range rnd.Perm(marks)[:devices] {
				id := device.ID(fmt.Sprint("device-", i))
				m := lookup.mark(n)
				if rnd.IntN(3) == 0 {
					m = device.Marks{}
				} else {
					owners[n] = id
				}
				list = append(list, phone(id, m))
			}
			before := s.Directory()
			found := all8(before, lookup)
			update(t, s, func(tx Tx) error { return tx.ReplaceDevices(list) })
			if all8(before, lookup) != found {
				t.Fatalf("%s: an old directory changed", name)
			}
			for n := range marks {
				e, ok := lookup.find(s.Directory(), n)
				if want, owned := owners[n]; ok != owned || ok && e.Device.ID != want {
					t.Fatalf("%s %d finds %v, %v, want %q", name, n, e, ok, want)
				}
			}
		}
	}
}

func all8(d *Directory, lookup modelled) (out [8]*Entry) {
	for n := range out {
		out[n], _ = lookup.find(d, n)
	}
	return out
}

// A mark of one kind is none of another, and what begins like one is another.
func TestMarksAreApart(t *testing.T) {
	s := New()
	update(t, s, func(tx Tx) error {
		return tx.ReplaceDevices([]*device.Device{phone("a", device.Marks{ServerName: "x", MAC: device.MAC{2}, Token: device.HashToken("x")})})
	})
	d := s.Directory()
	near := device.HashToken("x")
	near[31]++
	for what, ok := range map[string]bool{
		"a CPE id like the server name": second(d.ByCPE("x")),
		"a server name like the id":     second(d.ByServerName("a")),
		"an id like the server name":    second(d.ByID("x")),
		"no token":                      second(d.ByToken(device.TokenHash{})),
		"no server name":                second(d.ByServerName("")),
		"no MAC":                        second(d.ByMAC(device.MAC{})),
		"no CPE id":                     second(d.ByCPE("")),
		"a hash with the same start":    second(d.ByToken(near)),
		"a long server name":            second(d.ByServerName(strings.Repeat("x", 64))),
		"a long CPE id":                 second(d.ByCPE(strings.Repeat("x", 65))),
	} {
		if ok {
			t.Errorf("%s finds the device", what)
		}
	}
	long := device.ID(strings.Repeat("gateway/", 40))
	update(t, s, func(tx Tx) error { return tx.ReplaceDevices([]*device.Device{phone(long, device.Marks{})}) })
	if !second(s.Directory().ByID(long)) || second(s.Directory().ByID(long[:128])) || second(s.Directory().ByID("a")) {
		t.Error("a long id is lost, or one that has gone is found")
	}
}

func second(_ *Entry, ok bool) bool { return ok }

func TestSameMarks(t *testing.T) {
	for name, lookup := range lookups {
		err := New().Update(func(tx Tx) error {
			return tx.ReplaceDevices([]*device.Device{phone("a", lookup.mark(1)), phone("b", lookup.mark(1))})
		})
		var c *Conflict
		if !errors.As(err, &c) || c.First.ID != "a" || c.Second.ID != "b" {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := New().Update(func(tx Tx) error {
		return tx.ReplaceDevices([]*device.Device{phone("a", device.Marks{}), phone("b", device.Marks{})})
	})
	if err != nil {
		t.Errorf("none of both: %v", err)
	}
}

func TestMarksDoNotAllocate(t *testing.T) {
	s := fleet(t, 100)
	m := device.Marks{Token: device.HashToken("t"), ServerName: strings.Repeat("a", 63), MAC: device.MAC{2}, CPE: strings.Repeat("c", 64)}
	update(t, s, func(tx Tx) error { return tx.ReplaceDevices([]*device.Device{phone("phone", m)}) })
	d := s.Directory()
	for name, lookup := range map[string]func() bool{
		"id":          func() bool { return second(d.ByID("phone")) },
		"token":       func() bool { return second(d.ByToken(m.Token)) },
		"server name": func() bool { return second(d.ByServerName(m.ServerName)) },
		"mac":         func() bool { return second(d.ByMAC(m.MAC)) },
		"cpe":         func() bool { return second(d.ByCPE(m.CPE)) },
		"none":        func() bool { return !second(d.ByMAC(device.MAC{4})) },
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

func BenchmarkByToken(b *testing.B) {
	s := New()
	var list []*device.Device
	for i := range 10000 {
		list = append(list, phone(device.ID(fmt.Sprint("phone-", i)), device.Marks{Token: device.HashToken(fmt.Sprint(i))}))
	}
	update(b, s, func(tx Tx) error { return tx.ReplaceDevices(list) })
	h := device.HashToken("777")
	b.ReportAllocs()
	for b.Loop() {
		if !second(s.Directory().ByToken(h)) {
			b.Fatal("gone")
		}
	}
}

func BenchmarkByID(b *testing.B) {
	s := fleet(b, 10000)
	b.ReportAllocs()
	for b.Loop() {
		if !second(s.Directory().ByID("device-00777")) {
			b.Fatal("gone")
		}
	}
}
