package state

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// The keys. What follows the last slash is escaped, so that no name can leave
// its place.
const (
	verdictPrefix   = "/starferry/verdicts/"
	directoryPrefix = "/starferry/directory/"
)

// prefixFor returns the prefix under which an egress finds its directory.
func prefixFor(egress string) (string, error) {
	if egress == "" {
		return "", errors.New("directory of an egress without a name")
	}
	return directoryPrefix + url.PathEscape(egress) + "/", nil
}

// An Etcd is the durable and shared state, whether it runs in this process
// ([OpenEmbedded]) or is a cluster elsewhere ([Dial]). Its methods are safe for
// concurrent use.
type Etcd struct {
	client *clientv3.Client
	remote readOnly // what ServeDirectory lets through
	log    *slog.Logger
	close  func() error

	refused atomic.Uint64

	mu      sync.Mutex
	written map[string]copied // by prefix: what SyncDirectory has left there
}

// readOnly is the part of etcd's API that an egress is given.
type readOnly struct {
	read  func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error)
	watch func(pb.Watch_WatchServer) error
}

// Client returns etcd's own client.
func (e *Etcd) Client() *clientv3.Client { return e.client }

// Refused returns how many requests [ServeDirectory] has refused since the
// start: connections of strangers, foreign ranges, anything but reading.
func (e *Etcd) Refused() uint64 { return e.refused.Load() }

// Close ends the connection, or the embedded server. Whoever serves or follows
// must have returned by then.
func (e *Etcd) Close() error { return e.close() }

// DialConfig names an external cluster. The files are read again for each
// connection, so certificates can be renewed in place.
type DialConfig struct {
	Endpoints []string // https://host:port; http only to loopback
	CA        string   // file: who signs the members' certificates
	Cert, Key string   // files: this node's certificate
	Log       *slog.Logger
}

// Dial connects to an external cluster and waits until it answers.
func Dial(ctx context.Context, c DialConfig) (*Etcd, error) {
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	secure, err := c.tls()
	if err != nil {
		return nil, fmt.Errorf("connecting to etcd: %w", err)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            c.Endpoints,
		TLS:                  secure,
		DialKeepAliveTime:    10 * time.Second, // gRPC allows no less
		DialKeepAliveTimeout: 5 * time.Second,
		Logger:               zapInto(log, nil),
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to etcd at %q: %w", c.Endpoints, err)
	}
	if _, err := client.Get(ctx, verdictPrefix, clientv3.WithLimit(1), clientv3.WithKeysOnly()); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to etcd at %q: %w", c.Endpoints, err), client.Close())
	}
	return &Etcd{
		client:  client,
		remote:  throughClient(client),
		log:     log,
		close:   client.Close,
		written: map[string]copied{},
	}, nil
}

// tls returns how to secure the connection, nil for plain http to loopback.
func (c DialConfig) tls() (*tls.Config, error) {
	plain := 0
	for _, ep := range c.Endpoints {
		if loopback(ep) {
			plain++
		} else if !strings.HasPrefix(ep, "https://") {
			return nil, fmt.Errorf("endpoint %q: want https://host:port", ep)
		}
	}
	if plain > 0 && plain < len(c.Endpoints) {
		return nil, fmt.Errorf("endpoints %q: http and https cannot be mixed", c.Endpoints)
	}
	if plain > 0 {
		return nil, nil
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("reading the CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", c.CA)
	}
	if _, err := tls.LoadX509KeyPair(c.Cert, c.Key); err != nil {
		return nil, fmt.Errorf("reading this node's certificate: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
			return &pair, err
		},
	}, nil
}

// loopback reports whether the endpoint is plain http on this machine.
func loopback(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" {
		return false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return err == nil && a.IsLoopback()
}

// throughClient relays the read-only API to a cluster.
func throughClient(c *clientv3.Client) readOnly {
	conn := c.ActiveConnection()
	size := grpc.MaxCallRecvMsgSize(maxMessage)
	return readOnly{
		read: func(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
			return pb.NewKVClient(conn).Range(clientv3.WithRequireLeader(ctx), r, size)
		},
		watch: func(down pb.Watch_WatchServer) error {
			ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(down.Context()))
			defer cancel()
			up, err := pb.NewWatchClient(conn).Watch(ctx, size)
			if err != nil {
				return err
			}
			return relay(down, up, cancel)
		},
	}
}

// relay passes requests up and responses down until either side ends. An error
// of the lower side, such as a refusal, goes before what follows from it.
func relay(down pb.Watch_WatchServer, up pb.Watch_WatchClient, cancel context.CancelFunc) error {
	below := make(chan error, 1)
	go func() { // ends with down's stream, which ends with its handler
		for {
			req, err := down.Recv()
			if err == nil {
				err = up.Send(req)
			}
			if err != nil {
				below <- err
				cancel()
				return
			}
		}
	}()
	for {
		resp, err := up.Recv()
		if err == nil {
			err = down.Send(resp)
		}
		if err != nil {
			select {
			case first := <-below:
				return first
			default:
				return err
			}
		}
	}
}
