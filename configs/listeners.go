package configs

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/starferry/starferry/internal/yamlpos"
)

var pathForm = regexp.MustCompile(`^/[A-Za-z0-9._~/-]*$`)

// The defaults of what may be left out of dns.
const (
	defaultPath = "/dns-query"
	defaultUDP  = 1232 // what passes everywhere unfragmented (DNS flag day 2020)
	defaultIdle = 10 * time.Second
)

// listeners reads where and how a gateway is asked. Of two TCP listeners on one
// address the second would fail at the start.
func (r *reader) listeners(m *yamlpos.Map, d *DNS) {
	tcp := firsts{}
	d.Listen = listenOn(m, "listen", tcp)
	if tls := m.Map("tls"); tls != nil {
		d.TLS = mustListenOn(tls, "listen", tcp)
		tls.Done()
	}
	d.HTTPS = r.https(m.Map("https"), tcp)
	m.Maps("certificates", func(m *yamlpos.Map) {
		m.Require("cert", "key")
		d.Certificates = append(d.Certificates, Certificate{r.path(m, "cert", ""), r.path(m, "key", ""), m.Pos()})
		m.Done()
	})
	r.checkCertificates(m)
	d.ServerName = yamlpos.Read(m, "server_name", "", parseDomain)
	d.Forwarders = ranges(m, "forwarders")
	d.Sockets = yamlpos.Read(m, "sockets", 0, yamlpos.Int(0, 256))
	d.Limits = limits(m.Map("limits"))
	d.BlockPage = r.blockPage(m.Map("block_page"), tcp)
}

// listenOn reads listen addresses that nothing else listens on.
func listenOn(m *yamlpos.Map, key string, taken firsts) (out []netip.AddrPort) {
	if !m.Has(key) {
		return nil
	}
	for _, item := range m.Node(key).OneOrMore() {
		if at := yamlpos.Value(item, netip.AddrPort{}, parseListen); at.IsValid() && taken.noteAt(item, at) {
			out = append(out, at)
		}
	}
	return out
}

// mustListenOn is [listenOn] for a section that is of no use without it.
func mustListenOn(m *yamlpos.Map, key string, taken firsts) []netip.AddrPort {
	m.Require(key)
	atLeastOne(m, key)
	return listenOn(m, key, taken)
}

// noteAt is [firsts.note] for an address in a list. Port 0 is of the system's
// choice, another one each time.
func (f firsts) noteAt(n *yamlpos.Node, at netip.AddrPort) bool {
	first, dup := f[at.String()]
	if dup && at.Port() != 0 {
		n.Errorf(fmt.Sprintf("see line %d", first.Line), "%v is listened on already", at)
		return false
	}
	f[at.String()] = n.Pos()
	return true
}

func (r *reader) https(m *yamlpos.Map, tcp firsts) (h HTTPS) {
	if m == nil {
		return h
	}
	atLeastOne(m, "listen")
	h.Listen = listenOn(m, "listen", tcp)
	h.Path = yamlpos.Read(m, "path", defaultPath, parsePath)
	atLeastOne(m, "behind_proxy")
	h.BehindProxy = listenOn(m, "behind_proxy", tcp)
	h.TrustedProxies = ranges(m, "trusted_proxies")
	switch {
	case !m.Has("listen") && !m.Has("behind_proxy") && !m.Has("trusted_proxies"):
		m.Errorf("", "https wants listen or behind_proxy")
	case m.Has("behind_proxy") && !m.Has("trusted_proxies"):
		m.KeyErrorf("behind_proxy", "add trusted_proxies: where the proxy asks from",
			"whom behind_proxy believes is not said: everybody could give himself any address")
	case !m.Has("behind_proxy") && m.Has("trusted_proxies"):
		r.warn(m.KeyPos("trusted_proxies"), "trusted_proxies: nothing listens behind a proxy, unless systemd does")
	}
	m.Done()
	return h
}

// checkCertificates holds that what listens for TLS has one, and warns of one
// that nothing shows.
func (r *reader) checkCertificates(m *yamlpos.Map) {
	var encrypted []string
	if m.Has("tls") {
		encrypted = append(encrypted, "tls")
	}
	if n := m.Node("https"); n != nil && n.Kind == yamlpos.Mapping && n.AsMap().Has("listen") {
		encrypted = append(encrypted, "https")
	}
	switch n := m.Node("certificates"); {
	case n == nil && len(encrypted) > 0:
		m.KeyErrorf(encrypted[0], "add certificates: a list of {cert: FILE, key: FILE}",
			"a certificate is missing for %s", strings.Join(encrypted, " and "))
	case n != nil && n.Kind == yamlpos.List && len(n.Items()) == 0 && len(encrypted) > 0:
		n.Errorf("", "a certificate is missing for %s", strings.Join(encrypted, " and "))
	case n != nil && len(encrypted) == 0:
		r.warn(n.Pos(), "certificates: nothing listens for TLS, unless systemd does")
	}
	if n := m.Node("server_name"); n != nil && len(encrypted) == 0 {
		r.warn(n.Pos(), "server_name: nothing listens for TLS, unless systemd does, so no device can give its name")
	}
}

// limits reads the bounds of a listener. One client's default is no more than
// what there is in all.
func limits(m *yamlpos.Map) Limits {
	l := Limits{
		UDPSize:  yamlpos.Read(m, "udp_size", defaultUDP, yamlpos.Int(512, 4096)),
		InWork:   yamlpos.Read(m, "in_work", 1024, yamlpos.Int(1, 1<<20)),
		Conns:    yamlpos.Read(m, "connections", 1024, yamlpos.Int(1, 1<<20)),
		Pipeline: yamlpos.Read(m, "pipeline", 64, yamlpos.Int(1, 1<<16)),
		Idle:     yamlpos.Read(m, "idle", defaultIdle, yamlpos.Duration),
	}
	l.InWorkByClient = share(m, "in_work_per_client", 256, "in_work", l.InWork)
	l.ConnsByClient = share(m, "connections_per_client", 128, "connections", l.Conns)
	m.Done()
	return l
}

func share(m *yamlpos.Map, key string, def int, of string, all int) int {
	n := yamlpos.Read(m, key, min(def, all), yamlpos.Int(1, 1<<20))
	if n > all {
		m.Node(key).Errorf("", "%d is more than %s allows to all: %d", n, of, all)
	}
	return n
}

// parsePath reads where DoH is served. A template of RFC 8484 ends in {?dns},
// which is the client's part.
func parsePath(s string) (string, error) {
	bad := fmt.Errorf("%q is no path of DNS over HTTPS", s)
	switch {
	case strings.HasPrefix(s, "/") && strings.HasSuffix(s, "{?dns}"):
		return "", yamlpos.Hint(bad, "write "+strings.TrimSuffix(s, "{?dns}"))
	case strings.HasPrefix(s, "/") && strings.Trim(s, "/") != "" && strings.HasSuffix(s, "/"):
		return "", yamlpos.Hint(bad, "write "+strings.TrimRight(s, "/"))
	case !pathForm.MatchString(s):
		return "", yamlpos.Hint(bad, "write it like "+defaultPath)
	}
	return s, nil
}

// blockPage reads what blocked names lead to.
func (r *reader) blockPage(m *yamlpos.Map, tcp firsts) (p BlockPage) {
	if m == nil {
		return p
	}
	m.Require("address")
	var seen familySet
	for _, item := range atLeastOne(m, "address") {
		if a := yamlpos.Value(item, netip.Addr{}, parseUnicast); a.IsValid() && seen.add(item, a) {
			p.Address = append(p.Address, a)
		}
	}
	p.Listen = listenOn(m, "listen", tcp)
	p.Contact = yamlpos.Read(m, "contact", "", parseText)
	if m.Has("contact") && !m.Has("listen") {
		m.KeyErrorf("contact", "", "contact is of no use without listen: another server shows the page")
	}
	m.Done()
	return p
}
