package listen

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/internal/needs"
)

func runDoH(t testing.TB, s *Server, certs *Certificates, h HTTP) string {
	return run(t, func(ctx context.Context, l net.Listener) error { return s.ServeHTTPS(ctx, l, certs, h, "doh") })
}

// web returns a client for these versions of HTTP.
func web(t testing.TB, config *tls.Config, set func(*http.Protocols)) *http.Client {
	p := new(http.Protocols)
	set(p)
	tr := &http.Transport{TLSClientConfig: config, Protocols: p, MaxIdleConnsPerHost: 4}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func h1(p *http.Protocols)  { p.SetHTTP1(true) }
func h2(p *http.Protocols)  { p.SetHTTP2(true) }
func h2c(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }

// do sends a request and reads all of the response.
func do(t testing.TB, c *http.Client, method, url, kind string, body []byte, fields ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp, b
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// A request over HTTP and what must come back.
type httpCase struct {
	what, method, path, kind string
	body                     []byte
	status                   int
	token                    string
}

func httpCases(t testing.TB) []httpCase {
	m := query("www.", 1232)
	m.Id = 0
	q := packed(t, m)
	answer := append([]byte(nil), q...)
	answer[2] |= 0x80
	update := append([]byte(nil), q...)
	update[2] |= dns.OpcodeUpdate << 3
	big := append(append([]byte(nil), q...), make([]byte, 70000)...)
	get := "/dns-query?dns="
	return []httpCase{
		{"POST", "POST", "/dns-query", messageType, q, 200, ""},
		{"parameters of the type", "POST", "/dns-query", "Application/DNS-Message; charset=x", q, 200, ""},
		{"a token", "POST", "/dns-query/s3cret", messageType, q, 200, "s3cret"},
		{"an escaped token", "POST", "/dns-query/a%20b", messageType, q, 200, "a b"},
		{"an empty token", "POST", "/dns-query/", messageType, q, 200, ""},
		{"GET", "GET", get + b64(q), "", nil, 200, ""},
		{"GET with a token", "GET", "/dns-query/s3cret?dns=" + b64(q), "", nil, 200, "s3cret"},
		{"GET with padding", "GET", get + base64.URLEncoding.EncodeToString(q), "", nil, 200, ""},
		{"escaped padding", "GET", get + b64(q) + "%3D", "", nil, 200, ""},
		{"more variables", "GET", "/dns-query?a=b&dns=" + b64(q) + "&ct=x", "", nil, 200, ""},
		{"HEAD", "HEAD", get + b64(q), "", nil, 200, ""},
		{"OPTIONS", "OPTIONS", "/dns-query", "", nil, 204, ""},
		{"not implemented is an answer", "POST", "/dns-query", messageType, update, 200, ""},

		{"another path", "GET", "/other?dns=" + b64(q), "", nil, 404, ""},
		{"a longer path", "GET", "/dns-queryx?dns=" + b64(q), "", nil, 404, ""},
		{"a path below the token", "GET", "/dns-query/a/b?dns=" + b64(q), "", nil, 404, ""},
		{"the root", "GET", "/", "", nil, 404, ""},
		{"another method", "PUT", "/dns-query", messageType, q, 405, ""},
		{"DELETE", "DELETE", "/dns-query", "", nil, 405, ""},
		{"no type", "POST", "/dns-query", "", q, 415, ""},
		{"another type", "POST", "/dns-query", "application/dns-json", q, 415, ""},
		{"no body", "POST", "/dns-query", messageType, nil, 400, ""},
		{"a short body", "POST", "/dns-query", messageType, q[:11], 400, ""},
		{"a long body", "POST", "/dns-query", messageType, big, 413, ""},
		{"an answer", "POST", "/dns-query", messageType, answer, 400, ""},
		{"no variable", "GET", "/dns-query", "", nil, 400, ""},
		{"an empty one", "GET", get, "", nil, 400, ""},
		{"no base64", "GET", get + "!!!", "", nil, 400, ""},
		{"base64 of the other alphabet", "GET", get + "AAABAAAB+/8AAAAA", "", nil, 400, ""},
		{"a line break in it", "GET", get + b64(q)[:8] + "%0A" + b64(q)[8:], "", nil, 400, ""},
		{"a broken escape", "GET", get + b64(q) + "%0", "", nil, 400, ""},
		{"an answer in the path", "GET", get + b64(answer), "", nil, 400, ""},
	}
}

func TestDoH(t *testing.T) {
	certs, pool := testCerts(t)
	handle, who := watched(echo(nil))
	addr := runDoH(t, &Server{Handle: handle}, certs, HTTP{})
	for version, set := range map[string]func(*http.Protocols){"HTTP/1.1": h1, "HTTP/2.0": h2} {
		c := web(t, &tls.Config{ServerName: "Phone.dns.example", RootCAs: pool}, set)
		for _, tt := range httpCases(t) {
			resp, b := do(t, c, tt.method, "https://"+addr+tt.path, tt.kind, tt.body)
			if resp.StatusCode != tt.status || resp.Proto != version {
				t.Errorf("%s, %s: %s over %s, want %d: %s", version, tt.what, resp.Status, resp.Proto, tt.status, b)
			}
			checkResponse(t, version+", "+tt.what, tt, resp, b)
			select {
			case c := <-who:
				if tt.status != 200 || c.Transport != DoH || c.ServerName != "phone.dns.example" || c.Token != tt.token || c.Listener != "doh" {
					t.Errorf("%s, %s: asked by %+v", version, tt.what, c)
				}
			default:
				if tt.status == 200 && !strings.HasPrefix(tt.what, "not implemented") {
					t.Errorf("%s, %s: nobody asked", version, tt.what)
				}
			}
		}
	}
}

func checkResponse(t *testing.T, what string, tt httpCase, resp *http.Response, b []byte) {
	t.Helper()
	h := resp.Header
	switch {
	case tt.status == 405 && h.Get("Allow") == "":
		t.Errorf("%s: does not say what is allowed", what)
	case tt.status >= 400 && (len(b) == 0 || len(b) > 80 || h.Get("Cache-Control") != "no-store"):
		t.Errorf("%s: %q %v", what, b, h)
	case tt.status == 200 && h.Get("Content-Type") != messageType:
		t.Errorf("%s: %v", what, h)
	case tt.status == 200 && tt.method != "HEAD":
		var m dns.Msg
		if err := m.Unpack(b); err != nil || m.Id != 0 {
			t.Errorf("%s: %v, %v", what, err, &m)
		} else if want := "private, max-age=60"; m.Rcode == 0 && h.Get("Cache-Control") != want {
			t.Errorf("%s: %q, want %q", what, h.Get("Cache-Control"), want)
		}
	}
}

func TestDoHLongAndPaddedAnswers(t *testing.T) {
	certs, pool := testCerts(t)
	addr := runDoH(t, &Server{Handle: echo(nil), Fast: known}, certs, HTTP{Path: "/q"})
	for _, set := range []func(*http.Protocols){h1, h2} {
		c := web(t, &tls.Config{ServerName: "dns.example", RootCAs: pool}, set)
		for _, name := range []string{"k1.", "www.", "big."} {
			m := withOptions(name, &dns.EDNS0_PADDING{Padding: make([]byte, 20)}, &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE})
			_, b := do(t, c, "POST", "https://"+addr+"/q", messageType, packed(t, m))
			var r dns.Msg
			if err := r.Unpack(b); err != nil || len(b)%padBlock != 0 || len(r.IsEdns0().Option) != 1 {
				t.Errorf("%s: %d bytes, %v, %v", name, len(b), err, r.IsEdns0())
			}
		}
	}
}

func TestDoHLimits(t *testing.T) {
	certs, pool := testCerts(t)
	let := make(chan struct{})
	var started sync.WaitGroup
	handle := echo(let)
	s := &Server{Limits: Limits{PerClient: 150}, Handle: func(ctx context.Context, c *Client, req []byte) []byte { started.Done(); return handle(ctx, c, req) }}
	addr := runDoH(t, s, certs, HTTP{})
	c := web(t, &tls.Config{ServerName: "dns.example", RootCAs: pool}, h2)
	url := "https://" + addr + "/dns-query?dns="
	slow := url + b64(packed(t, query("slow.", 0)))
	started.Add(1)
	do(t, c, "GET", url+b64(packed(t, query("www.", 0))), "", nil) // so that there is one connection for all
	started.Add(150)
	var done sync.WaitGroup
	for range 150 {
		done.Go(func() {
			if resp, _ := do(t, c, "GET", slow, "", nil); resp.StatusCode != 200 {
				t.Errorf("one of 150 at once: %s", resp.Status)
			}
		})
	}
	started.Wait()
	if resp, _ := do(t, c, "GET", slow, "", nil); resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("one more: %s", resp.Status)
	}
	close(let)
	done.Wait()
}

// A question in work does not keep the server from ending, and is told of
// the end.
func TestDoHEndsWithQuestionsInWork(t *testing.T) {
	certs, pool := testCerts(t)
	inWork := make(chan struct{})
	s := &Server{Handle: func(ctx context.Context, _ *Client, _ []byte) []byte {
		close(inWork)
		<-ctx.Done()
		return nil
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		if err := s.ServeHTTPS(ctx, l, certs, HTTP{}, "doh"); err != nil {
			t.Error(err)
		}
	})
	c := web(t, &tls.Config{ServerName: "dns.example", RootCAs: pool}, h2)
	done.Go(func() {
		resp, err := c.Get("https://" + l.Addr().String() + "/dns-query?dns=" + b64(packed(t, query("www.", 0))))
		if err == nil {
			resp.Body.Close()
		}
	})
	<-inWork
	idle, err := net.Dial("tcp", l.Addr().String()) // and one that says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	cancel()
	done.Wait()
}

func TestBehindAProxy(t *testing.T) {
	handle, who := watched(echo(nil))
	s := &Server{Handle: handle}
	serve := func(trusted string) string {
		return run(t, func(ctx context.Context, l net.Listener) error {
			return s.ServeHTTP(ctx, l, HTTP{Trusted: []netip.Prefix{netip.MustParsePrefix(trusted)}}, "proxied")
		})
	}
	trusting, wary := serve("127.0.0.0/8"), serve("10.0.0.0/8")
	tests := []struct {
		what, addr, field, value, from, transport string
		status                                    int
	}{
		{"a proxy", trusting, "X-Forwarded-For", "203.0.113.1, 192.0.2.7", "192.0.2.7", DoH, 200},
		{"one that says it otherwise", trusting, "Forwarded", `for="[2001:db8::7]:4711"`, "2001:db8::7", DoH, 200},
		{"one that says nothing", trusting, "X-Forwarded-Host", "dns.example", "127.0.0.1", DoH, 200},
		{"one that says nonsense", trusting, "X-Forwarded-For", "unknown", "", "", 400},
		{"somebody else", wary, "X-Forwarded-For", "192.0.2.7", "", "", 403},
		{"somebody else who says nothing", wary, "X-Forwarded-Host", "dns.example", "", "", 403},
	}
	for _, set := range []func(*http.Protocols){h1, h2c} {
		c := web(t, nil, set)
		for _, tt := range tests {
			resp, b := do(t, c, "POST", "http://"+tt.addr+"/dns-query/tok", messageType, packed(t, query("www.", 0)), tt.field, tt.value)
			if resp.StatusCode != tt.status {
				t.Errorf("%s: %s %s", tt.what, resp.Status, b)
			}
			if tt.status != 200 {
				continue
			}
			got := <-who
			if got.Addr.Addr().String() != tt.from || got.Transport != tt.transport || got.Token != "tok" || got.ServerName != "" || got.Encrypted() != (tt.transport == DoH) {
				t.Errorf("%s: asked by %+v", tt.what, got)
			}
		}
	}
}

func TestConnectionsOverHTTPAreLimited(t *testing.T) {
	busy := make(chan string, 8)
	s := &Server{Handle: echo(nil), Dropped: func(_, why string) { busy <- why }, Limits: Limits{ConnsPerClient: 1}}
	addr := run(t, func(ctx context.Context, l net.Listener) error { return s.ServeHTTP(ctx, l, HTTP{}, "http") })
	var first net.Conn
	for i := range 2 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i == 0 {
			first = conn
		}
	}
	if why := <-busy; why != Busy {
		t.Errorf("counted %q", why)
	}
	first.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
	if b, err := io.ReadAll(first); err != nil || !bytes.HasPrefix(b, []byte("HTTP/1.1 403")) {
		t.Errorf("the first connection: %q, %v", b, err)
	}
	c := web(t, nil, h1) // whose place is free again, soon after the first one's end is seen
	for {
		resp, err := c.Get("http://" + addr + "/")
		if err != nil {
			<-busy
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != 403 {
			t.Errorf("the next connection: %s", resp.Status)
		}
		break
	}
}

func TestCurl(t *testing.T) {
	needs.Tools(t, "curl")
	certs, _ := testCerts(t)
	addr := runDoH(t, &Server{Handle: echo(nil), Fast: known}, certs, HTTP{})
	q := packed(t, query("www.", 0))
	file := filepath.Join(t.TempDir(), "q")
	if err := os.WriteFile(file, q, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"--http2", "-H", "content-type: " + messageType, "--data-binary", "@" + file, "https://" + addr + "/dns-query"},
		{"--http1.1", "-H", "content-type: " + messageType, "--data-binary", "@" + file, "https://" + addr + "/dns-query"},
		{"--http2", "https://" + addr + "/dns-query?dns=" + b64(q)},
	} {
		out, err := exec.Command("curl", append([]string{"-sSkf", "--max-time", "5"}, args...)...).Output()
		var m dns.Msg
		if err == nil {
			err = m.Unpack(out)
		}
		if err != nil || len(m.Answer) != 1 {
			t.Errorf("curl %q: %v, %v", args, err, &m)
		}
	}
}

// FuzzMessage holds that every request gets a question or a refusal, and that
// questions are what the standard library takes for it.
func FuzzMessage(f *testing.F) {
	q := packed(f, query("www.", 1232))
	f.Add("GET", "dns="+b64(q), "", []byte(nil))
	f.Add("GET", "a=b&dns="+b64(q)+"%3d%3D&dns=x", "", []byte(nil))
	f.Add("HEAD", "dns=%", "", []byte(nil))
	f.Add("POST", "", messageType, q)
	f.Add("POST", "", "application/dns-message;x", make([]byte, 70000))
	f.Add("PATCH", "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, method, rawQuery, kind string, body []byte) {
		r := httptest.NewRequest("POST", "/dns-query", bytes.NewReader(body))
		r.Method, r.URL.RawQuery = method, rawQuery
		r.Header.Set("Content-Type", kind)
		req, status, why := message(r, make([]byte, 0, 64))
		if (status == 0) != (why == "") || status != 0 && (status < 400 || req != nil) {
			t.Fatalf("%d %q with a question of %d bytes", status, why, len(req))
		}
		if status != 0 {
			return
		}
		if len(req) < headerLen || len(req) > maxQuestion || req[2]&0x80 != 0 {
			t.Fatalf("not a question: %x", req)
		}
		if method == "POST" && !bytes.Equal(req, body) {
			t.Fatalf("%x became %x", body, req)
		}
		if method == "GET" {
			want, err := base64.URLEncoding.WithPadding(base64.NoPadding).DecodeString(strings.TrimRight(r.URL.Query().Get("dns"), "="))
			if err != nil || !bytes.Equal(req, want) {
				t.Fatalf("%q became %x, want %x, %v", rawQuery, req, want, err)
			}
		}
	})
}

func BenchmarkDoH(b *testing.B) {
	certs, pool := testCerts(b)
	addr := runDoH(b, &Server{Handle: echo(nil), Fast: known}, certs, HTTP{})
	c := web(b, &tls.Config{ServerName: "dns.example", RootCAs: pool}, h2)
	q := packed(b, query("k1.example.com.", 0))
	b.ReportAllocs()
	for b.Loop() {
		if resp, _ := do(b, c, "POST", "https://"+addr+"/dns-query", messageType, q); resp.StatusCode != 200 {
			b.Fatal(resp.Status)
		}
	}
}

// A page is a response that is thrown away.
type page http.Header

func (p page) Header() http.Header         { return http.Header(p) }
func (p page) Write(b []byte) (int, error) { return len(b), nil }
func (p page) WriteHeader(int)             {}

// BenchmarkRequest is what of DoH is not net/http's.
func BenchmarkRequest(b *testing.B) {
	s := &Server{Fast: known}
	g := &gate{Server: s, name: "doh"}
	h := newDoH(s, HTTP{}, newDoor(Limits{})).handler(context.Background())
	q := packed(b, query("k1.example.com.", 0))
	body := bytes.NewReader(q)
	r := httptest.NewRequest("POST", "/dns-query", body)
	r.Header.Set("Content-Type", messageType)
	r.TLS = new(tls.ConnectionState)
	r = r.WithContext(context.WithValue(r.Context(), visitKey{}, &visit{gate: g}))
	w := page{}
	b.ReportAllocs()
	for b.Loop() {
		body.Seek(0, io.SeekStart)
		h.ServeHTTP(w, r)
	}
}
