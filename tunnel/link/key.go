package link

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"

	"github.com/starferry/starferry/device"
)

// A PrivateKey is a WireGuard private key. Its zero value is no key.
type PrivateKey [32]byte

// NewPrivateKey makes a key.
func NewPrivateKey() PrivateKey {
	var k PrivateKey
	rand.Read(k[:]) // never fails
	// Clamped as in RFC 7748 section 5, so that it reads the same everywhere.
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

// ParsePrivateKey reads a key as WireGuard writes it: 32 bytes in standard
// base64. The error does not repeat it.
func ParsePrivateKey(s string) (PrivateKey, error) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s))
	if err != nil || len(b) != len(PrivateKey{}) {
		return PrivateKey{}, fmt.Errorf("not a WireGuard private key: want 32 bytes in base64, as starferry keygen prints them")
	}
	k := PrivateKey(b)
	if k.IsZero() {
		return k, fmt.Errorf("the private key is all zero: make one with starferry keygen")
	}
	return k, nil
}

// ReadPrivateKey reads a key from a file that nobody but its owner may read.
func ReadPrivateKey(path string) (PrivateKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("reading private key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return PrivateKey{}, fmt.Errorf("reading private key: %w", err)
	}
	if mode := info.Mode(); mode.Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		return PrivateKey{}, fmt.Errorf("reading private key: others may read %s (mode %04o): chmod 600 %s", path, mode.Perm(), path)
	}
	b, err := io.ReadAll(io.LimitReader(f, 1<<10))
	if err != nil {
		return PrivateKey{}, fmt.Errorf("reading private key: %w", err)
	}
	k, err := ParsePrivateKey(string(b))
	if err != nil {
		return PrivateKey{}, fmt.Errorf("reading private key: %s: %w", path, err)
	}
	return k, nil
}

// Public returns the public key.
func (k PrivateKey) Public() device.Key {
	priv, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		panic(err) // any 32 bytes are a key
	}
	return device.Key(priv.PublicKey().Bytes())
}

// String returns the key in base64, for the file that it is kept in.
func (k PrivateKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// LogValue keeps the key out of logs.
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue("(private key)") }

// IsZero reports whether there is no key.
func (k PrivateKey) IsZero() bool { return k == PrivateKey{} }
