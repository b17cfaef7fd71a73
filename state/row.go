package state

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
)

// A DirectoryRow is what an egress is told of a device: nothing about its
// user, its serial numbers or its reports. In JSON it is
//
//	{"id":"k3v…","overlay":["100.72.1.10/32"],"kind":"wireguard","groups":["staff"],
//	 "verdicts":{"managed-laptop":{"result":"passed","expires":"2026-01-02T03:04:05Z"}}}
type DirectoryRow struct {
	ID       device.ID
	Overlay  []netip.Prefix
	Groups   []string
	Kind     device.Kind
	Verdicts posture.Verdicts
}

// Bounds of one row. They are far above any real device and keep what a
// gateway can make an egress hold within reason.
const (
	maxRow      = 16 << 10 // bytes of JSON
	maxPrefixes = 64
	maxGroups   = 256
	maxProfiles = 64
)

type rowJSON struct {
	ID       device.ID              `json:"id"`
	Overlay  []netip.Prefix         `json:"overlay,omitempty"`
	Kind     string                 `json:"kind"`
	Groups   []string               `json:"groups,omitempty"`
	Verdicts map[string]verdictJSON `json:"verdicts,omitempty"`
}

type verdictJSON struct {
	Result  string    `json:"result"`
	Reason  string    `json:"reason,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
}

// MarshalJSON writes the row in the form that [DirectoryRow] shows. Equal rows
// give equal bytes.
func (r DirectoryRow) MarshalJSON() ([]byte, error) {
	b, err := json.Marshal(rowJSON{r.ID, r.Overlay, r.Kind.String(), r.Groups, encodeVerdicts(r.Verdicts)})
	if err != nil {
		return nil, fmt.Errorf("row %q: %w", r.ID, err)
	}
	if len(b) > maxRow {
		return nil, fmt.Errorf("row %q: %d bytes, more than %d", r.ID, len(b), maxRow)
	}
	return b, nil
}

// UnmarshalJSON reads a row. Members that it does not know are passed over, so
// that a newer gateway can say more; a value that it does not know is an error,
// for then it cannot tell what the row grants.
func (r *DirectoryRow) UnmarshalJSON(b []byte) error {
	var j rowJSON
	if len(b) > maxRow {
		return fmt.Errorf("row of %d bytes, more than %d", len(b), maxRow)
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	if err := j.check(); err != nil {
		return err
	}
	kind, err := device.ParseKind(j.Kind)
	if err != nil {
		return fmt.Errorf("kind: %w", err)
	}
	verdicts, err := decodeVerdicts(j.Verdicts)
	if err != nil {
		return err
	}
	*r = DirectoryRow{j.ID, j.Overlay, j.Groups, kind, verdicts}
	return nil
}

func (j *rowJSON) check() error {
	if j.ID == "" {
		return errors.New("row without an id")
	}
	if len(j.Overlay) > maxPrefixes || len(j.Groups) > maxGroups || len(j.Verdicts) > maxProfiles {
		return fmt.Errorf("row %q: %d prefixes, %d groups, %d verdicts: too many", j.ID, len(j.Overlay), len(j.Groups), len(j.Verdicts))
	}
	for _, p := range j.Overlay {
		if p != p.Masked() || p.Addr().Is4In6() || !p.IsValid() {
			return fmt.Errorf("row %q: %q is not a prefix of its own", j.ID, p)
		}
	}
	return nil
}

func encodeVerdicts(verdicts posture.Verdicts) map[string]verdictJSON {
	if len(verdicts) == 0 {
		return nil
	}
	j := make(map[string]verdictJSON, len(verdicts))
	for profile, v := range verdicts {
		j[profile] = verdictJSON{v.Result.String(), v.Reason, v.Expires.UTC()}
	}
	return j
}

func decodeVerdicts(j map[string]verdictJSON) (posture.Verdicts, error) {
	if len(j) == 0 {
		return nil, nil
	}
	verdicts := make(posture.Verdicts, len(j))
	for profile, v := range j {
		result, err := parseResult(v.Result)
		if err != nil {
			return nil, fmt.Errorf("verdict %q: %w", profile, err)
		}
		// Years beyond what JSON can carry come of zones at the very end.
		if y := v.Expires.UTC().Year(); y < 1 || y > 9998 {
			return nil, fmt.Errorf("verdict %q: expires in the year %d", profile, y)
		}
		verdicts[profile] = posture.Verdict{Result: result, Reason: v.Reason, Expires: v.Expires.UTC()}
	}
	return verdicts, nil
}

func parseResult(s string) (posture.Result, error) {
	for _, r := range []posture.Result{posture.Unknown, posture.Failed, posture.Passed} {
		if r.String() == s {
			return r, nil
		}
	}
	return posture.Unknown, fmt.Errorf("%q is no result", s)
}

// equal reports whether two rows say the same.
func (r DirectoryRow) equal(o DirectoryRow) bool {
	return r.ID == o.ID && r.Kind == o.Kind && slices.Equal(r.Overlay, o.Overlay) && slices.Equal(r.Groups, o.Groups) &&
		sameVerdicts(r.Verdicts, o.Verdicts)
}

func sameVerdicts(a, b posture.Verdicts) bool {
	return maps.EqualFunc(a, b, func(v, w posture.Verdict) bool {
		return v.Result == w.Result && v.Reason == w.Reason && v.Expires.Equal(w.Expires)
	})
}

// Opaque returns a function that gives each device another name, always the
// same one, which tells nothing to who does not have the secret.
func Opaque(secret []byte) func(device.ID) device.ID {
	secret = slices.Clone(secret)
	return func(id device.ID) device.ID {
		h := hmac.New(sha256.New, secret)
		h.Write([]byte(id))
		return device.ID(strings.ToLower(base32.HexEncoding.EncodeToString(h.Sum(nil)[:15])))
	}
}

// DirectoryRows returns what an egress is to be told: a row for each device
// that has overlay addresses, under the name that rename gives it. Reasons of
// verdicts stay here, since they quote reports.
func (v View) DirectoryRows(rename func(device.ID) device.ID) []DirectoryRow {
	var rows []DirectoryRow
	for d := range v.Devices() {
		if len(d.Overlay) == 0 {
			continue
		}
		verdicts, _, _ := v.Verdicts(d.ID)
		rows = append(rows, DirectoryRow{rename(d.ID), d.Overlay, d.Groups, d.Kind, withoutReasons(verdicts)})
	}
	slices.SortFunc(rows, func(a, b DirectoryRow) int { return cmp.Compare(a.ID, b.ID) })
	return rows
}

func withoutReasons(verdicts posture.Verdicts) posture.Verdicts {
	verdicts = maps.Clone(verdicts)
	for profile, v := range verdicts {
		v.Reason = ""
		verdicts[profile] = v
	}
	return verdicts
}

// Confine divides rows into those whose addresses all lie in the given ranges
// and the others. A gateway speaks for the devices of its own slice and for no
// others; who follows its directory confines the rows to it.
func Confine(rows []DirectoryRow, slice []netip.Prefix) (inside, outside []DirectoryRow) {
	for _, r := range rows {
		if len(r.Overlay) > 0 && !slices.ContainsFunc(r.Overlay, func(p netip.Prefix) bool { return !covered(p, slice) }) {
			inside = append(inside, r)
		} else {
			outside = append(outside, r)
		}
	}
	return inside, outside
}

func covered(p netip.Prefix, slice []netip.Prefix) bool {
	return slices.ContainsFunc(slice, func(s netip.Prefix) bool { return s.Bits() <= p.Bits() && s.Contains(p.Addr()) })
}

// ReplaceDirectory makes the tables of devices and verdicts hold exactly these
// rows. It is for an egress that follows a single gateway.
func (t Tx) ReplaceDirectory(rows []DirectoryRow) error {
	return t.replaceRows(rows, func(device.ID) bool { return true })
}

// ReplaceDirectoryOf replaces what one of several gateways has said, and leaves
// the others alone. The IDs of the rows are taken as GATEWAY/ID, so that two
// gateways cannot speak of the same device; that they do not claim the same
// addresses is for the caller to see to, with [Confine].
func (t Tx) ReplaceDirectoryOf(gateway string, rows []DirectoryRow) error {
	prefix := gateway + "/"
	rows = slices.Clone(rows)
	for i := range rows {
		rows[i].ID = device.ID(prefix) + rows[i].ID
	}
	return t.replaceRows(rows, func(id device.ID) bool { return strings.HasPrefix(string(id), prefix) })
}

// replaceRows replaces the devices and verdicts whose IDs are mine. Most often
// little has changed among many rows, so it makes nothing that is there.
func (t Tx) replaceRows(rows []DirectoryRow, mine func(device.ID) bool) error {
	devices := make([]*device.Device, 0, len(rows))
	old := make(map[device.ID]*device.Device, len(rows))
	for d := range t.Devices() {
		if mine(d.ID) {
			old[d.ID] = d
		} else {
			devices = append(devices, d)
		}
	}
	for _, r := range rows {
		d, ok := old[r.ID]
		if !ok || d.Kind != r.Kind || !slices.Equal(d.Overlay, r.Overlay) || !slices.Equal(d.Groups, r.Groups) {
			d = &device.Device{ID: r.ID, Kind: r.Kind, Overlay: r.Overlay, Groups: r.Groups}
		}
		devices = append(devices, d)
	}
	if err := t.ReplaceDevices(devices); err != nil {
		return err
	}
	return t.replaceVerdicts(rows, mine)
}

// replaceVerdicts replaces the verdicts whose IDs are mine. When their reports
// came is not known.
func (t Tx) replaceVerdicts(rows []DirectoryRow, mine func(device.ID) bool) error {
	old := make(map[device.ID]*judgement, len(rows))
	for j := range all(t.tx, verdictByID) {
		if mine(j.id) {
			old[j.id] = j
		}
	}
	for _, r := range rows {
		j, ok := old[r.ID]
		delete(old, r.ID)
		if ok && j.received.IsZero() && sameVerdicts(j.verdicts, r.Verdicts) {
			continue
		}
		if err := t.PutVerdicts(r.ID, r.Verdicts, time.Time{}); err != nil {
			return err
		}
	}
	for _, j := range old {
		if err := t.drop(verdictTable, j); err != nil {
			return err
		}
	}
	return nil
}
