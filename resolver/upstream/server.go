package upstream

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/starferry/starferry/internal/yamlpos"
)

// A Transport is how a server is asked.
type Transport uint8

// The transports. Over UDP, TCP is used for what does not fit.
const (
	UDP   Transport = iota
	TCP             // RFC 7766
	TLS             // RFC 7858
	HTTPS           // RFC 8484
)

var transports = [...]struct {
	scheme string
	port   uint16
}{UDP: {"udp", 53}, TCP: {"tcp", 53}, TLS: {"tls", 853}, HTTPS: {"https", 443}}

// String returns the scheme that ParseServer knows the transport by.
func (t Transport) String() string { return transports[t].scheme }

func (t Transport) encrypted() bool { return t == TLS || t == HTTPS }

// A Server is one resolver. It has an address, or is found by a name that the
// bootstrap servers are asked for.
type Server struct {
	Transport Transport
	Addr      netip.AddrPort // if Host is set only the port counts
	Host      string         // a name to be resolved, or empty
	Name      string         // that the certificate must have; empty: the address
	Path      string         // of HTTPS
	CA        *x509.CertPool // nil: the system's
}

const (
	hintPlain = "write it like 192.0.2.53, [2001:db8::53]:5353, tcp://192.0.2.53, tls://dns.example@192.0.2.53 or https://dns.example/dns-query"
	hintTLS   = "write it like tls://dns.example@192.0.2.53, tls://192.0.2.53 or tls://dns.example:853"
	hintHTTPS = "write it like https://dns.example/dns-query, https://dns.example@192.0.2.53/dns-query or https://192.0.2.53/dns-query"
)

// defaultPath is where RFC 8484 section 4.1.1 has its examples, and everybody.
const defaultPath = "/dns-query"

// ParseServer reads how a server is written: an address with or without a port
// is asked over UDP; schemes say other transports. Those that are encrypted may
// name a host, which the bootstrap servers are asked for, or name@address, which
// needs none.
func ParseServer(s string) (Server, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "udp", s
	}
	for t := range Transport(len(transports)) {
		if strings.EqualFold(scheme, transports[t].scheme) {
			return t.parse(s, rest)
		}
	}
	err := fmt.Errorf("%q: no transport is called %q", s, scheme)
	return Server{}, yamlpos.Hint(err, hintPlain)
}

func (t Transport) parse(s, rest string) (Server, error) {
	bad := func(format string, args ...any) (Server, error) {
		return Server{}, yamlpos.Hint(fmt.Errorf("%q "+format, append([]any{s}, args...)...), t.hint())
	}
	srv := Server{Transport: t}
	if i := strings.IndexByte(rest, '/'); i >= 0 && t == HTTPS {
		rest, srv.Path = rest[:i], rest[i:]
	}
	if err := srv.setPath(); err != nil {
		return bad("has a path that is none: %v", err)
	}
	name, at, named := strings.Cut(rest, "@")
	if !named {
		at = name
	}
	host, port, ok := splitPort(at, transports[t].port)
	if !ok {
		return bad("is no address of a resolver")
	}
	addr, err := netip.ParseAddr(host)
	srv.Addr = netip.AddrPortFrom(addr, port)
	switch {
	case err == nil && named && (!t.encrypted() || !isHost(name)):
		return bad("has before the @ what is no name of a certificate")
	case err == nil && named:
		srv.Name = canonical(name)
	case err == nil:
	case named || !isHost(host):
		return bad("is no address of a resolver")
	case !t.encrypted():
		return bad("names a host: nobody can tell who answers for it without encryption")
	default:
		srv.Host = canonical(host)
		srv.Name = srv.Host
	}
	return srv, nil
}

func (t Transport) hint() string {
	switch t {
	case TLS:
		return hintTLS
	case HTTPS:
		return hintHTTPS
	}
	return hintPlain
}

// setPath gives HTTPS its path, without the template of RFC 8484 section 4.1
// that is for GET.
func (s *Server) setPath() error {
	if s.Transport != HTTPS {
		return nil
	}
	s.Path = strings.TrimSuffix(s.Path, "{?dns}")
	if s.Path == "" || s.Path == "/" {
		s.Path = defaultPath
	}
	_, err := url.ParseRequestURI(s.Path)
	return err
}

// splitPort splits host or address from a port: "a", "a:1", "[::1]:1", "::1".
func splitPort(s string, def uint16) (host string, port uint16, ok bool) {
	if _, err := netip.ParseAddr(s); err == nil || !strings.Contains(s, ":") {
		return s, def, s != ""
	}
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(s, "]") {
		return inner[:len(inner)-1], def, true
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, false
	}
	n, err := strconv.ParseUint(p, 10, 16)
	return host, uint16(n), err == nil && n != 0 && host != ""
}

// isHost reports whether s can be the name of a host (RFC 1123 section 2.1): of
// letters, digits and hyphens, and not all digits at its end.
func isHost(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > maxName-2 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if l == "" || len(l) > maxLabel || l[0] == '-' || l[len(l)-1] == '-' || strings.Trim(strings.ToLower(l), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

func canonical(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// String writes the server as ParseServer reads it, in its shortest form.
func (s Server) String() string {
	at := s.Host
	if at == "" {
		at = s.Addr.Addr().String()
		if s.Name != "" {
			at = s.Name + "@" + at
		}
	}
	if s.Addr.Port() != transports[s.Transport].port {
		at = s.withPort()
	}
	if s.Transport == UDP {
		return at
	}
	return s.Transport.String() + "://" + at + s.Path
}

func (s Server) withPort() string {
	port := ":" + strconv.Itoa(int(s.Addr.Port()))
	switch {
	case s.Host != "":
		return s.Host + port
	case s.Name != "":
		return s.Name + "@" + s.Addr.String()
	}
	return s.Addr.String()
}

// valid checks what ParseServer would not have let through.
func (s *Server) valid() error {
	switch {
	case int(s.Transport) >= len(transports):
		return fmt.Errorf("no transport %d", s.Transport)
	case s.Addr.Port() == 0:
		return fmt.Errorf("%s has no port", s)
	case s.Host != "" && !s.Transport.encrypted():
		return fmt.Errorf("%s names a host: nobody can tell who answers for it without encryption", s)
	case s.Host == "" && !s.Addr.IsValid():
		return fmt.Errorf("%s has no address", s)
	}
	return s.setPath()
}

// certName is the name or the address that the certificate must be for.
func (s *Server) certName() string {
	if s.Name != "" {
		return s.Name
	}
	if s.Host != "" {
		return s.Host
	}
	return s.Addr.Addr().WithZone("").String()
}
