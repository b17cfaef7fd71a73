package device

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"

	"github.com/starferry/starferry/internal/yamlpos"
)

// Marks are what a machine can be known by besides the key of its link. Each
// belongs to one machine; a zero one is none.
type Marks struct {
	Token      TokenHash // of what stands behind the path of DoH
	ServerName string    // a label below the gateway's server name, in DoT and DoH
	MAC        MAC       // in EDNS options of forwarders
	CPE        string    // likewise; up to MaxCPE bytes
}

// Evidence returns the strongest kind of evidence that the marks can be.
func (m *Marks) Evidence() Kind {
	switch {
	case !m.Token.IsZero():
		return ByToken
	case m.ServerName != "":
		return ByServerName
	case !m.MAC.IsZero() || m.CPE != "":
		return ByOption
	}
	return Unidentified
}

// A TokenHash is the SHA-256 of a device's token, which is all that a gateway
// keeps of it. It has no salt: a token is drawn at random and not thought up.
type TokenHash [sha256.Size]byte

// MaxToken is the length that a token can have, in bytes.
const MaxToken = 128

// HashToken returns what a token is known by, the zero TokenHash for one that is
// empty or too long. It does not allocate.
func HashToken(token string) TokenHash {
	if token == "" || len(token) > MaxToken {
		return TokenHash{}
	}
	var buf [MaxToken]byte
	return sha256.Sum256(buf[:copy(buf[:], token)])
}

// ParseTokenHash reads sha256:HEX.
func ParseTokenHash(s string) (TokenHash, error) {
	digits, ok := strings.CutPrefix(s, "sha256:")
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != sha256.Size || TokenHash(b).IsZero() {
		err := errors.New("want the hash of a token and not the token itself")
		return TokenHash{}, yamlpos.Hint(err, "write sha256: and 64 hex digits, as printf %s TOKEN | sha256sum prints them")
	}
	return TokenHash(b), nil
}

// String returns the hash in the form that [ParseTokenHash] reads.
func (h TokenHash) String() string { return "sha256:" + hex.EncodeToString(h[:]) }

// IsZero reports whether there is no token.
func (h TokenHash) IsZero() bool { return h == TokenHash{} }

// A MAC is the hardware address of a machine's network interface (EUI-48).
type MAC [6]byte

// ParseMAC reads a hardware address of one interface: not of a group of them,
// and not the zero one, which stands for none.
func ParseMAC(s string) (MAC, error) {
	b, err := net.ParseMAC(s)
	if err != nil || len(b) != len(MAC{}) {
		return MAC{}, yamlpos.Hint(fmt.Errorf("%q is no MAC address", s), "write it like 02:00:5e:10:00:01")
	}
	m := MAC(b)
	if m.IsZero() || m[0]&1 != 0 {
		return MAC{}, fmt.Errorf("%q is not the address of one machine", s)
	}
	return m, nil
}

// DecodeMAC reads an address as forwarders write it: in base64, of eight
// characters, or in hex with colons, of seventeen. It does not allocate.
func DecodeMAC(b []byte) (m MAC, ok bool) {
	switch len(b) {
	case base64.StdEncoding.EncodedLen(len(m)):
		n, err := base64.StdEncoding.Decode(m[:], b)
		return m, err == nil && n == len(m)
	case 3*len(m) - 1:
		for i := range m {
			if i > 0 && b[3*i-1] != ':' {
				return m, false
			}
			if _, err := hex.Decode(m[i:i+1], b[3*i:3*i+2]); err != nil {
				return m, false
			}
		}
		return m, true
	}
	return m, false
}

// String returns the address in lower case with colons.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// IsZero reports whether there is no address.
func (m MAC) IsZero() bool { return m == MAC{} }

var labelForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ParseServerName reads one label of a host name. A wildcard certificate is good
// for one label (RFC 9525 section 6.3), so a name of two would not be answered.
func ParseServerName(s string) (string, error) {
	if labelForm.MatchString(s) {
		return s, nil
	}
	err := fmt.Errorf("%q cannot stand in a server name", s)
	if low := strings.ToLower(s); labelForm.MatchString(low) {
		return "", yamlpos.Hint(err, "write "+low)
	}
	return "", yamlpos.Hint(err, "up to 63 of a-z, 0-9 and dash, with a letter or digit at both ends")
}

// MaxCPE is the length that the id of a CPE (customer premises equipment, as
// Nominum called what stands at a customer's) can have, in bytes.
const MaxCPE = 64

// ParseCPE reads the id that a forwarder gives for a machine.
func ParseCPE(s string) (string, error) {
	if s == "" || len(s) > MaxCPE {
		return "", fmt.Errorf("%q is no id of up to %d bytes", s, MaxCPE)
	}
	return s, nil
}
