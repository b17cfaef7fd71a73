package state

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Bounds of what one egress can ask for.
const (
	maxConns   = 4        // connections from one address
	maxStreams = 8        // calls at once on a connection
	maxWatches = 4        // on one stream
	maxRequest = 16 << 10 // bytes of a request
	maxMessage = 16 << 20 // bytes of an answer: pageRows rows of maxRow
)

// clockHeader carries the server's clock in nanoseconds since 1970, taken when
// a read is answered. It costs nothing to keep and cannot be stale, unlike a row
// that says what time it was.
const clockHeader = "starferry-clock"

// ServeDirectory serves on l the part of etcd's gRPC API that an egress needs
// to follow its directory: KV.Range and Watch, over keys of that egress and no
// others. Allow says which egress a remote address belongs to; it is asked at
// each connection and at each request, so an egress can be dropped at any time.
// Everything else is PermissionDenied and counted in [Etcd.Refused].
//
// It takes l over and returns when ctx is done, which is no error. What it
// serves outlives restarts, so call [Etcd.SyncDirectory] before it: else
// egresses are shown the devices of yesterday first.
func ServeDirectory(ctx context.Context, l net.Listener, e *Etcd, allow func(remote netip.Addr) (egress string, ok bool), log *slog.Logger) error {
	g := &guard{etcd: e, allow: allow, log: log}
	srv := grpc.NewServer(
		grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(s)
			return g.refuse(s.Context(), method)
		}),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxHeaderListSize(maxRequest),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(5*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WaitForHandlers(true),
	)
	// A service of our own making with etcd's name, and Range as its only
	// method: what is not there cannot be let through by mistake.
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: pb.KV_ServiceDesc.ServiceName,
		HandlerType: (*any)(nil),
		Methods:     rangeOnly(),
	}, g)
	pb.RegisterWatchServer(srv, g)
	stop := context.AfterFunc(ctx, srv.Stop)
	defer stop()
	err := srv.Serve(&doorkeeper{Listener: l, guard: g, open: map[netip.Addr]int{}})
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serving the directory: %w", err)
}

// rangeOnly returns etcd's own description of the method Range.
func rangeOnly() (methods []grpc.MethodDesc) {
	for _, m := range pb.KV_ServiceDesc.Methods {
		if m.MethodName == "Range" {
			methods = append(methods, m)
		}
	}
	return methods
}

// A guard is the server of both services. It decides what is let through.
type guard struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	etcd  *Etcd
	allow func(netip.Addr) (string, bool)
	log   *slog.Logger
}

// refuse counts and reports a request that is not let through.
func (g *guard) refuse(ctx context.Context, what string) error {
	g.etcd.refused.Add(1)
	g.log.Warn("directory request refused", "remote", remoteOf(ctx), "request", what)
	return status.Errorf(codes.PermissionDenied, "%s is not for you", what)
}

func remoteOf(ctx context.Context) netip.Addr {
	if p, ok := peer.FromContext(ctx); ok {
		return hostOf(p.Addr)
	}
	return netip.Addr{}
}

// hostOf returns the address without its port, the zero Addr if it is not IP.
func hostOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// check returns an error unless the caller may read the keys from key up to
// end, etcd's way: no end is one key, an end of one zero byte is everything.
func (g *guard) check(ctx context.Context, key, end []byte) error {
	egress, ok := g.allow(remoteOf(ctx))
	if !ok {
		return g.refuse(ctx, "a request of a stranger")
	}
	prefix, err := prefixFor(egress)
	if err != nil || !inside(prefix, key, end) {
		return g.refuse(ctx, fmt.Sprintf("the range from %.80q to %.80q", key, end))
	}
	return nil
}

// inside reports whether a range lies within a prefix. A range that ends before
// it begins is not, which also catches the end of one zero byte.
func inside(prefix string, key, end []byte) bool {
	if !bytes.HasPrefix(key, []byte(prefix)) {
		return false
	}
	limit := []byte(clientv3.GetPrefixRangeEnd(prefix))
	return len(end) == 0 || bytes.Compare(key, end) < 0 && bytes.Compare(end, limit) <= 0
}

// Range implements pb.KVServer. Answers come in pages, whatever was asked for.
func (g *guard) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := g.check(ctx, r.Key, r.RangeEnd); err != nil {
		return nil, err
	}
	if r.Limit <= 0 || r.Limit > pageRows {
		r.Limit = pageRows
	}
	resp, err := g.etcd.remote.read(ctx, r)
	if err != nil {
		return nil, err
	}
	now := strconv.FormatInt(time.Now().UnixNano(), 10)
	return resp, grpc.SetHeader(ctx, metadata.Pairs(clockHeader, now))
}

// Watch implements pb.WatchServer.
func (g *guard) Watch(stream pb.Watch_WatchServer) error {
	return g.etcd.remote.watch(&watched{Watch_WatchServer: stream, guard: g})
}

// watched is a watch stream whose requests are checked as they come in.
type watched struct {
	pb.Watch_WatchServer
	guard   *guard
	created int
}

// Recv returns the next request, or the refusal that ends the stream.
func (w *watched) Recv() (*pb.WatchRequest, error) {
	req, err := w.Watch_WatchServer.Recv()
	if err != nil {
		return nil, err
	}
	if create := req.GetCreateRequest(); create != nil {
		if w.created++; w.created > maxWatches {
			return nil, w.guard.refuse(w.Context(), fmt.Sprintf("more than %d watches", maxWatches))
		}
		return req, w.guard.check(w.Context(), create.Key, create.RangeEnd)
	}
	if _, ok := w.guard.allow(remoteOf(w.Context())); !ok {
		return nil, w.guard.refuse(w.Context(), "a request of a stranger")
	}
	return req, nil
}

// A doorkeeper is a listener that lets in whom the guard knows, a few
// connections each, before a byte of theirs is read.
type doorkeeper struct {
	net.Listener
	guard *guard

	mu   sync.Mutex
	open map[netip.Addr]int
}

// Accept implements net.Listener.
func (d *doorkeeper) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := hostOf(conn.RemoteAddr())
		if _, ok := d.guard.allow(from); ok && d.enter(from) {
			return &guest{Conn: conn, leave: sync.OnceFunc(func() { d.exit(from) })}, nil
		}
		d.guard.etcd.refused.Add(1)
		d.guard.log.Warn("directory connection refused", "remote", from)
		if err := conn.Close(); err != nil {
			d.guard.log.Debug("closing a refused connection", "remote", from, "err", err)
		}
	}
}

func (d *doorkeeper) enter(from netip.Addr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[from] >= maxConns {
		return false
	}
	d.open[from]++
	return true
}

func (d *doorkeeper) exit(from netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[from]--; d.open[from] == 0 {
		delete(d.open, from)
	}
}

// A guest is a connection that is counted while it is open.
type guest struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *guest) Close() error {
	c.leave()
	return c.Conn.Close()
}
