package state

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/starferry/starferry/device"
)

// FollowConfig says whose directory to follow, how to get there, and whom to
// tell. All functions are called one at a time, except Skew, which may be
// called at any time.
type FollowConfig struct {
	Egress string                                      // whose directory
	Dial   func(ctx context.Context) (net.Conn, error) // to the gateway
	Slice  []netip.Prefix                              // rows with addresses outside are refused and logged; empty: not looked at

	// Apply is given all rows, sorted, after each change. Changes that come
	// within 50 ms of each other come as one, or within four times what Apply
	// takes, up to half a second. A row that is not there is revoked.
	Apply func(rows []DirectoryRow)
	// Health is told when the directory becomes current (true) or may be stale
	// (false, and why). May be nil.
	Health func(up bool, reason string)
	// Skew is told by how much the gateway's clock is ahead of this one's, give
	// or take half a round trip, every ten seconds. May be nil.
	Skew func(ahead time.Duration)
	Log  *slog.Logger

	timing timing // zero: the defaults
}

// timing is what tests change.
type timing struct {
	progress, silence, skew, gap time.Duration
}

var usualTiming = timing{
	progress: 2 * time.Second,       // how often to ask for a sign of life
	silence:  5 * time.Second,       // how long to do without one
	skew:     10 * time.Second,      // how often to compare clocks
	gap:      50 * time.Millisecond, // between two calls of Apply
}

// maxRest is the longest that a change waits for being applied.
const maxRest = 500 * time.Millisecond

var (
	errSilent = errors.New("no sign of life from the gateway")
	errLost   = errors.New("connection to the gateway lost")
)

// FollowDirectory keeps a copy of an egress's directory until ctx is done; then
// it returns nil. Each connection begins with a fresh snapshot, so nothing that
// happened to the other side in between can leave a row behind. While there is
// no connection, the last rows stand: their verdicts expire by themselves.
func FollowDirectory(ctx context.Context, c FollowConfig) error {
	prefix, err := prefixFor(c.Egress)
	if err != nil {
		return err
	}
	if c.timing == (timing{}) {
		c.timing = usualTiming
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	f := &follower{FollowConfig: c, prefix: prefix, wait: newBackoff()}
	for {
		err := f.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		f.health(false, err.Error())
		if f.wait.sleep(ctx) != nil {
			return nil
		}
	}
}

type follower struct {
	FollowConfig
	prefix string
	wait   *backoff

	listed int64     // the revision of the last listing
	rested time.Time // when Apply may be called again

	told   bool // Health has been told
	up     bool
	reason string
}

// health tells Health what is new to it.
func (f *follower) health(up bool, reason string) {
	if f.told && f.up == up && f.reason == reason {
		return
	}
	f.told, f.up, f.reason = true, up, reason
	f.Log.Info("directory", "up", up, "reason", reason)
	if f.Health != nil {
		f.Health(up, reason)
	}
}

// session lives as long as one connection, and returns why it ended.
func (f *follower) session(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	silence := time.AfterFunc(f.timing.silence, func() { cancel(errSilent) })
	defer silence.Stop()
	defer cancel(nil)
	conn, err := f.Dial(ctx)
	if err != nil {
		return fmt.Errorf("connecting to the gateway: %w", cmp.Or(context.Cause(ctx), err))
	}
	l := &line{Conn: conn, lost: cancel}
	client, err := newFollowClient(l, f.Log)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	var g errgroup.Group
	g.Go(func() error { return f.pulse(ctx, client) })
	g.Go(func() error {
		err := f.copy(ctx, client, silence)
		cancel(err)
		return err
	})
	<-ctx.Done()
	why := context.Cause(ctx)
	// Closing the client first would leave its calls to retry on a dead line.
	l.hangUp()
	_ = g.Wait() // the cause says more
	if err := client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		f.Log.Debug("closing the etcd client", "err", err)
	}
	return why
}

// newFollowClient returns an etcd client that has one connection in its life.
func newFollowClient(l *line, log *slog.Logger) (*clientv3.Client, error) {
	quiet := new(atomic.Bool)
	quiet.Store(true) // the session says what matters
	return clientv3.New(clientv3.Config{
		Endpoints:          []string{"http://gateway"}, // a name for gRPC; the line is there already
		MaxCallSendMsgSize: maxRequest,
		MaxCallRecvMsgSize: maxMessage,
		Logger:             zapInto(log, quiet),
		DialOptions: []grpc.DialOption{
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return l.take() }),
		},
	})
}

// A line is the one connection of a session. When it breaks, or is asked for a
// second time, the session is over: etcd's client would go on silently with
// whoever it reaches next.
type line struct {
	net.Conn
	lost  context.CancelCauseFunc
	taken atomic.Bool
}

func (l *line) take() (net.Conn, error) {
	if l.taken.Swap(true) {
		l.lost(errLost)
		return nil, errLost
	}
	return l, nil
}

// Read implements net.Conn.
func (l *line) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if err != nil {
		l.lost(errLost)
	}
	return n, err
}

func (l *line) hangUp() {
	l.taken.Store(true)
	_ = l.Conn.Close() // it is being given up
}

// copy takes a snapshot and then every change, and applies them.
func (f *follower) copy(ctx context.Context, client *clientv3.Client, silence *time.Timer) error {
	alive := func() { silence.Reset(f.timing.silence) }
	kvs, at, err := list(ctx, client, f.prefix, alive)
	if err != nil {
		return fmt.Errorf("reading the directory: %w", err)
	}
	rows := map[device.ID]DirectoryRow{}
	for _, kv := range kvs {
		f.put(rows, kv)
	}
	f.apply(rows)
	var due <-chan time.Time // when rows that have changed are applied, if not at once
	// etcd gives no sign of life to a watch that begins in the future, so this
	// one begins with the last revision of the listing and hears it once more.
	f.listed = at.Revision
	changes := client.Watch(ctx, f.prefix, watchFrom(f.listed)...)
	for {
		select {
		case resp, open := <-changes:
			if !open {
				return errLost
			}
			if err := stillThere(&resp, at); err != nil {
				return err
			}
			at = resp.Header
			alive()
			f.wait.reset()
			f.health(true, "")
			if f.change(rows, resp.Events) && due == nil {
				due = f.applySoon(rows)
			}
		case <-due:
			due = nil
			f.apply(rows)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// applySoon applies the rows now, or returns when to do it if they have been
// applied just before.
func (f *follower) applySoon(rows map[device.ID]DirectoryRow) <-chan time.Time {
	if wait := time.Until(f.rested); wait > 0 {
		return time.After(wait)
	}
	f.apply(rows)
	return nil
}

// apply applies the rows and sees to it that applying takes no more than a fifth
// of the time, unless that would hold changes up for longer than half a second.
func (f *follower) apply(rows map[device.ID]DirectoryRow) {
	begin := time.Now()
	f.Apply(slices.SortedFunc(maps.Values(rows), func(a, b DirectoryRow) int { return cmp.Compare(a.ID, b.ID) }))
	end := time.Now()
	f.rested = end.Add(min(max(f.timing.gap, 4*end.Sub(begin)), maxRest))
}

// change follows the events, and reports whether there was any news in them.
func (f *follower) change(rows map[device.ID]DirectoryRow, events []*clientv3.Event) (news bool) {
	for _, ev := range events {
		if ev.Kv.ModRevision <= f.listed {
			continue
		}
		news = true
		if id, err := lastPart(ev.Kv.Key, f.prefix); err == nil {
			delete(rows, id)
		}
		if ev.Type == clientv3.EventTypePut {
			f.put(rows, ev.Kv)
		}
	}
	return news
}

// put reads a row. One that cannot be read, or lies outside, is as good as none.
func (f *follower) put(rows map[device.ID]DirectoryRow, kv *mvccpb.KeyValue) {
	row, err := readRow(kv, f.prefix)
	if err != nil {
		f.Log.Error("directory row cannot be read; taken as none", "key", string(kv.Key), "err", err)
		return
	}
	if _, outside := Confine([]DirectoryRow{row}, f.Slice); len(f.Slice) > 0 && len(outside) > 0 {
		f.Log.Error("directory row speaks of addresses that are not the gateway's; refused", "device", row.ID, "overlay", row.Overlay, "slice", f.Slice)
		return
	}
	rows[row.ID] = row
}

// readRow reads a row, whose ID has to be the one that it is filed under.
func readRow(kv *mvccpb.KeyValue, prefix string) (row DirectoryRow, err error) {
	id, err := lastPart(kv.Key, prefix)
	if err != nil {
		return DirectoryRow{}, err
	}
	if err := json.Unmarshal(kv.Value, &row); err != nil {
		return DirectoryRow{}, err
	}
	if row.ID != id {
		return DirectoryRow{}, fmt.Errorf("the row of %q is filed under %q", row.ID, id)
	}
	return row, nil
}

// pulse asks for signs of life, and now and then what time it is over there.
func (f *follower) pulse(ctx context.Context, client *clientv3.Client) error {
	tick := time.NewTicker(f.timing.progress)
	defer tick.Stop()
	var compared time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// What fails here shows as silence.
		if err := client.RequestProgress(ctx); err != nil {
			f.Log.Debug("asking for a sign of life", "err", err)
		}
		if f.Skew != nil && time.Since(compared) >= f.timing.skew {
			compared = time.Now()
			f.compareClocks(ctx, client)
		}
	}
}

// compareClocks reads the far clock as NTP does: it is taken to have been read
// in the middle of the round trip (RFC 5905, section 8). A far side that does
// not say its time is passed over, and so is a round trip of over a second,
// which could prove nothing.
func (f *follower) compareClocks(ctx context.Context, client *clientv3.Client) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var h metadata.MD
	sent := time.Now()
	_, err := pb.NewKVClient(client.ActiveConnection()).Range(ctx,
		&pb.RangeRequest{Key: []byte(f.prefix), KeysOnly: true, Serializable: true}, grpc.Header(&h))
	round := time.Since(sent)
	said := h.Get(clockHeader)
	if err != nil || len(said) != 1 {
		f.Log.Debug("comparing clocks", "said", said, "err", err)
		return
	}
	far, err := strconv.ParseInt(said[0], 10, 64)
	if err != nil {
		f.Log.Debug("comparing clocks", "said", said, "err", err)
		return
	}
	f.Skew(time.Unix(0, far).Sub(sent.Add(round / 2)))
}
