package state

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/storage/wal"
)

// logSegment is the size to which etcd preallocates its log files, of which it
// keeps two. Its own 64 MB are meant for clusters; a gateway writes a few
// hundred bytes for each report.
const logSegment = 8 << 20

// smallSegments is done once, before the first server of the process runs:
// etcd reads the size from a variable of its package.
var smallSegments = sync.OnceFunc(func() { wal.SegmentSizeBytes = logSegment })

// OpenEmbedded starts an etcd of one member in this process, with its data in
// dir, and waits until it is ready. It opens no socket of any kind.
func OpenEmbedded(ctx context.Context, dir string, log *slog.Logger) (*Etcd, error) {
	lock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the state in %s: %w", dir, err)
	}
	smallSegments()
	closing := new(atomic.Bool)
	server, err := start(ctx, embedConfig(filepath.Join(dir, "etcd"), log, closing))
	if err != nil {
		closing.Store(true)
		return nil, errors.Join(fmt.Errorf("opening the state in %s: %w", dir, err), lock.Close())
	}
	client := v3client.New(server.Server)
	return &Etcd{
		client: client,
		remote: readOnly{
			read:  v3rpc.NewKVServer(server.Server).Range,
			watch: v3rpc.NewWatchServer(server.Server).Watch,
		},
		log: log,
		close: func() error {
			closing.Store(true)
			err := client.Close()
			if errors.Is(err, context.Canceled) { // what Close itself has done
				err = nil
			}
			server.Close()
			return errors.Join(err, lock.Close())
		},
		written: map[string]copied{},
	}, nil
}

// lockDir makes the directory and takes it for this process. etcd has locks of
// its own but waits for them without end.
func lockDir(dir string) (*fileutil.LockedFile, error) {
	if err := os.MkdirAll(dir, fileutil.PrivateDirMode); err != nil {
		return nil, err
	}
	lock, err := fileutil.TryLockFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, fileutil.PrivateFileMode)
	if errors.Is(err, fileutil.ErrLocked) {
		return nil, errors.New("another process is using it")
	}
	return lock, err
}

// start starts the server and waits until it has elected itself.
func start(ctx context.Context, c *embed.Config) (*embed.Etcd, error) {
	server, err := embed.StartEtcd(c)
	if err != nil {
		return nil, err
	}
	select {
	case <-server.Server.ReadyNotify():
		return server, nil
	case err = <-server.Err():
	case <-server.Server.StopNotify():
		err = errors.New("etcd stopped while starting")
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	server.Close()
	return nil, err
}

func embedConfig(dir string, log *slog.Logger, closing *atomic.Bool) *embed.Config {
	c := embed.NewConfig()
	c.Name = "starferry"
	c.Dir = dir
	// Not even a unix socket: etcd's would be an abstract one, without permissions.
	c.ListenPeerUrls, c.ListenClientUrls, c.AdvertiseClientUrls = nil, nil, nil
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	// Data made anew are another cluster, so that nobody takes their revisions
	// for a continuation of the old ones.
	c.InitialClusterToken = rand.Text()
	// A single member elects itself after one timeout: 100 ms, not 1 s.
	c.TickMs, c.ElectionMs = 20, 100

	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModeRevision, "10000"
	c.QuotaBackendBytes = 1 << 30
	c.SnapshotCount, c.SnapshotCatchUpEntries = 2000, 100 // no follower has to catch up
	c.MaxWalFiles = 2
	c.EnableGRPCGateway = false
	if gates, ok := c.ServerFeatureGate.(featuregate.MutableFeatureGate); ok {
		if err := gates.Set("InitialCorruptCheck=true,CompactHashCheck=true"); err != nil {
			log.Warn("etcd does not know its corruption checks", "err", err)
		}
	}
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapInto(log, closing))
	return c
}
