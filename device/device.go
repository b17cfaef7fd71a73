// Package device says who is asking: which enrolled machine or known network,
// by which evidence, and how strong that evidence is.
//
// It holds values only. The tables they are kept in belong to package state;
// what is known of a device's condition is package device/posture.
package device

import (
	"encoding/base64"
	"fmt"
	"net/netip"

	"github.com/starferry/starferry/internal/yamlpos"
)

// An ID names a device for as long as it is enrolled. At an egress it is an
// opaque word that says nothing about the person.
type ID string

// A Key is a WireGuard public key.
type Key [32]byte

// ParseKey reads a key as WireGuard writes it: 32 bytes in standard base64.
func ParseKey(s string) (Key, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != len(Key{}) {
		return Key{}, fmt.Errorf("%q is not a WireGuard key: want 32 bytes in base64, as starferry keygen prints it", s)
	}
	return Key(b), nil
}

// String returns the key in base64.
func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// IsZero reports whether there is no key.
func (k Key) IsZero() bool { return k == Key{} }

// A Strength says how much an identity can be relied on.
type Strength uint8

// The strengths, weakest first.
const (
	None Strength = iota
	Weak
	Medium
	Strong
)

var strengths = [...]string{"none", "weak", "medium", "strong"}

func (s Strength) String() string { return strengths[s] }

// ParseStrength reads the name of a strength.
func ParseStrength(s string) (Strength, error) {
	for i, n := range strengths {
		if n == s {
			return Strength(i), nil
		}
	}
	return None, fmt.Errorf("%q is none of %q", s, strengths)
}

// A Kind is the kind of evidence by which somebody was identified.
type Kind uint8

// The kinds of evidence, weakest first.
const (
	Unidentified  Kind = iota
	ByNetwork          // the source address is in a configured network
	ByOption           // an EDNS option of a configured forwarder
	ByServerName       // the name asked for in DoT or DoH
	ByBinding          // a source address bound by a recent report
	ByToken            // a device token in the DoH path
	ByCertificate      // a client certificate
	ByWireGuard        // the key of the link that the query came over
)

var kinds = [...]string{"none", "network", "edns-option", "server-name", "bound-source", "token", "certificate", "wireguard"}

func (k Kind) String() string { return kinds[k] }

// Strength returns how much evidence of this kind is worth.
func (k Kind) Strength() Strength {
	switch {
	case k == Unidentified:
		return None
	case k < ByBinding:
		return Weak
	case k < ByCertificate:
		return Medium
	default:
		return Strong
	}
}

// ParseKind reads the name of a kind, as [Kind.String] writes it.
func ParseKind(s string) (Kind, error) {
	for i, n := range kinds {
		if n == s {
			return Kind(i), nil
		}
	}
	return Unidentified, fmt.Errorf("%q is none of %q", s, kinds)
}

// A Device is one enrolled machine, or one network whose machines are known
// only by where they are. Values are shared between goroutines and must not
// be modified; copy one, change the copy, put that.
type Device struct {
	ID      ID
	Kind    Kind           // the evidence by which it sends packets, ByWireGuard or ByNetwork; of a machine without a key, by which it asks
	Key     Key            // zero for a network, and for a machine without a link
	Overlay []netip.Prefix // the sources that its packets carry inside the fleet; single addresses for a machine
	Marks

	LAN        []netip.Prefix // a network's own addresses; LAN[i] is mapped 1:1 onto Overlay[i] where one is given
	RoutesPool bool           // a network that routes the virtual addresses to the gateway

	Groups   []string
	User     string
	Platform string
	Explain  bool        // it may ask for explanations by dig
	At       yamlpos.Pos // where it is written
}

// InGroup reports whether the device is in the group.
func (d *Device) InGroup(group string) bool {
	for _, g := range d.Groups {
		if g == group {
			return true
		}
	}
	return false
}
