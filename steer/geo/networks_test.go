package geo_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/starferry/starferry/steer/geo"
)

func TestASNShapes(t *testing.T) {
	type m = mmdbtype.Map
	str := func(s string) mmdbtype.DataType { return mmdbtype.String(s) }
	for name, shape := range map[string]struct {
		record mmdbtype.DataType
		want   uint32
	}{
		"MaxMind":     {m{"autonomous_system_number": mmdbtype.Uint32(4134), "autonomous_system_organization": str("CHINANET")}, 4134},
		"large":       {m{"autonomous_system_number": mmdbtype.Uint32(4200000000)}, 4200000000},
		"IPinfo":      {m{"asn": str("AS4134"), "country_code": str("CN")}, 4134},
		"lower case":  {m{"asn": str("as4134")}, 4134},
		"number":      {m{"asn": mmdbtype.Uint32(4134)}, 4134},
		"not routed":  {m{"asn": str("")}, 0},
		"AS zero":     {m{"autonomous_system_number": mmdbtype.Uint32(0)}, 0},
		"no number":   {m{"asn": str("ASX")}, 0},
		"a country":   {m{"country": m{"iso_code": str("CN")}}, 0},
		"bare string": {str("cn"), 0},
	} {
		n, known := shaped(t, shape.record).ASN(netip.MustParseAddr("203.0.113.9"))
		if n != shape.want || known != (n != 0) {
			t.Errorf("%s: AS%d, %v, want %d", name, n, known, shape.want)
		}
	}
	var none *geo.DB
	if n, known := none.ASN(netip.MustParseAddr("203.0.113.9")); known {
		t.Errorf("no database gives AS%d", n)
	}
}

func TestContinentShapes(t *testing.T) {
	type m = mmdbtype.Map
	str := func(s string) mmdbtype.DataType { return mmdbtype.String(s) }
	for name, shape := range map[string]struct {
		record mmdbtype.DataType
		want   string
	}{
		"MaxMind":    {m{"continent": m{"code": str("AS"), "geoname_id": mmdbtype.Uint32(6255147)}}, "AS"},
		"IPinfo":     {m{"continent": str("Asia"), "continent_code": str("AS")}, "AS"},
		"IPinfo old": {m{"continent": str("eu")}, "EU"},
		"no code":    {m{"continent": str("Asia")}, ""},
		"country":    {m{"country": m{"iso_code": str("DE")}}, "EU"},
		"none":       {m{"country": m{"iso_code": str("ZZ")}}, ""},
	} {
		c, known := shaped(t, shape.record).Continent(netip.MustParseAddr("203.0.113.9"))
		if c != shape.want || known != (c != "") {
			t.Errorf("%s: %q, %v, want %q", name, c, known, shape.want)
		}
	}
}

func TestLookupsAllocateNothing(t *testing.T) {
	a := netip.MustParseAddr("203.0.113.9")
	db := shaped(t, mmdbtype.Map{"autonomous_system_number": mmdbtype.Uint32(4134), "continent": mmdbtype.Map{"code": mmdbtype.String("AS")}})
	if n := testing.AllocsPerRun(100, func() { db.ASN(a) }); n != 0 {
		t.Errorf("ASN allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { db.Continent(a) }); n != 0 {
		t.Errorf("Continent allocates %v times", n)
	}
}

func TestNetworks(t *testing.T) {
	want := map[string]string{"203.0.113.0/25": "CN", "203.0.113.128/25": "HK", "198.51.100.0/24": "", "2001:db8::/32": "CN"}
	got := map[string]string{}
	if err := open(t, want).Networks(func(p netip.Prefix, r geo.Record) { got[p.String()] = r.Country }); err != nil {
		t.Fatal(err)
	}
	for p, c := range want {
		if have, ok := got[p]; !ok || have != c {
			t.Errorf("%s is in %q, %v, want %q", p, have, ok, c)
		}
	}
	if len(got) != len(want) {
		t.Errorf("networks %v", got)
	}
}

func TestParseASN(t *testing.T) {
	for text, want := range map[string]uint32{"AS4134": 4134, "4134": 4134, "as1": 1, "0": 0, "AS": 0, "AS-1": 0, "4294967296": 0, "x": 0} {
		if n, err := geo.ParseASN(text); n != want || (err == nil) != (want != 0) {
			t.Errorf("ParseASN(%q) = %d, %v, want %d", text, n, err, want)
		}
	}
}

// The published database holds the networks of the list that is published
// beside it, and nothing but that they are in China.
func TestRealNetworks(t *testing.T) {
	dir := os.Getenv("DATA")
	if dir == "" {
		t.Skip("DATA names no folder of databases")
	}
	b, err := os.ReadFile(filepath.Join(dir, "china/chnroutes.mmdb"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := geo.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	addresses := 0
	err = db.Networks(func(p netip.Prefix, r geo.Record) {
		if r.Country != "CN" || r.ASN != 0 || !p.Addr().Is4() {
			t.Errorf("%v: %+v", p, r)
		}
		addresses += 1 << (32 - p.Bits())
	})
	if err != nil || addresses != 282_502_144 {
		t.Errorf("%d addresses, %v", addresses, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "china/chnroutes.txt"))
	if err != nil {
		t.Fatal(err)
	}
	networks := 0
	for line := range strings.Lines(string(text)) {
		p, err := netip.ParsePrefix(strings.TrimSpace(line))
		if err != nil {
			continue
		}
		networks++
		if c, _ := db.Country(p.Addr()); c != "CN" {
			t.Errorf("%v is in %q", p, c)
		}
	}
	if networks != 3912 {
		t.Errorf("%d networks", networks)
	}
}

func BenchmarkASN(b *testing.B) {
	db := shaped(b, mmdbtype.Map{"autonomous_system_number": mmdbtype.Uint32(4134)})
	a := netip.MustParseAddr("203.0.113.9")
	b.ReportAllocs()
	for b.Loop() {
		db.ASN(a)
	}
}
