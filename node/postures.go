package node

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
	"github.com/starferry/starferry/internal/lifecycle"
	"github.com/starferry/starferry/state"
)

const (
	postureAPI   = "/v1/posture"
	posturePort  = 80
	directoryAPI = 2379 // etcd's own port
	maxReport    = 256 << 10
)

// postures takes reports, judges them by the profiles of the policy in force,
// and tells the tables, the shared state and, through it, the egresses.
//
// Reports come over the link, where the key says whose they are, or as files
// in a folder that only an administrator's tool can write to.
type postures struct {
	g      *Gateway
	opaque func(device.ID) device.ID // makes the device ids that egresses see
	dirty  chan struct{}

	first    sync.Once     // closes restored
	restored chan struct{} // closed: the tables hold the verdicts of before the start
	ready    chan struct{} // closed: and so does the directory

	mu   sync.Mutex
	last map[device.ID]received
}

type received struct {
	report posture.Report
	at     time.Time
}

func newPostures(g *Gateway) *postures {
	return &postures{g: g, dirty: make(chan struct{}, 1), restored: make(chan struct{}), ready: make(chan struct{}), last: map[device.ID]received{}}
}

func (p *postures) tasks() ([]lifecycle.Task, error) {
	key, err := secret(filepath.Join(p.g.set.StateDir, "device-ids.key"))
	if err != nil {
		return nil, err
	}
	p.opaque = state.Opaque(key)
	tasks := []lifecycle.Task{
		{Name: "directory", Run: p.publish},
		{Name: "verdicts", Run: func(ctx context.Context) error { return p.g.shared.FollowVerdicts(ctx, p.restore) }},
	}
	for _, a := range p.g.set.Address {
		reports, err := p.g.trunk.local.ListenTCP(netip.AddrPortFrom(a, posturePort))
		if err != nil {
			return nil, fmt.Errorf("listening on the link for reports: %w", err)
		}
		directory, err := p.g.trunk.local.ListenTCP(netip.AddrPortFrom(a, directoryAPI))
		if err != nil {
			return nil, fmt.Errorf("listening on the link for the directory: %w", err)
		}
		tasks = append(tasks,
			lifecycle.Task{Name: "posture api", Run: func(ctx context.Context) error { return serveHTTP(ctx, reports, p.api()) }},
			lifecycle.Task{Name: "directory api", Run: func(ctx context.Context) error {
				return p.serve(ctx, directory)
			}})
	}
	if dir := p.g.set.PostureDrop; dir != "" {
		tasks = append(tasks, lifecycle.Task{Name: "posture files", Run: func(ctx context.Context) error { return p.watch(ctx, dir) }})
	}
	return tasks, nil
}

// serve serves the directory once it is what is true now: neither that of
// before the restart, nor one without verdicts, by which egresses would cut
// what they have just taken up again.
func (p *postures) serve(ctx context.Context, l net.Listener) error {
	select {
	case <-ctx.Done():
		return l.Close()
	case <-p.ready:
		return p.g.shared.ServeDirectory(ctx, l, p.mayFollow, p.g.log)
	}
}

// mayFollow says which egress asks for its directory.
func (p *postures) mayFollow(remote netip.Addr) (string, bool) {
	e, ok := p.g.egressOfNode(remote)
	if !ok {
		return "", false
	}
	return e.Name, true
}

// api serves the posture API: POST takes a report, GET says how the asking
// device stands. The link is the authentication.
func (p *postures) api() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+postureAPI, func(w http.ResponseWriter, r *http.Request) {
		e, ok := p.caller(r)
		if !ok {
			http.Error(w, "this address belongs to no device", http.StatusForbidden)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReport))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		verdicts, err := p.take(r.Context(), e.Device.ID, body, time.Now())
		if err == nil {
			p.g.reported(e.Device.ID)
		}
		p.answer(w, verdicts, err)
	})
	mux.HandleFunc("GET "+postureAPI, func(w http.ResponseWriter, r *http.Request) {
		e, ok := p.caller(r)
		if !ok {
			http.Error(w, "this address belongs to no device", http.StatusForbidden)
			return
		}
		p.answer(w, e.Verdicts, nil)
	})
	return mux
}

func (p *postures) caller(r *http.Request) (*state.Entry, bool) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return nil, false
	}
	e, ok := p.g.store.Directory().BySource(from.Addr().Unmap())
	return e, ok && len(e.Device.LAN) == 0
}

// A standing is how a device stands by one profile, as the API tells it.
type standing struct {
	Result  string    `json:"result"`
	Reason  string    `json:"reason,omitempty"`
	Expires time.Time `json:"expires_at,omitzero"`
}

func (p *postures) answer(w http.ResponseWriter, verdicts posture.Verdicts, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	now, out := time.Now(), map[string]standing{}
	for name, v := range verdicts {
		v = v.At(now)
		out[name] = standing{v.Result.String(), v.Reason, v.Expires}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(out) //nolint:errcheck // the device is gone
}

// take judges a report. When it returns, the verdicts are in force here, and
// on their way to the egresses.
func (p *postures) take(ctx context.Context, id device.ID, body []byte, at time.Time) (posture.Verdicts, error) {
	report, err := posture.ParseReport(body)
	if err != nil {
		return nil, fmt.Errorf("reading the report: %w", err)
	}
	p.mu.Lock()
	newest := !p.last[id].at.After(at)
	if newest {
		p.last[id] = received{report, at}
	}
	p.mu.Unlock()
	if !newest {
		return nil, errOvertaken
	}
	return p.judge(ctx, id, received{report, at})
}

// errOvertaken is returned for a report when a later one is there already.
var errOvertaken = errors.New("a later report of the device has been taken")

// latest reports whether no later report than r has come from the device. By
// the monotonic clock, where both have it: the other one may be set back.
func (p *postures) latest(id device.ID, r received) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.last[id].at.After(r.at)
}

// judge puts in force what a report shows, unless a later one came in the
// meantime, which two that are judged at once would otherwise undo.
func (p *postures) judge(ctx context.Context, id device.ID, r received) (posture.Verdicts, error) {
	verdicts := posture.Verdicts{}
	for _, profile := range p.g.rules.now().Profiles() {
		verdicts[profile.Name] = profile.Judge(r.report, r.at)
	}
	err := p.g.store.Update(func(tx state.Tx) error {
		if !p.latest(id, r) {
			return errOvertaken
		}
		return tx.PutVerdicts(id, verdicts, r.at)
	})
	if err != nil {
		return nil, err
	}
	p.sync()
	if err := p.g.shared.PutVerdicts(ctx, id, verdicts, r.at); err != nil {
		p.g.log.Error("the verdicts of a device are not on disk", "device", id, "err", err)
	}
	if _, listed := p.g.store.View().Device(id); !listed { // any more
		p.forget([]device.ID{id})
		return nil, errNoDevice
	}
	return verdicts, nil
}

// judgeAll judges the last reports again: profiles may have changed.
func (p *postures) judgeAll() {
	p.mu.Lock()
	last := maps.Clone(p.last)
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), errandTime)
	defer cancel()
	for id, r := range last {
		if _, err := p.judge(ctx, id, r); err != nil && !errors.Is(err, errOvertaken) {
			p.g.log.Error("judging a device again", "device", id, "err", err)
		}
	}
}

// restore puts what the shared state holds into the tables.
func (p *postures) restore(all map[device.ID]state.StoredVerdicts, changed []device.ID) {
	var gone []device.ID
	err := p.g.store.Update(func(tx state.Tx) error {
		for _, id := range changed {
			v, ok := all[id]
			if ok && p.left(tx, id) {
				gone = append(gone, id)
				continue
			}
			if !ok {
				if err := tx.DeleteVerdicts(id); err != nil {
					return err
				}
				continue
			}
			if _, have, _ := tx.Verdicts(id); have.After(v.Received) {
				continue // what was put here directly has not come round yet
			}
			if err := tx.PutVerdicts(id, v.Verdicts, v.Received); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		p.g.log.Error("taking over verdicts", "err", err)
	}
	p.forget(gone)
	p.first.Do(func() { close(p.restored) })
	p.sync()
}

// sync has the directories of the egresses brought up to date.
func (p *postures) sync() {
	select {
	case p.dirty <- struct{}{}:
	default:
	}
}

// publish keeps the directory of each egress as the tables are.
func (p *postures) publish(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-p.restored:
	}
	p.publishNow(ctx)
	close(p.ready)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.dirty:
		}
		p.publishNow(ctx)
		timer := time.NewTimer(gather)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
	}
}

// gather is how long changes are gathered before the next are written.
const gather = 20 * time.Millisecond

// publishNow writes what egresses may know: no users, no serial numbers, no
// reports, and device ids that mean nothing elsewhere.
func (p *postures) publishNow(ctx context.Context) {
	rows := p.g.store.View().DirectoryRows(p.opaque)
	for _, e := range p.g.set.Egresses {
		if err := p.g.shared.SyncDirectory(ctx, e.Name, rows); err != nil && ctx.Err() == nil {
			p.g.log.Error("the directory of an egress is behind", "egress", e.Name, "err", err)
			time.AfterFunc(time.Second, p.sync)
		}
	}
}

// watch takes reports that are left as files, DEVICE.json, in a folder. Who can
// write to it speaks for all devices: one that is made here belongs to this
// node's user alone.
func (p *postures) watch(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the folder for reports (posture_drop): %w", err)
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching for reports: %w", err)
	}
	defer w.Close()
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("watching for reports (posture_drop): %w", err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	select { // files are old, later reports may have been taken before the restart
	case <-ctx.Done():
		return nil
	case <-p.restored:
	}
	for _, name := range names {
		p.takeFile(ctx, name)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.Events:
			if e.Op&(fsnotify.Create|fsnotify.Write) != 0 && strings.HasSuffix(e.Name, ".json") {
				p.takeFile(ctx, e.Name)
			}
		case err := <-w.Errors:
			p.g.log.Warn("watching for reports", "err", err)
		}
	}
}

// takeFile takes one file; what is wrong with it is logged, and its device
// keeps what it has until that expires.
func (p *postures) takeFile(ctx context.Context, name string) {
	id := device.ID(strings.TrimSuffix(filepath.Base(name), ".json"))
	err := func() error {
		if _, ok := p.g.store.Directory().ByID(id); !ok {
			return errors.New("no device of that name")
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		body, err := io.ReadAll(io.LimitReader(f, maxReport))
		if err != nil {
			return err
		}
		at := info.ModTime()
		if now := time.Now(); at.After(now) {
			at = now
		}
		if _, have, _ := p.g.store.View().Verdicts(id); have.After(at) {
			return errOvertaken
		}
		_, err = p.take(ctx, id, body, at)
		return err
	}()
	if err != nil {
		p.g.log.Warn("a report was not taken", "file", name, "err", err)
	}
}

// secret reads 32 random bytes from a file, and makes it the first time.
func secret(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	switch {
	case err == nil && len(b) == sha256.Size:
		return b, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("reading the secret of device ids: %w", err)
	}
	b = make([]byte, sha256.Size)
	rand.Read(b) //nolint:errcheck // never fails
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return nil, fmt.Errorf("keeping the secret of device ids: %w", err)
	}
	return b, nil
}
