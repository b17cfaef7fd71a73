package configs

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy/match"
)

// The transports of a Server.
const (
	overUDP   = "udp" // and TCP for what does not fit
	overTCP   = "tcp"
	overTLS   = "tls"
	overHTTPS = "https"
)

var ports = map[string]uint16{overUDP: 53, overTCP: 53, overTLS: 853, overHTTPS: 443}

// A Server is one resolver outside of the fleet.
type Server struct {
	Transport string         // udp (and TCP for what does not fit), tcp, tls, https
	Addr      netip.AddrPort // always with the port; its address is the zero Addr if Name is to be looked up
	Name      string         // whose certificate it shows; empty in plain DNS, and where the address is in the certificate
	Path      string         // of https
}

// theUpstream is the group that is asked for what no other group claims.
const theUpstream = "default"

// upstreams reads the groups. A domain that two of them claim, or a group and a
// zone of the gateway's own, would be asked where nobody can foresee.
func (r *reader) upstreams(m *yamlpos.Map, zones []Zone) (out []Upstream) {
	all := m.Map("upstreams")
	all.Require(theUpstream)
	domains := firsts{}
	for _, z := range zones {
		domains[z.Name] = z.At
	}
	for _, name := range all.Keys() {
		if _, err := parseName(name); err != nil {
			all.KeyErrorf(name, "", "%v", err)
		}
		group := all.Map(name)
		var claims []string
		if name == theUpstream && group.Has("domains") {
			group.KeyErrorf("domains", "", "domains is of no use in group default: it has all that no other group claims")
		} else {
			claims = claimDomains(group, domains)
		}
		u := r.upstream(name, group)
		u.Domains = claims
		out = append(out, u)
	}
	return out
}

func claimDomains(m *yamlpos.Map, taken firsts) (out []string) {
	if !m.Has("domains") {
		return nil
	}
	for _, item := range atLeastOne(m, "domains") {
		d := yamlpos.Value(item, "", parseDomain)
		if first, dup := taken[d]; dup {
			item.Errorf(fmt.Sprintf("see line %d", first.Line), "%s is claimed already", d)
			continue
		}
		if d != "" {
			taken[d] = item.Pos()
			out = append(out, d)
		}
	}
	return out
}

func (r *reader) upstream(name string, m *yamlpos.Map) Upstream {
	m.Require("servers")
	u := Upstream{
		Name:      name,
		Resolvers: yamlpos.Values(atLeastOne(m, "servers"), parseServerURL),
		Strategy:  yamlpos.Read(m, "strategy", Failover, yamlpos.OneOf(Fastest, Parallel, Failover)),
		Timeout:   yamlpos.Read(m, "timeout", defaultTimeout, yamlpos.Duration),
		Bootstrap: yamlpos.ReadOneOrList(m, "bootstrap", parseServer),
		At:        m.Pos(),
	}
	for _, s := range u.Resolvers {
		if s.Transport == overUDP {
			u.Servers = append(u.Servers, s.Addr)
		}
		if !s.Addr.Addr().IsValid() && !m.Has("bootstrap") {
			m.KeyErrorf("servers", "add bootstrap: [ADDRESS of a resolver], or write "+withAddress(s),
				"nothing says where %s is", s.Name)
		}
	}
	m.Done()
	return u
}

// withAddress shows how a server is written with its address.
func withAddress(s Server) string {
	return fmt.Sprintf("%s://%s@ADDRESS%s", s.Transport, s.Name, s.Path)
}

var pathForm = regexp.MustCompile(`^/[A-Za-z0-9._~/-]*$`)

// parseServerURL reads how a resolver is asked: an address for plain DNS, or
// SCHEME://[NAME@]HOST[:PORT][/PATH]. A name before the @ is the one that the
// certificate must show where the host is an address.
func parseServerURL(s string) (Server, error) {
	if !strings.Contains(s, "://") {
		at, err := parseServer(s)
		return Server{Transport: overUDP, Addr: at}, err
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.RawQuery != "" || u.Fragment != "" || u.Host == "":
		return Server{}, badServer(s)
	case ports[u.Scheme] == 0:
		hint := yamlpos.DidYouMean(u.Scheme, []string{overUDP, overTCP, overTLS, overHTTPS})
		return Server{}, yamlpos.Hint(fmt.Errorf("%q: %q is none of udp, tcp, tls, https", s, u.Scheme), hint)
	}
	out := Server{Transport: u.Scheme}
	if out.Path, err = serverPath(u); err != nil {
		return Server{}, err
	}
	return out, out.setHost(s, u)
}

func badServer(s string) error {
	return yamlpos.Hint(fmt.Errorf("%q is no resolver", s),
		"write it like 192.0.2.53, tls://dns.example@192.0.2.53 or https://dns.example/dns-query")
}

// serverPath returns the path of https; others have none.
func serverPath(u *url.URL) (string, error) {
	switch {
	case u.Scheme != overHTTPS && u.Path != "":
		return "", fmt.Errorf("%q: a path goes with https only", u)
	case u.Scheme != overHTTPS:
		return "", nil
	case u.Path == "":
		return "", yamlpos.Hint(fmt.Errorf("%q has no path", u), "write "+u.String()+defaultPath)
	case u.RawPath != "" || !pathForm.MatchString(u.Path):
		return "", badServer(u.String())
	}
	return u.Path, nil
}

// setHost puts in where the server is, and by which name it is known.
func (s *Server) setHost(written string, u *url.URL) error {
	port := ports[s.Transport]
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return badServer(written)
		}
		port = uint16(n)
	} else if strings.HasSuffix(u.Host, ":") {
		return badServer(written)
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err == nil && (addr.Zone() != "" || addr.Is4In6()) {
		return badServer(written)
	}
	s.Addr = netip.AddrPortFrom(addr, port)
	return s.setName(written, u, err == nil)
}

func (s *Server) setName(written string, u *url.URL, hasAddr bool) error {
	_, password := u.User.Password()
	named := u.User.Username()
	encrypted := s.Transport == overTLS || s.Transport == overHTTPS
	switch {
	case password:
		return badServer(written)
	case !encrypted && (!hasAddr || u.User != nil):
		return yamlpos.Hint(fmt.Errorf("%q: plain DNS is asked by address", written), "write it like 192.0.2.53")
	case !hasAddr && u.User != nil:
		return yamlpos.Hint(fmt.Errorf("%q has two names", written), "what stands behind the @ is an address")
	case !hasAddr:
		named = u.Hostname()
	case u.User == nil:
		return nil
	}
	name, err := parseDomain(named)
	s.Name = name
	return err
}

// parseDomain reads a domain name.
func parseDomain(s string) (string, error) {
	if rest, ok := strings.CutPrefix(s, "*."); ok {
		return "", yamlpos.Hint(fmt.Errorf("%q is no domain", s), fmt.Sprintf("write %s: what is below it is meant too", rest))
	}
	d, err := match.Clean(s)
	if err != nil {
		return "", err
	}
	return d, nil
}

// parseText reads a line for people, of the length that a TXT record's string has.
func parseText(s string) (string, error) {
	if len(s) > 255 || slices.ContainsFunc([]byte(s), func(b byte) bool { return b < ' ' || b == 0x7f }) {
		return "", fmt.Errorf("want one line of up to 255 bytes")
	}
	return s, nil
}
