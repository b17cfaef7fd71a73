package link_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starferry/starferry/tunnel/link"
)

// The pair is of RFC 7748 section 6.1.
func TestPublic(t *testing.T) {
	k, err := link.ParsePrivateKey("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n")
	if err != nil {
		t.Fatal(err)
	}
	if want := device1(t, "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="); k.Public() != want {
		t.Errorf("public key %v, want %v", k.Public(), want)
	}
}

func TestNewPrivateKey(t *testing.T) {
	a, b := link.NewPrivateKey(), link.NewPrivateKey()
	if a == b || a.IsZero() {
		t.Error("keys are not random")
	}
	if again, err := link.ParsePrivateKey(a.String()); err != nil || again != a {
		t.Errorf("reading it back: %v", err)
	}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("key", "key", a)
	if strings.Contains(out.String(), a.String()) {
		t.Error("the key is in the log")
	}
}

func TestReadPrivateKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	k := link.NewPrivateKey()
	for _, c := range []struct {
		content string
		mode    os.FileMode
		want    string
	}{
		{k.String() + "\n", 0o600, ""},
		{k.String() + "\n", 0o640, "chmod 600"},
		{k.String() + "\n", 0o604, "chmod 600"},
		{"short", 0o600, "32 bytes in base64"},
		{strings.Repeat("A", 43) + "=", 0o600, "all zero"},
	} {
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		got, err := link.ReadPrivateKey(path)
		switch {
		case c.want == "" && (err != nil || got != k):
			t.Errorf("mode %o: %v", c.mode, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("mode %o: %v, want %q", c.mode, err, c.want)
		case err != nil && strings.Contains(err.Error(), c.content):
			t.Errorf("the error repeats the key: %v", err)
		}
	}
	if _, err := link.ReadPrivateKey(path + "x"); err == nil {
		t.Error("a missing file was read")
	}
}
