// Package querylog remembers questions, what was decided and what was answered:
// in a file of JSON lines, and as dnstap.
//
// Whoever answers questions offers a [Record] of each to a [Log]. That copies it
// into a bounded queue of each sink and returns; it never waits for a disk or a
// peer, and allocates nothing once the queues have grown. What finds no room is
// dropped, and counted. [Log.Run] takes what is in the queues to the sinks,
// within a second.
//
// Every record that is offered is at each moment in one of the numbers of
// [Stats]: it waits, it was written, it was dropped or it was lost.
//
// Who asked is hidden as [Privacy] says before a record is copied.
//
// [Parse] and [Reader] read what was written, and [Files] finds the older files
// of a log.
package querylog

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Stdout is the file name that stands for the standard output.
const Stdout = "-"

// A Config says where records go. What is zero has the default that stands
// behind it. Without a file or a dnstap there is no sink, and a Log keeps nothing.
type Config struct {
	File    string        // of JSON lines, or Stdout; empty: none
	MaxSize int64         // bytes after which a file is put aside, 100 MiB
	MaxAge  time.Duration // time after which a file is put aside, no limit
	Keep    int           // files put aside that are kept, 10
	// Compress has files put aside compressed by gzip.
	Compress bool

	Dnstap Dnstap

	Privacy Privacy
	KeyFile string // of pseudonyms; empty: a key that is gone with the process

	Queue      int // records that wait for each sink, 8192
	QueueBytes int // bytes of these, 32 MiB
}

// Dnstap says where dnstap goes: at most one of Socket, TCP and File is set.
type Dnstap struct {
	Socket string // path of a unix socket
	TCP    string // host:port
	File   string // put aside and kept as the file of JSON lines

	Identity, Version string // how the node calls itself
}

func (c *Config) setDefaults() {
	c.MaxSize = or(c.MaxSize, 100<<20)
	c.Keep = or(c.Keep, 10)
	c.Queue = or(c.Queue, 8192)
	c.QueueBytes = or(c.QueueBytes, 32<<20)
}

func or[T int | int64](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}

// A Log takes records to its sinks. A nil Log keeps nothing.
type Log struct {
	privacy Privacy
	names   *pseudonyms // nil unless privacy is Hash
	log     *slog.Logger
	outlets []*outlet
	notice  string // to be said once it runs
}

// New returns a log with the sinks of the configuration. It reads the key of
// pseudonyms; files and sockets are opened by [Log.Run].
func New(c Config, log *slog.Logger) (*Log, error) {
	c.setDefaults()
	l := &Log{privacy: c.Privacy, log: log}
	if c.Privacy == Hash {
		key, fresh, err := readKey(c.KeyFile)
		if err != nil {
			return nil, err
		}
		if l.names = newPseudonyms(key); fresh {
			l.notice = "the query log has no key file: pseudonyms change with each start"
		}
	}
	if c.File != "" {
		l.add("file", newLines(&c), &c)
	}
	tap, err := newTap(&c)
	if err != nil {
		return nil, err
	}
	if tap != nil {
		l.add("dnstap", tap, &c)
	}
	return l, nil
}

func (l *Log) add(name string, s sink, c *Config) {
	l.outlets = append(l.outlets, &outlet{name: name, sink: s, queue: newQueue(c.Queue, c.QueueBytes), log: l.log})
}

// Offer keeps a record for the sinks that do without the messages: all but
// dnstap. It neither blocks nor allocates, and keeps nothing of what it is given
// but strings.
func (l *Log) Offer(r *Record) { l.offer(r, nil, nil, false) }

// OfferWire keeps a record for all sinks, with the question as it came and the
// answer as it went, which is empty for silence.
func (l *Log) OfferWire(r *Record, query, reply []byte) { l.offer(r, query, reply, true) }

func (l *Log) offer(r *Record, query, reply []byte, wire bool) {
	if l == nil || len(l.outlets) == 0 {
		return
	}
	if l.privacy != Keep {
		hidden := *r
		l.names.hide(&hidden, l.privacy)
		r = &hidden
	}
	for _, o := range l.outlets {
		switch {
		case !o.sink.wantsWire():
			o.queue.put(r, nil, nil, false)
		case wire:
			o.queue.put(r, query, reply, l.privacy != Keep)
		}
	}
}

// Run takes records to the sinks until ctx is done, then what is left. After
// that all records are dropped.
func (l *Log) Run(ctx context.Context) error {
	if l == nil {
		<-ctx.Done()
		return nil
	}
	if l.notice != "" {
		l.log.Info(l.notice)
	}
	var wg sync.WaitGroup
	for _, o := range l.outlets {
		wg.Go(func() { o.run(ctx) })
		if t, ok := o.sink.(tidier); ok {
			wg.Go(func() { o.tidy(ctx, t) })
		}
	}
	<-ctx.Done()
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(lastCall):
		l.log.Error("the query log is not written to its end: what it writes to takes nothing")
	}
	return nil
}

// lastCall is how long the end waits for a write that has begun: a pipe that
// nobody reads must not keep a process from ending.
const lastCall = 3 * farewell

// Reopen has files that were renamed begun anew by their names now, and what
// failed tried again. Without it that is done a little later.
func (l *Log) Reopen() {
	if l == nil {
		return
	}
	for _, o := range l.outlets {
		o.hurry.Store(true)
		o.queue.rouse()
	}
}

// Stats are the counts of one sink since the start. Each record that it was
// offered is in one of the first four.
type Stats struct {
	Sink    string // file or dnstap
	Waiting int
	Written uint64
	Dropped uint64 // for want of room in the queue
	Lost    uint64 // still waiting when the log ended
	Err     string // why the sink does not take records now; empty: it does
}

// Stats returns the counts of each sink.
func (l *Log) Stats() []Stats {
	if l == nil {
		return nil
	}
	all := make([]Stats, len(l.outlets))
	for i, o := range l.outlets {
		all[i] = o.stats()
	}
	return all
}
