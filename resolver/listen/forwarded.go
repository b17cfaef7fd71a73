package listen

import (
	"net/http"
	"net/netip"
	"strings"
)

// asker returns for whom a trusted proxy asks: the last address in the header
// fields that is not a trusted proxy's, or the first if all are, or the proxy
// itself if it says nothing. It reports false if that cannot be read.
//
// What stands left of an address that is no proxy's was written by nobody who
// is trusted. If there are both kinds of field one of them may be the
// client's work, passed on by a proxy that knows only the other: they must agree.
func asker(h http.Header, proxy netip.AddrPort, trusted []netip.Prefix) (netip.AddrPort, bool) {
	found := proxy
	for i, names := range [...][]string{xForwardedFor(h["X-Forwarded-For"]), forwarded(h["Forwarded"])} {
		if len(names) == 0 {
			continue
		}
		addr, ok := furthest(names, trusted)
		if !ok || i > 0 && found != proxy && found.Addr() != addr.Addr() {
			return netip.AddrPort{}, false
		}
		found = addr
	}
	return found, true
}

// furthest walks from the last name to the first that is not a trusted proxy's.
func furthest(names []string, trusted []netip.Prefix) (addr netip.AddrPort, ok bool) {
	for i := len(names) - 1; i >= 0; i-- {
		if addr, ok = node(names[i]); !ok || !contains(trusted, addr.Addr()) {
			return addr, ok
		}
	}
	return addr, ok
}

// xForwardedFor returns the names of all fields as if they were one, which
// RFC 9110 section 5.3 says they are.
func xForwardedFor(fields []string) []string {
	if len(fields) == 0 {
		return nil
	}
	return strings.Split(strings.Join(fields, ","), ",")
}

// forwarded returns the names of "for" of all elements of all fields, an
// empty one for each element that has none or cannot be read. A field that
// ends within quotes is one of these: what a proxy put behind a client's
// open quote must not become a part of the client's words.
func forwarded(fields []string) (names []string) {
	for _, f := range fields {
		for more := true; more; {
			var name string
			name, f, more = element(f)
			names = append(names, name)
		}
	}
	return names
}

// element reads the first element of a field, RFC 7239 section 4, and returns
// its "for", what is left, and whether there is more. Once something is
// wrong the rest of the field is.
func element(f string) (name, rest string, more bool) {
	for {
		var key, value string
		var ok bool
		key, f, ok = strings.Cut(f, "=")
		if !ok || strings.ContainsAny(key, `",;`) {
			return "", "", false
		}
		if value, f, ok = pairValue(f); !ok {
			return "", "", false
		}
		if strings.EqualFold(strings.TrimSpace(key), "for") {
			if name != "" {
				return "", "", false
			}
			name = value
		}
		switch {
		case f == "":
			return name, "", false
		case f[0] == ',':
			return name, f[1:], true
		}
		f = f[1:] // a semicolon: one more pair
	}
}

// pairValue reads a token or a quoted string, up to what separates it from
// the next. A backslash, which no address has, is not read.
func pairValue(f string) (value, rest string, ok bool) {
	if quoted, is := strings.CutPrefix(f, `"`); is {
		value, rest, ok = strings.Cut(quoted, `"`)
		rest = strings.TrimLeft(rest, " \t")
		return value, rest, ok && !strings.Contains(value, `\`) && (rest == "" || rest[0] == ',' || rest[0] == ';')
	}
	end := strings.IndexAny(f, ",;")
	if end < 0 {
		end = len(f)
	}
	value = strings.TrimSpace(f[:end])
	return value, f[end:], !strings.ContainsAny(value, `"=`)
}

// node reads an address with or without a port, IPv6 with or without
// brackets. Names that hide one (RFC 7239 section 6.3) are none.
func node(s string) (netip.AddrPort, bool) {
	s = strings.TrimSpace(s)
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		var a netip.Addr
		if bare, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(bare, "]") {
			s = bare[:len(bare)-1]
		}
		a, err = netip.ParseAddr(s)
		ap = netip.AddrPortFrom(a, 0)
	}
	a := ap.Addr().Unmap()
	return netip.AddrPortFrom(a, ap.Port()), err == nil && a.Zone() == ""
}
