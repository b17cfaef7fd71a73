package configs

import (
	"fmt"
	"slices"
	"strings"

	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/policy/match"
	"github.com/starferry/starferry/resolver/upstream"
)

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
		trusted := yamlpos.Read(group, "trust_ad", false, yamlpos.Bool)
		u := r.upstream(name, group)
		u.Domains, u.TrustAD = claims, trusted
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
		Servers:   yamlpos.Values(atLeastOne(m, "servers"), upstream.ParseServer),
		Strategy:  yamlpos.Read(m, "strategy", upstream.Failover, upstream.ParseStrategy),
		Timeout:   yamlpos.Read(m, "timeout", defaultTimeout, yamlpos.Duration),
		Bootstrap: yamlpos.ReadOneOrList(m, "bootstrap", parseServer),
		At:        m.Pos(),
	}
	for _, s := range u.Servers {
		if s.Host != "" && !m.Has("bootstrap") {
			m.KeyErrorf("servers", "add bootstrap: [ADDRESS of a resolver], or write the server as NAME@ADDRESS", "nothing says where %s is", s.Host)
		}
	}
	m.Done()
	return u
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
