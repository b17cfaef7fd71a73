package state

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"reflect"
	"slices"

	"github.com/hashicorp/go-memdb"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/yamlpos"
)

const deviceTable = "device"

var (
	deviceByID = index[device.Device, device.ID]{
		table: deviceTable, name: "id", unique: true,
		of:    func(d *device.Device) []device.ID { return []device.ID{d.ID} },
		bytes: text[device.ID],
	}
	deviceByKey = index[device.Device, device.Key]{
		table: deviceTable, name: "key", unique: true,
		of:    keys,
		bytes: func(k device.Key) []byte { return k[:] },
	}
)

// keys returns the device's key; a network has none.
func keys(d *device.Device) []device.Key {
	if d.Key.IsZero() {
		return nil
	}
	return []device.Key{d.Key}
}

func deviceSchema() *memdb.TableSchema {
	return &memdb.TableSchema{Name: deviceTable, Indexes: map[string]*memdb.IndexSchema{
		deviceByID.name:  deviceByID.schema(),
		deviceByKey.name: deviceByKey.schema(),
	}}
}

// Device returns the device with the given ID.
func (v View) Device(id device.ID) (*device.Device, bool) { return one(v.tx, deviceByID, id) }

// DeviceByKey returns the device that owns the WireGuard key.
func (v View) DeviceByKey(k device.Key) (*device.Device, bool) { return one(v.tx, deviceByKey, k) }

// Devices ranges over all devices in the order of their IDs.
func (v View) Devices() iter.Seq[*device.Device] { return all(v.tx, deviceByID) }

// WatchDevices returns a channel that is closed when a device changes after
// the moment of this view.
func (v View) WatchDevices() <-chan struct{} { return watch(v.tx, deviceByID) }

// A Conflict says that two devices claim what only one may have.
type Conflict struct {
	What          string // what they claim: an ID, a key, an address
	First, Second *device.Device
}

// Error names both devices and where they are written.
func (c *Conflict) Error() string {
	return fmt.Sprintf("%s: %s belongs to %s already", place(c.Second), c.What, place(c.First))
}

// place names a device and says where it is written, if it is.
func place(d *device.Device) string {
	if d.At == (yamlpos.Pos{}) {
		return string(d.ID)
	}
	return fmt.Sprintf("%s (%v)", d.ID, d.At)
}

// ReplaceDevices makes the table hold exactly these devices. Rows that are the
// same stay as they are. Two devices with one ID, one key, one mark, one range of
// their own, or overlay ranges that overlap are an error, which holds a [*Conflict]
// for each pair; then nothing is changed.
func (t Tx) ReplaceDevices(devices []*device.Device) error {
	gone := map[device.ID]*device.Device{}
	for d := range t.Devices() {
		gone[d.ID] = d
	}
	var fresh []*device.Device
	for _, d := range devices {
		if have, ok := gone[d.ID]; ok && (have == d || reflect.DeepEqual(have, d)) {
			delete(gone, d.ID)
		} else {
			fresh = append(fresh, d)
		}
	}
	if len(fresh) > 0 { // a part of what is there has no conflicts
		if err := conflicts(devices); err != nil {
			return fmt.Errorf("replace devices: %w", err)
		}
	}
	return t.exchangeDevices(gone, fresh)
}

// exchangeDevices deletes first: a key that moves between two devices would be
// lost when the old owner's row is replaced after the new one's.
func (t Tx) exchangeDevices(gone map[device.ID]*device.Device, fresh []*device.Device) error {
	for _, d := range gone {
		if err := t.drop(deviceTable, d); err != nil {
			return err
		}
	}
	for _, d := range fresh {
		if err := t.put(deviceTable, d); err != nil {
			return err
		}
	}
	return nil
}

// conflicts returns every conflict among the devices.
func conflicts(devices []*device.Device) error {
	var errs []error
	ids, owners := map[device.ID]*device.Device{}, map[device.Key]*device.Device{}
	for _, d := range devices {
		if d.ID == "" {
			errs = append(errs, fmt.Errorf("%s: a device without an id", place(d)))
		}
		if first, taken := ids[d.ID]; taken {
			errs = append(errs, &Conflict{fmt.Sprintf("the id %q", d.ID), first, d})
		}
		if first, taken := owners[d.Key]; taken && !d.Key.IsZero() {
			errs = append(errs, &Conflict{fmt.Sprintf("the key %v", d.Key), first, d})
		}
		ids[d.ID], owners[d.Key] = d, d
	}
	errs = append(errs, sameMarks(devices)...)
	errs = append(errs, overlaps(devices)...)
	return errors.Join(append(errs, twins(devices)...)...)
}

// overlaps returns the conflicts over overlay addresses: each source has one
// owner, for it is all that a packet says of who sent it.
func overlaps(devices []*device.Device) (errs []error) {
	type claim struct {
		prefix netip.Prefix
		owner  *device.Device
	}
	var claims []claim
	for _, d := range devices {
		for _, p := range d.Overlay {
			claims = append(claims, claim{p.Masked(), d})
		}
	}
	// Prefixes nest or are apart, so in this order whatever overlaps one
	// follows the widest of them directly.
	slices.SortStableFunc(claims, func(a, b claim) int { return a.prefix.Compare(b.prefix) })
	var widest claim
	for _, c := range claims {
		switch {
		case widest.owner == nil || !widest.prefix.Overlaps(c.prefix):
			widest = c
		case widest.prefix == c.prefix:
			errs = append(errs, &Conflict{fmt.Sprintf("the overlay address %v", c.prefix), widest.owner, c.owner})
		default:
			errs = append(errs, &Conflict{fmt.Sprintf("the overlay range %v, which holds %v,", widest.prefix, c.prefix), widest.owner, c.owner})
		}
	}
	return errs
}

// twins returns the conflicts over networks' own addresses. One may lie inside
// another, then the narrower one counts; but two cannot be the same.
func twins(devices []*device.Device) (errs []error) {
	owners := map[netip.Prefix]*device.Device{}
	for _, d := range devices {
		for _, p := range d.LAN {
			if first, taken := owners[p.Masked()]; taken {
				errs = append(errs, &Conflict{fmt.Sprintf("the network %v", p), first, d})
			}
			owners[p.Masked()] = d
		}
	}
	return errs
}
