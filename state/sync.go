package state

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/starferry/starferry/device"
)

const (
	maxOps   = 128       // of one transaction; etcd's own bound
	maxBatch = 512 << 10 // bytes of one transaction; etcd allows 1.5 MB
	trust    = time.Minute
)

// copied is what SyncDirectory has left under a prefix. It is believed for a
// minute, in case somebody else has a hand in the cluster.
type copied struct {
	rows map[device.ID]DirectoryRow
	read time.Time
}

// SyncDirectory makes etcd hold exactly these rows for an egress: rows that are
// no more go first, then what differs is put. Readers may see a change of more
// than 128 rows in parts. After an error the next call finds out by itself what
// is there.
func (e *Etcd) SyncDirectory(ctx context.Context, egress string, rows []DirectoryRow) error {
	prefix, err := prefixFor(egress)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	have, ok := e.written[prefix]
	if !ok || time.Since(have.read) > trust {
		if have, err = e.readDirectory(ctx, prefix); err != nil {
			return fmt.Errorf("reading the directory of %s: %w", egress, err)
		}
	}
	delete(e.written, prefix) // unknown until all is acknowledged
	want, ops, err := difference(prefix, have.rows, rows)
	if err != nil {
		return fmt.Errorf("directory of %s: %w", egress, err)
	}
	for len(ops) > 0 {
		n := batch(ops)
		if _, err := e.client.Txn(ctx).Then(ops[:n]...).Commit(); err != nil {
			return fmt.Errorf("writing the directory of %s: %w", egress, err)
		}
		ops = ops[n:]
	}
	e.written[prefix] = copied{want, have.read}
	return nil
}

// readDirectory returns the rows that etcd holds. One that cannot be read is
// returned empty, so that it differs from whatever is wanted.
func (e *Etcd) readDirectory(ctx context.Context, prefix string) (copied, error) {
	kvs, _, err := list(ctx, e.client, prefix, func() {})
	if err != nil {
		return copied{}, err
	}
	c := copied{rows: map[device.ID]DirectoryRow{}, read: time.Now()}
	for _, kv := range kvs {
		id, err := lastPart(kv.Key, prefix)
		if err != nil {
			return copied{}, err
		}
		row, err := readRow(kv, prefix)
		if err != nil {
			row = DirectoryRow{}
		}
		c.rows[id] = row
	}
	return c, nil
}

// difference returns what there is to do under the prefix.
func difference(prefix string, have map[device.ID]DirectoryRow, rows []DirectoryRow) (want map[device.ID]DirectoryRow, ops []clientv3.Op, err error) {
	want = make(map[device.ID]DirectoryRow, len(rows))
	var puts []clientv3.Op
	for _, r := range rows {
		if _, twice := want[r.ID]; twice {
			return nil, nil, fmt.Errorf("two rows for %s", r.ID)
		}
		want[r.ID] = r
		if old, ok := have[r.ID]; ok && old.equal(r) {
			continue
		}
		b, err := json.Marshal(r)
		if err != nil {
			return nil, nil, err
		}
		puts = append(puts, clientv3.OpPut(rowKey(prefix, r.ID), string(b)))
	}
	for id := range have {
		if _, ok := want[id]; !ok {
			ops = append(ops, clientv3.OpDelete(rowKey(prefix, id)))
		}
	}
	return want, append(ops, puts...), nil
}

func rowKey(prefix string, id device.ID) string { return prefix + url.PathEscape(string(id)) }

// batch returns how many of the operations fit into one transaction.
func batch(ops []clientv3.Op) (n int) {
	size := 0
	for n < len(ops) && n < maxOps {
		size += len(ops[n].KeyBytes()) + len(ops[n].ValueBytes())
		if n > 0 && size > maxBatch {
			break
		}
		n++
	}
	return n
}
