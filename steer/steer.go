// Package steer keeps which name stands behind which label: the virtual
// addresses that a gateway answers devices with, and the addresses that egress
// and connector answer their neighbours with. All three use the same table.
//
// # Leases
//
// A name has one lease in each family, whoever asks for it. A lease
//
//   - is never taken from its name while a flow holds it;
//   - lives at least Keep after the last answer that named it and the last
//     packet that used it;
//   - then rests for Quarantine: nothing is found under its address, and only
//     its own name can have it back;
//   - is on disk before anybody learns of it.
//
// A full pool is an error and never an overwrite. One asker can cause so many
// new leases an hour and no more. While nine tenths of a pool are in use, leases
// that never carried a packet live two hours instead of Keep.
//
// An address is used again as late as possible: new ones first, then the one
// that was given back first. Where the table stands in that is derived from the
// leases that there are, and never stored, so it cannot be older than they are.
//
// # Journal
//
// The table lies in one file to which records are appended. Allocations are
// written and synced before [Table.Lease] returns, those of concurrent callers
// together. The times of last use, the labels of next hops and the facts are
// written by [Table.Run] twice a minute. So that what a crash took of them does
// no harm, no lease is put to rest in the first two hours after a start: who
// still uses it says so again in that time.
//
// The file is bound to the process by a lock on a file beside it. It carries a
// random id for as long as it lives, by which neighbours notice that labels
// learnt from this table are void.
package steer

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// What [Table.Lease] returns besides failures of the disk.
var (
	ErrFull   = errors.New("the pool of virtual addresses is full")
	ErrBudget = errors.New("too many new names in this hour")
	ErrNoPool = errors.New("no pool of this address family is configured")
	ErrClosed = errors.New("the lease table is closed")
)

const (
	defaultKeep       = 72 * time.Hour // the design's figure for a gateway
	defaultQuarantine = time.Hour
	defaultBudget     = 1000

	budgetWindow = time.Hour
	idleKeep     = 2 * time.Hour // under pressure, of leases that never carried a packet; and of all after a start
	flushEvery   = 30 * time.Second
	flushSoon    = 100 * time.Millisecond // after something was learnt; more comes in company
)

// A Config says where a table lies and which addresses it gives out.
type Config struct {
	Path   string       // the journal; its folder exists
	V4, V6 netip.Prefix // the pools; one of them may be absent

	Keep       time.Duration // 0: 72 h
	Quarantine time.Duration // 0: 1 h
	Budget     int           // new leases an hour for each asker; 0: 1,000; negative: no limit

	Log *slog.Logger // nil: none
}

func (c *Config) check() error {
	if c.Path == "" {
		return errors.New("the lease table has no path")
	}
	if !c.V4.IsValid() && !c.V6.IsValid() {
		return errors.New("the lease table has no pool")
	}
	if c.V4.IsValid() && !c.V4.Addr().Is4() || c.V6.IsValid() && !c.V6.Addr().Is6() {
		return fmt.Errorf("the pools %v and %v are not one of IPv4 and one of IPv6", c.V4, c.V6)
	}
	if c.Keep <= 0 {
		c.Keep = defaultKeep
	}
	if c.Quarantine <= 0 {
		c.Quarantine = defaultQuarantine
	}
	if c.Budget == 0 {
		c.Budget = defaultBudget
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Stats counts the addresses of one pool.
type Stats struct {
	Capacity int // addresses that can be given out
	Used     int // of them leased or resting
	Resting  int
}
