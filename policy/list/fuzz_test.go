package list

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy/match"
	"github.com/starferry/starferry/steer/geo/geomake"
)

// fuzzNames holds of a format that what comes out of a text is what was counted.
func fuzzNames(f *testing.F, s Source, seeds ...string) {
	for _, seed := range seeds {
		f.Add(seed)
	}
	s.Include = files{"a": "x.test @cn\ninclude:b\n", "b": "include:a\nfull:y.test\n"}.open
	f.Fuzz(func(t *testing.T, text string) {
		set, stats, err := s.Names(strings.NewReader(text))
		if err != nil {
			return
		}
		if set.Len() > stats.Entries || text != "" && stats.Entries+stats.passed == 0 {
			t.Fatalf("%d names of %d entries", set.Len(), stats.Entries)
		}
		if len(stats.BadLines) != min(stats.Bad-stats.Unsaid, maxShown) {
			t.Fatalf("%d bad lines, %d shown", stats.Bad, len(stats.BadLines))
		}
		stats.Warnings()
		set.Lookup("www.a.test")
	})
}

func FuzzPlain(f *testing.F) {
	fuzzNames(f, Source{Format: "plain"}, "a.test\n*.d.test\n=e.test # x\n/^f[0-9]/\n+.g.test", "\ufeff\u4e2d\u6587.test\r\n")
}

func FuzzHosts(f *testing.F) {
	fuzzNames(f, Source{Format: "hosts"}, "0.0.0.0 a.test b.test # c\n::1 localhost\n")
}

func FuzzDnsmasq(f *testing.F) {
	fuzzNames(f, Source{Format: "dnsmasq"}, "server=/b.test/c.test/1.1.1.1#53\nserver=/x.b.test/#\nnftset=/d.test/4#inet#t#s\naddress=/*.e.test/::\n")
}

func FuzzAdblock(f *testing.F) {
	fuzzNames(f, Source{Format: "adblock"}, "||c.test^\n@@||x.c.test^$important\n|d.test^|\n/^e[$]/$important\n", "||f.test^$denyallow=a.f.test|b.f.test,badfilter\n||*.g.test^\n")
}

func FuzzRegexp(f *testing.F) {
	fuzzNames(f, Source{Format: "regexp"}, `(^|\.)giraffic\.com$`, "# x\n^api\\..*;querytype=A\n")
}

func FuzzRPZ(f *testing.F) {
	fuzzNames(f, Source{Format: "rpz", Select: []string{"nxdomain", "cname:garden.test"}}, zoneFile, "a CNAME garden.test.\n*.a A 192.0.2.1\n")
}

func FuzzAnswers(f *testing.F) {
	f.Add(zoneAnswers, "www.g.test")
	f.Add("*.a CNAME *.b.\na 1h TXT \"x\\\" y\" z\na MX 10 (\n . )\n", "c.a")
	f.Fuzz(func(t *testing.T, text, name string) {
		a, stats, err := Source{Format: "rpz"}.Answers(strings.NewReader(text))
		if err != nil {
			return
		}
		if a.Names().Len() > stats.Entries || len(a.all) > stats.Entries {
			t.Fatalf("%d names and %d answers of %d entries", a.Names().Len(), len(a.all), stats.Entries)
		}
		clean, err := match.Clean(name)
		if err != nil {
			return
		}
		if _, ok := a.Names().Lookup(clean); ok != (a.Of(clean) != nil) {
			t.Fatalf("%s is among the names: %v", clean, ok)
		}
	})
}

func FuzzV2fly(f *testing.F) {
	fuzzNames(f, Source{Format: "v2fly", Select: []string{"@cn@-ads", "@!cn"}}, "a.test @cn\nfull:b.test @!cn &c # d\nregexp:^e[0-9]+ @cn\nkeyword:f @cn\ninclude:a @cn @-ads\ndomain:g.test:@cn,@ads\n")
}

func fuzzNetworks(f *testing.F, s Source, seeds ...string) {
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		set, stats, err := s.Networks(strings.NewReader(text))
		if err != nil {
			return
		}
		if set.Len() > 0 && stats.Entries == 0 || text != "" && stats.Entries+stats.passed == 0 {
			t.Fatalf("%d networks of %d entries", set.Len(), stats.Entries)
		}
		stats.Warnings()
		set.Contains(netip.MustParseAddr("192.0.2.1"))
	})
}

func FuzzCIDR(f *testing.F) {
	fuzzNetworks(f, Source{Format: "cidr"}, "192.0.2.0/24\n198.51.100.7\n203.0.113.5-203.0.113.9\n::/1\n")
}

func FuzzBogus(f *testing.F) {
	fuzzNetworks(f, Source{Format: "dnsmasq"}, "bogus-nxdomain=192.0.2.1\nignore-address=2001:db8::/32\n")
}

func FuzzRPZNetworks(f *testing.F) {
	fuzzNetworks(f, Source{Format: "rpz", Select: []string{"client-ip", "drop"}}, zoneNetworks, "$ORIGIN a.\n24.0.2.0.192.rpz-client-ip CNAME rpz-drop.\n48.zz.1.db8.2001.rpz-client-ip CNAME rpz-drop.\n")
}

func FuzzDatabase(f *testing.F) {
	b, err := geomake.Make(map[netip.Prefix]string{netip.MustParsePrefix("192.0.2.0/24"): "CN", netip.MustParsePrefix("198.51.100.0/24"): "HK"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		set, stats, err := Source{Format: "mmdb", Select: []string{"CN"}}.Networks(bytes.NewReader(b))
		if err == nil && set.Len() > stats.Entries {
			t.Fatalf("%d networks of %d entries", set.Len(), stats.Entries)
		}
	})
}
