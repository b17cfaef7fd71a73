package node

import (
	"context"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/state"
)

// missing returns the devices in force that a new list of devices lacks.
func (g *Gateway) missing(devices []*device.Device) (ids []device.ID) {
	stays := map[device.ID]bool{}
	for _, d := range devices {
		stays[d.ID] = true
	}
	for d := range g.store.View().Devices() {
		if !stays[d.ID] {
			ids = append(ids, d.ID)
		}
	}
	return ids
}

// forget drops reports and verdicts of devices that are no longer listed, here
// and in the shared state: a later device of the same name must begin as one
// that has not reported.
func (p *postures) forget(ids []device.ID) {
	if len(ids) == 0 {
		return
	}
	p.mu.Lock()
	for _, id := range ids {
		delete(p.last, id)
	}
	p.mu.Unlock()
	if err := p.g.store.Update(func(tx state.Tx) error { return deleteVerdicts(tx, ids) }); err != nil {
		p.g.log.Error("forgetting verdicts", "err", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), errandTime)
	defer cancel()
	for _, id := range ids {
		if err := p.g.shared.DeleteVerdicts(ctx, id); err != nil {
			p.g.log.Error("the verdicts of a device that has left are still on disk", "device", id, "err", err)
		}
	}
}

func deleteVerdicts(tx state.Tx, ids []device.ID) error {
	for _, id := range ids {
		if err := tx.DeleteVerdicts(id); err != nil {
			return err
		}
	}
	return nil
}

// left reports whether a device whose verdicts the shared state holds was taken
// out of the list while this node did not run. In a cluster it may be another
// gateway's.
func (p *postures) left(tx state.Tx, id device.ID) bool {
	_, listed := tx.Device(id)
	return !listed && p.g.set.Etcd == nil
}
