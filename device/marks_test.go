package device

import (
	"encoding/base64"
	"strings"
	"testing"
)

func TestParseTokenHash(t *testing.T) {
	h := HashToken("s3cret")
	if got, err := ParseTokenHash(h.String()); err != nil || got != h {
		t.Errorf("%v is read as %v, %v", h, got, err)
	}
	if got, err := ParseTokenHash("sha256:" + strings.ToUpper(strings.TrimPrefix(h.String(), "sha256:"))); err != nil || got != h {
		t.Errorf("in upper case it is read as %v, %v", got, err)
	}
	for _, bad := range []string{
		"", "s3cret", "sha256:", "sha256:00", strings.TrimPrefix(h.String(), "sha256:"), "sha256:" + strings.Repeat("0", 64),
		"sha1:" + strings.Repeat("0f", 32), h.String() + "00", "sha256:" + strings.Repeat("xy", 32),
	} {
		if got, err := ParseTokenHash(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		} else if bad != "" && bad != "sha256:" && strings.Contains(err.Error(), bad) {
			t.Errorf("the mistake repeats what may be a token: %v", err)
		}
	}
}

func TestHashToken(t *testing.T) {
	if !HashToken("").IsZero() || !HashToken(strings.Repeat("a", MaxToken+1)).IsZero() || HashToken(strings.Repeat("a", MaxToken)).IsZero() {
		t.Error("the wrong tokens have a hash")
	}
	if n := testing.AllocsPerRun(100, func() { HashToken("0123456789abcdef0123456789abcdef") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestParseMAC(t *testing.T) {
	want := MAC{2, 0, 0x5e, 0x10, 0, 0xab}
	for _, s := range []string{"02:00:5e:10:00:ab", "02-00-5E-10-00-AB", "0200.5e10.00ab"} {
		if got, err := ParseMAC(s); err != nil || got != want || got.String() != "02:00:5e:10:00:ab" {
			t.Errorf("%s is read as %v, %v", s, got, err)
		}
	}
	for _, bad := range []string{"", "00:00:00:00:00:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "02:00:5e:10:00:00:00:01", "02:00:5e:10:00"} {
		if got, err := ParseMAC(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}

func TestParseServerName(t *testing.T) {
	for s, good := range map[string]bool{
		"alice": true, "a": true, "7": true, "a--b": true, strings.Repeat("a", 63): true,
		"": false, "a.b": false, "-a": false, "a-": false, "a_b": false, "A": false, strings.Repeat("a", 64): false,
	} {
		if _, err := ParseServerName(s); (err == nil) != good {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestParseCPE(t *testing.T) {
	for s, good := range map[string]bool{"desk 7": true, strings.Repeat("a", MaxCPE): true, "": false, strings.Repeat("a", MaxCPE+1): false} {
		if _, err := ParseCPE(s); (err == nil) != good {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestEvidence(t *testing.T) {
	m := Marks{Token: HashToken("t"), ServerName: "a", MAC: MAC{2}, CPE: "c"}
	for _, step := range []struct {
		want Kind
		less func()
	}{
		{ByToken, func() { m.Token = TokenHash{} }},
		{ByServerName, func() { m.ServerName = "" }},
		{ByOption, func() { m.MAC = MAC{} }},
		{ByOption, func() { m.CPE = "" }},
		{Unidentified, func() {}},
	} {
		if got := m.Evidence(); got != step.want {
			t.Errorf("%+v: %v, want %v", m, got, step.want)
		}
		step.less()
	}
}

// A kind that stands later is never worth less.
func TestKindsAreInOrder(t *testing.T) {
	for k := Unidentified; k <= ByWireGuard; k++ {
		if k > Unidentified && k.Strength() < (k-1).Strength() {
			t.Errorf("%v is worth less than %v", k, k-1)
		}
		if got, err := ParseKind(k.String()); err != nil || got != k {
			t.Errorf("%v is read as %v, %v", k, got, err)
		}
	}
	for k, want := range map[Kind]Strength{
		Unidentified: None, ByNetwork: Weak, ByOption: Weak, ByServerName: Weak, ByBinding: Medium, ByToken: Medium, ByCertificate: Strong, ByWireGuard: Strong,
	} {
		if k.Strength() != want {
			t.Errorf("%v is %v, want %v", k, k.Strength(), want)
		}
	}
}

func FuzzDecodeMAC(f *testing.F) {
	f.Add([]byte("02:00:00:00:00:AF"))
	f.Add([]byte("AgAAAACv"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := DecodeMAC(b)
		if !ok {
			return
		}
		if base64.StdEncoding.EncodeToString(m[:]) == string(b) {
			return
		}
		if want, err := ParseMAC(string(b)); (err != nil || want != m) && !m.IsZero() && m[0]&1 == 0 {
			t.Errorf("%q is read as %v, want %v, %v", b, m, want, err)
		}
	})
}
