package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/policy"
	"github.com/starferry/starferry/resolver/listen"
	"github.com/starferry/starferry/resolver/upstream"
	"github.com/starferry/starferry/state"
)

// A tower is a gateway that runs on the machine's own network, with one resolver.
type tower struct {
	*Gateway
	dir      string
	client   control.Client
	resolver *dns.Server
	broken   atomic.Bool  // the policy is, from now on
	text     atomic.Value // of the policy, a string; none: all is allowed
	said     said
}

// said is what a node has logged, a line for each record.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

// lines returns the lines that have a text.
func (s *said) lines(with string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range strings.Split(s.text.String(), "\n") {
		if strings.Contains(l, with) {
			out = append(out, l)
		}
	}
	return out
}

func newTower(t *testing.T) *tower {
	w := newTowerWith(t, nil, nil)
	w.loaded(t)
	return w
}

// loaded waits until the policy is in force.
func (w *tower) loaded(t *testing.T) {
	t.Helper()
	eventually(t, "the policy is in force", func() bool { return w.status(t).Policy.Version != "" })
}

// newTowerWith makes one that has lists, and loads by load instead of its own.
// It need not have loaded yet.
func newTowerWith(t *testing.T, lists *Lists, load func() (*Loaded, error)) *tower {
	dir, err := os.MkdirTemp("", "sf") // a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &tower{dir: dir, client: control.Client(filepath.Join(dir, "g.sock")), resolver: newResolver(t)}
	w.certificate(t, "dns.example")
	if load == nil {
		load = w.load
	}
	if w.Gateway, err = NewGateway(w.settings(), gatewayKey, load, Surroundings{
		Log:      slog.New(slog.NewJSONHandler(&w.said, nil)),
		Lists:    lists,
		Services: func(addrs []netip.Addr, _ int, out func([]byte)) (Services, error) { return newInet(addrs, out), nil },
		Shared:   lonelyState,
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(serving(t, w.Run))
	eventually(t, "the node answers", func() bool {
		_, err := w.client.Status(t.Context())
		return err == nil
	})
	return w
}

func (w *tower) settings() *configs.Gateway {
	set := &configs.Gateway{Node: configs.Node{
		Name: "gw", StateDir: filepath.Join(w.dir, "state"), Control: string(w.client), Address: gatewayAddrs[:1], Pool: poolA[:1], MTU: 1380,
	}}
	loopback := netip.MustParseAddrPort("127.0.0.1:0")
	set.DNS.Listen, set.DNS.TLS, set.DNS.Sockets = []netip.AddrPort{loopback}, []netip.AddrPort{loopback}, 2
	set.DNS.Certificates = []configs.Certificate{{Cert: filepath.Join(w.dir, "cert.pem"), Key: filepath.Join(w.dir, "key.pem")}}
	set.DNS.Cache.Size, set.DNS.Cache.MaxTTL = 1<<20, time.Hour
	set.DNS.RateLimit.Client = configs.Rate{PerSecond: 1000, Burst: 2000}
	set.DNS.RateLimit.Responses = 100
	set.QueryLog = &configs.QueryLog{File: filepath.Join(w.dir, "q.jsonl"), MaxSize: 1 << 20, Keep: 1, Privacy: "keep"}
	at := w.resolver.PacketConn.LocalAddr().(*net.UDPAddr).AddrPort()
	set.Upstreams = []configs.Upstream{{Name: "default", Servers: []upstream.Server{{Addr: at}}, Timeout: time.Second}}
	return set
}

func (w *tower) load() (*Loaded, error) {
	if w.broken.Load() {
		return nil, errors.New("a mistake")
	}
	text, given := w.text.Load().(string)
	if !given {
		text = "policies: []\ndefault: allow\n"
	}
	p, err := policy.Parse("policy.yaml", []byte(text), nil)
	return &Loaded{Policy: p, Devices: []*device.Device{
		{ID: "alice", Kind: device.ByWireGuard, Key: laptopKey.Public(), Overlay: singles(laptopAddrs[:1])},
		{ID: "office", Kind: device.ByNetwork, LAN: prefixes("192.168.1.0/24")},
	}}, err
}

func (w *tower) certificate(t *testing.T, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, of, of, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(w.dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// newResolver answers every A with one address, until it is shut down.
func newResolver(t *testing.T) *dns.Server { return newResolverOf(t, net.IPv4(203, 0, 113, 7)) }

func newResolverOf(t *testing.T, all net.IP) *dns.Server {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		h := dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 600}
		r.Answer = []dns.RR{&dns.A{Hdr: h, A: all}}
		w.WriteMsg(r) //nolint:errcheck // an answer that is lost is asked for again
	})}
	ended := make(chan error, 1)
	go func() { ended <- s.ActivateAndServe() }()
	t.Cleanup(func() {
		s.Shutdown() //nolint:errcheck // the test may have done so
		<-ended
	})
	return s
}

// lonelyState is that of a gateway to which nobody reports.
func lonelyState(context.Context) (*Shared, error) {
	return &Shared{
		FollowVerdicts: func(ctx context.Context, _ func(map[device.ID]state.StoredVerdicts, []device.ID)) error {
			<-ctx.Done()
			return nil
		},
		SyncDirectory:  func(context.Context, string, []state.DirectoryRow) error { return nil },
		ServeDirectory: refuseAll, Close: func() error { return nil },
	}, nil
}

func (w *tower) status(t *testing.T) *control.Status {
	t.Helper()
	s, err := w.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *tower) ask(t *testing.T, name, device string) string {
	t.Helper()
	text, err := w.client.Query(t.Context(), control.Question{Name: name, Device: device})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// fetched asks the node as those who watch it do.
func (w *tower) fetched(path string) (status int, body string) {
	r := httptest.NewRecorder()
	watched(&w.near, w.unready).ServeHTTP(r, httptest.NewRequest("GET", path, nil))
	return r.Code, r.Body.String()
}

// A running gateway is asked, tells how it is, and forgets, by its socket.
func TestControlOfGateway(t *testing.T) {
	w := newTower(t)
	text := w.ask(t, "www.example.com", "alice")
	for _, want := range []string{
		";; asked by alice (identity strong, by wireguard) from 100.72.1.10 over link\n", "status: NOERROR", ";www.example.com.\tIN\t A\n",
		"www.example.com.\t600\tIN\tA\t203.0.113.7\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the answer lacks %q:\n%s", want, text)
		}
	}
	if text := w.ask(t, "www.example.com", ""); !strings.HasPrefix(text, ";; asked by office (identity weak, by network) from 192.168.1.1 over 127.0.0.1:0\n") {
		t.Errorf("by the only network:\n%s", text)
	}
	w.tells(t)
	if n, err := w.client.Flush(t.Context(), "example.com", true); n < 2 || err != nil {
		t.Errorf("Flush = %d, %v", n, err)
	}
	if n, err := w.client.Flush(t.Context(), "", false); n != 0 || err != nil {
		t.Errorf("Flush of what is left = %d, %v", n, err)
	}
}

// tells checks what status and metrics say after two questions.
func (w *tower) tells(t *testing.T) {
	t.Helper()
	var s *control.Status
	eventually(t, "both questions are written down", func() bool {
		s = w.status(t)
		return len(s.DNS.QueryLog) == 1 && s.DNS.QueryLog[0].Written == 2
	})
	listeners := map[string]int{}
	for _, l := range s.DNS.Listeners {
		listeners[l.Transport] += l.Sockets
	}
	if listeners["udp"] != 3 || listeners["tcp"] != 2 || listeners["tls"] != 1 {
		t.Errorf("listeners: %+v", s.DNS.Listeners)
	}
	if u := s.DNS.Upstreams; len(u) != 1 || u[0].Group != "default" || !u[0].Up || u[0].Asked != 1 || u[0].RTT == 0 {
		t.Errorf("upstreams: %+v", u)
	}
	if c := s.DNS.Caches; len(c) != 2 || c[0].Entries == 0 || c[1].Entries != 1 || c[1].Hits != 1 || c[1].Misses != 1 {
		t.Errorf("caches: %+v", c)
	}
	if c := s.DNS.Certificates; len(c) != 1 || c[0].Names[0] != "dns.example" || time.Until(c[0].Expires) < 47*time.Hour {
		t.Errorf("certificates: %+v", c)
	}
	if s.DNS.Guard == nil || len(s.NotReady) > 0 {
		t.Errorf("guard %+v, not ready: %q", s.DNS.Guard, s.NotReady)
	}
	server := s.DNS.Upstreams[0].Server
	hold(t, gathered(t, w.near.Metrics), map[string]float64{
		"cache_entries lower": 1, "cache_hits_total default lower": 1, "cache_misses_total default lower": 1, "cache_hits_total  packed": 0,
		"cache_displaced_total lower": 0, "cache_displaced_total packed": 0,
		"cache_scopes_beyond_total": 0, "upstream_up default " + server: 1, "upstream_asked_total default " + server: 1,
		"upstream_answered_total default " + server: 1, "upstream_failures_total default " + server: 0, "upstream_questions_total default": 1,
		"guard_limited_total client": 0, "guard_responses_total dropped": 0, "guard_shed_total memory": 0, "guard_in_work": 0,
		"certificate_expiry_timestamp_seconds " + s.DNS.Certificates[0].File: float64(s.DNS.Certificates[0].Expires.Unix()),
		"query_log_waiting file": 0, "query_log_failing file": 0, "query_log_records_total file written": 2,
	})
}

// What is broken shows at once: in /readyz, in status, and in the metrics.
func TestReadiness(t *testing.T) {
	w := newTower(t)
	for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ok\n"} {
		if code, body := w.fetched(path); code != 200 || body != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if err := w.resolver.Shutdown(); err != nil {
		t.Fatal(err)
	}
	if text := w.ask(t, "broken.example.com", "alice"); !strings.Contains(text, "status: SERVFAIL") || !strings.Contains(text, "EDE: 22") {
		t.Errorf("without a resolver:\n%s", text)
	}
	const want = "no resolver of upstream group default answers: "
	if code, body := w.fetched("/readyz"); code != 503 || !strings.HasPrefix(body, want) || strings.Count(body, "\n") != 1 {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, body := w.fetched("/healthz"); code != 200 {
		t.Errorf("/healthz: %d %s", code, body)
	}
	s := w.status(t)
	if u := s.DNS.Upstreams[0]; u.Up || u.InARow == 0 || u.Error == "" || len(s.NotReady) != 1 || !strings.HasPrefix(s.NotReady[0], want) {
		t.Errorf("upstream %+v, not ready %q", u, s.NotReady)
	}
	var out bytes.Buffer
	if err := s.Print(&out, time.Now()); err != nil || !strings.Contains(out.String(), "NOT READY: "+want) || !strings.Contains(out.String(), "DOWN") {
		t.Errorf("%v\n%s", err, out.String())
	}
	hold(t, gathered(t, w.near.Metrics), map[string]float64{"upstream_up default " + s.DNS.Upstreams[0].Server: 0})
	if code, body := w.fetched("/metrics"); code != 200 || !strings.Contains(body, "starferry_upstream_rtt_seconds_bucket") {
		t.Errorf("/metrics: %d %s", code, body)
	}
}

// After a reload the query log is written under its name, though its file was
// renamed.
func TestReloadReopensTheQueryLog(t *testing.T) {
	w := newTower(t)
	file := w.set.QueryLog.File
	has := func(name, what string) func() bool {
		return func() bool {
			b, err := os.ReadFile(name)
			return err == nil && bytes.Contains(b, []byte(what))
		}
	}
	w.ask(t, "one.example.com", "alice")
	eventually(t, "the first question is written down", has(file, "one.example.com"))
	if err := os.Rename(file, file+".aside"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.ask(t, "two.example.com", "alice")
	eventually(t, "the second question is in the file of that name", has(file, "two.example.com"))
	if has(file+".aside", "two.example.com")() {
		t.Error("the second question is in the renamed file")
	}

	// So it is after one that is refused.
	w.broken.Store(true)
	if err := os.Rename(file, file+".aside"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.Reload(t.Context()); err == nil {
		t.Fatal("a mistake was taken")
	}
	w.ask(t, "three.example.com", "alice")
	eventually(t, "the third question is in the file of that name", has(file, "three.example.com"))
}

// A gateway that does not run has no listeners, and is not ready; links count at
// the other roles.
func TestUnready(t *testing.T) {
	o := newOffice(t)
	if why := o.unready(); len(why) != 2 || why[0] != "the listeners are not open" || why[1] != "no resolver of upstream group default answers: it has none" {
		t.Errorf("an office that does not run: %q", why)
	}
	if why := o.dns.outside.unready("none"); len(why) != 1 || why[0] != `there is no upstream group "none"` {
		t.Errorf("without a group: %q", why)
	}
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "cn-1")
		ready := func(who string, unready func() []string) {
			t.Helper()
			if why := unready(); len(why) > 0 {
				t.Errorf("%s: %q", who, why)
			}
		}
		ready("gateway", w.gateway.unready)
		ready("egress", w.egress.unready)
		ready("connector", w.connectors["cn-1"].unready)
		w.stops["cn-1"]()
		w.until(5*time.Second, "the egress is not ready", func() bool {
			why := w.egress.unready()
			return len(why) == 1 && why[0] == "no connector answers, of 2"
		})
		ready("gateway", w.gateway.unready)
	})
}

// How long answers took is told with the bounds that they were counted by.
func TestRoundTripsCumulate(t *testing.T) {
	s := upstream.ServerStats{RTT: [12]uint64{1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 4}}
	count, buckets := cumulated(&s)
	if count != 7 || len(buckets) != len(upstream.Bounds) || buckets[.001] != 1 || buckets[.002] != 1 || buckets[.005] != 3 || buckets[2] != 3 {
		t.Errorf("%d in %v", count, buckets)
	}
}

// What is answered the slow way is counted by transport.
func TestSlowAnswersAreTimed(t *testing.T) {
	o := newOffice(t)
	o.dns.server.Handle(t.Context(), &listen.Client{Transport: listen.DoT}, make([]byte, 12))
	families, err := o.near.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "starferry_dns_answer_seconds" {
			continue
		}
		for _, m := range f.Metric {
			if want := map[string]uint64{"dot": 1}[m.Label[0].GetValue()]; m.GetHistogram().GetSampleCount() != want {
				t.Errorf("%v", m)
			}
		}
		return
	}
	t.Error("nothing is told")
}
