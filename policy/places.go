package policy

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/starferry/starferry/internal/rrtype"
	"github.com/starferry/starferry/internal/yamlpos"
	"github.com/starferry/starferry/steer/geo"
)

// readGeo reads the databases of places: of countries, and of autonomous systems.
func (c *compiler) readGeo(m *yamlpos.Map) {
	if m == nil {
		return
	}
	if !m.Has("asn") {
		m.Require("country")
	}
	c.geo, c.hasGeo = c.readDatabase(m.Node("country"))
	c.asn, c.hasASN = c.readDatabase(m.Node("asn"))
	m.Done()
}

// readDatabase opens a database; given is true also of one that cannot be read.
func (c *compiler) readDatabase(n *yamlpos.Node) (db *geo.DB, given bool) {
	if n == nil {
		return nil, false
	}
	path := yamlpos.Value(n, "", yamlpos.Word)
	if path == "" {
		return nil, true
	}
	err := c.read(path, func(r io.Reader) error {
		b, err := io.ReadAll(r)
		if err == nil {
			db, err = geo.Open(b)
		}
		return err
	})
	if err != nil {
		n.Errorf("", "%v", err)
	}
	return db, true
}

// answerKeys are the words of "answer": where its addresses are, and the
// records that it holds.
var answerKeys = []string{"country", "continent", "asn", "network", "cname", "mx", "ns", "ptr", "txt"}

// recordKeys are those of them that are types of records.
var recordKeys = map[string]uint16{"cname": 5, "mx": 15, "ns": 2, "ptr": 12, "txt": 16}

func (c *compiler) readAnswer(n *yamlpos.Node) cond {
	m := n.AsMap()
	var given []string
	var v *yamlpos.Node
	for _, key := range answerKeys {
		if m.Has(key) {
			given, v = append(given, key), m.Node(key)
		}
	}
	m.Done()
	switch {
	case n.Kind != yamlpos.Mapping:
	case len(given) > 1:
		n.Errorf("say which is meant with any: or all:", "%s in one", strings.Join(given, " and "))
	case len(given) == 0:
		n.Errorf("", "want one of %s", strings.Join(answerKeys, ", "))
	default:
		return c.readAnswerPart(given[0], v)
	}
	return cond{op: opAny}
}

func (c *compiler) readAnswerPart(key string, n *yamlpos.Node) cond {
	switch key {
	case "country", "continent":
		if !c.hasGeo {
			n.Errorf("add geoip: {country: FILE.mmdb}", "no country database is given")
		}
		if key == "country" {
			codes := yamlpos.Values(members(n), countryCode)
			return cond{op: opCountry, words: codes, geo: c.geo, text: "in " + some(codes)}
		}
		codes := yamlpos.Values(members(n), continentCode)
		return cond{op: opContinent, words: codes, geo: c.geo, text: "in " + some(codes)}
	case "asn":
		if !c.hasASN {
			n.Errorf("add geoip: {asn: FILE.mmdb}", "no database of autonomous systems is given")
		}
		out := cond{op: opASN, geo: c.asn, rare: &rare{numbers: yamlpos.Values(members(n), asNumber)}}
		for _, n := range out.rare.numbers {
			out.words = append(out.words, fmt.Sprintf("AS%d", n))
		}
		out.text = "in " + some(out.words)
		return out
	case "network":
		return c.readNetworks(n, opNetwork)
	default:
		return c.readRecord(key, n)
	}
}

// readRecord reads a condition on what records hold: names, in the forms that
// names have, or text.
func (c *compiler) readRecord(key string, n *yamlpos.Node) cond {
	c.policy.records = append(c.policy.records, Ref{key, n.Pos()})
	if key != "txt" {
		return c.readName(n).ofRecords(recordKeys[key])
	}
	m := n.AsMap()
	m.Require("regexp")
	either := cond{op: opAny}
	if v := m.Node("regexp"); v != nil {
		for _, re := range yamlpos.Values(members(v), wholeText) {
			either.kids = append(either.kids, cond{op: opRegexp, text: "like " + inner(re), rare: &rare{re: re}})
		}
	}
	m.Done()
	return either.ofRecords(recordKeys[key]).tidy()
}

// ofRecords makes of a condition on names one on the names that records hold.
func (c cond) ofRecords(t uint16) cond {
	if c.op == opName || c.op == opRegexp {
		c.op, c.entries, c.slot = opRecord, nil, 0
		if c.rare == nil {
			c.rare = &rare{}
		}
		c.rare.record = t
	}
	for i := range c.kids {
		c.kids[i] = c.kids[i].ofRecords(t)
	}
	return c
}

// recorded judges a condition on the records of a name: true if one of them
// meets it, unknown if there is none.
func (c *cond) recorded(s *scene) Truth {
	if c.rare.record == recordKeys["cname"] {
		if s.at.alias == "" {
			return Unknown
		}
		return truth(c.holds(s.at.alias))
	}
	t := Unknown
	for i := range s.at.Values {
		v := &s.at.Values[i]
		switch {
		case v.Type != c.rare.record:
		case c.holds(v.Text):
			return Yes
		default:
			t = No
		}
	}
	return t
}

func (c *cond) holds(value string) bool {
	if c.rare.re != nil {
		return c.rare.re.MatchString(value)
	}
	_, ok := c.names.Lookup(value)
	return ok
}

// sayRecords puts into words what a condition on records found.
func (c *cond) sayRecords(s *scene, t Truth) string {
	typ := rrtype.Name(c.rare.record)
	var have []string
	if c.rare.record == recordKeys["cname"] && s.at.alias != "" {
		have = []string{s.at.alias}
	}
	for _, v := range s.at.Values {
		if v.Type == c.rare.record && (t != Yes || c.holds(v.Text)) {
			have = append(have, strconv.Quote(v.Text))
		}
	}
	switch {
	case t == open:
		return "answer " + typ + " not known yet"
	case t == Unknown:
		return "no " + typ + " at " + s.at.Name
	case t == No:
		return fmt.Sprintf("answer %s %s, not %s", typ, some(have), c.text)
	}
	return fmt.Sprintf("answer %s %s %s", typ, some(have), c.text)
}

func continentCode(s string) (string, error) {
	up := strings.ToUpper(s)
	if !geo.IsContinent(up) {
		return "", yamlpos.Hint(fmt.Errorf("%q is no continent", s), "a continent is one of AF, AN, AS, EU, NA, OC, SA")
	}
	return up, nil
}

// asNumber parses 4134 and AS4134 (RFC 5396).
func asNumber(s string) (uint32, error) {
	num := strings.TrimPrefix(strings.ToUpper(s), "AS")
	n, err := strconv.ParseUint(num, 10, 32)
	if err != nil || n == 0 {
		return 0, yamlpos.Hint(fmt.Errorf("%q is no autonomous system", s), "write it like 4134 or AS4134")
	}
	return uint32(n), nil
}
