package state

import (
	"encoding/binary"
	"fmt"
	"iter"
	"time"

	"github.com/hashicorp/go-memdb"
)

// An index is one way to find rows of type T: by a key of type K. It is
// go-memdb's Indexer without reflection and with types. The index called "id"
// names a row; every row has exactly one key in it.
type index[T, K any] struct {
	table  string
	name   string
	unique bool
	of     func(*T) []K // the keys a row is filed under; none if it has no such key
	bytes  func(K) []byte
}

func (ix index[T, K]) schema() *memdb.IndexSchema {
	return &memdb.IndexSchema{Name: ix.name, Unique: ix.unique, AllowMissing: ix.name != "id", Indexer: indexer[T, K]{ix}.narrow()}
}

// indexer implements memdb.MultiIndexer for an index, and single
// memdb.SingleIndexer, which go-memdb requires of the index called "id".
type indexer[T, K any] struct{ index[T, K] }

type single[T, K any] struct{ indexer[T, K] }

func (x indexer[T, K]) narrow() memdb.Indexer {
	if x.name == "id" {
		return single[T, K]{x}
	}
	return x
}

func (x indexer[T, K]) FromArgs(args ...any) ([]byte, error) {
	k, ok := args[0].(K)
	if !ok {
		return nil, fmt.Errorf("index %s/%s wants %T, got %T", x.table, x.name, k, args[0])
	}
	return x.bytes(k), nil
}

func (x indexer[T, K]) FromObject(row any) (bool, [][]byte, error) {
	var keys [][]byte
	for _, k := range x.of(row.(*T)) {
		keys = append(keys, x.bytes(k))
	}
	return len(keys) > 0, keys, nil
}

func (x single[T, K]) FromObject(row any) (bool, []byte, error) {
	keys := x.of(row.(*T))
	if len(keys) != 1 {
		return false, nil, nil
	}
	return true, x.bytes(keys[0]), nil
}

// text is the key of a string: terminated, so that no key is another's prefix.
func text[S ~string](s S) []byte { return append([]byte(s), 0) }

// instant is the key of a moment; keys sort as the moments do.
func instant(t time.Time) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(t.Unix())^1<<63)
	return binary.BigEndian.AppendUint32(b, uint32(t.Nanosecond()))
}

// one returns the row of ix filed under k.
func one[T, K any](tx *memdb.Txn, ix index[T, K], k K) (*T, bool) {
	row, err := tx.First(ix.table, ix.name, k)
	if err != nil {
		panic(err) // the schema and the call disagree: a bug in this package
	}
	t, ok := row.(*T)
	return t, ok
}

// all ranges over the rows of ix in the order of its keys, as they are when
// the loop begins: its body may change the table.
func all[T, K any](tx *memdb.Txn, ix index[T, K]) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		it, err := tx.Get(ix.table, ix.name)
		if err != nil {
			panic(err)
		}
		for row := it.Next(); row != nil && yield(row.(*T)); row = it.Next() {
		}
	}
}

// watch returns a channel that is closed at the first change of the index
// after the moment of tx.
func watch[T, K any](tx *memdb.Txn, ix index[T, K]) <-chan struct{} {
	it, err := tx.Get(ix.table, ix.name)
	if err != nil {
		panic(err)
	}
	return it.WatchCh()
}
