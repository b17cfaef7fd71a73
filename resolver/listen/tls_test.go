package listen

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/internal/needs"
)

// writePair makes a certificate for these names that is valid until a time,
// its own issuer, and returns its files in dir.
func writePair(t testing.TB, dir, file string, until time.Time, names ...string) KeyPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: until.Add(-90 * 24 * time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p := KeyPair{filepath.Join(dir, file+".pem"), filepath.Join(dir, file+".key")}
	for name, b := range map[string]*pem.Block{p.Cert: {Type: "CERTIFICATE", Bytes: der}, p.Key: {Type: "PRIVATE KEY", Bytes: k}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// testCerts returns certificates for dns.example and *.dns.example, and for
// other.example, and the pool of their issuers.
func testCerts(t testing.TB) (*Certificates, *x509.CertPool) {
	t.Helper()
	dir, until := t.TempDir(), time.Now().Add(24*time.Hour)
	pairs := []KeyPair{
		writePair(t, dir, "first", until, "dns.example", "*.dns.example"),
		writePair(t, dir, "second", until, "other.example"),
	}
	pool := x509.NewCertPool()
	for _, p := range pairs {
		b, err := os.ReadFile(p.Cert)
		if err != nil || !pool.AppendCertsFromPEM(b) {
			t.Fatal(err)
		}
	}
	certs, err := LoadCertificates(pairs, func(err error) { t.Errorf("reported: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	return certs, pool
}

// run runs a server of one kind on a socket of its own until the test ends.
func run(t testing.TB, serve func(context.Context, net.Listener) error) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return l.Addr().String()
}

func runDoT(t testing.TB, s *Server, certs *Certificates) string {
	return run(t, func(ctx context.Context, l net.Listener) error { return s.ServeTLS(ctx, l, certs, "dot") })
}

// watched returns a handler that tells who asked.
func watched(h Handler) (Handler, <-chan Client) {
	ch := make(chan Client, 16)
	return func(ctx context.Context, c *Client, req []byte) []byte {
		ch <- *c
		return h(ctx, c, req)
	}, ch
}

func TestDoT(t *testing.T) {
	certs, pool := testCerts(t)
	handle, who := watched(echo(nil))
	addr := runDoT(t, &Server{Handle: handle}, certs)
	tests := []struct {
		what   string
		config *tls.Config
		name   string // that the certificate must be for; empty: no connection
		as     string // Client.ServerName
	}{
		{"a known name", &tls.Config{ServerName: "dns.example", RootCAs: pool}, "dns.example", "dns.example"},
		{"another one", &tls.Config{ServerName: "other.example", RootCAs: pool}, "other.example", "other.example"},
		{"letters of both cases", &tls.Config{ServerName: "Box-7.DNS.example", RootCAs: pool}, "*.dns.example", "box-7.dns.example"},
		{"an unknown name", &tls.Config{ServerName: "what.ever", InsecureSkipVerify: true}, "dns.example", "what.ever"},
		{"an address", &tls.Config{ServerName: "127.0.0.1", RootCAs: pool}, "dns.example", ""},
		{"no name", &tls.Config{InsecureSkipVerify: true}, "dns.example", ""},
		{"dot", &tls.Config{ServerName: "dns.example", RootCAs: pool, NextProtos: []string{"dot"}}, "dns.example", "dns.example"},
		{"dot among others", &tls.Config{ServerName: "dns.example", RootCAs: pool, NextProtos: []string{"x", "dot"}}, "dns.example", "dns.example"},
		{"TLS 1.2", &tls.Config{ServerName: "dns.example", RootCAs: pool, MaxVersion: tls.VersionTLS12}, "dns.example", "dns.example"},
		{"TLS 1.1", &tls.Config{ServerName: "dns.example", RootCAs: pool, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "", ""},
		{"another protocol", &tls.Config{ServerName: "dns.example", RootCAs: pool, NextProtos: []string{"h2"}}, "", ""},
	}
	for _, tt := range tests {
		conn, err := tls.Dial("tcp", addr, tt.config)
		if (err == nil) != (tt.name != "") {
			t.Errorf("%s: %v", tt.what, err)
		}
		if err != nil {
			continue
		}
		if names := conn.ConnectionState().PeerCertificates[0].DNSNames; !strings.Contains(strings.Join(names, " "), tt.name) {
			t.Errorf("%s: the certificate is for %q", tt.what, names)
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		c := dns.Conn{Conn: conn}
		c.WriteMsg(query("www.", 0))
		if r, err := c.ReadMsg(); err != nil || len(r.Answer) != 1 {
			t.Errorf("%s: %v, %v", tt.what, r, err)
		}
		conn.Close()
		if c := <-who; c.Transport != DoT || c.ServerName != tt.as || !c.Encrypted() || c.Listener != "dot" {
			t.Errorf("%s: asked by %+v", tt.what, c)
		}
	}
}

func TestSessionsAreResumed(t *testing.T) {
	certs, pool := testCerts(t)
	addr := runDoT(t, &Server{Handle: echo(nil)}, certs)
	config := &tls.Config{ServerName: "dns.example", RootCAs: pool, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	for i := range 2 {
		c := dns.Client{Net: "tcp-tls", TLSConfig: config, Timeout: 5 * time.Second}
		conn, err := c.Dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.ExchangeWithConn(query("www.", 0), conn); err != nil {
			t.Fatal(err)
		}
		if got := conn.Conn.(*tls.Conn).ConnectionState().DidResume; got != (i == 1) {
			t.Errorf("connection %d: resumed is %t", i, got)
		}
		conn.Close()
	}
}

// What is written and the end of the client's side come at once, and still
// everything is answered.
func TestDoTHalfClosed(t *testing.T) {
	certs, pool := testCerts(t)
	addr := runDoT(t, &Server{Handle: echo(nil), Fast: known}, certs)
	conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "dns.example", RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write(framed(t, "www.", "k1.", "big.", "k2."))
	conn.CloseWrite()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	b, err := io.ReadAll(conn)
	n := 0
	for ; len(b) > 2; n++ {
		b = b[2+int(binary.BigEndian.Uint16(b)):]
	}
	if err != nil || n != 4 {
		t.Errorf("%d answers, %v; want 4 and the end", n, err)
	}
}

func TestHandshakesAreNotWaitedForLong(t *testing.T) {
	certs, _ := testCerts(t)
	synctest.Test(t, func(t *testing.T) {
		l := make(pipes)
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { (&Server{}).ServeTLS(ctx, l, certs, "dot") })
		near, far := net.Pipe()
		l <- far
		start := time.Now()
		near.Write([]byte{22, 3, 1})
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want the end", err)
		}
		if d := time.Since(start); d != handshakeTime {
			t.Errorf("closed after %v", d)
		}
		cancel()
		done.Wait()
	})
}

func TestKdig(t *testing.T) {
	needs.Tools(t, "kdig")
	certs, _ := testCerts(t)
	s := &Server{Handle: echo(nil), Fast: known}
	_, dot, _ := net.SplitHostPort(runDoT(t, s, certs))
	_, doh, _ := net.SplitHostPort(runDoH(t, s, certs, HTTP{}))
	for _, args := range [][]string{
		{"-p", dot, "+tls", "+padding=128", "www.", "A"},
		{"-p", dot, "+tls", "+keepopen", "k1.", "A", "www.", "A", "k2.", "A"},
		{"-p", doh, "+https", "+padding=128", "k1.", "A"},
		{"-p", doh, "+https-get", "www.", "A"},
	} {
		out, err := exec.Command("kdig", append([]string{"@127.0.0.1", "+timeout=5", "+retry=0"}, args...)...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "192.0.2.1") || strings.Contains(string(out), "WARNING") {
			t.Errorf("kdig %q: %v\n%s", args, err, out)
		}
	}
}

func BenchmarkDoT(b *testing.B) {
	certs, pool := testCerts(b)
	addr := runDoT(b, &Server{Handle: echo(nil), Fast: known}, certs)
	conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "dns.example", RootCAs: pool})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	req, resp := framed(b, "k1.example.com."), make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(req); err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Read(resp); err != nil {
			b.Fatal(err)
		}
	}
}
