package upstream

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseServer(t *testing.T) {
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	nowhere := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.Addr{}, port) }
	tests := []struct {
		in, out string // out: as written again, empty: the same
		want    Server
	}{
		{"192.0.2.53", "", Server{Addr: at("192.0.2.53:53")}},
		{"192.0.2.53:5353", "", Server{Addr: at("192.0.2.53:5353")}},
		{"192.0.2.53:53", "192.0.2.53", Server{Addr: at("192.0.2.53:53")}},
		{"2001:db8::53", "", Server{Addr: at("[2001:db8::53]:53")}},
		{"[2001:db8::53]:5353", "", Server{Addr: at("[2001:db8::53]:5353")}},
		{"udp://192.0.2.53", "192.0.2.53", Server{Addr: at("192.0.2.53:53")}},
		{"tcp://[2001:db8::53]", "tcp://2001:db8::53", Server{Transport: TCP, Addr: at("[2001:db8::53]:53")}},
		{"TLS://Dns.Example.@192.0.2.1", "tls://dns.example@192.0.2.1", Server{Transport: TLS, Addr: at("192.0.2.1:853"), Name: "dns.example"}},
		{"tls://dns.example@[2001:db8::1]:8853", "", Server{Transport: TLS, Addr: at("[2001:db8::1]:8853"), Name: "dns.example"}},
		{"tls://192.0.2.1", "", Server{Transport: TLS, Addr: at("192.0.2.1:853")}},
		{"tls://dns.example:853", "tls://dns.example", Server{Transport: TLS, Addr: nowhere(853), Host: "dns.example", Name: "dns.example"}},
		{"https://dns.example/dns-query", "", Server{Transport: HTTPS, Addr: nowhere(443), Host: "dns.example", Name: "dns.example", Path: "/dns-query"}},
		{"https://dns.example:8443/q{?dns}", "https://dns.example:8443/q", Server{Transport: HTTPS, Addr: nowhere(8443), Host: "dns.example", Name: "dns.example", Path: "/q"}},
		{"https://192.0.2.1", "https://192.0.2.1/dns-query", Server{Transport: HTTPS, Addr: at("192.0.2.1:443"), Path: "/dns-query"}},
		{"https://dns.example@192.0.2.1/a/b", "", Server{Transport: HTTPS, Addr: at("192.0.2.1:443"), Name: "dns.example", Path: "/a/b"}},
	}
	for _, tt := range tests {
		s, err := ParseServer(tt.in)
		if err != nil || s != tt.want {
			t.Errorf("%s: got %+v, %v", tt.in, s, err)
			continue
		}
		if tt.out == "" {
			tt.out = tt.in
		}
		if s.String() != tt.out {
			t.Errorf("%s is written as %s", tt.in, s)
		}
		if again, err := ParseServer(s.String()); err != nil || again != s {
			t.Errorf("%s is read as %+v, %v", s, again, err)
		}
	}
	for _, in := range []string{
		"", "dns.example", "192.0.2.53:0", "192.0.2.53:70000", "192.0.2.256", "tcp://dns.example", "quic://192.0.2.1", "tls://", "tls://@192.0.2.1",
		"tls://a b@192.0.2.1", "tls://dns.example/path", "tls://-x.example", "https://", "https:///dns-query", "https://a@b.example/q", "https://dns.example/%zz",
		"a@192.0.2.53", "tls://[::1", "2001:db8::53:5353:x",
	} {
		if s, err := ParseServer(in); err == nil {
			t.Errorf("%q is read as %+v", in, s)
		} else if !strings.Contains(err.Error(), in) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func FuzzParseServer(f *testing.F) {
	for _, s := range []string{"192.0.2.53", "[::1]:53", "tls://a.example@192.0.2.1:1", "https://a.example/q", "tcp://::1%eth0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := ParseServer(in)
		if err != nil {
			return
		}
		if again, err := ParseServer(s.String()); err != nil || again != s {
			t.Errorf("%q is %+v, written as %s and read as %+v, %v", in, s, s, again, err)
		}
		if _, err := New(Config{Servers: []Server{s}}); err != nil {
			t.Error(err)
		}
	})
}

func TestParseStrategy(t *testing.T) {
	for _, s := range []Strategy{Fastest, Failover, Parallel} {
		if got, err := ParseStrategy(s.String()); got != s || err != nil {
			t.Errorf("%s is read as %v, %v", s, got, err)
		}
	}
	if _, err := ParseStrategy("fastets"); err == nil {
		t.Error("fastets is a strategy")
	}
}

func TestNewRefuses(t *testing.T) {
	for what, c := range map[string]Config{
		"no address":            {Servers: []Server{{}}},
		"no port":               {Servers: []Server{{Addr: netip.MustParseAddrPort("192.0.2.1:0")}}},
		"a name without TLS":    {Servers: []Server{{Host: "dns.example", Addr: netip.MustParseAddrPort("0.0.0.0:53")}}},
		"no transport":          {Servers: []Server{{Transport: 9, Addr: netip.MustParseAddrPort("192.0.2.1:53")}}},
		"no strategy":           {Strategy: 9},
		"a probe without sense": {Probe: Question{Name: "www"}},
		"a bad bootstrap":       {Bootstrap: []netip.AddrPort{{}}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}
