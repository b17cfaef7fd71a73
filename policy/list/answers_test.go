package list

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const zoneAnswers = `$TTL 5m
$ORIGIN rpz.test.
@ SOA a. b. 1 2 3 4 5
  NS a.
a.test          A     192.0.2.1
                A     192.0.2.2
                AAAA  2001:db8::1
*.a.test        60 IN TXT "say \"hi\"; (so)" there\ \033
x.a.test        CNAME rpz-passthru.
y.a.test        CNAME .
g.test          CNAME garden.example.
*.g.test        1h CNAME *.garden.example.
h.test          CNAME garden.example.
mail.test       MX    10 mx
mail.test       SRV   1 2 53 ns.example.
a.test          TXT   again
$ORIGIN sub.rpz.test.
rel             CNAME there
bad.test.rpz.test. A  2001:db8::1
bad.test.rpz.test. MX mx
bad.test.rpz.test. SSHFP 1 1 00
g.test.rpz.test. A 192.0.2.9
d.test.rpz.test. CNAME rpz-drop.
now.test.rpz.test. 0 A 192.0.2.3
now.test.rpz.test. 9 A 192.0.2.4
$INCLUDE other
$TTL x
24.0.2.0.192.rpz-ip.rpz.test. A 192.0.2.1
ns.rpz-nsdname.rpz.test. A 192.0.2.1
`

func says(a *Answer) string {
	if a == nil {
		return "nothing"
	}
	return strings.TrimSpace(fmt.Sprint(a.CNAME, " ", a.A, a.AAAA, a.Records, " ", a.TTL))
}

// What a zone answers with: local data and aliases, by the rule that is closest.
func TestAnswers(t *testing.T) {
	a, stats, err := Source{Name: "l", Format: "rpz", Select: []string{"drop"}}.Answers(strings.NewReader(zoneAnswers))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"a.test":       "[192.0.2.1 192.0.2.2] [2001:db8::1] [{16 again}] 5m0s",
		"z.a.test":     `[] [] [{16 say "hi"; (so)there !}] 1m0s`,
		"q.z.a.test":   `[] [] [{16 say "hi"; (so)there !}] 1m0s`,
		"x.a.test":     "nothing",
		"y.a.test":     "nothing",
		"g.test":       "garden.example [] [] [] 5m0s",
		"www.g.test":   "*.garden.example [] [] [] 1h0m0s",
		"h.test":       "garden.example [] [] [] 5m0s",
		"mail.test":    "[] [] [{15 10 mx.rpz.test.} {33 1 2 53 ns.example.}] 5m0s",
		"rel.sub":      "there.sub.rpz.test [] [] [] 5m0s",
		"bad.test":     "nothing",
		"d.test":       "nothing",
		"www.h.test":   "nothing",
		"now.test":     "[192.0.2.3 192.0.2.4] [] [] 0s",
		"unknown.test": "nothing",
	} {
		if got := says(a.Of(name)); strings.ReplaceAll(got, "][", "] [") != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		if _, ok := a.Names().Lookup(name); ok != (want != "nothing") {
			t.Errorf("%s is among the names: %v", name, ok)
		}
	}
	warned := strings.Join(stats.Warnings(), "\n")
	for _, want := range []string{
		"local data of type SSHFP: 1, first in line 21", "the trigger rpz-nsdname in a list of names: 1, first in line 29", "left out: 5 (",
		`line 19: "2001:db8::1" is no address of type A`, `line 20: "mx" is no record of type MX`, "line 22: a CNAME stands alone", "line 26: $INCLUDE is not supported", `line 27: "x" is no time to live`,
	} {
		if !strings.Contains(warned, want) {
			t.Errorf("%q is not in\n%s", want, warned)
		}
	}
	if len(a.all) != 8 || stats.Entries != 14 {
		t.Errorf("%d answers, %+v", len(a.all), stats)
	}
	if _, _, err := (Source{Format: "plain"}).Answers(strings.NewReader("a.test\n")); err == nil || !strings.Contains(err.Error(), "only rpz has") {
		t.Errorf("a plain list answers: %v", err)
	}
	if a := (&Answers{}).Of("a.test"); a != nil {
		t.Errorf("nothing answers %v", a)
	}
}

func TestParseTTL(t *testing.T) {
	for text, want := range map[string]time.Duration{"0": 0, "300": 5 * time.Minute, "1h30M": 90 * time.Minute, "1w2d": 9 * 24 * time.Hour, "2147483647": 2147483647 * time.Second} {
		if got, ok := parseTTL([]byte(text)); !ok || time.Duration(got)*time.Second != want {
			t.Errorf("%s: %d, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "h", "1x", "99999999999999999999", "2147483648", "3600w9999w", "1hh"} {
		if got, ok := parseTTL([]byte(text)); ok {
			t.Errorf("%s is %d", text, got)
		}
	}
}

// manyTargets is a zone in which each name goes elsewhere.
func manyTargets(n int) string {
	var b strings.Builder
	b.WriteString("$TTL 60\n@ SOA a. b. 1 2 3 4 5\n")
	for i := range n {
		fmt.Fprintf(&b, "host%d.test CNAME t%d.garden.example.\n*.host%d.test A 192.0.%d.%d\n", i, i, i, i>>8&0xff, i&0xff)
	}
	return b.String()
}

func BenchmarkAnswers(b *testing.B) {
	text := manyTargets(10_000)
	b.Run("build", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := (Source{Format: "rpz"}).Answers(strings.NewReader(text)); err != nil {
				b.Fatal(err)
			}
		}
	})
	a, _, err := Source{Format: "rpz"}.Answers(strings.NewReader(text))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("of", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if a.Of("www.host7777.test") == nil {
				b.Fatal("nothing")
			}
		}
	})
}

// Signatures and what else signs a zone take no rule out.
func TestSignedZone(t *testing.T) {
	const signed = `@ SOA a. b. 1 1 1 1 1
@ NSEC3PARAM 1 0 0 -
bad.test CNAME .
bad.test 60 IN RRSIG CNAME 8 2 60 20300101000000 20200101000000 1 x. AAAA
bad.test NSEC c.test CNAME RRSIG NSEC
  TYPE51 \\# 0
good.test A 192.0.2.1
good.test RRSIG ( A 8 2 60 20300101000000
  20200101000000 1 x. AAAA )
0p9mhaveqvm6t7vbl5lop2u3t2rp3tom NSEC3 1 1 0 - 2t7b4g4vsa5smi47k61mv5bv1a22bojr A
`
	names, stats, err := Source{Name: "z", Format: "rpz"}.Names(strings.NewReader(signed))
	if _, ok := names.Lookup("bad.test"); !ok || err != nil || stats.Entries != 1 {
		t.Errorf("bad.test is not in the list: %v, %v", err, stats.Warnings())
	}
	a, stats, err := Source{Name: "z", Format: "rpz"}.Answers(strings.NewReader(signed))
	if err != nil || says(a.Of("good.test")) != "[192.0.2.1] [] [] 0s" || a.Of("bad.test") != nil || stats.Bad > 0 {
		t.Errorf("good.test: %s, %v, %v", says(a.Of("good.test")), err, stats.Warnings())
	}
}

// Texts that differ are two answers, and a closer rule whose data is not
// supported lets no wider one answer.
func TestAnswersApart(t *testing.T) {
	a, _, err := Source{Name: "z", Format: "rpz"}.Answers(strings.NewReader(`@ SOA a. b. 1 1 1 1 1
one.test TXT "x} {16 y"
two.test TXT "x"
two.test TXT "y"
*.w.test A 192.0.2.1
x.w.test SSHFP 1 1 00
y.w.test SSHFP 1 1 00
y.w.test A 192.0.2.2
*.z.w.test SSHFP 1 1 00
`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"one.test": "[][] [{16 x} {16 y}] 0s", "two.test": "[][] [{16 x} {16 y}] 0s",
		"a.w.test": "[192.0.2.1][] [] 0s", "x.w.test": "nothing", "y.w.test": "[192.0.2.2][] [] 0s", "q.z.w.test": "nothing",
	} {
		if got := says(a.Of(name)); strings.ReplaceAll(got, "] [", "][") != strings.ReplaceAll(want, "] [", "][") {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if one, two := a.Of("one.test"), a.Of("two.test"); len(one.Records) != 1 || len(two.Records) != 2 {
		t.Errorf("%v and %v are one answer", one.Records, two.Records)
	}
}

// An IPv4 address is none of type AAAA, however it is written.
func TestAnswersMapped(t *testing.T) {
	a, stats, err := Source{Name: "z", Format: "rpz"}.Answers(strings.NewReader("@ SOA a. b. 1 1 1 1 1\na.test AAAA ::ffff:192.0.2.1\nb.test A 192.0.2.2\n"))
	if warned := fmt.Sprint(stats.Warnings()); err != nil || a.Of("a.test") != nil || !strings.Contains(warned, "is no address of type AAAA") {
		t.Errorf("%s, %v, %s", says(a.Of("a.test")), err, warned)
	}
}

// Whoever asked comes back within a week.
func TestAnswersTTLIsBounded(t *testing.T) {
	a, _, err := Source{Name: "z", Format: "rpz"}.Answers(strings.NewReader("@ SOA a. b. 1 1 1 1 1\na.test 60d A 192.0.2.1\n"))
	if err != nil || says(a.Of("a.test")) != "[192.0.2.1] [] [] 168h0m0s" {
		t.Errorf("%s, %v", says(a.Of("a.test")), err)
	}
}
