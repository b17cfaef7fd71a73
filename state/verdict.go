package state

import (
	"maps"
	"time"

	"github.com/hashicorp/go-memdb"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
)

const verdictTable = "verdict"

// A judgement is a row: how a device stands, and since when that is known.
type judgement struct {
	id       device.ID
	verdicts posture.Verdicts
	received time.Time
}

var verdictByID = index[judgement, device.ID]{
	table: verdictTable, name: "id", unique: true,
	of:    func(j *judgement) []device.ID { return []device.ID{j.id} },
	bytes: text[device.ID],
}

func verdictSchema() *memdb.TableSchema {
	return &memdb.TableSchema{Name: verdictTable, Indexes: map[string]*memdb.IndexSchema{
		verdictByID.name: verdictByID.schema(),
	}}
}

// Verdicts returns how the device stood when its report was received. Whether
// a passed verdict has expired since is for the reader to see
// ([posture.Verdict.At]).
func (v View) Verdicts(id device.ID) (verdicts posture.Verdicts, received time.Time, ok bool) {
	j, ok := one(v.tx, verdictByID, id)
	if !ok {
		return nil, time.Time{}, false
	}
	return j.verdicts, j.received, true
}

// WatchVerdicts returns a channel that is closed when a verdict changes after
// the moment of this view.
func (v View) WatchVerdicts() <-chan struct{} { return watch(v.tx, verdictByID) }

// PutVerdicts replaces the device's verdicts. The device need not be known.
func (t Tx) PutVerdicts(id device.ID, verdicts posture.Verdicts, received time.Time) error {
	return t.put(verdictTable, &judgement{id, byWallClock(verdicts), received.Round(0)})
}

// DeleteVerdicts makes the device one that has not reported.
func (t Tx) DeleteVerdicts(id device.ID) error {
	if j, ok := one(t.tx, verdictByID, id); ok {
		return t.drop(verdictTable, j)
	}
	return nil
}

// byWallClock returns the verdicts without monotonic clock readings: that
// clock stands still while a machine sleeps, and verdicts age.
func byWallClock(verdicts posture.Verdicts) posture.Verdicts {
	verdicts = maps.Clone(verdicts)
	for profile, v := range verdicts {
		v.Expires = v.Expires.Round(0)
		verdicts[profile] = v
	}
	return verdicts
}

// at returns the verdicts as they read at a moment, and when that changes next
// (zero if never).
func at(verdicts posture.Verdicts, now time.Time) (_ posture.Verdicts, next time.Time) {
	read, shared := verdicts, true
	for profile, v := range verdicts {
		if r := v.At(now); r != v {
			if shared {
				read, shared = maps.Clone(verdicts), false
			}
			read[profile] = r
		} else if v.Result == posture.Passed && (next.IsZero() || v.Expires.Before(next)) {
			next = v.Expires
		}
	}
	return read, next
}
