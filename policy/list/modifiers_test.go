package list

import (
	"strings"
	"testing"

	"github.com/starferry/starferry/policy/match"
)

// What the modifiers of rules say, and the rules that are left out whole.
func TestModifiers(t *testing.T) {
	for rule, want := range map[string]string{
		`||a.test^$dnstype=a|~HTTPS`:                           "dnstype=A|~HTTPS",
		`||a.test^$dnstype=TYPE257,important`:                  "dnstype=CAA,important",
		`@@||a.test^$client=Laptop|10.1.2.3/8|2001:db8::1`:     "client=10.0.0.0/8|2001:db8::1|laptop",
		`||a.test^$client=~'mum'|~"dad"`:                       "client=~dad|~mum",
		`||a.test^$client=192.0.2.1|~::ffff:192.0.2.2`:         "client=192.0.2.1|~192.0.2.2",
		`/^a[$]/$client=10.0.0.0/8,dnstype=A`:                  "dnstype=A,client=10.0.0.0/8",
		`||a.test^$client='Frank\'s laptop\, the old one'`:     "a client whose name is none of a device or group is not supported",
		`||a.test^$client=00:11:22:33:44:55`:                   "a client whose name is none of a device or group is not supported",
		`||a.test^$dnstype=B`:                                  `"B" is no DNS type`,
		`||a.test^$dnstype=`:                                   `"" is no DNS type`,
		`||a.test^$client=`:                                    "a client whose name is none of a device or group is not supported",
		`||a.test^$dnstype=A,ctag=phone`:                       "the modifier ctag is not supported",
		`||a.test^$client='a\|b'|c`:                            "a client whose name is none of a device or group is not supported",
		`||a.test^$denyallow=x.a.test,dnstype=A,client=~staff`: "dnstype=A,client=~staff",
	} {
		r, err := parseRule([]byte(rule))
		got := r.scope.String()
		if r.important {
			got += ",important"
		}
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", rule, got, want)
		}
	}
}

// Rules that are for some only stand beside the set, and are told with their lines.
func TestRulesForSome(t *testing.T) {
	const text = "||all.test^\n||some.test^$dnstype=A\n||*.some.test^$client=lab\n@@||x.all.test^$dnstype=AAAA\n" +
		"||gone.test^$dnstype=A\n||gone.test^$dnstype=A,badfilter\n||top^$dnstype=A\n/^re[0-9]/$client=10.0.0.0/8,important\n||but.test^$denyallow=x.but.test,dnstype=A\n"
	set, stats, err := Source{Name: "l", Format: "adblock", MinLabels: 2}.Names(strings.NewReader(text))
	if err != nil || stats.Bad != 0 || stats.Wide != 1 || stats.Entries != 8 {
		t.Fatalf("%+v, %v", stats, err)
	}
	for name, want := range map[string]string{
		"y.all.test":    "||all.test^",
		"x.all.test":    "||all.test^, @@||x.all.test^$dnstype=AAAA in line 4",
		"some.test":     "||some.test^$dnstype=A in line 2",
		"a.b.some.test": "||*.some.test^$client=lab in line 3, ||some.test^$dnstype=A in line 2",
		"gone.test":     "",
		"a.top":         "",
		"re7.test":      "/^re[0-9]/$client=10.0.0.0/8,important in line 8",
		"a.but.test":    "||but.test^$dnstype=A in line 9",
		"a.x.but.test":  "",
	} {
		var got []string
		for i := range set.Rules {
			if m, ok := set.Rules[i].Names.Lookup(name); ok {
				got = append(got, set.Rules[i].String(m))
			}
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("%s: %s, want %s", name, s, want)
		}
		if _, ok := set.Lookup(name); ok != strings.HasSuffix(name, "all.test") {
			t.Errorf("%s is in the list for all: %v", name, ok)
		}
	}
	var told []string
	err = Source{Name: "l", Format: "adblock"}.Each(strings.NewReader(text+"@@||some.test^$important\n||all.test^$dnstype=A\n"), func(kind match.Kind, name string) {
		told = append(told, match.Match{Name: name, Kind: kind}.String())
	})
	if s := strings.Join(told, " "); err != nil || s != "all.test top but.test all.test" {
		t.Errorf("told are %s, %v", s, err)
	}
	plain, _, err := Names("adblock", strings.NewReader("||a.test^$important\n@@||b.test^\n"), "l")
	if err != nil || plain.Rules != nil {
		t.Errorf("a list without such rules has %v, %v", plain.Rules, err)
	}
}

// More modifiers than can be told apart are left out and counted.
func TestManyModifiers(t *testing.T) {
	var text strings.Builder
	for i := range maxRules + 6 {
		text.WriteString("||a.test^$dnstype=TYPE" + strings.Repeat("1", 1+i%3) + strings.Repeat("0", i/60) + ",client=c" + string(rune('a'+i%26)) + string(rune('a'+i/26)) + "\n")
	}
	set, stats, err := Names("adblock", strings.NewReader(text.String()), "l")
	if err != nil || len(set.Rules) != maxRules+1 || stats.Unsaid != 6 {
		t.Errorf("%d rules, %+v, %v", len(set.Rules), stats, err)
	}
}
