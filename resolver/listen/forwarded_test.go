package listen

import (
	"net/http"
	"net/netip"
	"testing"
)

var proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:ffff::/48")}

func TestAsker(t *testing.T) {
	tests := []struct {
		what           string
		xff, forwarded []string
		want           string // empty: refused
	}{
		{"nothing", nil, nil, "10.0.0.1:5"},
		{"one address", []string{"192.0.2.7"}, nil, "192.0.2.7:0"},
		{"with a port", []string{"192.0.2.7:99"}, nil, "192.0.2.7:99"},
		{"IPv6", []string{"2001:db8::7"}, nil, "[2001:db8::7]:0"},
		{"IPv6 in brackets", []string{"[2001:db8::7]"}, nil, "[2001:db8::7]:0"},
		{"IPv6 with a port", []string{"[2001:db8::7]:99"}, nil, "[2001:db8::7]:99"},
		{"IPv4 within IPv6", []string{"::ffff:192.0.2.7"}, nil, "192.0.2.7:0"},
		{"what the client says of itself", []string{"203.0.113.1, 192.0.2.7"}, nil, "192.0.2.7:0"},
		{"and in a line of its own", []string{"203.0.113.1", "192.0.2.7"}, nil, "192.0.2.7:0"},
		{"junk before", []string{"what, ever", " ,192.0.2.7"}, nil, "192.0.2.7:0"},
		{"over two proxies", []string{"203.0.113.1, 192.0.2.7, 10.0.0.9"}, nil, "192.0.2.7:0"},
		{"in two lines", []string{"203.0.113.1, 192.0.2.7", "10.0.0.9"}, nil, "192.0.2.7:0"},
		{"proxies only", []string{"10.0.0.8, 10.0.0.9"}, nil, "10.0.0.8:0"},
		{"junk at the end", []string{"192.0.2.7, unknown"}, nil, ""},
		{"nothing at the end", []string{"192.0.2.7,"}, nil, ""},
		{"junk before a proxy", []string{"192.0.2.7, what, 10.0.0.9"}, nil, ""},
		{"a zone", []string{"fe80::1%eth0"}, nil, ""},
		{"an empty line", []string{""}, nil, ""},

		{"Forwarded", nil, []string{"for=192.0.2.7"}, "192.0.2.7:0"},
		{"with more", nil, []string{`By=203.0.113.43; For="192.0.2.7:99" ;proto=https`}, "192.0.2.7:99"},
		{"IPv6 there", nil, []string{`for="[2001:db8::7]:99"`}, "[2001:db8::7]:99"},
		{"what the client says there", nil, []string{"for=203.0.113.1, for=192.0.2.7"}, "192.0.2.7:0"},
		{"two lines and a proxy", nil, []string{`for=203.0.113.1, for=192.0.2.7`, `for="[2001:db8:ffff::1]"`}, "192.0.2.7:0"},
		{"a hidden client", nil, []string{"for=_secret"}, ""},
		{"an unknown one", nil, []string{"for=unknown"}, ""},
		{"none", nil, []string{"proto=https"}, ""},
		{"two in one", nil, []string{"for=192.0.2.7;for=203.0.113.1"}, ""},
		{"an open quote before", nil, []string{`for="203.0.113.1, for=192.0.2.7`}, ""},
		{"an open quote before quotes", nil, []string{`for=203.0.113.1;x=", for="[2001:db8::7]"`}, ""},
		{"an open quote in a line before", nil, []string{`for="203.0.113.1`, `for=192.0.2.7`}, "192.0.2.7:0"},
		{"a backslash", nil, []string{`for="192.0.2.\7"`}, ""},

		{"both alike", []string{"192.0.2.7"}, []string{"for=192.0.2.7"}, "192.0.2.7:0"},
		{"both but different", []string{"192.0.2.7"}, []string{"for=203.0.113.1"}, ""},
		{"one a proxy", []string{"10.0.0.1"}, []string{"for=203.0.113.1"}, ""},
	}
	for _, tt := range tests {
		h := http.Header{"X-Forwarded-For": tt.xff, "Forwarded": tt.forwarded}
		got, ok := asker(h, netip.MustParseAddrPort("10.0.0.1:5"), proxies)
		if ok != (tt.want != "") || ok && got.String() != tt.want {
			t.Errorf("%s: %v, %t; want %q", tt.what, got, ok, tt.want)
		}
	}
}

// FuzzAsker holds that whatever a client sends, a proxy that adds the client's
// address has it believed or the request refused, in one line or two.
func FuzzAsker(f *testing.F) {
	for _, s := range []string{"", "192.0.2.7", `for="`, `for=1.2.3.4;x="`, ", ", `a="b";for=_x`, "2001:db8:ffff::1"} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, said string, apart bool) {
		const real = "203.0.113.77"
		for name, adds := range map[string]string{"X-Forwarded-For": real, "Forwarded": `for="` + real + `:99";proto=https`} {
			fields := []string{said + ", " + adds}
			if apart {
				fields = []string{said, adds}
			}
			got, ok := asker(http.Header{name: fields}, netip.MustParseAddrPort("10.0.0.1:5"), proxies)
			if ok && got.Addr().String() != real {
				t.Errorf("%s: %q is taken for %v", name, fields, got)
			}
		}
	})
}
