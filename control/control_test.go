package control

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starferry/starferry/resolver/replay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// folder returns a folder with a short name: a socket's path has 107 bytes.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// serve runs a server until the test ends, and returns when it answers.
func serve(t *testing.T, path string, h Handlers) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, path, h) }()
	for {
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("Serve ended: %v", err)
		default:
		}
	}
	stop = func() error { cancel(); return <-ended }
	t.Cleanup(cancel)
	return stop
}

var someStatus = &Status{
	Name: "gw-sjc", Role: "gateway", Version: "0.1.0", Started: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
	Policy: Policy{Version: "3f2a", LoadedAt: time.Date(2030, 1, 1, 1, 0, 0, 0, time.UTC), Error: "policy.yaml:1:1: bad\n    x\n    ^"},
	Links: []Link{
		{Name: "hk-1", Role: "egress", Up: true, Since: time.Date(2030, 1, 1, 0, 0, 5, 0, time.UTC), RTT: 143200 * time.Microsecond,
			LastHandshake: time.Date(2030, 1, 2, 2, 29, 0, 0, time.UTC), Endpoint: "192.0.2.1:51820"},
		{Name: "alice-laptop", Role: "device", Reason: "no handshake yet"},
	},
	Leases: Leases{Used: 3, Size: 16384}, Flows: 2,
	DNS: DNS{
		Listeners: []Listener{{"udp", "127.0.0.1:53", 2}, {"tcp", "link", 1}},
		Upstreams: []Upstream{
			{Group: "default", Server: "192.0.2.53", Up: true, Since: time.Date(2030, 1, 2, 2, 29, 55, 0, time.UTC), RTT: 12300 * time.Microsecond, Asked: 120, Failed: 1},
			{Group: "corp", Server: "tls://192.0.2.54", Asked: 4, Failed: 4, InARow: 4, Error: "i/o timeout"},
		},
		Caches: []Cache{{Level: "packed", Entries: 12, Bytes: 3 << 20, Hits: 90}, {Level: "lower", Entries: 7, Bytes: 1500, Hits: 30, Misses: 5, Stale: 1, Prefetched: 2}},
		Guard:  &Guard{OverClient: 3, OverNetwork: 2, Dropped: 1, Truncated: 4, Challenged: 7, InWork: 6, Memory: 3 << 30, Shedding: true, ShedWork: 8, ShedMemory: 9},
		Certificates: []Certificate{
			{File: "a.pem", Names: []string{"a.test", "b.test", "c.test", "d.test"}, Expires: time.Date(2030, 1, 4, 3, 30, 0, 0, time.UTC)},
			{File: "b.pem", Expires: time.Date(2030, 1, 2, 2, 28, 59, 0, time.UTC), Problem: "b.pem has expired"},
		},
		QueryLog: []Sink{{Name: "file", Waiting: 1, Written: 99, Dropped: 2, Lost: 3, Error: "no space left on device"}, {Name: "dnstap"}},
	},
	Lists: []List{
		{Name: "ads", URL: "https://lists.example/ads.txt", Entries: 120, Changed: time.Date(2030, 1, 1, 2, 30, 0, 0, time.UTC), Checked: time.Date(2030, 1, 2, 2, 20, 0, 0, time.UTC)},
		{Name: "cn", Entries: 4, Error: "not taken: 1 of 1 test fails:\npolicy.yaml:2:9"},
	},
	Drops:    map[string]uint64{"no-lease": 2, "forged-source": 11},
	NotReady: []string{"no resolver answers"},
	Warnings: []string{"the clock of hk-1 is 3 s ahead"},
}

func TestPrint(t *testing.T) {
	var b bytes.Buffer
	if err := someStatus.Print(&b, time.Date(2030, 1, 2, 2, 30, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	const want = `gateway gw-sjc  0.1.0  up 1d2h
policy          3f2a   loaded 1d1h ago
leases          3 of 16384
flows           2

a newer policy was refused, the one above stays in force:
  policy.yaml:1:1: bad
      x
      ^

NOT READY: no resolver answers

LINK          ROLE    STATE  SINCE  RTT       HANDSHAKE  ENDPOINT         
hk-1          egress  up     1d2h   143.2 ms  1m0s       192.0.2.1:51820  
alice-laptop  device  DOWN   -      -         -          -                no handshake yet

LISTENER  ADDRESS       SOCKETS
udp       127.0.0.1:53  2
tcp       link          1

UPSTREAM  SERVER            STATE  SINCE  RTT      ASKED  FAILED          LAST ERROR
default   192.0.2.53        up     5s     12.3 ms  120    1
corp      tls://192.0.2.54  DOWN   -      -        4      4 (4 in a row)  i/o timeout

CACHE   ENTRIES  SIZE     HITS  MISSES  STALE  PREFETCHED
packed  12       3.0 MiB  90    -       -      -
lower   7        1.5 KiB  30    5       1      2

GUARD
questions  3 over the rate of a client, 2 of a network
responses  1 dropped, 4 truncated, 7 challenged
work       6 now; 8 turned away
memory     3.0 GiB, SHEDDING; 9 turned away

CERTIFICATE                        EXPIRES           FILE   PROBLEM
a.test, b.test, c.test and 1 more  in 2d1h           a.pem
-                                  EXPIRED 1m1s ago  b.pem  b.pem has expired

QUERY LOG  WAITING  WRITTEN  DROPPED  LOST  ERROR
file       1        99       2        3     no space left on device
dnstap     0        0        0        0

LIST  ENTRIES  CHANGED  CHECKED  ERROR
ads   120      1d0h     10m0s    
cn    4        -        -        not taken: 1 of 1 test fails: policy.yaml:2:9

DROPPED        PACKETS
forged-source  11
no-lease       2

warning: the clock of hk-1 is 3 s ahead
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestAsk(t *testing.T) {
	path := filepath.Join(folder(t), "deep", "gateway.sock")
	reloads := 0
	stop := serve(t, path, Handlers{
		Status: func() *Status { return someStatus },
		Explain: func(_ context.Context, q Question) (string, any, error) {
			if q.Name == "" {
				return "", nil, errors.New("no name")
			}
			return strings.TrimSpace(q.Name+" by "+q.Device+" "+q.Flow) + "\n", q, nil
		},
		Reload: func(context.Context) (*Reloaded, error) {
			if reloads++; reloads == 1 {
				return nil, errors.New("policy.yaml:3:4: no")
			}
			return &Reloaded{Version: "3f2a", Changes: &replay.Difference{Replayed: 7, Changed: 2}}, nil
		},
		Do: map[string]func(context.Context, url.Values) (string, error){
			"posture": func(_ context.Context, args url.Values) (string, error) { return "now " + args.Get("to"), nil },
		},
	})
	ctx, c := context.Background(), Client(path)
	if s, err := c.Status(ctx); err != nil || s.Links[0].RTT != someStatus.Links[0].RTT || s.Drops["no-lease"] != 2 {
		t.Errorf("Status = %+v, %v", s, err)
	}
	if text, err := c.Explain(ctx, Question{Name: "www.taobao.com", Device: "alice-laptop", Type: "A", Flow: "tcp/443"}, false); text != "www.taobao.com by alice-laptop tcp/443\n" {
		t.Errorf("Explain = %q, %v", text, err)
	}
	if text, err := c.Explain(ctx, Question{Name: "x.test"}, true); !strings.Contains(text, `"Name": "x.test"`) {
		t.Errorf("Explain in JSON = %q, %v", text, err)
	}
	if _, err := c.Explain(ctx, Question{}, false); err == nil || err.Error() != "no name" {
		t.Errorf("Explain without name: %v", err)
	}
	if _, err := c.Reload(ctx); err == nil || err.Error() != "policy.yaml:3:4: no" || reloads != 1 {
		t.Errorf("Reload: %v after %d", err, reloads)
	}
	if done, err := c.Reload(ctx); err != nil || done.Version != "3f2a" || done.Changes.Replayed != 7 || done.Changes.Changed != 2 {
		t.Errorf("Reload = %+v, %v", done, err)
	}
	if text, err := c.Do(ctx, "posture", url.Values{"to": {"fail"}}); text != "now fail" {
		t.Errorf("Do = %q, %v", text, err)
	}
	if _, err := c.Flush(ctx, "", false); err == nil || !strings.Contains(err.Error(), "cannot be asked") {
		t.Errorf("Flush without handler: %v", err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket: %v, %v", st.Mode(), err)
	}
	if err := stop(); err != nil {
		t.Errorf("Serve ended with %v", err)
	}
	if _, err := c.Status(ctx); !errors.Is(err, ErrNobody) {
		t.Errorf("Status after the end: %v", err)
	}
}

func TestSocketInTheWay(t *testing.T) {
	dir := folder(t)
	t.Run("of a dead process", func(t *testing.T) {
		path := filepath.Join(dir, "dead.sock")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
		stop := serveAnswering(t, path)
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	t.Run("of a living process", func(t *testing.T) {
		path := filepath.Join(dir, "living.sock")
		stop := serveAnswering(t, path)
		err := Serve(context.Background(), path, Handlers{})
		if err == nil || !strings.Contains(err.Error(), "another process answers") {
			t.Errorf("second Serve: %v", err)
		}
		if _, err := Client(path).Status(context.Background()); err != nil {
			t.Errorf("the first does not answer any more: %v", err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	t.Run("that is a file", func(t *testing.T) {
		path := filepath.Join(dir, "file")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Serve(context.Background(), path, Handlers{}); err == nil || !strings.Contains(err.Error(), "no socket") {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Run("path too long", func(t *testing.T) {
		path := filepath.Join(dir, strings.Repeat("x", 120))
		if err := Serve(context.Background(), path, Handlers{}); err == nil || !strings.Contains(err.Error(), "107 bytes") {
			t.Errorf("Serve: %v", err)
		}
	})
}

func serveAnswering(t *testing.T, path string) (stop func() error) {
	t.Helper()
	stop = serve(t, path, Handlers{Status: func() *Status { return someStatus }})
	if _, err := Client(path).Status(context.Background()); err != nil {
		t.Fatal(err)
	}
	return stop
}

func TestPrivate(t *testing.T) {
	dir := filepath.Join(folder(t), "demo")
	if err := CheckPrivate(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("CheckPrivate of nothing: %v", err)
	}
	for range 2 { // the second finds it there
		if err := MakePrivate(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := MakePrivate(dir); err == nil || !strings.Contains(err.Error(), "0755") {
		t.Errorf("MakePrivate of an open folder: %v", err)
	}
	link := dir + ".link"
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if err := CheckPrivate(link); err == nil || !strings.Contains(err.Error(), "no folder") {
		t.Errorf("CheckPrivate of a link: %v", err)
	}
}
