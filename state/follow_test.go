package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/starferry/starferry/device"
)

// A server is a ServeDirectory on loopback.
type server struct {
	etcd    *Etcd
	addr    string
	dropped atomic.Bool // the egress is no longer known
	stop    func()
}

func serve(t *testing.T, e *Etcd) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{etcd: e, addr: l.Addr().String()}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	allow := func(a netip.Addr) (string, bool) {
		egress, ok := loopbackOnly(a)
		return egress, ok && !s.dropped.Load()
	}
	go func() { done <- ServeDirectory(ctx, l, e, allow, slog.New(slog.DiscardHandler)) }()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	}
	return s
}

// A copyist is a FollowDirectory and what it has said.
type copyist struct {
	server atomic.Pointer[server] // whom to dial; may be replaced
	stop   func()
	ahead  chan time.Duration

	mu      sync.Mutex
	line    *fragile
	rows    string // the IDs
	applied int
	health  []string
	news    chan struct{}
}

func (s *server) follow(t *testing.T, timing timing) *copyist {
	f := &copyist{news: make(chan struct{}, 1), ahead: make(chan time.Duration, 100), rows: "nothing yet"}
	f.server.Store(s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- FollowDirectory(ctx, FollowConfig{
			Egress: "hk-1", Dial: f.dial, Apply: f.apply, Health: f.tell, timing: timing,
			Slice: prefixes("100.72.0.0/16"), Skew: func(d time.Duration) { f.ahead <- d },
		})
	}()
	f.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("following: %v", err)
		}
	}
	return f
}

func (f *copyist) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", f.server.Load().addr)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.line = &fragile{Conn: conn}
	return f.line, nil
}

func (f *copyist) apply(rows []DirectoryRow) {
	var ids []string
	for _, r := range rows {
		ids = append(ids, string(r.ID))
	}
	f.note(func() { f.rows, f.applied = strings.Join(ids, " "), f.applied+1 })
}

func (f *copyist) tell(up bool, reason string) {
	f.note(func() { f.health = append(f.health, fmt.Sprint(up, " ", reason)) })
}

func (f *copyist) note(what func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what()
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// until waits for a condition on what has been said.
func (f *copyist) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.After(patience)
	for {
		f.mu.Lock()
		now, said := ok(), fmt.Sprintf("rows %q, health %q", f.rows, f.health)
		f.mu.Unlock()
		if now {
			return
		}
		select {
		case <-f.news:
		case <-late:
			t.Fatalf("waiting for %s: %s", what, said)
		}
	}
}

func (f *copyist) await(t *testing.T, ids ...string) {
	t.Helper()
	want := strings.Join(ids, " ")
	f.until(t, fmt.Sprintf("rows %q", want), func() bool { return f.rows == want })
}

func (f *copyist) awaitHealth(t *testing.T, want string) {
	t.Helper()
	f.until(t, want, func() bool { return len(f.health) > 0 && f.health[len(f.health)-1] == want })
}

// A fragile connection can go dead without being closed, as a link does.
type fragile struct {
	net.Conn
	dead atomic.Bool
}

func (c *fragile) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.dead.Load() {
			return n, err
		}
	}
}

func (s *server) put(t *testing.T, ids ...string) {
	t.Helper()
	var rows []DirectoryRow
	for i, id := range ids {
		rows = append(rows, row(device.ID(id), fmt.Sprintf("100.72.1.%d/32", i)))
	}
	if err := s.etcd.SyncDirectory(t.Context(), "hk-1", rows); err != nil {
		t.Fatal(err)
	}
}

func TestFollowDirectory(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, openEtcd(t, dir))
	s.put(t, "a", "b", "c")
	eager := usualTiming
	eager.gap = 1
	f := s.follow(t, eager)
	defer f.stop()
	f.await(t, "a", "b", "c")
	f.awaitHealth(t, "true ")

	var fastest time.Duration
	for i := range 20 {
		want := []string{"a", "b"}[:1+i%2]
		begin := time.Now()
		s.put(t, want...)
		f.await(t, want...)
		if took := time.Since(begin); fastest == 0 || took < fastest {
			fastest = took
		}
	}
	t.Logf("a change is applied %v after the call of SyncDirectory", fastest)

	// What cannot be read, or belongs to others, revokes what was there.
	for key, value := range map[string]string{"a": "junk", "b": `{"id":"c","kind":"wireguard"}`, "far": `{"id":"far","kind":"wireguard","overlay":["100.99.0.1/32"]}`} {
		if _, err := s.etcd.Client().Put(t.Context(), directoryPrefix+"hk-1/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	f.await(t)
	clear(s.etcd.written)

	// The gateway restarts with something changed, and far older revisions gone.
	s.put(t, "a", "c")
	f.await(t, "a", "c")
	s.stop()
	f.until(t, "bad health", func() bool { return strings.HasPrefix(f.health[len(f.health)-1], "false ") })
	f.await(t, "a", "c")
	closeEtcd(t, s.etcd)
	s = serve(t, openEtcd(t, dir))
	s.put(t, "c", "d")
	resp, err := s.etcd.Client().Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.etcd.Client().Compact(t.Context(), resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	f.server.Store(s)
	f.await(t, "c", "d")
	f.awaitHealth(t, "true ")
	t.Logf("healed %v after the restart", time.Since(begin))

	// It restarts with nothing: its revisions begin again.
	s.stop()
	closeEtcd(t, s.etcd)
	s = serve(t, openEtcd(t, t.TempDir()))
	f.server.Store(s)
	f.await(t)
	s.put(t, "z")
	f.await(t, "z")
	s.stop()
	closeEtcd(t, s.etcd)
}

func TestSilence(t *testing.T) {
	e := openEtcd(t, t.TempDir())
	defer closeEtcd(t, e)
	s := serve(t, e)
	defer s.stop()
	s.put(t, "a", "b")
	quick := timing{progress: 20 * time.Millisecond, silence: time.Second, skew: 20 * time.Millisecond, gap: time.Millisecond}
	f := s.follow(t, quick)
	defer f.stop()
	f.await(t, "a", "b")
	f.awaitHealth(t, "true ")
	// Where nothing happens, there are signs of life all the same.
	for idle := time.Now(); time.Since(idle) < 3*quick.silence; {
		if ahead := next(t, f.ahead); ahead.Abs() > time.Second {
			t.Errorf("a clock that is the same is ahead by %v", ahead)
		}
	}
	f.mu.Lock()
	if len(f.health) != 1 || f.applied != 1 {
		t.Errorf("while nothing happened: health %q, applied %d times", f.health, f.applied)
	}
	f.line.dead.Store(true)
	f.health = nil
	f.mu.Unlock()
	begin := time.Now()
	s.put(t, "a")
	f.until(t, "silence to be noticed", func() bool { return len(f.health) > 0 && f.health[0] == "false "+errSilent.Error() })
	if took := time.Since(begin); took < quick.silence/2 { // it counts from the last sign of life
		t.Errorf("silence noticed after %v", took)
	}
	f.await(t, "a")
	f.awaitHealth(t, "true ")
}

// TestApplyIsPaced: a burst of changes does not become a burst of work.
func TestApplyIsPaced(t *testing.T) {
	e := openEtcd(t, t.TempDir())
	defer closeEtcd(t, e)
	s := serve(t, e)
	defer s.stop()
	f := s.follow(t, timing{})
	defer f.stop()
	f.awaitHealth(t, "true ")
	begin, first := time.Now(), f.applications()
	for i := range 100 {
		s.put(t, "a", "b", "c", fmt.Sprint(i))
	}
	f.await(t, "99", "a", "b", "c")
	if n, most := f.applications()-first, 2+int(time.Since(begin)/usualTiming.gap); n > most {
		t.Errorf("100 changes applied in %d parts, want at most %d", n, most)
	}
}

func (f *copyist) applications() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied
}

// FuzzInside: whatever range is let through holds no key outside the prefix.
func FuzzInside(f *testing.F) {
	own := directoryPrefix + "hk-1/"
	f.Add([]byte(own), []byte(directoryPrefix+"hk-10"), []byte(own+"a"))
	f.Add([]byte(own), []byte{0}, []byte(verdictPrefix))
	f.Add([]byte(own+"\xff\xff"), []byte(directoryPrefix+"hk-10\x00"), []byte(directoryPrefix+"hk-10"))
	f.Fuzz(func(t *testing.T, key, end, probe []byte) {
		var in bool // etcd's own rule
		switch {
		case len(end) == 0:
			in = bytes.Equal(probe, key)
		case len(end) == 1 && end[0] == 0:
			in = bytes.Compare(probe, key) >= 0
		default:
			in = bytes.Compare(probe, key) >= 0 && bytes.Compare(probe, end) < 0
		}
		if inside(own, key, end) && in && !bytes.HasPrefix(probe, []byte(own)) {
			t.Errorf("the range from %q to %q is let through and holds %q", key, end, probe)
		}
	})
}

func TestUsualTiming(t *testing.T) {
	if usualTiming.progress != 2*time.Second || usualTiming.silence != 5*time.Second {
		t.Errorf("%+v", usualTiming)
	}
}

// clockKV is a gateway of which only the clock works, and not well.
type clockKV struct {
	pb.UnimplementedKVServer
	says func() []string
}

func (k *clockKV) Range(ctx context.Context, _ *pb.RangeRequest) (*pb.RangeResponse, error) {
	var h metadata.MD
	if said := k.says(); said != nil {
		h = metadata.MD{clockHeader: said}
	}
	return &pb.RangeResponse{}, grpc.SetHeader(ctx, h)
}

func TestSkew(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var says []string
	srv := grpc.NewServer(grpc.WaitForHandlers(true))
	pb.RegisterKVServer(srv, &clockKV{says: func() []string { return says }})
	done := make(chan error)
	go func() { done <- srv.Serve(l) }()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{l.Addr().String()}, MaxCallRecvMsgSize: maxMessage})
	if err != nil {
		t.Fatal(err)
	}
	var got []time.Duration
	f := &follower{FollowConfig: FollowConfig{Skew: func(d time.Duration) { got = append(got, d) }, Log: slog.New(slog.DiscardHandler)}, prefix: "/x/"}
	says = []string{"0"}
	f.compareClocks(t.Context(), client) // connects
	for ahead, tolerance := time.Hour, 500*time.Millisecond; ahead >= -time.Hour; ahead -= time.Hour {
		got, says = nil, []string{fmt.Sprint(time.Now().Add(ahead).UnixNano())}
		if f.compareClocks(t.Context(), client); len(got) != 1 || (got[0]-ahead).Abs() > tolerance {
			t.Errorf("a clock that is %v ahead: %v", ahead, got)
		}
	}
	for _, says = range [][]string{nil, {"noon"}, {"1", "2"}} {
		got = nil
		if f.compareClocks(t.Context(), client); got != nil {
			t.Errorf("%q was taken for a time: %v", says, got)
		}
	}
	srv.Stop()
	if err := errors.Join(client.Close(), <-done); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestServeRefuses(t *testing.T) {
	e := openEtcd(t, t.TempDir())
	defer closeEtcd(t, e)
	s := serve(t, e)
	defer s.stop()
	testRefusals(t, s)
}

// testRefusals tries everything that an egress must not do.
func testRefusals(t *testing.T, s *server) {
	t.Helper()
	s.put(t, "a")
	conn, err := grpc.NewClient("passthrough:///"+s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	kv, own := pb.NewKVClient(conn), []byte(directoryPrefix+"hk-1/")
	end := []byte(directoryPrefix + "hk-10")
	resp, err := kv.Range(ctx, &pb.RangeRequest{Key: own, RangeEnd: end, Limit: 1 << 40})
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("its own directory: %v, %v", resp, err)
	}
	before, tries := s.etcd.Refused(), 0
	refused := func(what string, err error) {
		t.Helper()
		if tries++; status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v, want PermissionDenied", what, err)
		}
	}
	call := func(what string, f func() error) { t.Helper(); refused(what, f()) }
	call("Put", func() error { _, err := kv.Put(ctx, &pb.PutRequest{Key: own}); return err })
	call("Txn", func() error { _, err := kv.Txn(ctx, &pb.TxnRequest{}); return err })
	call("DeleteRange", func() error {
		_, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: own, RangeEnd: end})
		return err
	})
	call("Compact", func() error { _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 1}); return err })
	call("RangeStream", func() error {
		stream, err := kv.RangeStream(ctx, &pb.RangeRequest{Key: own, RangeEnd: end})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	})
	call("LeaseGrant", func() error {
		_, err := pb.NewLeaseClient(conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 9})
		return err
	})
	call("Authenticate", func() error {
		_, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{})
		return err
	})
	call("MemberList", func() error { _, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{}); return err })
	call("Status", func() error { _, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{}); return err })
	for what, r := range map[string][2]string{
		"verdicts":               {verdictPrefix, verdictPrefix + "zzz"},
		"one key of another":     {directoryPrefix + "hk-2/a", ""},
		"one that begins alike":  {directoryPrefix + "hk-10/a", ""},
		"its prefix, no slash":   {directoryPrefix + "hk-1", directoryPrefix + "hk-10"},
		"to beyond its end":      {string(own), directoryPrefix + "hk-2"},
		"just beyond its end":    {string(own), string(end) + "\x00"},
		"to the end of all keys": {string(own), "\x00"},
		"backwards":              {string(own) + "b", string(own) + "a"},
		"everything":             {"\x00", "\x00"},
		"nothing":                {"", ""},
	} {
		_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(r[0]), RangeEnd: []byte(r[1])})
		refused("Range of "+what, err)
		refused("Watch of "+what, watchOnce(ctx, conn, 1, &pb.WatchCreateRequest{Key: []byte(r[0]), RangeEnd: []byte(r[1])}))
	}
	refused("five watches", watchOnce(ctx, conn, maxWatches+1, &pb.WatchCreateRequest{Key: own, RangeEnd: end}))

	s.dropped.Store(true)
	_, err = kv.Range(ctx, &pb.RangeRequest{Key: own, RangeEnd: end})
	refused("Range of one who is no longer known", err)
	if n := s.etcd.Refused() - before; n != uint64(tries) {
		t.Errorf("%d refusals counted, want %d", n, tries)
	}
	stranger, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Read(make([]byte, 1)); err == nil {
		t.Error("a stranger is spoken to")
	}
}

// watchOnce asks for n watches on one stream and returns how the stream ends.
func watchOnce(ctx context.Context, conn *grpc.ClientConn, n int, r *pb.WatchCreateRequest) error {
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return err
	}
	for range n {
		if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}); err != nil {
			break // the stream tells why
		}
	}
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
}

// TestConnectionsAreFew: one egress cannot take all memory with connections.
func TestConnectionsAreFew(t *testing.T) {
	e := openEtcd(t, t.TempDir())
	defer closeEtcd(t, e)
	s := serve(t, e)
	defer s.stop()
	greeted := func() (net.Conn, bool) {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.Read(make([]byte, 1)) // a gRPC server speaks first
		return conn, err == nil
	}
	var open []net.Conn
	for i := range maxConns + 1 {
		conn, ok := greeted()
		if open = append(open, conn); ok != (i < maxConns) {
			t.Errorf("connection %d: greeted %v", i, ok)
		}
	}
	for _, conn := range open {
		conn.Close()
	}
	for late := time.Now().Add(patience); ; {
		conn, ok := greeted()
		conn.Close()
		if ok {
			break
		}
		if time.Now().After(late) {
			t.Fatal("nobody is let in after all have left")
		}
	}
}
