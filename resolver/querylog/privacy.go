package querylog

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"net/netip"
	"os"
	"sync"
)

// Privacy says what becomes of the fields of who asked: client, port,
// server_name, device, user and source, and of what else tells of the asker. It
// is done before a record is kept, so that neither memory nor disk ever has what
// shall not be there.
type Privacy uint8

// The ways, and what stands in these fields.
const (
	// Keep leaves them as they are.
	Keep Privacy = iota
	// Hash puts a pseudonym in place of each: the same one for the same value for
	// as long as the key is the same. That of an address is an address in 100::/64,
	// which nobody has (RFC 6666), that of a word begins with "~". The port is
	// dropped; groups and posture stay. The reason of a denial is left out in both
	// ways: it says how the asker stands, and names the device.
	Hash
	// Drop leaves nothing, and no groups or posture either, which together may
	// point at one device.
	Drop
)

var privacies = [...]string{"keep", "hash", "drop"}

func (p Privacy) String() string { return privacies[p] }

// ParsePrivacy reads the name of a way.
func ParsePrivacy(s string) (Privacy, error) {
	for i, n := range privacies {
		if n == s {
			return Privacy(i), nil
		}
	}
	return Drop, fmt.Errorf("%q is none of %q", s, privacies)
}

// UnmarshalText reads the name of a way. One that this version does not know
// reads as [Drop]: nothing can be said of who asked.
func (p *Privacy) UnmarshalText(b []byte) error {
	*p, _ = ParsePrivacy(string(b))
	return nil
}

// minKey is how many bytes a key file must have: 128 bits in hexadecimal.
const minKey = 32

// readKey returns the key of the pseudonyms, and whether it is of this process
// alone.
func readKey(file string) (key []byte, fresh bool, err error) {
	if file == "" {
		key = make([]byte, sha256.Size)
		_, err = rand.Read(key)
		return key, true, err
	}
	key, err = os.ReadFile(file)
	if err != nil {
		return nil, false, fmt.Errorf("reading the key of pseudonyms: %w", err)
	}
	if key = bytes.TrimSpace(key); len(key) < minKey {
		return nil, false, fmt.Errorf("the key of pseudonyms in %s has %d characters, want at least %d, as from: openssl rand -hex 32", file, len(key), minKey)
	}
	return key, false, nil
}

// maxKnown bounds the pseudonyms that are kept ready. Beyond it all are
// forgotten and made anew, which costs a microsecond each.
const maxKnown = 8192

// pseudonyms makes pseudonyms and remembers them. Those of different fields
// cannot be told to be of the same word.
type pseudonyms struct {
	mu    sync.Mutex
	mac   hash.Hash // HMAC-SHA-256
	addrs map[netip.Addr]netip.Addr
	words map[word]string
	buf   []byte
}

type word struct{ field, value string }

func newPseudonyms(key []byte) *pseudonyms {
	return &pseudonyms{
		mac:   hmac.New(sha256.New, key),
		addrs: map[netip.Addr]netip.Addr{},
		words: map[word]string{},
	}
}

// digest returns the first 64 bits of the keyed hash of a field's value.
func (p *pseudonyms) digest(field string, value []byte) [8]byte {
	p.mac.Reset()
	p.mac.Write([]byte(field))
	p.mac.Write([]byte{0})
	p.mac.Write(value)
	var sum [sha256.Size]byte
	return [8]byte(p.mac.Sum(sum[:0]))
}

func (p *pseudonyms) addr(a netip.Addr) netip.Addr {
	if !a.IsValid() {
		return a
	}
	a = a.Unmap().WithZone("")
	if got, ok := p.addrs[a]; ok {
		return got
	}
	if len(p.addrs) >= maxKnown {
		clear(p.addrs)
	}
	d := p.digest("address", a.AsSlice())
	made := netip.AddrFrom16([16]byte{0: 1, 8: d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]})
	p.addrs[a] = made
	return made
}

func (p *pseudonyms) word(field, value string) string {
	if value == "" {
		return ""
	}
	w := word{field, value}
	if got, ok := p.words[w]; ok {
		return got
	}
	if len(p.words) >= maxKnown {
		clear(p.words)
	}
	p.buf = append(p.buf[:0], value...)
	d := p.digest(field, p.buf)
	made := "~" + hex.EncodeToString(d[:])
	p.words[w] = made
	return made
}

// hide does to the record what the way says.
func (p *pseudonyms) hide(r *Record, how Privacy) {
	r.Privacy = how
	if how != Keep && r.Action == "deny" {
		r.Reason = ""
	}
	switch how {
	case Keep:
	case Hash:
		p.mu.Lock()
		r.Client.Addr, r.Port = p.addr(r.Client.Addr), 0
		r.Source = p.addr(r.Source)
		r.Device = p.word("device", r.Device)
		r.User = p.word("user", r.User)
		r.ServerName = p.word("server_name", r.ServerName)
		p.mu.Unlock()
	default:
		r.Client.Addr, r.Port, r.ServerName = netip.Addr{}, 0, ""
		r.Identity = Identity{Kind: r.Kind, Strength: r.Strength}
	}
}
