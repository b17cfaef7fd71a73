package rrtype

import "testing"

func TestNames(t *testing.T) {
	for name, n := range Numbers {
		if got, err := Parse(name); err != nil || got != n || Name(n) != name {
			t.Errorf("%s: %d, %v; %d is %s", name, got, err, n, Name(n))
		}
	}
	for text, want := range map[string]uint16{"aaaa": 28, "type65": 65, "TYPE65535": 65535} {
		if n, err := Parse(text); err != nil || n != want {
			t.Errorf("%s: %d, %v", text, n, err)
		}
	}
	for _, text := range []string{"", "TYPE", "TYPE65536", "TYPE-1", "B"} {
		if n, err := Parse(text); err == nil {
			t.Errorf("%q is type %d", text, n)
		}
	}
	if Name(4711) != "TYPE4711" {
		t.Error(Name(4711))
	}
}
