package device_test

import (
	"strings"
	"testing"

	"github.com/starferry/starferry/device"
)

func TestParseName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "7": true, "alice-laptop": true, "a.b_c-d": true, strings.Repeat("a", 63): true,
		"": false, "-a": false, "a-": false, ".a": false, "a b": false, "a/b": false, "a:b": false, "a@b": false,
		"Staff": false, "é": false, strings.Repeat("a", 64): false, "a\n": false,
	} {
		got, err := device.ParseName(name)
		if ok && (err != nil || got != name) || !ok && (err == nil || got != "") {
			t.Errorf("ParseName(%q) = %q, %v", name, got, err)
		}
	}
}
