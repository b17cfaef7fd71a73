package world

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/starferry/starferry/resolver/listen"

	"github.com/starferry/starferry/steer/geo"
)

func start(t *testing.T) *World {
	t.Helper()
	w, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return w
}

// ask asks a resolver of the world over a connection.
func ask(t *testing.T, c net.Conn, name string, qtype uint16) *dns.Msg {
	t.Helper()
	defer c.Close()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	m, _, err := new(dns.Client).ExchangeWithConn(q, &dns.Conn{Conn: c})
	if err != nil {
		t.Fatalf("%s %s: %v", name, dns.TypeToString[qtype], err)
	}
	return m
}

// brief writes an answer in one line.
func brief(m *dns.Msg) string {
	parts := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		parts = append(parts, strings.Join(strings.Fields(strings.TrimPrefix(rr.String(), rr.Header().String())), " "))
	}
	for _, rr := range m.Ns {
		parts = append(parts, dns.TypeToString[rr.Header().Rrtype]+" of "+rr.Header().Name)
	}
	return strings.Join(parts, ", ")
}

func TestResolvers(t *testing.T) {
	w := start(t)
	const site = "203.0.113.20"
	for _, q := range []struct {
		resolver, name string
		qtype          uint16
		want           string
	}{
		{"public", "www.allowed.test", dns.TypeA, "NOERROR, 192.0.2.80"},
		{"public", "WWW.Allowed.test", dns.TypeAAAA, "NOERROR, 3fff::80"},
		{"public", "www.allowed.test", dns.TypeMX, "NOERROR, SOA of test."},
		{"public", "nobody.test", dns.TypeA, "NXDOMAIN, SOA of test."},
		{"public", "answer-china.test", dns.TypeA, "NOERROR, SOA of test."},
		{"public", "example.com", dns.TypeA, "REFUSED"},
		{"public", "www.answer-china.test", dns.TypeA, "NOERROR, www.answer-china.cdn.test., shanghai.node.cdn.test., " + site},
		{"china", "www.listed-china.test", dns.TypeA, "NOERROR, " + site},
		{"china", "www.listed-china.test", dns.TypeAAAA, "NOERROR, 2001:2:0:f000::20"},
		{"china", "www.listed-china.test", dns.TypeMX, "NOERROR, 10 mail.listed-china.test."},
		{"china", "www.listed-china.test", dns.TypeHTTPS, `NOERROR, 1 . alpn="h3,h2" ipv4hint="203.0.113.20" ipv6hint="2001:2:0:f000::20"`},
		{"china", "nothing.listed-china.test", dns.TypeA, "NXDOMAIN, SOA of listed-china.test."},
		{"china", "four.listed-china.test", dns.TypeAAAA, "NOERROR, SOA of listed-china.test."},
		{"china", "www.answer-china.test", dns.TypeAAAA, "NOERROR, www.answer-china.cdn.test., shanghai.node.cdn.test., 2001:2:0:f000::20"},
		{"china", "www.guest-china.test", dns.TypeA, "NOERROR, " + site},
	} {
		for _, network := range []string{"udp", "tcp"} {
			var c net.Conn
			var err error
			if q.resolver == "public" {
				c, err = net.Dial(network, w.Public().String())
			} else {
				c, err = w.Dial(t.Context(), network, Resolver())
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := brief(ask(t, c, q.name, q.qtype)); got != q.want {
				t.Errorf("%s, %s: %s %s: %s, want %s", q.resolver, network, q.name, dns.TypeToString[q.qtype], got, q.want)
			}
		}
	}
}

// web is a client at the connector's place.
func web(t *testing.T, w *World, origin netip.Addr) *http.Client {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return w.Dial(ctx, "tcp", netip.AddrPortFrom(origin, 80))
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func TestOriginSeesConnector(t *testing.T) {
	w := start(t)
	for i, origin := range origins {
		res, err := web(t, w, origin).Get("http://www.listed-china.test/")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		want := fmt.Sprintf("This is the origin in China, %v, asked for www.listed-china.test.\nThe request came from %v.\n",
			netip.AddrPortFrom(origin, 80), outside[i])
		if string(body) != want {
			t.Errorf("%q, want %q", body, want)
		}
	}
}

func TestDownloads(t *testing.T) {
	w := start(t)
	c := web(t, w, origins[0])
	res, err := c.Get("http://x.test/bytes?n=1000001")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(res.Body)
	res.Body.Close()
	want := make([]byte, 1000001)
	Pattern(want, 0)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("/bytes: %d bytes, %v", len(got), err)
	}
	for _, rate := range []string{"0", "1000000", "100"} {
		res, err := c.Get("http://x.test/big?rate=" + rate)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 24)
		if _, err := io.ReadFull(res.Body, got); err != nil || !bytes.Equal(got, want[:len(got)]) {
			t.Errorf("/big at %s: %q, %v", rate, got, err)
		}
		res.Body.Close()
	}
	res, err = c.Post("http://x.test/upload", "", bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	got, _ = io.ReadAll(res.Body)
	res.Body.Close()
	if string(got) != "1000001 bytes\n" {
		t.Errorf("/upload: %q", got)
	}
	if res, err = c.Get("http://x.test/bytes?n=-1"); err != nil || res.StatusCode != http.StatusBadRequest {
		t.Errorf("%v, %v", res, err)
	}
	res.Body.Close()
}

func TestEchoOverUDP(t *testing.T) {
	w := start(t)
	for _, origin := range origins {
		c, err := w.Dial(t.Context(), "udp", netip.AddrPortFrom(origin, 443))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(c, "hello")
		b := make([]byte, 10)
		if n, err := c.Read(b); err != nil || string(b[:n]) != "hello" {
			t.Errorf("%q, %v", b[:n], err)
		}
	}
}

func TestPing(t *testing.T) {
	w := start(t)
	for _, to := range append(origins[:2:2], resolvers...) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := w.Ping(ctx, to); err != nil {
			t.Error(err)
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := w.Ping(ctx, netip.MustParseAddr("203.0.113.99")); err == nil {
		t.Error("an address that is not there answers")
	}
}

// Connecting to an address that nobody has must not look like a network
// without that family: connectors find out so whether they have IPv6.
func TestEverywhereIsRouted(t *testing.T) {
	w := start(t)
	c, err := w.Dial(t.Context(), "udp", netip.MustParseAddrPort("[2400:3200::1]:53"))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestCountries(t *testing.T) {
	b, err := Countries()
	if err != nil {
		t.Fatal(err)
	}
	db, err := geo.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{"203.0.113.20": "CN", "2001:2:0:f000::20": "CN", "192.0.2.80": "US", "3fff::80": "US", "198.51.100.1": ""} {
		if code, _ := db.Country(netip.MustParseAddr(addr)); code != want {
			t.Errorf("%s is in %q, want %q", addr, code, want)
		}
	}
}

func TestPattern(t *testing.T) {
	whole := make([]byte, 1000)
	Pattern(whole, 0)
	for offset := range 200 {
		part := make([]byte, 300)
		Pattern(part, int64(offset))
		if !bytes.Equal(part, whole[offset:offset+300]) {
			t.Fatalf("at %d: %q", offset, part)
		}
	}
}

func FuzzZone(f *testing.F) {
	z, err := parseZone("china.zone", chinaZone)
	if err != nil {
		f.Fatal(err)
	}
	q, _ := new(dns.Msg).SetQuestion("www.answer-china.test.", dns.TypeA).SetEdns0(1232, true).Pack()
	f.Add(q)
	f.Fuzz(func(t *testing.T, req []byte) {
		resp := z.handle(t.Context(), &listen.Client{}, req)
		var m dns.Msg
		if resp != nil && (m.Unpack(resp) != nil || !m.Response) {
			t.Errorf("%x is answered with %x", req, resp)
		}
	})
}

func FuzzEchoReply(f *testing.F) {
	f.Add(echoRequest(outside[0], origins[0], 1))
	f.Add(echoRequest(outside[1], origins[1], 1))
	f.Fuzz(func(t *testing.T, pkt []byte) {
		if key, ok := echoReply(pkt); ok && !key.from.IsValid() {
			t.Errorf("%x", pkt)
		}
	})
}
