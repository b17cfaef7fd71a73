package configs

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/starferry/starferry/internal/yamlpos"
)

const day = 24 * time.Hour

// readDNS reads all of dns. Nothing of it is needed: WireGuard devices ask the
// node address, which is always served.
func (r *reader) readDNS(m *yamlpos.Map) (d DNS) {
	r.listeners(m, &d)
	d.RateLimit = rateLimit(m)
	d.Cookies = r.cookies(m)
	d.Cache = readCache(m)
	d.Local = r.local(m)
	d.Rebinding = rebinding(m)
	chaos := m.Map("chaos")
	d.Chaos.Version = yamlpos.Read(chaos, "version", "", parseText)
	d.Chaos.Hostname = yamlpos.Read(chaos, "hostname", "", parseText)
	chaos.Done()
	m.Done()
	return d
}

// switched reads what can be turned on or off in one word, or described by a
// mapping, which turns it on; what is left out is as def says.
func switched(m *yamlpos.Map, key string, def bool) (settings *yamlpos.Map, on bool) {
	n := m.Node(key)
	switch {
	case n == nil:
		return nil, def
	case n.Kind == yamlpos.Null:
		return nil, false
	case n.Kind == yamlpos.Scalar:
		return nil, yamlpos.Value(n, def, yamlpos.Bool)
	}
	return n.AsMap(), true
}

// rateLimit reads bounds. None holds unless it is asked for: a number that suits
// an office of ten starves a forwarder of ten thousand.
func rateLimit(m *yamlpos.Map) (l RateLimit) {
	m, on := switched(m, "rate_limit", true)
	if m == nil {
		if on {
			l = RateLimit{Client: Rate{1000, 2000}, Network: Rate{10000, 20000}, Responses: 200, Slip: 2}
		}
		return l
	}
	l.Client = rate(m.Map("client"))
	l.Network = rate(m.Map("network"))
	if m := m.Map("responses"); m != nil {
		m.Require("rate")
		l.Responses = yamlpos.Read(m, "rate", 0, yamlpos.Int(1, math.MaxInt32))
		l.Slip = yamlpos.Read(m, "slip", 2, yamlpos.Int(0, 10))
		m.Done()
	}
	if m.Has("exempt") {
		l.Exempt = append([]netip.Prefix{}, ranges(m, "exempt")...)
	}
	if !m.Has("client") && !m.Has("network") && !m.Has("responses") {
		m.Errorf("", "rate_limit wants client, network or responses")
	}
	m.Done()
	return l
}

func rate(m *yamlpos.Map) (r Rate) {
	if m == nil {
		return r
	}
	m.Require("rate")
	r.PerSecond = yamlpos.Read(m, "rate", 0, yamlpos.Int(1, math.MaxInt32))
	r.Burst = yamlpos.Read(m, "burst", min(2*r.PerSecond, math.MaxInt32), yamlpos.Int(1, math.MaxInt32))
	m.Done()
	return r
}

func (r *reader) cookies(m *yamlpos.Map) (c Cookies) {
	m, c.On = switched(m, "cookies", true)
	c.SecretFile = r.path(m, "secret_file", "")
	m.Done()
	return c
}

func readCache(m *yamlpos.Map) Cache {
	m, on := switched(m, "cache", true)
	if !on {
		return Cache{}
	}
	c := Cache{
		Size:        yamlpos.Read(m, "size", 64<<20, parseSize),
		MinTTL:      yamlpos.Read(m, "min_ttl", 0, ParseSpan),
		MaxTTL:      yamlpos.Read(m, "max_ttl", day, longer),
		MaxNegative: yamlpos.Read(m, "max_negative_ttl", time.Hour, ParseSpan),
		ServeStale:  yamlpos.Read(m, "serve_stale", day, ParseSpan),
		StaleTTL:    yamlpos.Read(m, "stale_ttl", 30*time.Second, longer),
		Prefetch:    yamlpos.Read(m, "prefetch", true, yamlpos.Bool),
	}
	if c.MinTTL > c.MaxTTL {
		m.KeyErrorf("min_ttl", "", "min_ttl %v is longer than max_ttl %v", c.MinTTL, c.MaxTTL)
	}
	m.Done()
	return c
}

// local reads the names that are answered without asking anybody.
func (r *reader) local(m *yamlpos.Map) (l Local) {
	zones := m.Map("zones")
	seen := firsts{}
	for _, name := range zones.Keys() {
		zone := zones.Map(name)
		domain := keyDomain(zones, name, seen)
		if zones.Node(name).Kind == yamlpos.Mapping {
			zone.Require("file")
		}
		l.Zones = append(l.Zones, Zone{domain, r.path(zone, "file", ""), zones.KeyPos(name)})
		zone.Done()
	}
	for _, p := range yamlpos.ReadOneOrList(m, "hosts", yamlpos.Word) {
		l.Hosts = append(l.Hosts, r.inDir(p))
	}
	special, on := switched(m, "special_use", true)
	l.SpecialUse = on
	l.Except = yamlpos.ReadOneOrList(special, "except", parseDomain)
	special.Done()
	return l
}

// keyDomain reads a domain that stands as a key; the same one written in two
// ways is no duplicate to YAML.
func keyDomain(m *yamlpos.Map, key string, seen firsts) string {
	domain, err := parseDomain(key)
	if err != nil {
		m.KeyErrorf(key, "", "%v", err)
		return ""
	}
	if first, dup := seen[domain]; dup {
		m.KeyErrorf(key, fmt.Sprintf("first in line %d", first.Line), "%q is given twice", domain)
	}
	seen[domain] = m.KeyPos(key)
	return domain
}

func rebinding(m *yamlpos.Map) (b Rebinding) {
	m, b.Protect = switched(m, "rebinding", true)
	if m == nil {
		return b
	}
	b.Protect = yamlpos.Read(m, "protect", true, yamlpos.Bool)
	b.Except = yamlpos.ReadOneOrList(m, "except", parseDomain)
	b.Networks = ranges(m, "networks")
	m.Done()
	return b
}

// queryLog reads where questions are written down.
func (r *reader) queryLog(m *yamlpos.Map) *QueryLog {
	if m == nil {
		return nil
	}
	q := &QueryLog{
		File:     r.logPath(m),
		MaxSize:  yamlpos.Read(m, "max_size", 100<<20, parseSize),
		MaxAge:   yamlpos.Read(m, "max_age", 7*day, longer),
		Keep:     yamlpos.Read(m, "keep", 10, yamlpos.Int(1, 10000)),
		Compress: yamlpos.Read(m, "compress", true, yamlpos.Bool),
		Dnstap:   r.dnstap(m.Map("dnstap")),
		Privacy:  yamlpos.Read(m, "privacy", "keep", yamlpos.OneOf("keep", "hash", "drop")),
		KeyFile:  r.path(m, "key_file", ""),
	}
	if !m.Has("file") && !m.Has("dnstap") {
		m.Errorf("", "query_log wants file or dnstap")
	}
	for _, key := range []string{"max_size", "max_age", "keep", "compress"} {
		switch {
		case !m.Has(key):
		case !m.Has("file"):
			m.KeyErrorf(key, "", "%s is of no use without file", key)
		case q.File == stdout:
			m.KeyErrorf(key, "leave it out: who takes the output keeps it", "%s is of no use with the standard output", key)
		}
	}
	switch {
	case q.Privacy == "hash" && !m.Has("key_file"):
		m.KeyErrorf("privacy", "add key_file: whoever has this file can tell who asked", "privacy hash needs a key")
	case q.Privacy != "hash" && m.Has("key_file"):
		m.KeyErrorf("key_file", "", "key_file is of no use without privacy: hash")
	}
	m.Done()
	return q
}

// stdout is the file that stands for the standard output.
const stdout = "-"

func (r *reader) logPath(m *yamlpos.Map) string {
	if n := m.Node("file"); n != nil && n.Text() == stdout {
		return stdout
	}
	return r.path(m, "file", "")
}

func (r *reader) dnstap(m *yamlpos.Map) (d Dnstap) {
	if m == nil {
		return d
	}
	ways := []Dnstap{
		{"unix", r.path(m, "socket", "")},
		{"tcp", yamlpos.Read(m, "tcp", "", parseEndpoint)},
		{"file", r.path(m, "file", "")},
	}
	said := 0
	for i, key := range []string{"socket", "tcp", "file"} {
		if m.Has(key) {
			d, said = ways[i], said+1
		}
	}
	if said != 1 {
		m.Errorf("", "dnstap wants one of socket, tcp and file")
	}
	m.Done()
	return d
}

// ranges reads addresses and ranges that belong to nobody in particular.
func ranges(m *yamlpos.Map, key string) []netip.Prefix {
	return yamlpos.ReadOneOrList(m, key, parseAddrs)
}
