package state

import (
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-memdb"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/internal/yamlpos"
)

// entryTable is derived from the others and written only by publish.
const entryTable = "entry"

// An Entry is what a decision can depend on of a device. It is a constant.
type Entry struct {
	Device *device.Device

	// Verdicts are as they read when the entry was compiled: one that has
	// expired is a failed one here. Between the expiry and the next Directory
	// only [posture.Verdict.At] tells.
	Verdicts posture.Verdicts

	// Generation moves when the entry is superseded by one that differs in
	// what a decision can depend on. It is the same counter for as long as the
	// Store lives, whatever happens to the device.
	Generation *atomic.Uint64

	// Stamp is the value of Generation that this entry belongs to. Keep it
	// beside what was decided by the entry: the decision is to be made again
	// when Generation has another value. (Loading Generation instead, after
	// the entry was found, would miss a change that came between the two.)
	Stamp uint64

	due time.Time // when the first passed verdict expires; zero if none will
}

var (
	entryByID = index[Entry, device.ID]{
		table: entryTable, name: "id", unique: true,
		of:    func(e *Entry) []device.ID { return []device.ID{e.Device.ID} },
		bytes: text[device.ID],
	}
	entryByDue = index[Entry, time.Time]{
		table: entryTable, name: "due",
		of:    dues,
		bytes: instant,
	}
)

func dues(e *Entry) []time.Time {
	if e.due.IsZero() {
		return nil
	}
	return []time.Time{e.due}
}

func entrySchema() *memdb.TableSchema {
	return &memdb.TableSchema{Name: entryTable, Indexes: map[string]*memdb.IndexSchema{
		entryByID.name:  entryByID.schema(),
		entryByDue.name: entryByDue.schema(),
	}}
}

// differs reports whether a decision could come out differently by e than by
// old. When a report was received, and when it expires, is no difference.
func (e *Entry) differs(old *Entry) bool {
	if e.Device != old.Device {
		a, b := *e.Device, *old.Device
		a.At, b.At = yamlpos.Pos{}, yamlpos.Pos{}
		if !reflect.DeepEqual(a, b) {
			return true
		}
	}
	if len(e.Verdicts) != len(old.Verdicts) {
		return true
	}
	for profile, v := range e.Verdicts {
		if o, ok := old.Verdicts[profile]; !ok || o.Result != v.Result || o.Reason != v.Reason {
			return true
		}
	}
	return false
}

// touched returns the devices that a transaction has changed.
func touched(changes memdb.Changes) (ids []device.ID) {
	seen := map[device.ID]bool{}
	for _, c := range changes {
		row := c.After
		if row == nil {
			row = c.Before
		}
		var id device.ID
		switch row := row.(type) {
		case *device.Device:
			id = row.ID
		case *judgement:
			id = row.id
		default:
			continue
		}
		if !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids
}

// A step is what becomes of one device's entry; nil is none.
type step struct{ old, new *Entry }

// publish compiles the entries of ids as tx has left their rows, commits tx,
// puts the new Directory in place and then moves the generations: who sees a
// generation move finds the new Directory. It is called with s.mu held.
func (s *Store) publish(tx *memdb.Txn, ids []device.ID, now time.Time) {
	t := Tx{View{tx}}
	var steps []step
	for _, id := range ids {
		old, _ := one(tx, entryByID, id)
		if e := s.compile(t.View, id, old, now); e != nil || old != nil {
			steps = append(steps, step{old, e})
		}
	}
	next := *s.directory.Load()
	for _, st := range steps {
		if st.old != nil && !st.samePlaces() {
			next.without(st.old)
		}
	}
	for _, st := range steps { // after all have left: ranges and marks may change hands
		if st.new != nil {
			must(t.put(entryTable, st.new))
			next.with(st.new)
		} else {
			must(t.drop(entryTable, st.old))
		}
	}
	tx.Commit()
	if len(steps) > 0 {
		next.view = s.View()
		s.directory.Store(&next)
		s.move(steps)
	}
}

// samePlaces reports whether the new entry takes exactly the old one's places
// in the tables of the Directory.
func (st step) samePlaces() bool {
	return st.new != nil && st.old.Device.Marks == st.new.Device.Marks && slices.Equal(st.old.Device.Overlay, st.new.Device.Overlay) && slices.Equal(st.old.Device.LAN, st.new.Device.LAN)
}

// must turns the impossible, an entry that does not fit its own table, into a
// panic: there is no half-published state to go on with.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// compile makes the entry of a device, nil if there is no such device.
func (s *Store) compile(v View, id device.ID, old *Entry, now time.Time) *Entry {
	d, ok := v.Device(id)
	if !ok {
		return nil
	}
	verdicts, _, _ := v.Verdicts(id)
	e := &Entry{Device: d, Generation: s.generation(id)}
	e.Verdicts, e.due = at(verdicts, now)
	e.Stamp = e.Generation.Load()
	if old == nil || e.differs(old) {
		e.Stamp++
	}
	return e
}

// generation returns the counter of a device, a new one at 0 for an ID never
// seen before.
func (s *Store) generation(id device.ID) *atomic.Uint64 {
	g, ok := s.generations[id]
	if !ok {
		g = new(atomic.Uint64)
		s.generations[id] = g
	}
	return g
}

// move sets the generations to those of the new entries, and one further where
// there is none, and wakes Run.
func (s *Store) move(steps []step) {
	for _, st := range steps {
		switch {
		case st.new == nil:
			st.old.Generation.Add(1)
			s.moved[st.old.Device.ID] = true
		case st.new.Generation.Load() != st.new.Stamp:
			st.new.Generation.Store(st.new.Stamp)
			s.moved[st.new.Device.ID] = true
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
