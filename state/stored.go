package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
)

// StoredVerdicts are a device's verdicts as etcd keeps them.
type StoredVerdicts struct {
	Verdicts posture.Verdicts
	Received time.Time // when the gateway received the report
}

type storedJSON struct {
	Received time.Time              `json:"received"`
	Verdicts map[string]verdictJSON `json:"verdicts"`
}

// PutVerdicts stores a device's verdicts. When it returns they survive a crash.
func (e *Etcd) PutVerdicts(ctx context.Context, id device.ID, v posture.Verdicts, received time.Time) error {
	b, err := json.Marshal(storedJSON{received.UTC(), encodeVerdicts(v)})
	if err != nil {
		return fmt.Errorf("storing the verdicts of %s: %w", id, err)
	}
	if _, err := e.client.Put(ctx, verdictKey(id), string(b)); err != nil {
		return fmt.Errorf("storing the verdicts of %s: %w", id, err)
	}
	return nil
}

// DeleteVerdicts forgets a device's verdicts.
func (e *Etcd) DeleteVerdicts(ctx context.Context, id device.ID) error {
	if _, err := e.client.Delete(ctx, verdictKey(id)); err != nil {
		return fmt.Errorf("deleting the verdicts of %s: %w", id, err)
	}
	return nil
}

func verdictKey(id device.ID) string { return verdictPrefix + url.PathEscape(string(id)) }

// FollowVerdicts calls apply with all stored verdicts, then again after each
// change, in order and without a gap, with the devices that have changed, until
// ctx is done; then it returns nil. The map belongs to FollowVerdicts: it is
// good for the time of the call and must not be changed. A value that cannot be
// read is logged and counts as no verdict.
func (e *Etcd) FollowVerdicts(ctx context.Context, apply func(all map[device.ID]StoredVerdicts, changed []device.ID)) error {
	held := map[device.ID]StoredVerdicts{}
	begin := func(kvs []*mvccpb.KeyValue) {
		fresh := map[device.ID]StoredVerdicts{}
		for _, kv := range kvs {
			e.readVerdicts(fresh, kv)
		}
		changed := unequal(held, fresh)
		held = fresh
		apply(held, changed)
	}
	change := func(events []*clientv3.Event) {
		changed := map[device.ID]bool{}
		for _, ev := range events {
			if id, ok := e.changeVerdicts(held, ev); ok {
				changed[id] = true
			}
		}
		apply(held, slices.Sorted(maps.Keys(changed)))
	}
	for wait := newBackoff(); ; {
		err := follow(clientv3.WithRequireLeader(ctx), e.client, verdictPrefix, func(kvs []*mvccpb.KeyValue) { wait.reset(); begin(kvs) }, change)
		if ctx.Err() != nil {
			return nil
		}
		e.log.Warn("following the verdicts in etcd; trying again", "err", err)
		if wait.sleep(ctx) != nil {
			return nil
		}
	}
}

// unequal returns the devices by whose verdicts two maps differ, sorted.
func unequal(a, b map[device.ID]StoredVerdicts) (ids []device.ID) {
	for id, v := range b {
		if old, ok := a[id]; !ok || !old.Received.Equal(v.Received) || !sameVerdicts(old.Verdicts, v.Verdicts) {
			ids = append(ids, id)
		}
	}
	for id := range a {
		if _, ok := b[id]; !ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (e *Etcd) changeVerdicts(held map[device.ID]StoredVerdicts, ev *clientv3.Event) (device.ID, bool) {
	id, err := lastPart(ev.Kv.Key, verdictPrefix)
	if err != nil {
		return "", false
	}
	delete(held, id)
	if ev.Type == clientv3.EventTypePut {
		e.readVerdicts(held, ev.Kv)
	}
	return id, true
}

func (e *Etcd) readVerdicts(into map[device.ID]StoredVerdicts, kv *mvccpb.KeyValue) {
	id, err := lastPart(kv.Key, verdictPrefix)
	var j storedJSON
	if err == nil {
		err = json.Unmarshal(kv.Value, &j)
	}
	var v posture.Verdicts
	if err == nil {
		v, err = decodeVerdicts(j.Verdicts)
	}
	if err != nil {
		e.log.Error("verdicts in etcd cannot be read; taken as none", "key", string(kv.Key), "err", err)
		return
	}
	into[id] = StoredVerdicts{v, j.Received}
}

// lastPart returns the name after the prefix.
func lastPart(key []byte, prefix string) (device.ID, error) {
	rest, ok := strings.CutPrefix(string(key), prefix)
	if !ok {
		return "", fmt.Errorf("key %q is not under %s", key, prefix)
	}
	id, err := url.PathUnescape(rest)
	return device.ID(id), err
}

// pageRows is how many rows are asked for, and answered, at once.
const pageRows = 1000

// list returns what lies under the prefix at one revision. Each page that comes
// is reported to alive.
func list(ctx context.Context, c *clientv3.Client, prefix string, alive func()) (kvs []*mvccpb.KeyValue, at *pb.ResponseHeader, err error) {
	end, from := clientv3.GetPrefixRangeEnd(prefix), prefix
	for {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(pageRows)}
		if at != nil {
			opts = append(opts, clientv3.WithRev(at.Revision))
		}
		resp, err := c.Get(ctx, from, opts...)
		if err != nil {
			return nil, nil, err
		}
		alive()
		if at == nil {
			at = resp.Header
		}
		kvs = append(kvs, resp.Kvs...)
		if !resp.More || len(resp.Kvs) == 0 {
			return kvs, at, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// errRewound is the end of a watch whose other side has become another one.
var errRewound = errors.New("etcd has gone back to an older state, or is another one")

// follow lists what lies under prefix for begin, then hands every later change
// to change, until ctx is done or the watch ends. It always returns an error.
func follow(ctx context.Context, c *clientv3.Client, prefix string, begin func([]*mvccpb.KeyValue), change func([]*clientv3.Event)) error {
	kvs, at, err := list(ctx, c, prefix, func() {})
	if err != nil {
		return err
	}
	begin(kvs)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for resp := range c.Watch(ctx, prefix, watchFrom(at.Revision+1)...) {
		if err := stillThere(&resp, at); err != nil {
			return err
		}
		at = resp.Header
		if len(resp.Events) > 0 {
			change(resp.Events)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.New("the watch ended")
}

// watchFrom returns the options of a watch that begins with a revision.
func watchFrom(revision int64) []clientv3.OpOption {
	return []clientv3.OpOption{
		clientv3.WithPrefix(), clientv3.WithRev(revision),
		clientv3.WithCreatedNotify(), clientv3.WithProgressNotify(),
	}
}

// stillThere checks that a response continues what came before it.
func stillThere(resp *clientv3.WatchResponse, at *pb.ResponseHeader) error {
	if err := resp.Err(); err != nil {
		return err
	}
	if resp.Header.GetClusterId() != at.GetClusterId() || resp.Header.GetRevision() < at.GetRevision() {
		return errRewound
	}
	return nil
}
