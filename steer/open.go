package steer

import (
	"errors"
	"math/rand/v2"
)

// Open opens the table that lies in a journal, or begins a new one. What a
// crash has torn off is cut off; a journal that is damaged otherwise is an
// error, and so is one that another process has open.
//
// Leases whose addresses are not in the pools any more are dropped; since the
// labels are void then, the journal gets a new id.
func Open(cfg Config) (*Table, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	t := &Table{
		cfg: cfg, names: map[key]*Lease{}, nexts: map[nextKey]*Lease{},
		askers: map[string]*asked{}, new: map[key]pending{}, batch: &batch{}, learnt: make(chan struct{}, 1),
	}
	var err error
	if t.v4, err = newPool(cfg.V4); err != nil {
		return nil, err
	}
	if t.v6, err = newPool(cfg.V6); err != nil {
		return nil, err
	}
	if err := t.recover(); err != nil {
		return nil, err
	}
	return t, nil
}

// recover reads the journal and derives the rest from it.
func (t *Table) recover() error {
	r := replay{table: t, leases: map[uint64]*Lease{}}
	create := func() []byte {
		t.id = newID()
		return appendJournal(nil, t.id)
	}
	j, torn, err := openJournal(t.cfg.Path, create, r.frame)
	if err != nil {
		return err
	}
	t.journal = j
	for _, l := range t.names {
		t.revive(l)
	}
	t.v4.restore()
	t.v6.restore()
	if torn > 0 {
		t.cfg.Log.Warn("cut a torn write off the lease journal", "file", t.cfg.Path, "bytes", torn)
	}
	if r.foreign > 0 {
		t.cfg.Log.Warn("dropped leases outside of the pools", "file", t.cfg.Path, "leases", r.foreign)
		t.id = newID()
		if err := t.rewrite(); err != nil {
			return errors.Join(err, j.close())
		}
	}
	j.pure = int64(len(t.snapshot()))
	return nil
}

func newID() uint64 { return 1 + rand.Uint64N(1<<64-1) } // 0 means that none is known

// revive makes a lease that was read ready for use.
func (t *Table) revive(l *Lease) {
	l.saved = savedTime{l.use.Load(), l.carried.Load()}
	l.due = t.end(l, t.cfg.Keep)
	for _, n := range l.lore().nexts {
		k := nextKey{n.node, n.Addr}
		if old := t.nexts[k]; old != nil {
			if o, _ := old.Next(n.node); o.Asked.After(n.Asked) {
				continue
			}
		}
		t.nexts[k] = l
	}
}

// A replay makes leases of a journal's records.
type replay struct {
	table   *Table
	leases  map[uint64]*Lease // by serial number
	foreign int               // leases outside of the pools
}

func (r *replay) frame(records []byte) error {
	for d := (decoder{b: records}); len(d.b) > 0; {
		rec, err := d.record()
		if err != nil {
			return err
		}
		if (rec.kind == recJournal) != (r.table.id == 0) {
			return errors.New("it does not begin with the id of a journal, or has a second one")
		}
		if err := r.record(rec); err != nil {
			return err
		}
	}
	return nil
}

func (r *replay) record(rec record) error {
	switch l := r.leases[rec.serial]; {
	case rec.kind == recJournal:
		r.table.id = rec.id
	case rec.kind == recAlloc:
		return r.alloc(rec)
	case l == nil: // its address has been given to another name, or is in no pool
	case rec.kind == recEnd:
		r.drop(l)
	case rec.kind == recUse:
		l.use.Store(max(l.use.Load(), rec.at))
		l.carried.Store(l.carried.Load() || rec.carried)
	case rec.kind == recLore:
		l.known.Store(&rec.lore)
	}
	return nil
}

// alloc makes a lease. One that has the name or the address by an older record
// has ended before: the record of its end was not yet written.
func (r *replay) alloc(rec record) error {
	t := r.table
	if !rec.addr.IsValid() || rec.name == "" {
		return errors.New("an allocation without a name or an address")
	}
	t.serial = max(t.serial, rec.serial)
	k := key{rec.name, rec.addr.Is6()}
	p := t.pool(k.v6)
	i, ok := p.index(rec.addr)
	if !ok {
		r.foreign++
		return nil
	}
	for _, old := range []*Lease{t.names[k], p.at(i)} {
		if old != nil {
			r.drop(old)
		}
	}
	l := &Lease{key: k, addr: rec.addr, index: i, serial: rec.serial}
	l.use.Store(rec.at)
	t.publish(l)
	r.leases[l.serial] = l
	return nil
}

func (r *replay) drop(l *Lease) {
	delete(r.leases, l.serial)
	delete(r.table.names, l.key)
	r.table.pool(l.v6).set(l.index, nil)
}
