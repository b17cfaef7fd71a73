package node

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/configs"
	"github.com/starferry/starferry/resolver/cookie"
	"github.com/starferry/starferry/resolver/listen"
)

// A reload takes a new certificate at once, also one whose policy is refused.
func TestReloadTakesCertificates(t *testing.T) {
	w := newTower(t)
	for _, broken := range []bool{false, true} {
		name := fmt.Sprintf("broken-%v.example", broken)
		w.broken.Store(broken)
		w.certificate(t, name)
		if _, err := w.client.Reload(t.Context()); (err != nil) != broken {
			t.Fatal(err)
		}
		if got := w.status(t).DNS.Certificates[0].Names[0]; got != name {
			t.Errorf("after a reload the certificate of %s is shown, want that of %s", got, name)
		}
	}
}

// A reload takes new secrets, with which the cookies of those before are good for
// as long as they stand in the file; a mistake keeps what there is.
func TestReloadTakesSecretsOfCookies(t *testing.T) {
	const first, second = "00112233445566778899aabbccddeeff\n", "ffeeddccbbaa99887766554433221100\n"
	o, file := newOffice(t), filepath.Join(t.TempDir(), "secrets")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(first)
	o.set.DNS.Cookies = configs.Cookies{On: true, SecretFile: file}
	var err error
	if o.dns.server.Guard.Cookies, err = newCookies(file); err != nil {
		t.Fatal(err)
	}
	client, now := netip.MustParseAddr(abroad), time.Unix(1e9, 0)
	given, _ := o.dns.server.Guard.Cookies.Append(nil, []byte("a client"), client, now)
	for _, step := range []struct {
		text string
		want cookie.State
	}{{first, cookie.Good}, {second + first, cookie.Good}, {"rubbish", cookie.Good}, {second, cookie.Bad}} {
		write(step.text)
		o.dns.reopen()
		if _, got := o.dns.server.Guard.Cookies.Append(nil, given[4:], client, now); got != step.want {
			t.Errorf("with secrets %q an old cookie is %v, want %v", strings.Fields(step.text), got, step.want)
		}
	}
}

// The machine itself is limited only where somebody says so.
func TestWhoIsExempt(t *testing.T) {
	for _, tt := range []struct {
		exempt []netip.Prefix
		from   string
		want   bool
	}{
		{nil, "127.0.0.5", true}, {nil, "::1", true}, {nil, "10.0.0.53", false},
		{prefixes("10.0.0.53/32"), "10.0.0.53", true}, {prefixes("10.0.0.53/32"), "127.0.0.5", false},
		{[]netip.Prefix{}, "127.0.0.5", false},
	} {
		g, err := newGuard(&configs.DNS{RateLimit: configs.RateLimit{Client: configs.Rate{PerSecond: 1, Burst: 1}, Exempt: tt.exempt}})
		if err != nil {
			t.Fatal(err)
		}
		a := netip.MustParseAddr(tt.from)
		g.Clients.Take(a, 0)
		if got := g.Clients.Take(a, 0); got != tt.want {
			t.Errorf("exempt %v: %s may go on: %v", tt.exempt, tt.from, got)
		}
	}
}

// Sockets of systemd may be all that is encrypted.
func TestCertificatesOfSockets(t *testing.T) {
	w := newTower(t)
	set := configs.Gateway{DNS: configs.DNS{Certificates: w.set.DNS.Certificates}}
	d := &gatewayDNS{g: &Gateway{set: &set}}
	if err := d.loadCertificates(); err != nil || d.certs == nil {
		t.Fatalf("with certificates alone: %v, %v", d.certs, err)
	}
	set.DNS.Certificates, d.certs = nil, nil
	if err := d.loadCertificates(); err != nil || d.certs != nil {
		t.Errorf("without: %v, %v", d.certs, err)
	}
}

// A socket of systemd that could serve nobody is no start.
func TestSocketsThatServeNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	proxies := configs.HTTPS{TrustedProxies: prefixes("127.0.0.1/32")}
	for _, tt := range []struct {
		name string
		set  configs.DNS
		want string
	}{
		{"tcp", configs.DNS{}, "<nil>"},
		{"tls", configs.DNS{}, "add dns.certificates"},
		{"https", configs.DNS{HTTPS: proxies}, "add dns.certificates"},
		{"http", configs.DNS{}, "add dns.https.trusted_proxies"},
		{"http", configs.DNS{HTTPS: proxies}, "<nil>"},
	} {
		d := &gatewayDNS{g: &Gateway{set: &configs.Gateway{DNS: tt.set}}, server: new(listen.Server)}
		if _, err := d.activated(listen.Socket{Name: tt.name, Stream: l}); !strings.Contains(fmt.Sprint(err), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}
