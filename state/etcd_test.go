package state

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/device/posture"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what should take milliseconds.
const patience = 20 * time.Second

func openEtcd(t testing.TB, dir string) *Etcd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, err := OpenEmbedded(ctx, dir, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func closeEtcd(t testing.TB, e *Etcd) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Errorf("closing etcd: %v", err)
	}
}

// sockets returns what sockets this process has open.
func sockets(t *testing.T) map[string]bool {
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil || len(fds) == 0 {
		t.Skip("no /proc here")
	}
	open := map[string]bool{}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:") {
			open[to] = true
		}
	}
	return open
}

func TestEmbeddedOpensNoSocket(t *testing.T) {
	before := sockets(t)
	e := openEtcd(t, t.TempDir())
	defer closeEtcd(t, e)
	if err := e.PutVerdicts(t.Context(), "a", nil, noon); err != nil {
		t.Fatal(err)
	}
	if after := sockets(t); !maps.Equal(before, after) {
		t.Errorf("sockets before %v, after %v", before, after)
	}
}

func TestEmbeddedIsExclusive(t *testing.T) {
	dir := t.TempDir()
	e := openEtcd(t, dir)
	if _, err := OpenEmbedded(t.Context(), dir, slog.Default()); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened a second time: %v", err)
	}
	closeEtcd(t, e)
	closeEtcd(t, openEtcd(t, dir))
}

func TestOpenGivesUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if _, err := OpenEmbedded(ctx, dir, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("opened although nobody waits for it")
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenEmbedded(t.Context(), filepath.Join(dir, "file"), slog.Default()); err == nil {
		t.Error("opened a file as a directory")
	}
}

// news is one call of FollowVerdicts' apply.
type news struct {
	all     map[device.ID]StoredVerdicts
	changed []device.ID
}

func followVerdicts(t *testing.T, e *Etcd) (<-chan news, func()) {
	ctx, cancel := context.WithCancel(t.Context())
	c, done := make(chan news, 100), make(chan error)
	go func() {
		done <- e.FollowVerdicts(ctx, func(all map[device.ID]StoredVerdicts, changed []device.ID) { c <- news{maps.Clone(all), changed} })
	}()
	return c, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("following verdicts: %v", err)
		}
	}
}

func next[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing has come")
		panic("unreachable")
	}
}

func TestRestartKeepsVerdicts(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	e := openEtcd(t, dir)
	strange := device.ID("../x y/ü")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(e.PutVerdicts(ctx, "a", failed("disk"), noon))
	must(e.PutVerdicts(ctx, strange, passed(noon.Add(time.Hour)), noon))
	_, err := e.Client().Put(ctx, verdictPrefix+"broken", "{")
	must(err)
	closeEtcd(t, e)

	begin := time.Now()
	e = openEtcd(t, dir)
	defer closeEtcd(t, e)
	t.Logf("ready again after %v", time.Since(begin))
	c, stop := followVerdicts(t, e)
	defer stop()
	n := next(t, c)
	if want := []device.ID{strange, "a"}; fmt.Sprint(n.changed) != fmt.Sprint(want) || len(n.all) != 2 {
		t.Fatalf("found %v of %v, want %v", n.changed, n.all, want)
	}
	if v := n.all["a"]; !v.Received.Equal(noon) || !sameVerdicts(v.Verdicts, failed("disk")) {
		t.Errorf("a came back as %+v", v)
	}
	if v := n.all[strange].Verdicts["laptop"]; v.Result != posture.Passed || !v.Expires.Equal(noon.Add(time.Hour)) {
		t.Errorf("%s came back as %+v", strange, v)
	}
	must(e.PutVerdicts(ctx, "b", nil, noon))
	if n := next(t, c); fmt.Sprint(n.changed) != "[b]" || len(n.all) != 3 {
		t.Errorf("after a put: %+v", n)
	}
	must(e.DeleteVerdicts(ctx, strange))
	if n := next(t, c); len(n.changed) != 1 || n.changed[0] != strange || len(n.all) != 2 {
		t.Errorf("after a delete: %+v", n)
	}
}

// held returns what etcd holds for the egress.
func held(t *testing.T, e *Etcd, egress string) map[string]string {
	t.Helper()
	resp, err := e.Client().Get(t.Context(), directoryPrefix+egress+"/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, kv := range resp.Kvs {
		m[strings.TrimPrefix(string(kv.Key), directoryPrefix)] = fmt.Sprint(kv.ModRevision, kv.Version)
	}
	return m
}

func TestSyncDirectory(t *testing.T) {
	e := openEtcd(t, t.TempDir())
	defer closeEtcd(t, e)
	sync := func(egress string, rows ...DirectoryRow) {
		t.Helper()
		if err := e.SyncDirectory(t.Context(), egress, rows); err != nil {
			t.Fatal(err)
		}
	}
	var many []DirectoryRow
	for i := range 2500 { // more than a page, and than a transaction
		many = append(many, row(device.ID(fmt.Sprintf("d%04d", i)), fmt.Sprintf("100.72.%d.%d/32", i>>8, i&255)))
	}
	sync("hk-1", many...)
	sync("hk-10", many[:2]...)
	before := held(t, e, "hk-1")
	if len(before) != 2500 {
		t.Fatalf("%d rows, want 2500", len(before))
	}
	changed := many[7]
	changed.Groups = nil
	sync("hk-1", append([]DirectoryRow{changed}, many[100:]...)...)
	after := held(t, e, "hk-1")
	if len(after) != 2401 || after["hk-1/d0007"] == before["hk-1/d0007"] || after["hk-1/d0100"] != before["hk-1/d0100"] {
		t.Errorf("%d rows; the changed one is %s, was %s; another is %s, was %s", len(after),
			after["hk-1/d0007"], before["hk-1/d0007"], after["hk-1/d0100"], before["hk-1/d0100"])
	}
	if n := len(held(t, e, "hk-10")); n != 2 {
		t.Errorf("hk-10 has %d rows, want 2: it only begins like hk-1", n)
	}

	// What it does not know of, it finds when it has no memory.
	if _, err := e.Client().Put(t.Context(), directoryPrefix+"hk-1/intruder", "junk"); err != nil {
		t.Fatal(err)
	}
	e.mu.Lock()
	clear(e.written)
	e.mu.Unlock()
	sync("hk-1")
	if n := len(held(t, e, "hk-1")); n != 0 {
		t.Errorf("%d rows left", n)
	}
	for name, err := range map[string]error{
		"no name": e.SyncDirectory(t.Context(), "", nil),
		"twice":   e.SyncDirectory(t.Context(), "hk-1", []DirectoryRow{many[0], many[0]}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// keyPair writes a CA, and a certificate of 127.0.0.1 signed by it.
func keyPair(t *testing.T) (ca, cert, key string) {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err1 := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	private, err2 := x509.MarshalPKCS8PrivateKey(signer)
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	if err := errors.Join(err1, err2,
		os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)); err != nil {
		t.Fatal(err)
	}
	return cert, cert, key
}

// cluster starts a member that demands certificates, as an external cluster has.
func cluster(t *testing.T, ca, cert, key string) (endpoint string, stop func()) {
	t.Helper()
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.EnableGRPCGateway = t.TempDir(), "fatal", false
	c.TickMs, c.ElectionMs = 20, 100
	here := url.URL{Scheme: "https", Host: "127.0.0.1:0"}
	c.ListenPeerUrls = nil
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{here}, []url.URL{here}
	c.ClientTLSInfo = transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: ca, ClientCertAuth: true}
	server, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	<-server.Server.ReadyNotify()
	return "https://" + server.Clients[0].Addr().String(), server.Close
}

func TestExternalCluster(t *testing.T) {
	smallSegments()
	ca, cert, key := keyPair(t)
	endpoint, stop := cluster(t, ca, cert, key)
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, err := Dial(ctx, DialConfig{Endpoints: []string{endpoint}, CA: ca, Cert: cert, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer closeEtcd(t, e)
	c, stopFollowing := followVerdicts(t, e)
	defer stopFollowing()
	next(t, c)
	if err := errors.Join(e.PutVerdicts(ctx, "a", failed("disk"), noon), e.SyncDirectory(ctx, "hk-1", []DirectoryRow{row("x", "100.72.1.1/32")})); err != nil {
		t.Fatal(err)
	}
	if n := next(t, c); fmt.Sprint(n.changed) != "[a]" {
		t.Errorf("following an external cluster: %+v", n)
	}

	s := serve(t, e)
	defer s.stop()
	f := s.follow(t, timing{})
	defer f.stop()
	f.await(t, "x")
	if err := e.SyncDirectory(ctx, "hk-1", nil); err != nil {
		t.Fatal(err)
	}
	f.await(t)
	testRefusals(t, s)
}

func TestDialRefuses(t *testing.T) {
	ca, cert, key := keyPair(t)
	for name, c := range map[string]DialConfig{
		"plain http to another host": {Endpoints: []string{"http://192.0.2.1:2379"}},
		"no scheme":                  {Endpoints: []string{"127.0.0.1:2379"}},
		"mixed":                      {Endpoints: []string{"http://127.0.0.1:1", "https://127.0.0.1:1"}},
		"no CA":                      {Endpoints: []string{"https://127.0.0.1:1"}},
		"empty CA":                   {Endpoints: []string{"https://127.0.0.1:1"}, CA: key},
		"no certificate":             {Endpoints: []string{"https://127.0.0.1:1"}, CA: ca},
		"no key":                     {Endpoints: []string{"https://127.0.0.1:1"}, CA: ca, Cert: cert},
		"no endpoints":               {CA: ca, Cert: cert, Key: key},
	} {
		if _, err := Dial(t.Context(), c); err == nil {
			t.Errorf("%s: connected", name)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, DialConfig{Endpoints: []string{"http://127.0.0.1:1"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody there: %v", err)
	}
}

func BenchmarkOpenEmbedded(b *testing.B) {
	for b.Loop() {
		e := openEtcd(b, b.TempDir())
		b.StopTimer()
		closeEtcd(b, e)
		b.StartTimer()
	}
}

func BenchmarkReopenEmbedded(b *testing.B) {
	dir := b.TempDir()
	closeEtcd(b, openEtcd(b, dir))
	for b.Loop() {
		e := openEtcd(b, dir)
		b.StopTimer()
		closeEtcd(b, e)
		b.StartTimer()
	}
}

func BenchmarkEtcdPutVerdicts(b *testing.B) {
	e := openEtcd(b, b.TempDir())
	defer closeEtcd(b, e)
	for b.Loop() {
		if err := e.PutVerdicts(b.Context(), "a", passed(noon), noon); err != nil {
			b.Fatal(err)
		}
	}
}

// loopbackOnly is the egress hk-1 at 127.0.0.1.
func loopbackOnly(a netip.Addr) (string, bool) {
	return "hk-1", a == netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
