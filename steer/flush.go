package steer

import "time"

const (
	frameSize    = 256 << 10 // about how much is written at once
	smallJournal = 1 << 20   // below this size a journal is not written anew
)

// flush writes what has changed of the leases since it was last written. (In
// pieces, each of which is a frame that is synced before the next.)
func (t *Table) flush() error {
	t.writing.Lock()
	defer t.writing.Unlock()
	changed := t.changed()
	for len(changed) > 0 {
		var b []byte
		n := 0
		for n < len(changed) && len(b) < frameSize {
			b = changed[n].append(b)
			n++
		}
		if err := t.write(b); err != nil {
			for _, c := range changed {
				c.lease.dirty.Store(c.lease.dirty.Load() || c.lore)
			}
			return err
		}
		for _, c := range changed[:n] {
			c.lease.saved = c.now
		}
		changed = changed[n:]
	}
	if err := t.write(nil); err != nil {
		return err
	}
	t.shrink()
	return nil
}

// A change is what is to be written of a lease.
type change struct {
	lease *Lease
	now   savedTime
	lore  bool
}

func (c change) append(b []byte) []byte {
	if c.now != c.lease.saved {
		b = appendUse(b, c.lease, c.now)
	}
	if c.lore {
		b = appendLore(b, c.lease)
	}
	return b
}

func (t *Table) changed() []change {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var out []change
	for _, l := range t.names {
		c := change{l, savedTime{l.use.Load(), l.carried.Load()}, l.dirty.Swap(false)}
		if c.lore || c.now != l.saved {
			out = append(out, c)
		}
	}
	return out
}

// shrink writes the journal anew once most of it is over. The caller holds t.writing.
func (t *Table) shrink() {
	j := t.journal
	if j.size < smallJournal || j.size < 3*j.pure {
		return
	}
	start := time.Now()
	if err := t.rewrite(); err != nil {
		j.pure = j.size // try again when it has grown
		t.cfg.Log.Error("the lease journal grows: it could not be written anew", "err", err)
		return
	}
	t.cfg.Log.Info("wrote the lease journal anew", "file", t.cfg.Path, "bytes", j.size, "took", time.Since(start))
}

func (t *Table) rewrite() error {
	if err := t.journal.replace(t.snapshot()); err != nil {
		return err
	}
	t.journal.pure = t.journal.size
	return nil
}

// snapshot returns the frames of a journal that holds what there now is.
func (t *Table) snapshot() []byte {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var frames []byte
	records := appendJournal(nil, t.id)
	for _, l := range t.names {
		records = appendAlloc(records, l)
		if l.carried.Load() {
			records = appendUse(records, l, savedTime{l.use.Load(), true})
		}
		if l.known.Load() != nil {
			records = appendLore(records, l)
		}
		if len(records) >= frameSize {
			frames, records = appendFrame(frames, records), records[:0]
		}
	}
	if len(records) > 0 {
		frames = appendFrame(frames, records)
	}
	return frames
}
