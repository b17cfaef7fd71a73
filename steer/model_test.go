package steer

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/starferry/starferry/policy"
)

const (
	modelKeep       = 6 * time.Hour
	modelQuarantine = 30 * time.Minute
	modelBudget     = 7
)

// A promise is what the model remembers of a label that was given out.
type promise struct {
	name    key
	serial  uint64
	use     time.Time
	carried bool
	holds   int
	over    bool // nothing was promised any more at the last restart

	savedUse     time.Time // what a crash leaves
	savedCarried bool
	next, saved  Next
}

// world plays the table against a model of what it promises.
type world struct {
	t        *testing.T
	path     string
	table    *Table
	now      time.Time
	opened   time.Time
	promises map[netip.Addr]*promise
	strained map[bool]time.Time // when each pool was last nine tenths full
	spent    map[string]*asked
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, path: filepath.Join(folder(t), "leases"), now: time.Unix(1_800_000_000, 0),
		promises: map[netip.Addr]*promise{}, strained: map[bool]time.Time{}, spent: map[string]*asked{},
	}
	w.open()
	return w
}

// folder makes a folder for a test, in memory if possible: syncing a disk takes
// its time.
func folder(t testing.TB) string {
	const memory = "/dev/shm"
	if _, err := os.Stat(memory); err != nil {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "steer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (w *world) open() {
	table, err := Open(Config{
		Path: w.path, V4: netip.MustParsePrefix("198.19.0.16/28"), V6: netip.MustParsePrefix("2001:2:0:1000::/124"),
		Keep: modelKeep, Quarantine: modelQuarantine, Budget: modelBudget,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.table, w.opened, w.spent = table, w.now, map[string]*asked{}
}

// earliest returns when a label may begin to serve another name.
func (w *world) earliest(p *promise) time.Time {
	keep := modelKeep
	if !p.carried && !w.strained[p.name.v6].Before(p.use.Add(idleKeep)) {
		keep = idleKeep
	}
	end := p.use.Add(keep)
	if grace := w.opened.Add(idleKeep); end.Before(grace) && !p.over {
		end = grace
	}
	return end.Add(modelQuarantine)
}

func (w *world) lease(k key, by string) {
	before := w.leased(k)
	v4, v6 := w.table.Stats()
	l, err := w.table.Lease(k.name, k.v6, by, w.now)
	if !w.pays(l, err, by) {
		w.t.Fatalf("budget: %v of %s gives %v", w.spent[by], by, err)
	}
	if errors.Is(err, ErrBudget) {
		return
	}
	if errors.Is(err, ErrFull) {
		if s := map[bool]Stats{false: v4, true: v6}[k.v6]; s.Used < s.Capacity || before != nil && w.now.Before(w.earliest(before)) {
			w.t.Fatalf("%v: %v, with %+v", k, err, s)
		}
		return
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.given(l)
}

// leased returns the live promise that a name has.
func (w *world) leased(k key) *promise {
	for _, p := range w.promises {
		if p.name == k {
			return p
		}
	}
	return nil
}

// pays reports whether the budget was held to.
func (w *world) pays(l *Lease, err error, by string) bool {
	if err != nil && !errors.Is(err, ErrBudget) {
		return true
	}
	a := w.spent[by]
	if a == nil || w.now.UnixNano()-a.since >= int64(budgetWindow) {
		a = &asked{since: w.now.UnixNano()}
	}
	if err != nil {
		return a.count == modelBudget
	}
	if p := w.promises[l.addr]; p == nil || p.serial != l.serial {
		w.spent[by] = a
		a.count++
	}
	return a.count <= modelBudget
}

// given notes an answer, and checks that it breaks no promise.
func (w *world) given(l *Lease) {
	for a, p := range w.promises {
		switch {
		case a == l.Addr() && p.name != l.key:
			if p.holds > 0 || w.now.Before(w.earliest(p)) {
				w.t.Fatalf("%v is promised to %v until %v (%d flows), and given to %v at %v", a, p.name, w.earliest(p), p.holds, l.key, w.now)
			}
			delete(w.promises, a)
		case a != l.Addr() && p.name == l.key:
			if p.holds > 0 || w.now.Before(w.earliest(p)) {
				w.t.Fatalf("%v has %v until %v, and gets %v at %v", p.name, a, w.earliest(p), l.Addr(), w.now)
			}
			delete(w.promises, a)
		}
	}
	p := w.promises[l.Addr()]
	if p == nil || p.serial != l.serial {
		if p != nil && (p.holds > 0 || w.now.Before(w.earliest(p))) {
			w.t.Fatalf("%v was free before its time", l.key)
		}
		p = &promise{name: l.key, serial: l.serial, savedUse: w.now}
		w.promises[l.Addr()] = p
	}
	p.use, p.over = w.now, false
}

// found checks what the table says of a label.
func (w *world) found(a netip.Addr) (*Lease, *promise) {
	l, ok := w.table.ByAddr(a)
	p := w.promises[a]
	alive := p != nil && (p.holds > 0 || w.now.Before(w.earliest(p).Add(-modelQuarantine)))
	if alive && (!ok || l.key != p.name) {
		w.t.Fatalf("%v is %v, want %v, which has it until %v; now %v", a, l, p.name, w.earliest(p), w.now)
	}
	if ok && (p == nil || l.key != p.name) {
		w.t.Fatalf("%v is %v, which was never told", a, l.key)
	}
	if !ok {
		return nil, nil
	}
	return l, p
}

func (w *world) flush() {
	if err := w.table.flush(); err != nil {
		w.t.Fatal(err)
	}
	for _, p := range w.promises {
		p.savedUse, p.savedCarried, p.saved = p.use, p.carried, p.next
	}
}

// crash leaves the file as it is but for the bytes from cut on.
func (w *world) crash(cut int64, zeros bool) {
	if err := w.table.journal.close(); err != nil {
		w.t.Fatal(err)
	}
	data, err := os.ReadFile(w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	if zeros {
		clear(data[cut:]) // the file grew, what was to be in it did not come
	} else {
		data = data[:cut]
	}
	if err := os.WriteFile(w.path, data, 0o600); err != nil {
		w.t.Fatal(err)
	}
	for _, p := range w.promises {
		if p.next != p.saved {
			p.next = Next{} // may be either
		}
		p.over = p.holds == 0 && !w.now.Before(w.earliest(p))
		p.use, p.carried, p.holds = p.savedUse, p.savedCarried, 0
	}
	w.open()
}

// crashLeasing crashes while a name is leased that has no lease: at any byte of
// what was being written.
func (w *world) crashLeasing(k key, at byte) {
	size := w.table.journal.size
	if w.leased(k) != nil {
		w.crash(size, false)
		return
	}
	l, err := w.table.Lease(k.name, k.v6, "", w.now)
	end := w.table.journal.size
	if err != nil || end == size {
		w.crash(end, false)
		return
	}
	cut := size + int64(at)*(end-size)/255
	if cut == end {
		w.given(l)
	}
	w.crash(cut, at%2 == 1)
}

// breakDisk lets a write fail.
func (w *world) breakDisk(k key) {
	if w.leased(k) != nil {
		return
	}
	good := w.table.journal.file
	bad, err := os.Open(w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer bad.Close()
	w.table.journal.file = bad
	_, err = w.table.Lease(k.name, k.v6, "", w.now)
	if err == nil {
		w.t.Fatalf("%v is leased, and not on disk", k)
	}
	w.table.journal.file = good
}

func (w *world) learn(l *Lease, p *promise, arg byte) {
	if arg%8 == 0 {
		w.table.Forget("hk-1")
		for _, p := range w.promises {
			p.next = Next{}
		}
		return
	}
	p.next = Next{Addr: netip.AddrFrom4([4]byte{240, 1, 0, arg}), Journal: uint64(arg), Asked: w.now}
	w.table.Learn(l, "hk-1", p.next)
	w.table.SetFacts(l, []policy.Hop{{Name: p.name.name, Addrs: []netip.Addr{p.next.Addr}}})
	if got, ok := w.table.ByNext("hk-1", p.next.Addr); !ok || got != l {
		w.t.Fatalf("%v is not found by %v", l.key, p.next)
	}
}

func (w *world) knows(l *Lease, p *promise) {
	n, ok := l.Next("hk-1")
	if p.next.Addr.IsValid() && (!ok || n.Addr != p.next.Addr || n.Journal != p.next.Journal) {
		w.t.Fatalf("%v knows %v, want %v", l.key, n, p.next)
	}
}

func (w *world) note() {
	v4, v6 := w.table.Stats()
	for fam, s := range map[bool]Stats{false: v4, true: v6} {
		if s.Used*10 >= s.Capacity*9 {
			w.strained[fam] = w.now
		}
	}
}

func (w *world) step(op, arg byte) {
	w.note()
	k := key{fmt.Sprintf("h%d.test", arg%24), op&0x80 != 0}
	a := netip.AddrFrom4([4]byte{198, 19, 0, 16 + arg%16})
	if k.v6 {
		a = netip.MustParseAddr(fmt.Sprintf("2001:2:0:1000::%x", arg%16))
	}
	switch op % 16 {
	case 0, 1, 2, 3, 4:
		w.lease(k, string('a'+rune(arg>>5)))
	case 5:
		if l, p := w.found(a); l != nil {
			l.Hold()
			p.holds++
		}
	case 6:
		if l, p := w.found(a); l != nil && p.holds > 0 {
			l.Release()
			p.holds--
		}
	case 7, 8:
		if l, p := w.found(a); l != nil {
			l.Touch(w.now)
			p.use, p.carried, p.over = w.now, true, false
		}
	case 9:
		if l, p := w.found(a); l != nil {
			w.learn(l, p, arg)
		}
	case 10:
		if l, p := w.found(a); l != nil {
			w.knows(l, p)
		}
	case 11, 12:
		w.flush()
		w.now = w.now.Add(time.Duration(arg) * 3 * time.Minute)
	case 13:
		w.table.tend(w.now)
	case 14:
		w.breakDisk(k)
	case 15:
		w.restart(k, arg)
	}
	w.note()
	sound(w.t, w.table)
}

func (w *world) restart(k key, arg byte) {
	switch {
	case arg < 40:
		w.flush()
		if err := w.table.Close(); err != nil {
			w.t.Fatal(err)
		}
		w.crash(w.table.journal.size, false)
	case arg < 80:
		w.table.journal.pure = 0
		if err := w.table.rewrite(); err != nil {
			w.t.Fatal(err)
		}
	default:
		w.crashLeasing(k, arg)
	}
}

// sound checks that the parts of a table agree.
func sound(t *testing.T, table *Table) {
	t.Helper()
	for _, p := range []*pool{table.v4, table.v6} {
		leases, seen := 0, map[uint32]bool{}
		p.all(func(l *Lease) {
			leases++
			seen[l.index] = true
			if table.names[l.key] != l {
				t.Fatalf("%v has the address %v of another", l.key, l.addr)
			}
		})
		for _, i := range p.free {
			if seen[i] {
				t.Fatalf("address %v is free twice, or leased", p.addr(i))
			}
			seen[i] = true
		}
		if leases != p.count || leases != len(p.live)+p.atRest || len(seen) != leases+len(p.free) {
			t.Fatalf("%d leases, %d counted, %d live, %d at rest", leases, p.count, len(p.live), p.atRest)
		}
	}
}

// settle checks that in the end all addresses come back.
func (w *world) settle() {
	for a, p := range w.promises {
		if l, _ := w.found(a); l != nil {
			for range p.holds {
				l.Release()
			}
		}
	}
	for _, d := range []time.Duration{0, modelKeep, idleKeep, modelQuarantine} {
		w.now = w.now.Add(d)
		w.table.tend(w.now)
	}
	if v4, v6 := w.table.Stats(); v4.Used != 0 || v6.Used != 0 {
		w.t.Fatalf("addresses are lost: %+v %+v", v4, v6)
	}
}

func FuzzTable(f *testing.F) {
	f.Add([]byte{0, 1, 5, 1, 12, 200, 0, 2, 15, 90, 0, 1})
	f.Add(bytes.Repeat([]byte{0, 1, 0, 34, 0, 67, 0x80, 100, 7, 1, 15, 200, 12, 255, 13, 0, 0, 9, 15, 90}, 6))
	f.Add(bytes.Repeat([]byte{0, 1, 1, 2, 2, 35, 3, 36, 4, 69, 0, 70, 0, 103, 0, 104, 0, 137, 0, 138, 0, 171, 0, 172, 0, 205, 0, 206, 12, 50, 15, 129}, 4))
	f.Fuzz(func(t *testing.T, ops []byte) {
		w := newWorld(t)
		defer func() { w.table.Close() }()
		for i := 0; i+1 < len(ops) && i < 600; i += 2 {
			w.step(ops[i], ops[i+1])
		}
		w.settle()
	})
}

// The same with chance sequences, for runs without the fuzzer.
func TestAgainstModel(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 2))
	for range 150 {
		w := newWorld(t)
		for range 200 {
			w.step(byte(chance.Uint32()), byte(chance.Uint32()))
		}
		w.settle()
		w.table.Close()
	}
}
