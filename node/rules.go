package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/fetch"
	"github.com/starferry/starferry/internal/priority"
	"github.com/starferry/starferry/policy"
)

// Loaded is what a node reads from files that may change while it runs.
type Loaded struct {
	Policy  *policy.Policy
	Devices []*device.Device // of a gateway
	Files   []string         // that were read: a change of one is a reason to read all again
}

// rules holds the policy in force. A reload builds the new whole, runs the tests
// that the policy file has, then swaps; whatever goes wrong, what runs goes on,
// and says that it does.
type rules struct {
	load  func() (*Loaded, error)
	apply func(*Loaded) error // puts the rest in force: devices, keys
	after func()              // what to do once a new policy is in force
	log   *slog.Logger
	lists *Lists // nil: none are fetched
	tells recounts
	hup   chan os.Signal // SIGHUP, once it is caught

	current atomic.Pointer[policy.Policy]
	reloads *prometheus.CounterVec

	turn sync.Mutex // one reload at a time

	mu       sync.Mutex // guards what follows
	files    []string
	states   map[string]fileState
	loadedAt time.Time
	failed   string // why the last reload was refused; empty if it was not
}

// newRules reads everything, and puts it in force.
func newRules(load func() (*Loaded, error), apply func(*Loaded) error, after func(), log *slog.Logger, near *Surroundings) (*rules, error) {
	r, err := makeRules(load, apply, after, log, near)
	if err == nil {
		err = r.first()
	}
	return r, err
}

// makeRules is newRules for a node that serves before it has read anything: until
// somebody calls first there is no policy.
func makeRules(load func() (*Loaded, error), apply func(*Loaded) error, after func(), log *slog.Logger, near *Surroundings) (*rules, error) {
	r := &rules{load: load, apply: apply, after: after, log: log, lists: near.Lists, tells: newRecounts(log), hup: make(chan os.Signal, 1)}
	r.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "starferry_reloads_total", Help: "Reloads of policy and devices, by result: ok or refused.",
	}, []string{"result"})
	if err := near.Metrics.Register(r.reloads); err != nil {
		return nil, err
	}
	r.lists.tellOf(r)
	return r, nil
}

// first is the first swap. Somebody waits for it, so nothing is left to others.
func (r *rules) first() error {
	_, err := r.swap(nil, func(read func() error) error { return read() })
	debug.FreeOSMemory() // of what was taken for reading, much
	return err
}

// now returns the policy in force; nil: none has been read yet.
func (r *rules) now() *policy.Policy { return r.current.Load() }

// swap reads everything anew, with a newer list if newer is not nil, and puts it
// in force, or changes nothing. The reading and the tests are done by do. It
// returns the policy before and that in force.
func (r *rules) swap(newer *fetch.Newer, do func(func() error) error) (both [2]*policy.Policy, err error) {
	r.turn.Lock()
	defer r.turn.Unlock()
	r.lists.begin(newer)
	defer func() { r.lists.end(err) }()
	began := time.Now()
	var l *Loaded
	if err := do(func() (err error) {
		if l, err = r.load(); err != nil {
			return err
		}
		if err := l.Policy.Shrunk(r.now()); err != nil {
			return err
		}
		return policy.TestsErr(l.Policy.RunTests(l.Devices, time.Now()))
	}); err != nil {
		return both, err
	}
	if r.now() != nil {
		// What was made of the lists, and read for them, would bring the next collection
		// about just when each name is decided anew: who asks would have to help with it.
		runtime.GC()
	}
	if err := r.apply(l); err != nil {
		return both, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	both = [2]*policy.Policy{r.current.Swap(l.Policy), l.Policy}
	r.files, r.loadedAt, r.failed = l.Files, time.Now(), ""
	r.states = statesOf(l.Files, began)
	return both, nil
}

// errLoading is the error of who wants what there is a policy for.
var errLoading = errors.New("the policy is still being loaded; try again in a moment")

// reload swaps, tells, and has everything judged again.
func (r *rules) reload(why string) error {
	_, err := r.reloadFor(why)
	return err
}

// reloadAndTell reloads, and waits for what is told of it.
func (r *rules) reloadAndTell(ctx context.Context) (*control.Reloaded, error) {
	c, err := r.reloadFor("asked by the control socket")
	if err != nil {
		return nil, err
	}
	return &control.Reloaded{Version: c.version, Same: c.same, Changes: c.wait(ctx)}, nil
}

func (r *rules) reloadFor(why string) (*recount, error) {
	if r.now() == nil {
		return nil, errLoading
	}
	c, err := r.exchange(why, nil)
	if err != nil {
		r.mu.Lock()
		r.failed = err.Error()
		r.mu.Unlock()
		r.log.Error("reload refused; the running policy stays", "because", why, "version", r.now().Version(), "err", err)
		return nil, fmt.Errorf("reload refused, the running policy stays:\n%w", err)
	}
	return c, nil
}

// renew does what reload does with a newer list. Who fetches it tells of errors,
// and they do not make a policy one that was refused.
func (r *rules) renew(newer *fetch.Newer) error {
	_, err := r.exchange("a list was renewed", newer)
	return err
}

// exchange puts a new policy in force, and has told behind it what that changes.
func (r *rules) exchange(why string, newer *fetch.Newer) (*recount, error) {
	r.tells.hurry()
	r.tells.left.collect()
	both, err := r.swap(newer, priority.Aside)
	if err != nil {
		r.reloads.WithLabelValues("refused").Inc()
		return nil, err
	}
	r.reloads.WithLabelValues("ok").Inc()
	r.after()
	return r.tells.put(why, both), nil
}

func (r *rules) status() (version string, loadedAt time.Time, failed string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.now(); p != nil {
		version = p.Version()
	}
	return version, r.loadedAt, r.failed
}

func (r *rules) watched() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.files
}

// settle is how long files must be left alone before they are read: editors
// and configuration tools write in several steps, and mostly who has written asks for
// a reload, which takes a moment under load, and makes this one needless.
const settle = 300 * time.Millisecond

// catch takes SIGHUP for a wish, which Run fulfils, until release is called.
func (r *rules) catch() (release func()) {
	signal.Notify(r.hup, syscall.SIGHUP)
	return func() { signal.Stop(r.hup) }
}

// Run reloads on SIGHUP and when a file changes. Folders are watched, not
// files: a file that is replaced by a rename is another file.
func (r *rules) Run(ctx context.Context) error {
	defer r.catch()()
	w := new(fsnotify.Watcher) // one that says nothing, if no files were read
	if len(r.watched()) > 0 {
		var err error
		if w, err = fsnotify.NewWatcher(); err != nil {
			return fmt.Errorf("watching files: %w", err)
		}
		defer w.Close()
	}
	var told sync.WaitGroup
	told.Go(func() { r.tells.run(ctx) })
	told.Go(func() { r.tells.left.run(ctx) })
	defer told.Wait()
	due := time.NewTimer(time.Hour)
	due.Stop()
	for {
		r.follow(w)
		select {
		case <-ctx.Done():
			return nil
		case <-r.hup:
			r.reload("SIGHUP") //nolint:errcheck // told in the log and in status
		case e := <-w.Events:
			if r.reads(e.Name) {
				due.Reset(settle)
			}
		case err := <-w.Errors:
			r.log.Warn("watching files", "err", err)
		case <-due.C:
			r.changed()
		}
	}
}

// changed reloads, as a file has changed, unless that was read already. It waits
// for a reload in work: mostly whoever has changed a file has asked for that.
func (r *rules) changed() {
	r.turn.Lock()
	read := r.read()
	r.turn.Unlock()
	if !read {
		r.reload("a file changed") //nolint:errcheck // told in the log and in status
	}
}

// follow watches the folders of all files that were read.
func (r *rules) follow(w *fsnotify.Watcher) {
	if w.Events == nil {
		return
	}
	have := map[string]bool{}
	for _, dir := range w.WatchList() {
		have[dir] = true
	}
	for _, f := range r.watched() {
		if dir := filepath.Dir(f); !have[dir] {
			have[dir] = true
			if err := w.Add(dir); err != nil {
				r.log.Warn("this folder cannot be watched: reload by SIGHUP after changes", "folder", dir, "err", err)
			}
		}
	}
}

// A fileState tells whether a file has changed; the zero one is that of none.
type fileState struct {
	size     int64
	modified time.Time
	which    any // the file behind the name
}

// statesOf returns how files are that were read from that time on. Those that
// may have changed since are left out.
func statesOf(files []string, began time.Time) map[string]fileState {
	states := map[string]fileState{}
	for _, f := range files {
		if s, ok := stateOf(f); ok && s.modified.Before(began) {
			states[f] = s
		}
	}
	return states
}

func stateOf(file string) (s fileState, ok bool) {
	st, err := os.Stat(file)
	if err != nil {
		return s, false
	}
	s = fileState{size: st.Size(), modified: st.ModTime()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		s.which = sys.Ino
	}
	return s, true
}

// read reports whether all files are as they were when they were read last, and
// taken.
func (r *rules) read() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.files {
		was, known := r.states[f]
		if is, ok := stateOf(f); !known || !ok || is != was {
			return false
		}
	}
	return r.failed == ""
}

func (r *rules) reads(name string) bool {
	for _, f := range r.watched() {
		if filepath.Clean(f) == filepath.Clean(name) {
			return true
		}
	}
	return false
}
