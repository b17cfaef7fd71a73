package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/state"
)

// Shared is what a gateway keeps beyond its own life and tells its egresses: a
// running one has a [state.Etcd], embedded or a cluster elsewhere. An etcd has
// clocks of its own, so a gateway under a fake clock brings another.
type Shared struct {
	PutVerdicts    func(ctx context.Context, id device.ID, v posture.Verdicts, received time.Time) error
	DeleteVerdicts func(ctx context.Context, id device.ID) error
	FollowVerdicts func(ctx context.Context, apply func(all map[device.ID]state.StoredVerdicts, changed []device.ID)) error
	SyncDirectory  func(ctx context.Context, egress string, rows []state.DirectoryRow) error
	ServeDirectory func(ctx context.Context, l net.Listener, allow func(remote netip.Addr) (egress string, ok bool), log *slog.Logger) error
	Refused        func() uint64 // how many requests ServeDirectory has refused; nil: not counted
	Close          func() error
}

// openShared opens the shared state that the settings name.
func (g *Gateway) openShared(ctx context.Context) (err error) {
	if g.near.Shared != nil {
		g.shared, err = g.near.Shared(ctx)
		return err
	}
	var e *state.Etcd
	if x := g.set.Etcd; x != nil {
		e, err = state.Dial(ctx, state.DialConfig{Endpoints: x.Endpoints, CA: x.CA, Cert: x.Cert, Key: x.Key})
	} else {
		e, err = state.OpenEmbedded(ctx, filepath.Join(g.set.StateDir, "etcd"), g.log)
	}
	if err != nil {
		return fmt.Errorf("opening the shared state: %w", err)
	}
	g.shared = &Shared{
		PutVerdicts: e.PutVerdicts, DeleteVerdicts: e.DeleteVerdicts, FollowVerdicts: e.FollowVerdicts,
		SyncDirectory: e.SyncDirectory, Refused: e.Refused, Close: e.Close,
		ServeDirectory: func(ctx context.Context, l net.Listener, allow func(netip.Addr) (string, bool), log *slog.Logger) error {
			return state.ServeDirectory(ctx, l, e, allow, log)
		},
	}
	return nil
}
