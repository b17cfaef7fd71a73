package lan

import (
	"net/netip"
	"testing"
)

func TestConfigIsChecked(t *testing.T) {
	sources := []netip.Prefix{netip.MustParsePrefix("100.72.0.0/20")}
	for _, c := range []struct {
		name string
		conf Config
		ok   bool
	}{
		{"right", Config{"starferry0", sources, "starferry_cn_sha_1"}, true},
		{"nothing", Config{}, false},
		{"no sources", Config{"starferry0", nil, "t"}, false},
		{"no table", Config{"starferry0", sources, ""}, false},
		{"table with a space", Config{"starferry0", sources, "a b"}, false},
		{"a path as device", Config{"../all", sources, "t"}, false},
		{"all devices", Config{"all", sources, "t"}, false},
		{"a long name", Config{"sixteen-letters0", sources, "t"}, false},
		{"no prefix", Config{"starferry0", []netip.Prefix{{}}, "t"}, false},
		{"mapped prefix", Config{"starferry0", []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}, "t"}, false},
	} {
		if err := c.conf.check(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
