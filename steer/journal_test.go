package steer

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/policy"
)

// written writes a journal of several frames. It returns its bytes, where each
// frame ends, and how many leases there are up to there.
func written(t *testing.T) (data []byte, ends []int, leases []int) {
	t.Helper()
	table := opened(t, nil)
	note := func(n int) {
		ends, leases = append(ends, int(table.journal.size)), append(leases, n)
	}
	note(0)
	for i := range 4 {
		l := lease(t, table, fmt.Sprintf("h%d.test", i), i%2 == 1)
		note(i + 1)
		table.SetFacts(l, []policy.Hop{{Name: l.Name(), Addrs: []netip.Addr{l.Addr()}}})
		table.Learn(l, "hk-1", Next{Addr: l.Addr(), Journal: 7, Asked: start})
		l.Touch(start.Add(time.Minute))
		if err := table.flush(); err != nil {
			t.Fatal(err)
		}
		note(i + 1)
	}
	data, err := os.ReadFile(table.cfg.Path)
	if err != nil || len(data) != int(table.journal.size) {
		t.Fatal(len(data), err)
	}
	return data, ends, leases
}

// reopen opens a table on a journal of these bytes.
func reopen(path string, data []byte) (*Table, error) {
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return nil, err
	}
	return Open(Config{Path: path, V4: netip.MustParsePrefix("198.19.0.0/18"), V6: netip.MustParsePrefix("2001:2:0:1000::/52")})
}

// Wherever a crash cuts the file, what was acknowledged before is there, and
// the next lease fits in.
func TestEachCut(t *testing.T) {
	data, ends, leases := written(t)
	path := filepath.Join(folder(t), "leases")
	frame := 0
	for cut := range len(data) + 1 {
		if frame+1 < len(ends) && cut == ends[frame+1] {
			frame++
		}
		table, err := reopen(path, data[:cut])
		if cut < ends[0] {
			// The first frame comes into being with the file, by a rename.
			if err == nil || !strings.Contains(err.Error(), "damaged at byte 0") {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if len(table.names) != leases[frame] {
			t.Fatalf("cut at %d: %d leases, want %d", cut, len(table.names), leases[frame])
		}
		sound(t, table)
		if cut%16 == 0 {
			lease(t, table, "new.test", false)
		}
		if err := table.Close(); err != nil {
			t.Fatal(err)
		}
		table, err = reopen(path, must(os.ReadFile(path)))
		if err != nil || cut%16 == 0 && len(table.names) != leases[frame]+1 {
			t.Fatalf("cut at %d, opened again: %v", cut, err)
		}
		table.Close()
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// A changed byte is noticed: in the last frame it is as if a crash had torn
// it, before that it is an error that says where.
func TestEachDamage(t *testing.T) {
	data, ends, leases := written(t)
	path := filepath.Join(folder(t), "leases")
	last := ends[len(ends)-2]
	at := 0
	for i := range data {
		for _, e := range ends {
			if e <= i {
				at = e
			}
		}
		bad := append([]byte(nil), data...)
		bad[i] ^= 0x20
		table, err := reopen(path, bad)
		switch {
		case i < last:
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%s is damaged at byte %d:", path, at)) {
				t.Fatalf("byte %d: %v", i, err)
			}
		case err != nil || len(table.names) != leases[len(leases)-2]:
			t.Fatalf("byte %d: %v", i, err)
		default:
			table.Close()
		}
	}
	for _, what := range [][]byte{{}, []byte("leases: []\n"), data[ends[0]:], append(append([]byte(nil), data...), data[:ends[0]]...), appendFrame(nil, []byte{recJournal, 9, 0, 0, 0, 0, 0, 0, 0, 1})} {
		if _, err := reopen(path, what); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%.20q: %v", what, err)
		}
	}
}

func TestOneProcessOnly(t *testing.T) {
	table := opened(t, nil)
	if _, err := Open(table.cfg); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second one gets %v", err)
	}
	table.Close()
	again, err := Open(table.cfg)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// When the disk takes nothing more, there are no new leases, and the old ones
// go on; once it does, all is as it was, and what was owed is written.
func TestDiskFull(t *testing.T) {
	table := opened(t, nil)
	old := lease(t, table, "old.test", false)
	good := table.journal.file
	bad, err := os.Open(table.cfg.Path) // for reading only
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	table.journal.file = bad
	table.Learn(old, "hk-1", Next{Addr: old.Addr(), Journal: 7})
	for range 3 {
		if _, err := table.Lease("new.test", false, "x", start); err == nil || errors.Is(err, ErrFull) {
			t.Errorf("a new lease gives %v", err)
		}
		if err := table.flush(); err == nil {
			t.Error("what cannot be written is written")
		}
	}
	if lease(t, table, "old.test", false) != old {
		t.Error("an old lease is gone")
	}
	table.journal.file = good
	lease(t, table, "new.test", false)
	sound(t, table)
	if v4, _ := table.Stats(); v4.Used != 2 {
		t.Errorf("%+v", v4)
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(table.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if l, ok := again.ByNext("hk-1", old.Addr()); !ok || l.Name() != "old.test" || len(again.names) != 2 {
		t.Errorf("%v", again.names)
	}
}

// The journal stays small, keeps its id, and what is in it.
func TestJournalIsWrittenAnew(t *testing.T) {
	table := opened(t, nil)
	id := table.Journal()
	l := lease(t, table, "a.test", false)
	lease(t, table, "b.test", true)
	big := strings.Repeat("x", 60_000)
	for i := range 40 {
		table.SetFacts(l, []policy.Hop{{Name: fmt.Sprint(i, big)}})
		if err := table.flush(); err != nil {
			t.Fatal(err)
		}
		if table.journal.size > 2*smallJournal {
			t.Fatalf("%d bytes", table.journal.size)
		}
	}
	lease(t, table, "c.test", false)
	if st, err := os.Stat(table.cfg.Path); err != nil || st.Size() != table.journal.size {
		t.Fatal(st, err)
	}
	if _, err := Open(table.cfg); err == nil {
		t.Error("the new file is not locked")
	}
	table.Close()
	again, err := Open(table.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	got, ok := again.Peek("a.test", false)
	if again.Journal() != id || len(again.names) != 3 || !ok || got.Facts()[0].Name != "39"+big {
		t.Errorf("%x with %d leases, want %x with 3", again.Journal(), len(again.names), id)
	}
}

func FuzzReplay(f *testing.F) {
	l := &Lease{key: key{"a.test", false}, addr: netip.MustParseAddr("198.19.0.1"), serial: 1}
	l.known.Store(&lore{nexts: []nodeNext{{"n", Next{l.addr, 7, start}}}, facts: []policy.Hop{{Name: "a.test", Addrs: []netip.Addr{l.addr, {}}}}})
	f.Add(appendLore(appendUse(appendAlloc(appendJournal(nil, 7), l), l, savedTime{5, true}), l))
	f.Add(appendEnd(appendAlloc(appendJournal(nil, 7), l), l))
	f.Fuzz(func(t *testing.T, records []byte) {
		table := &Table{names: map[key]*Lease{}, nexts: map[nextKey]*Lease{}}
		table.v4, _ = newPool(netip.MustParsePrefix("198.19.0.0/24"))
		table.v6, _ = newPool(netip.MustParsePrefix("2001:2::/112"))
		r := replay{table: table, leases: map[uint64]*Lease{}}
		if r.frame(records) != nil {
			return
		}
		for _, l := range table.names {
			table.revive(l)
		}
		table.v4.restore()
		table.v6.restore()
		sound(t, table)
		// What is written of it reads as the same.
		again := &Table{names: map[key]*Lease{}, nexts: map[nextKey]*Lease{}, v4: must2(newPool(table.v4.prefix)), v6: must2(newPool(table.v6.prefix))}
		if _, err := replayFrames("", table.snapshot(), (&replay{table: again, leases: map[uint64]*Lease{}}).frame); table.id != 0 && (err != nil || len(again.names) != len(table.names)) {
			t.Fatalf("%d leases, then %d: %v", len(table.names), len(again.names), err)
		}
	})
}

func must2(p *pool, err error) *pool {
	if err != nil {
		panic(err)
	}
	return p
}
