package demo

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestClaim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	unlock, err := claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claim(dir); err == nil || !strings.Contains(err.Error(), "another demo is running") {
		t.Errorf("a second demo: %v", err)
	}
	left := filepath.Join(dir, "state", "gateway", "leases")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	unlock()
	unlock, err = claim(dir)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	unlock()
	if _, err := os.Stat(left); err == nil {
		t.Error("the state of the first demo is still there")
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := claim(dir); err == nil {
		t.Error("a folder that others can enter was taken")
	}
}

func TestPortsInUseAreNamed(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	o := Options{DNS: pc.LocalAddr().String(), LANDNS: "nonsense", Proxy: ln.Addr().String()}
	_, err = openLocal(&o)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"UDP " + o.DNS + " is in use: stop what listens there, or choose another port with --dns",
		`--lan-dns "nonsense"`,
		"TCP " + o.Proxy + " is in use: stop what listens there, or choose another port with --proxy",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func TestOpenLocal(t *testing.T) {
	o := Options{DNS: "127.0.0.1:0", LANDNS: "127.0.0.1:0", Proxy: "127.0.0.1:0"}
	l, err := openLocal(&o)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.udp.LocalAddr().String() != o.DNS || l.tcp.Addr().String() != o.DNS || l.proxy.Addr().String() != o.Proxy || strings.HasSuffix(o.LANDNS, ":0") {
		t.Errorf("%v, %v, %v, %+v", l.udp.LocalAddr(), l.tcp.Addr(), l.proxy.Addr(), o)
	}
}
