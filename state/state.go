// Package state holds what a node knows right now, and shares what has to
// outlive it.
//
// A [Store] keeps tables in go-memdb: devices, verdicts, links. Readers take a
// [View], an immutable picture of all tables at one moment, free of locks.
// Writers pass a function to [Store.Update]; what it puts is seen all at once
// or, if it fails, not at all. Rows are shared and must never be modified: copy
// one, change the copy, put the copy. There is one file for each table, with
// its indexes, its questions on View and its changes on Tx.
//
// Packets do not ask the tables. They read the [Directory], which is compiled
// from devices and verdicts, never changes, and is replaced whole behind an
// atomic pointer before Update returns. Each device has a generation in it that
// moves with everything a decision could depend on, so that who has decided
// something sees at the price of one atomic load whether to decide it again.
//
// An [Etcd], embedded in the process or a cluster elsewhere, keeps what must
// survive a restart and carries the directory from a gateway to its egresses:
// [ServeDirectory] there, [FollowDirectory] here.
package state

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-memdb"

	"github.com/starferry/starferry/device"
)

// recheck bounds how long Run sleeps: a clock that is set forward makes
// verdicts expire earlier than the timer knows.
const recheck = 5 * time.Second

// A Store is a node's state. Its methods are safe for concurrent use.
type Store struct {
	// Changed, if set before Run is called, is told the devices whose
	// generation has moved, sorted, one call at a time, after the new
	// Directory is in place.
	Changed func(ids []device.ID)

	db        *memdb.MemDB
	directory atomic.Pointer[Directory]
	wake      chan struct{} // capacity 1: there is news for Run

	mu          sync.Mutex // held from the begin of a change until it is published
	generations map[device.ID]*atomic.Uint64
	moved       map[device.ID]bool // what Changed has not been told yet
}

// New returns an empty Store.
func New() *Store {
	db, err := memdb.NewMemDB(&memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
		deviceTable:  deviceSchema(),
		verdictTable: verdictSchema(),
		linkTable:    linkSchema(),
		entryTable:   entrySchema(),
	}})
	if err != nil {
		panic(err) // the schema is fixed at compile time
	}
	s := &Store{
		db:          db,
		wake:        make(chan struct{}, 1),
		generations: map[device.ID]*atomic.Uint64{},
		moved:       map[device.ID]bool{},
	}
	s.directory.Store(emptyDirectory(s.View()))
	return s
}

// View returns a picture of the tables as they are now.
func (s *Store) View() View { return View{s.db.Txn(false)} }

// Directory returns what packets are judged by, as it is now. It is never nil
// and holds what the last Update that returned has put.
func (s *Store) Directory() *Directory { return s.directory.Load() }

// Update runs change and commits what it put, unless it returns an error. When
// Update returns, the Directory and the generations have followed.
func (s *Store) Update(change func(Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx := s.db.Txn(true)
	defer tx.Abort()
	tx.TrackChanges()
	if err := change(Tx{View{tx}}); err != nil {
		return err
	}
	s.publish(tx, touched(tx.Changes()), time.Now())
	return nil
}

// Run makes verdicts expire at their time and calls Changed, until ctx is
// done. Without it passed verdicts in the Directory still read as failed after
// their time ([posture.Verdict.At]), but no generation moves to say so.
func (s *Store) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		s.expire(time.Now())
		s.tell()
		timer.Reset(s.untilNext(time.Now()))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.wake:
		}
	}
}

// expire compiles the entries anew of which a verdict has expired.
func (s *Store) expire(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx := s.db.Txn(true)
	defer tx.Abort()
	var ids []device.ID
	for e := range all(tx, entryByDue) {
		if e.due.After(now) {
			break
		}
		ids = append(ids, e.Device.ID)
	}
	s.publish(tx, ids, now)
}

// untilNext returns how long Run may sleep.
func (s *Store) untilNext(now time.Time) time.Duration {
	for e := range all(s.View().tx, entryByDue) {
		return min(max(e.due.Sub(now), 0), recheck)
	}
	return recheck
}

// tell calls Changed.
func (s *Store) tell() {
	s.mu.Lock()
	ids := slices.Sorted(maps.Keys(s.moved))
	clear(s.moved)
	s.mu.Unlock()
	if len(ids) > 0 && s.Changed != nil {
		s.Changed(ids)
	}
}

// A View answers questions about one moment.
type View struct{ tx *memdb.Txn }

// A Tx is a change being made. It sees its own puts.
type Tx struct{ View }

func (t Tx) put(table string, row any) error {
	if err := t.tx.Insert(table, row); err != nil {
		return fmt.Errorf("put %s: %w", table, err)
	}
	return nil
}

func (t Tx) drop(table string, row any) error {
	if err := t.tx.Delete(table, row); err != nil {
		return fmt.Errorf("delete %s: %w", table, err)
	}
	return nil
}
