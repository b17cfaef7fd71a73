package list

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/starferry/starferry/device"
	"github.com/starferry/starferry/internal/rrtype"
)

// A Scope says of rules for which questions, and for whose, they are: for all if
// it is empty. What is both among those that are meant and among the others is
// not meant.
type Scope struct {
	Types, NotTypes     []uint16 // of questions (dnstype); no Types are all
	Clients, NotClients Clients  // who asks (client); no Clients are all
}

// Clients are those that a modifier names: devices, or groups of them, and the
// networks of those who ask.
type Clients struct {
	Names []string
	Nets  []netip.Prefix
}

// Empty reports whether nobody is named.
func (c *Clients) Empty() bool { return len(c.Names)+len(c.Nets) == 0 }

// Empty reports whether it is for all.
func (s *Scope) Empty() bool {
	return len(s.Types)+len(s.NotTypes) == 0 && s.Clients.Empty() && s.NotClients.Empty()
}

// TypeModifier writes what the scope says of types as rules do: dnstype=A|~AAAA.
// It is the same for the same types.
func (s *Scope) TypeModifier() string {
	return modifier("dnstype=", typeNames(s.Types), typeNames(s.NotTypes))
}

// ClientModifier writes what the scope says of who asks as rules do.
func (s *Scope) ClientModifier() string {
	return modifier("client=", s.Clients.words(), s.NotClients.words())
}

// String writes the modifiers as rules do.
func (s *Scope) String() string {
	types, clients := s.TypeModifier(), s.ClientModifier()
	if types != "" && clients != "" {
		types += ","
	}
	return types + clients
}

func typeNames(types []uint16) (out []string) {
	for _, t := range types {
		out = append(out, rrtype.Name(t))
	}
	return out
}

func (c *Clients) words() []string {
	out := slices.Clone(c.Names)
	for _, p := range c.Nets {
		out = append(out, strings.TrimSuffix(p.String(), fmt.Sprintf("/%d", p.Addr().BitLen())))
	}
	return out
}

func modifier(key string, meant, not []string) string {
	words := slices.Sorted(slices.Values(meant))
	for _, w := range slices.Sorted(slices.Values(not)) {
		words = append(words, "~"+w)
	}
	if len(words) == 0 {
		return ""
	}
	return key + strings.Join(slices.Compact(words), "|")
}

// readTypes reads the value of dnstype: A|AAAA, or ~A for all but that.
func (s *Scope) readTypes(value []byte) error {
	s.Types, s.NotTypes = nil, nil
	for _, word := range bytes.Split(value, []byte("|")) {
		text, not := strings.CutPrefix(string(word), "~")
		t, err := rrtype.Parse(text)
		switch {
		case err != nil:
			return err
		case not:
			s.NotTypes = append(s.NotTypes, t)
		default:
			s.Types = append(s.Types, t)
		}
	}
	return nil
}

// readClients reads the value of client: names, addresses and networks, in
// quotes where they hold something else, and with ~ for all but those. A
// backslash stands before a bar, a comma or a quote that belongs to a name.
func (s *Scope) readClients(value []byte) error {
	s.Clients, s.NotClients = Clients{}, Clients{}
	for _, word := range apart(value, '|') {
		text, not := strings.CutPrefix(string(word), "~")
		to := &s.Clients
		if not {
			to = &s.NotClients
		}
		if err := to.add(unquoted(text)); err != nil {
			return err
		}
	}
	return nil
}

func (c *Clients) add(text string) error {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		c.Nets = append(c.Nets, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
		return nil
	}
	if p, err := netip.ParsePrefix(text); err == nil && !p.Addr().Is4In6() {
		c.Nets = append(c.Nets, p.Masked())
		return nil
	}
	name, err := device.ParseName(strings.ToLower(text))
	if err != nil {
		return beyond("a client whose name is none of a device or group")
	}
	c.Names = append(c.Names, name)
	return nil
}

// unquoted takes off quotes, and the backslashes before those within.
func unquoted(text string) string {
	n := len(text)
	if n < 2 || text[0] != '\'' && text[0] != '"' || text[n-1] != text[0] {
		return text
	}
	return strings.ReplaceAll(text[1:n-1], `\`+text[:1], text[:1])
}

// apart splits a text at each sep before which no backslash stands. Such a
// backslash is taken off, others stay.
func apart(text []byte, sep byte) (out [][]byte) {
	word := []byte{}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text) && text[i+1] == sep:
			word, i = append(word, sep), i+1
		case c == sep:
			out, word = append(out, word), []byte{}
		default:
			word = append(word, c)
		}
	}
	return append(out, word)
}
