package link

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/starferry/starferry/device"
)

// NewBind gives tests of package link_test the bind for one address.
func NewBind(addr netip.Addr) conn.Bind { return newUDPBind(addr) }

func TestEndpointsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "endpoints")
	if got, err := readEndpoints(path); err != nil || len(got) != 0 {
		t.Errorf("a missing file: %v, %v", got, err)
	}
	want := map[device.Key]netip.AddrPort{
		NewPrivateKey().Public(): netip.MustParseAddrPort("192.0.2.1:51820"),
		NewPrivateKey().Public(): netip.MustParseAddrPort("[2001:db8::1]:1"),
		NewPrivateKey().Public(): netip.MustParseAddrPort("[fe80::1%eth0]:1"),
	}
	for range 2 { // the second replaces the first
		if err := writeEndpoints(path, want); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := readEndpoints(path); err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := writeEndpoints(filepath.Join(path, "x"), want); err == nil {
		t.Error("no error where the folder is missing")
	}
}

func FuzzEndpoints(f *testing.F) {
	f.Add([]byte("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo= 192.0.2.1:51820\n"))
	f.Add([]byte("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo= [::1%a b]:1\r\n\nx y\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		known := parseEndpoints(b)
		if again := parseEndpoints(formatEndpoints(known)); !maps.Equal(known, again) {
			t.Errorf("%v came back as %v", known, again)
		}
	})
}
