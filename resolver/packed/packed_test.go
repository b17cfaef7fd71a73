package packed

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starferry/starferry/resolver/wire"
)

func question(name string) *wire.Question {
	return &wire.Question{Name: append(append([]byte{byte(len(name))}, name...), 0), Type: 1}
}

func entry(n int, from time.Time, life time.Duration) *Entry[int] {
	return &Entry[int]{Note: n, Stored: from, Expiry: from.Add(life), Answer: wire.Answer{Msg: make([]byte, 64)}}
}

func TestKeys(t *testing.T) {
	now := time.Unix(0, 0)
	c := New[int](1 << 20)
	asks := []struct {
		scope uint32
		q     wire.Question
	}{
		{1, *question("a")}, {2, *question("a")}, {1, *question("b")},
		{1, wire.Question{Name: question("a").Name, Type: 28}},
		{1, wire.Question{Name: question("a").Name, Type: 1, DO: true}},
		{1, wire.Question{Name: question("a").Name, Type: 1, CD: true}},
	}
	for i := range asks {
		c.Put(asks[i].scope, &asks[i].q, entry(i, now, time.Minute))
	}
	for i := range asks {
		if e := c.Lookup(asks[i].scope, &asks[i].q, now); e == nil || e.Note != i {
			t.Errorf("%d: got %v", i, e)
		}
	}
	if e := c.Lookup(1, question("A"), now); e == nil || e.Note != 0 {
		t.Errorf("in another letter case: got %v", e)
	}
	if e := c.Lookup(1, question("a"), now.Add(time.Minute)); e != nil {
		t.Error("found after its end")
	}
}

// Names that differ only behind what fits into the head of an entry are others.
func TestLongNames(t *testing.T) {
	now := time.Unix(0, 0)
	c := New[int](1 << 20)
	var names []string
	for n := 35; n < 63; n++ {
		names = append(names, strings.Repeat("x", n)+"a", strings.Repeat("x", n)+"b")
	}
	for i, name := range names {
		c.Put(1, question(name), entry(i, now, time.Minute))
	}
	for i, name := range names {
		if e := c.Lookup(1, question(strings.ToUpper(name)), now); e == nil || e.Note != i {
			t.Errorf("%s: got %v", name, e)
		} else if other := question(names[i^1]).Name; e.named(other) || !e.named(question(name).Name) {
			t.Errorf("%s is taken for %s", name, other)
		}
	}
	long := question(names[len(names)-1])
	long.Name = append(bytes.Repeat(long.Name[:64], 3), 0)
	c.Put(1, long, entry(99, now, time.Minute))
	if e := c.Lookup(1, long, now); e == nil || e.Note != 99 {
		t.Errorf("the longest: got %v", e)
	}
	n := c.Flush(func(name string) bool { return name == string(long.Name) })
	if e := c.Lookup(1, long, now); e != nil || n != 1 {
		t.Errorf("%d flushed, got %v", n, e)
	}
}

// Names that many scopes ask for take no more room than as many names; and while
// the table grows what is in it is found.
func TestGrowing(t *testing.T) {
	now := time.Unix(0, 0)
	c := New[int](64 << 20)
	const names, scopes = 50, 100
	var put atomic.Int64
	var work sync.WaitGroup
	work.Go(func() {
		for put.Load() < names*scopes {
			for i := range int(put.Load()) {
				if e := c.Lookup(uint32(i%scopes), question(fmt.Sprint(i/scopes)), now); e != nil && e.Note != i {
					t.Errorf("asked for %d, got %d", i, e.Note)
				}
			}
		}
	})
	for i := range names * scopes {
		c.Put(uint32(i%scopes), question(fmt.Sprint(i/scopes)), entry(i, now, time.Hour))
		if c.Lookup(uint32(i%scopes), question(fmt.Sprint(i/scopes)), now) == nil {
			t.Fatalf("%d is not found", i)
		}
		put.Add(1)
	}
	work.Wait()
	found := 0
	for i := range names * scopes {
		if c.Lookup(uint32(i%scopes), question(fmt.Sprint(i/scopes)), now) != nil {
			found++
		}
	}
	if n, _ := c.Size(); n != found || found < names*scopes*95/100 {
		t.Errorf("%d of %d are found, %d are there", found, names*scopes, n)
	}
	if lost := c.Displaced.Load(); int(lost) != names*scopes-found {
		t.Errorf("%d displaced, %d found", lost, found)
	}
}

// As long as the table may grow, good answers do not give way to others that happen
// to fall together with them.
func TestNothingGivesWayWhileThereIsRoom(t *testing.T) {
	now := time.Unix(0, 0)
	c := New[int](64 << 20)
	const n = 14000 // not quite half of a table's places
	for i := range n {
		c.Put(1, question(fmt.Sprint(i)), entry(i, now, time.Hour))
	}
	if lost := c.Displaced.Load(); lost > n/1000 {
		t.Errorf("%d of %d were displaced", lost, n)
	}
	places := 0
	for i := range c.tables {
		places += c.tables[i].Load().places()
	}
	if places > 8*n {
		t.Errorf("%d places", places)
	}
}

// What was put before is gone after a Clear, and the room for it is still there.
func TestClear(t *testing.T) {
	now := time.Unix(0, 0)
	c := New[int](64 << 20)
	const n = 5000
	put := func(first int) {
		for i := range n {
			c.Put(1, question(fmt.Sprint(i)), entry(first+i, now, time.Hour))
		}
	}
	put(0)
	var before [maxShards]int
	for i := range c.tables {
		before[i] = c.tables[i].Load().places()
	}
	c.Clear()
	if entries, bytes := c.Size(); entries != 0 || bytes != 0 || c.Lookup(1, question("7"), now) != nil {
		t.Errorf("%d entries, %d bytes are left", entries, bytes)
	}
	put(n)
	for i := range c.tables {
		if after := c.tables[i].Load().places(); after != before[i] {
			t.Errorf("shard %d has grown from %d to %d places", i, before[i], after)
		}
	}
	if e := c.Lookup(1, question("7"), now); e == nil || e.Note != n+7 {
		t.Errorf("got %v", e)
	}
	if lost := c.Displaced.Load(); lost > 2*n/1000 {
		t.Errorf("%d were displaced", lost)
	}
}

// FuzzModel holds the table to a map: what it finds is what was put last, and it
// is never larger than it may be. It may forget.
func FuzzModel(f *testing.F) {
	f.Add(uint64(1), uint16(2000))
	f.Add(uint64(2), uint16(2000))
	f.Fuzz(func(t *testing.T, seed uint64, steps uint16) {
		r := rand.New(rand.NewPCG(seed, 0))
		room, most := 20_000, 64
		if seed%2 > 0 { // more than one shard, and entries of which few fit into one
			room, most = 2<<20, 60_000
		}
		c := New[int](room)
		last := map[string]*Entry[int]{}
		now := time.Unix(0, 0)
		for i := range int(steps) {
			now = now.Add(time.Duration(r.IntN(2000)) * time.Millisecond)
			scope, name := uint32(1+r.IntN(3)), fmt.Sprint(r.IntN(40))
			key := fmt.Sprint(scope, name)
			switch r.IntN(10) {
			case 0, 1, 2, 3:
				e := entry(i, now, time.Duration(r.IntN(60))*time.Second)
				e.Answer.Msg = make([]byte, 64+r.IntN(most))
				c.Put(scope, question(name), e)
				last[key] = e
			case 4:
				c.Flush(func(n string) bool { return n == string(question(name).Name) })
				for s := range uint32(4) {
					delete(last, fmt.Sprint(s, name))
				}
			default:
				if e := c.Lookup(scope, question(name), now); e != nil && (e != last[key] || !now.Before(e.Expiry)) {
					t.Fatalf("found %v, the last was %v", e, last[key])
				}
			}
			n, bytes := c.Size()
			if bytes > room {
				t.Fatalf("%d bytes", bytes)
			}
			sum := int64(0)
			there := 0
			for i := range c.tables {
				for j := range c.tables[i].Load().sets {
					s := &c.tables[i].Load().sets[j]
					for k := range s.places {
						e := s.places[k].Load()
						if (e == nil) != (uint8(s.tags.Load()>>(8*k)) == 0) {
							t.Fatalf("shard %d, set %d: place %d holds %v, its tags are %x", i, j, k, e, s.tags.Load())
						}
						if e != nil {
							sum += e.size()
							there++
						}
					}
				}
			}
			if there != n || sum != int64(bytes) || n*overhead > bytes {
				t.Fatalf("%d entries, %d bytes counted, %d there", n, bytes, sum)
			}
		}
	})
}

func TestWhatIsUsedStays(t *testing.T) {
	now := time.Unix(0, 0)
	c := New[int](100_000)
	c.Put(1, question("used"), entry(1, now, time.Hour))
	for i := range 10_000 {
		c.Lookup(1, question("used"), now)
		c.Put(1, question(fmt.Sprint(i)), entry(2, now, time.Hour))
	}
	if c.Lookup(1, question("used"), now) == nil {
		t.Error("given up though it was used all the time")
	}
	n, _ := c.Size()
	if n < 50 {
		t.Errorf("only %d entries", n)
	}
	if got := c.Displaced.Load(); got != uint64(10_001-n) {
		t.Errorf("%d displaced of 10001, and %d are there", got, n)
	}
	c.Put(1, question("used"), entry(3, now, time.Hour))
	c.Flush(func(string) bool { return true })
	if got := c.Displaced.Load(); got != uint64(10_001-n) {
		t.Errorf("%d displaced: what was renewed or flushed is not", got)
	}
}

func TestConcurrency(t *testing.T) {
	c := New[int](50_000)
	now := time.Unix(0, 0)
	var work sync.WaitGroup
	for g := range 4 {
		work.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 0))
			for range 5000 {
				n := r.IntN(200)
				if r.IntN(3) == 0 {
					c.Put(1, question(fmt.Sprint(n)), entry(n, now, time.Hour))
				} else if e := c.Lookup(1, question(fmt.Sprint(n)), now); e != nil && e.Note != n {
					t.Errorf("asked for %d, got %d", n, e.Note)
				}
			}
		})
	}
	work.Wait()
}

func TestLookupAllocatesNothing(t *testing.T) {
	c := New[int](1 << 20)
	now := time.Unix(0, 0)
	long := question(strings.Repeat("a", 63))
	long.Name = append(bytes.Repeat(long.Name[:64], 3), 0)
	for _, q := range []*wire.Question{question("a"), long} {
		c.Put(1, q, entry(1, now, time.Hour))
		if n := testing.AllocsPerRun(100, func() { c.Lookup(1, q, now) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	c := New[int](64 << 20)
	now := time.Unix(0, 0)
	var qs []*wire.Question
	for i := range 10_000 {
		qs = append(qs, question(fmt.Sprintf("name-%d", i)))
		c.Put(1, qs[i], entry(i, now, time.Hour))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.Lookup(1, qs[i%len(qs)], now)
	}
}
