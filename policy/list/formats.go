package list

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"

	"github.com/starferry/starferry/policy/match"
)

func plainLine(line []byte, to *collector) error {
	line = uncomment(line, "#!;")
	switch {
	case len(line) == 0:
		return nil
	case len(line) > 2 && line[0] == '/' && line[len(line)-1] == '/':
		return to.pattern(to.names.AddRegexp(string(line[1 : len(line)-1])))
	case bytes.IndexByte(line, ' ') >= 0 || bytes.IndexByte(line, '\t') >= 0:
		return fmt.Errorf("%q is more than one word", clip(line))
	case line[0] == '.':
		return to.add(match.Under, line[1:])
	case line[0] == '+' && len(line) > 1 && line[1] == '.':
		return to.add(match.Tree, line[2:])
	}
	return to.add(match.Split(line))
}

// ownNames are what hosts files call the machine that they lie on.
var ownNames = map[string]bool{
	"localhost": true, "localhost.localdomain": true, "local": true, "broadcasthost": true,
	"ip6-localhost": true, "ip6-loopback": true, "ip6-localnet": true, "ip6-mcastprefix": true,
	"ip6-allnodes": true, "ip6-allrouters": true, "ip6-allhosts": true,
}

// isOwn reports whether the name is one of ownNames, the longest of which has 21 bytes.
func isOwn(name []byte) bool {
	var buf [21]byte
	if len(name) > len(buf) {
		return false
	}
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		buf[i] = c
	}
	return ownNames[string(buf[:len(name)])]
}

// hosts reads a hosts file. Nearly all lines of one begin with the same address.
type hosts struct {
	address []byte // the last one
}

func (h *hosts) line(line []byte, to *collector) error {
	line, _, _ = bytes.Cut(line, []byte("#")) // hosts(5): from # to the end, also without a space before
	line = uncomment(line, "!")
	if len(line) == 0 {
		return nil
	}
	var errs []error
	words := 0
	for word := range bytes.FieldsSeq(line) {
		if words++; words == 1 {
			if !h.isAddress(word) {
				return fmt.Errorf("%q is no address", clip(word))
			}
			continue
		}
		if isAddress(word) || isOwn(word) {
			continue // "0.0.0.0 0.0.0.0" stands at the head of many files
		}
		if err := to.add(match.Exact, word); err != nil {
			errs = append(errs, err)
		}
	}
	if words == 1 {
		return errors.New("an address without a name")
	}
	return errors.Join(errs...)
}

func (h *hosts) isAddress(word []byte) bool {
	if bytes.Equal(word, h.address) {
		return true
	}
	if !isAddress(word) {
		return false
	}
	h.address = append(h.address[:0], word...)
	return true
}

// isAddress reports whether the word is an address. It has a colon, or it ends
// in a digit, as few names do.
func isAddress(word []byte) bool {
	last := word[len(word)-1]
	if (last < '0' || last > '9') && bytes.IndexByte(word, ':') < 0 {
		return false
	}
	_, err := netip.ParseAddr(string(word))
	return err == nil
}

// dnsmasqKeys are the options whose value begins with /name/ or /name/name/, and
// bogusKeys those whose value is a network. One file may have both.
var (
	dnsmasqKeys = map[string]bool{"server": true, "local": true, "address": true, "ipset": true, "nftset": true}
	bogusKeys   = map[string]bool{"bogus-nxdomain": true, "ignore-address": true}
)

func dnsmasqLine(line []byte, to *collector) error {
	line = uncomment(line, "#")
	if len(line) == 0 {
		return nil
	}
	key, value, ok := bytes.Cut(line, []byte("="))
	key, value = bytes.TrimSpace(key), bytes.TrimSpace(value)
	if ok && bogusKeys[string(key)] {
		return beyond(string(key) + "= in a list of names")
	}
	end := bytes.LastIndexByte(value, '/')
	if !ok || !dnsmasqKeys[string(key)] || end < 1 || value[0] != '/' {
		return fmt.Errorf("%q names no domain", clip(line))
	}
	names, target := value[1:end], value[end+1:]
	add := to.add
	if string(target) == "#" && (string(key) == "server" || string(key) == "local") {
		add = to.except // these go to the servers that all other names go to
	}
	var errs []error
	for more := true; more; {
		var name []byte
		name, names, more = bytes.Cut(names, []byte("/"))
		if err := dnsmasqName(name, add); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func dnsmasqName(name []byte, add func(match.Kind, []byte) error) error {
	if string(name) == "#" {
		return errors.New(`"#" is every name`)
	}
	if rest, ok := bytes.CutPrefix(name, []byte("*.")); ok {
		return add(match.Under, rest) // dnsmasq's star is any text
	}
	return add(match.Tree, bytes.TrimPrefix(name, []byte(".")))
}

// regexpLine reads a regular expression as Pi-hole's lists have them.
func regexpLine(line []byte, to *collector) error {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] == '#' {
		return nil
	}
	expr, options, ok := bytes.Cut(line, []byte(";"))
	if ok {
		option, _, _ := bytes.Cut(options, []byte("="))
		return beyond("the option " + clip(option))
	}
	if i := bytes.IndexAny(expr, " <>\""); i >= 0 { // so a page is no list of expressions
		return fmt.Errorf("%q holds %q, as no name does", clip(expr), expr[i])
	}
	return to.pattern(to.names.AddRegexp(string(expr)))
}
