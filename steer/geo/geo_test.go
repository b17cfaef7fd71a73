package geo_test

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/starferry/starferry/steer/geo"
	"github.com/starferry/starferry/steer/geo/geomake"
)

func open(t testing.TB, entries map[string]string) *geo.DB {
	t.Helper()
	m := map[netip.Prefix]string{}
	for p, c := range entries {
		m[netip.MustParsePrefix(p)] = c
	}
	b, err := geomake.Make(m)
	if err != nil {
		t.Fatal(err)
	}
	db, err := geo.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func expect(t *testing.T, db *geo.DB, want map[string]string) {
	t.Helper()
	for range 2 { // the second time from memory
		for a, w := range want {
			c, known := db.Country(netip.MustParseAddr(a))
			if c != w || known != (w != "") {
				t.Errorf("Country(%s) = %q, %v, want %q", a, c, known, w)
			}
		}
	}
}

func TestCountry(t *testing.T) {
	db := open(t, map[string]string{
		"203.0.113.0/24": "CN", "203.0.113.128/25": "hk", "198.51.100.0/24": "", "2001:db8::/32": "CN", "10.0.0.0/8": "US",
	})
	expect(t, db, map[string]string{
		"203.0.113.9":        "CN",
		"203.0.113.200":      "HK",
		"::ffff:203.0.113.9": "CN",
		"198.51.100.1":       "", // a record without a country
		"192.0.2.1":          "", // no record
		"10.1.2.3":           "US",
		"2001:db8::1":        "CN",
		"2001:db9::1":        "",
	})
	if c, known := db.Country(netip.Addr{}); known {
		t.Errorf("no address is in %q", c)
	}
	var none *geo.DB
	expect(t, none, map[string]string{"203.0.113.9": ""})
}

// A database of one family knows nothing of the other one.
func TestFamilyThatIsMissing(t *testing.T) {
	expect(t, open(t, map[string]string{"203.0.113.0/24": "CN"}), map[string]string{"203.0.113.9": "CN", "2001:db8::1": ""})
	expect(t, open(t, map[string]string{"2001:db8::/32": "CN"}), map[string]string{"203.0.113.9": "", "2001:db8::1": "CN"})
}

func TestShapes(t *testing.T) {
	type m = mmdbtype.Map
	str := func(s string) mmdbtype.DataType { return mmdbtype.String(s) }
	for name, shape := range map[string]struct {
		record mmdbtype.DataType
		want   string
	}{
		"MaxMind":    {m{"country": m{"iso_code": str("CN"), "geoname_id": mmdbtype.Uint32(1814991)}}, "CN"},
		"both":       {m{"country": m{"iso_code": str("HK")}, "registered_country": m{"iso_code": str("CN")}}, "HK"},
		"registered": {m{"registered_country": m{"iso_code": str("CN")}}, "CN"},
		"IPinfo":     {m{"country": str("China"), "country_code": str("CN")}, "CN"},
		"IPinfo old": {m{"country": str("CN")}, "CN"},
		"bare":       {str("cn"), "CN"},
		"tags":       {mmdbtype.Slice{str("cn"), str("apnic")}, "CN"},
		"no tags":    {mmdbtype.Slice{}, ""},
		"a network":  {m{"autonomous_system_number": mmdbtype.Uint32(4134)}, ""},
		"continent":  {m{"continent": m{"code": str("AS")}}, ""},
		"no code":    {str("private"), ""},
		"number":     {mmdbtype.Uint32(7), ""},
	} {
		t.Log(name)
		expect(t, shaped(t, shape.record), map[string]string{"203.0.113.9": shape.want})
	}
}

// shaped returns a database with this record for 203.0.113.0/24.
func shaped(t testing.TB, record mmdbtype.DataType) *geo.DB {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	_, n, _ := net.ParseCIDR("203.0.113.0/24")
	if err := tree.Insert(n, record); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := tree.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	db, err := geo.Open(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestRealDatabase(t *testing.T) {
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
	expect(t, db, map[string]string{"223.5.5.5": "CN", "114.114.114.114": "CN", "8.8.8.8": "", "2400:3200::1": ""})
}

func TestBrokenDatabase(t *testing.T) {
	good, err := geomake.Make(map[netip.Prefix]string{netip.MustParsePrefix("203.0.113.0/24"): "CN"})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{nil, []byte("<html>not found</html>"), good[:len(good)/2]} {
		if _, err := geo.Open(b); err == nil {
			t.Errorf("%d bytes are taken for a database", len(b))
		}
	}
}

func TestCountryAllocatesNothing(t *testing.T) {
	db := open(t, map[string]string{"203.0.113.0/24": "CN"})
	a := netip.MustParseAddr("203.0.113.9")
	if n := testing.AllocsPerRun(1000, func() { db.Country(a) }); n != 0 {
		t.Errorf("Country allocates %v times", n)
	}
}

func FuzzOpen(f *testing.F) {
	good, _ := geomake.Make(map[netip.Prefix]string{
		netip.MustParsePrefix("203.0.113.0/24"): "CN", netip.MustParsePrefix("2001:db8::/32"): "",
	})
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		db, err := geo.Open(b)
		if err != nil {
			return
		}
		for _, a := range []string{"203.0.113.9", "2001:db8::1", "::", "255.255.255.255"} {
			a := netip.MustParseAddr(a)
			if c, known := db.Country(a); known != (len(c) == 2) {
				t.Fatalf("%s is in %q, known: %v", a, c, known)
			}
			if n, known := db.ASN(a); known != (n != 0) {
				t.Fatalf("%s is of AS%d, known: %v", a, n, known)
			}
			db.Continent(a)
			if err := db.Networks(func(netip.Prefix, geo.Record) {}); err != nil {
				return
			}
		}
	})
}

func BenchmarkCountry(b *testing.B) {
	db := open(b, map[string]string{"203.0.113.0/24": "CN", "2001:db8::/32": "CN"})
	a := netip.MustParseAddr("203.0.113.9")
	b.ReportAllocs()
	for b.Loop() {
		db.Country(a)
	}
}

func TestContinent(t *testing.T) {
	db := open(t, map[string]string{"203.0.113.0/24": "CN", "192.0.2.0/24": "US", "198.51.100.0/24": "", "100.0.0.0/8": "ZZ"})
	for a, want := range map[string]string{"203.0.113.9": "AS", "192.0.2.1": "NA", "198.51.100.1": "", "100.1.1.1": "", "8.8.8.8": "", "2001:db8::1": ""} {
		if c, known := db.Continent(netip.MustParseAddr(a)); c != want || known != (want != "") {
			t.Errorf("Continent(%s) = %q, %v, want %q", a, c, known, want)
		}
	}
	for country, want := range map[string]string{"DE": "EU", "TR": "AS", "AU": "OC", "AQ": "AN", "": "", "EU": ""} {
		if got := geo.ContinentOf(country); got != want {
			t.Errorf("%s is in %q, want %q", country, got, want)
		}
	}
	if !geo.IsContinent("AF") || geo.IsContinent("CN") {
		t.Error("AF is a continent, CN is none")
	}
}

func TestASN(t *testing.T) {
	b, err := geomake.MakeASN(map[netip.Prefix]uint32{
		netip.MustParsePrefix("203.0.113.0/24"): 4134, netip.MustParsePrefix("192.0.2.0/24"): 0, netip.MustParsePrefix("2001:db8::/32"): 4_200_000_000,
	})
	if err != nil {
		t.Fatal(err)
	}
	db, err := geo.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for a, want := range map[string]uint32{"203.0.113.9": 4134, "192.0.2.1": 0, "8.8.8.8": 0, "2001:db8::1": 4_200_000_000} {
			if n, known := db.ASN(netip.MustParseAddr(a)); n != want || known != (want != 0) {
				t.Errorf("ASN(%s) = %d, %v, want %d", a, n, known, want)
			}
		}
	}
	if _, known := db.Country(netip.MustParseAddr("203.0.113.9")); known {
		t.Error("a country is known by a database of autonomous systems")
	}
	var none *geo.DB
	if _, known := none.ASN(netip.MustParseAddr("203.0.113.9")); known {
		t.Error("no database knows a system")
	}
}
