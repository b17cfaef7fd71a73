package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A visitor is somebody who tries what the demo offers.
type visitor struct {
	*testing.T
	Options
}

// visit starts a demo and waits for the line "ready".
func visit(t *testing.T) *visitor {
	t.Helper()
	r, w := io.Pipe()
	v := &visitor{t, Options{
		DNS: "127.0.0.1:0", LANDNS: "127.0.0.1:0", Proxy: "127.0.0.1:0",
		Dir: filepath.Join(t.TempDir(), "demo"), Version: "test", Out: w,
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		err := Run(ctx, v.Options)
		w.CloseWithError(errors.Join(err, io.EOF))
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	in := bufio.NewScanner(r)
	for in.Scan() {
		t.Log(in.Text())
		v.learn(in.Text())
		if in.Text() == "ready" {
			return v
		}
	}
	t.Fatalf("no line says ready: %v", in.Err())
	return nil
}

// learn reads the ports from the lines that say what to type.
func (v *visitor) learn(line string) {
	if _, rest, ok := strings.Cut(line, "--proxy http://"); ok {
		v.Proxy = strings.Fields(rest)[0]
	}
	_, rest, ok := strings.Cut(line, "dig @")
	if !ok {
		return
	}
	f := strings.Fields(rest) // host -p port name
	if at := f[0] + ":" + f[2]; strings.Contains(line, "the office:") {
		v.LANDNS = at
	} else {
		v.DNS = at
	}
}

// dig asks and returns the answer in one line: rcode, addresses, EDE.
func (v *visitor) dig(at, name string, qtype uint16) string {
	v.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(1232, false)
	m, _, err := (&dns.Client{Timeout: 10 * time.Second}).Exchange(q, at)
	if err != nil {
		v.Fatalf("%s: %v", name, err)
	}
	parts := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		parts = append(parts, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if ede, ok := o.(*dns.EDNS0_EDE); ok {
				parts = append(parts, fmt.Sprintf("EDE %d %q", ede.InfoCode, ede.ExtraText))
			}
		}
	}
	return strings.Join(parts, " ")
}

func (v *visitor) want(at, name string, qtype uint16, parts ...string) {
	v.Helper()
	got := v.dig(at, name, qtype)
	for _, p := range parts {
		if !strings.Contains(got, p) {
			v.Errorf("%s %s: %s, want %q in it", name, dns.TypeToString[qtype], got, p)
		}
	}
}

// virtual asks for a name that must have one virtual address.
func (v *visitor) virtual(name string, qtype uint16, pool string) {
	v.Helper()
	first := v.dig(v.DNS, name, qtype)
	f := strings.Fields(first)
	if len(f) < 2 || f[0] != "NOERROR" {
		v.Errorf("%s: %s, want a virtual address", name, first)
		return
	}
	if a, err := netip.ParseAddr(f[1]); err != nil || !netip.MustParsePrefix(pool).Contains(a) {
		v.Errorf("%s: %s, want an address in %s", name, first, pool)
	}
	if again := v.dig(v.DNS, name, qtype); again != first {
		v.Errorf("%s: first %s, then %s", name, first, again)
	}
}

func (v *visitor) client() *http.Client {
	t := &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: v.Proxy})}
	v.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: 20 * time.Second}
}

func (v *visitor) get(url string) (int, string) {
	v.Helper()
	res, err := v.client().Get(url)
	if err != nil {
		v.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		v.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestDemo(t *testing.T) {
	v := visit(t)
	if err := Run(t.Context(), v.Options); err == nil || !strings.Contains(err.Error(), "another demo is running") {
		t.Errorf("a second demo in the same folder: %v", err)
	}
	v.names()
	v.pages()
	v.posture()
}

func (v *visitor) names() {
	v.want(v.DNS, "www.allowed.test", dns.TypeA, "NOERROR 192.0.2.80")
	v.want(v.DNS, "www.phishing.test", dns.TypeA, "NXDOMAIN", "EDE 15", "phishing")
	v.want(v.DNS, "intranet.corp.test", dns.TypeA, "NOERROR 10.1.2.3", "EDE 4")
	for _, name := range []string{"www.listed-china.test", "www.answer-china.test", "www.guest-china.test"} {
		v.virtual(name, dns.TypeA, "198.19.0.0/18")
		v.virtual(name, dns.TypeAAAA, "2001:2:0:1000::/52")
	}
	v.want(v.DNS, "four.listed-china.test", dns.TypeAAAA, "NOERROR")
	v.want(v.DNS, "www.listed-china.test", dns.TypeMX, "10 mail.listed-china.test.")
	v.want(v.DNS, "nothing.listed-china.test", dns.TypeA, "NXDOMAIN")
	v.want(v.LANDNS, "www.allowed.test", dns.TypeA, "NOERROR 192.0.2.80")
	v.want(v.LANDNS, "www.listed-china.test", dns.TypeA, "REFUSED", "EDE 18", "identity weak")
	v.want(v.LANDNS, "www.guest-china.test", dns.TypeA, "REFUSED", "EDE 18", "no_way")
}

func (v *visitor) pages() {
	for _, host := range []string{"www.listed-china.test", "www.answer-china.test", "www.guest-china.test"} {
		code, body := v.get("http://" + host + "/")
		if code != http.StatusOK || !strings.Contains(body, "asked for "+host) ||
			!strings.Contains(body, "came from 203.0.113.7") && !strings.Contains(body, "came from 2001:2:0:f000::7") {
			v.Errorf("%s: %d %s", host, code, body)
		}
	}
	for url, want := range map[string]string{
		"http://www.allowed.test/":          "192.0.2.80 is no virtual address",
		"http://nobody.test/":               "NXDOMAIN",
		"http://192.0.2.80/":                "192.0.2.80 is no virtual address",
		"http://private.listed-china.test/": "private.listed-china.test",
	} {
		if code, body := v.get(url); code != http.StatusBadGateway || !strings.Contains(body, want) {
			v.Errorf("%s: %d %s, want 502 and %q", url, code, body, want)
		}
	}
}

func (v *visitor) posture() {
	res, err := v.client().Get("http://www.listed-china.test/big")
	if err != nil {
		v.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.CopyN(io.Discard, res.Body, 1<<20); err != nil {
		v.Fatal(err)
	}
	start := time.Now()
	if said, err := Posture(v.Context(), v.Dir, "fail"); err != nil || !strings.Contains(said, "disk_encryption") {
		v.Errorf("posture fail: %q, %v", said, err)
	}
	if n, err := io.Copy(io.Discard, res.Body); err == nil || time.Since(start) > time.Second {
		v.Errorf("the download ended %v after the posture was lost and %d more bytes with %v", time.Since(start), n, err)
	}
	v.want(v.DNS, "www.listed-china.test", dns.TypeA, "REFUSED", "EDE 18", "disk_encryption")
	if code, body := v.get("http://www.listed-china.test/"); code != http.StatusBadGateway || !strings.Contains(body, "disk_encryption") {
		v.Errorf("the page after the posture was lost: %d %s", code, body)
	}
	if said, err := Posture(v.Context(), v.Dir, "pass"); err != nil || !strings.Contains(said, "passed") {
		v.Errorf("posture pass: %q, %v", said, err)
	}
	v.virtual("www.listed-china.test", dns.TypeA, "198.19.0.0/18")
	if _, err := Posture(v.Context(), v.Dir, "maybe"); err == nil {
		v.Error("posture maybe: no error")
	}
}
