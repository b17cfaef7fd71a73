package list

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/starferry/starferry/policy/match"
)

// A writer writes random lists and keeps, in a map, what they mean by the
// package comment.
type writer struct {
	*rand.Rand
	text    strings.Builder
	meant   map[string]match.Kind
	entries int
	bad     int
}

func pick[T any](w *writer, from ...T) T { return from[w.IntN(len(from))] }

// name returns a name as it is written, and as it is asked for: "" if it is none.
func (w *writer) name() (written, clean string) {
	if w.IntN(12) == 0 {
		return pick(w, "a..b.test", "x$y.test", "caf\xe9.test", `a\.b.test`, `a\046b.test`, strings.Repeat("l", 64)+".test",
			strings.Repeat("abcdefg.", 32)+"test", "\u200d.test", "[x].test", "a,b"), ""
	}
	if w.IntN(12) == 0 {
		both := pick(w, [2]string{"B\u00fccher.Example", "xn--bcher-kva.example"}, [2]string{"\u4e2d\u6587.test", "xn--fiq228c.test"},
			[2]string{"\uff37\uff37\uff37.test", "www.test"}, [2]string{"xn--fiq228c.TEST", "xn--fiq228c.test"})
		return both[0], both[1]
	}
	labels := make([]string, 1+w.IntN(4))
	for i := range labels {
		labels[i] = pick(w, "a", "b", "_c", "d-e", "f9", strings.Repeat("m", 63))
	}
	clean = strings.Join(append(labels, pick(w, "com", "test")), ".")
	if len(clean) > 253 {
		return clean, ""
	}
	written = pick(w, clean, clean, strings.ToUpper(clean))
	return written, clean
}

// means notes what was written, and returns it.
func (w *writer) means(kind match.Kind, before, after string) string {
	written, clean := w.name()
	if clean == "" {
		w.bad++
	} else {
		w.entries++
		w.meant[clean] |= kind
	}
	return before + written + after
}

// line writes a line, with what the formats let stand around it.
func (w *writer) line(comment, format string, args ...any) {
	fmt.Fprintf(&w.text, format, args...)
	if w.IntN(5) == 0 {
		w.text.WriteString(comment)
	}
	w.text.WriteString(pick(w, "\n", "\r\n", " \n", "\n\n"))
}

func (w *writer) plain() {
	switch w.IntN(8) {
	case 0:
		w.line(" # x", "%s", w.means(match.Exact, "=", ""))
	case 1:
		w.line(" ! x", "%s", w.means(match.One, "*.", ""))
	case 2:
		w.line(" ; x", "%s", w.means(match.Under, pick(w, "**.", "."), ""))
	case 3:
		w.line("", "#%s", pick(w, "", "a.test", " =a.test"))
	case 4:
		w.line("", "a.test b.test")
		w.bad++
	default:
		w.line("\t# x", "%s%s", pick(w, "", " ", "\t"), w.means(match.Tree, pick(w, "", "+."), pick(w, "", ".")))
	}
}

func (w *writer) hosts() {
	switch w.IntN(8) {
	case 0:
		w.line(" # x", "%s", pick(w, "127.0.0.1 localhost LocalHost.localdomain", "0.0.0.0 0.0.0.0", "fe80::1%lo0 localhost", "# 0.0.0.0 a.test", "::1 ip6-LOOPBACK 1.2.3.4"))
	case 1:
		w.line("", "%s", pick(w, "0.0.0.0", "a.test 0.0.0.0", "0.0.0 a.test", "::1"))
		w.bad++
	default:
		w.text.WriteString(pick(w, "0.0.0.0 ", "0.0.0.0\t", "127.0.0.1 ", ":: "))
		for range 1 + w.IntN(3) {
			w.text.WriteString(w.means(match.Exact, " ", " "))
		}
		w.line("# a.test", "")
	}
}

func (w *writer) dnsmasq() {
	switch w.IntN(8) {
	case 0:
		w.line("", "%s", pick(w, "#server=/a.test/1.1.1.1", "", "# x"))
	case 1:
		w.line("", "%s", pick(w, "server=/a.test/#", "no-resolv", "server=1.1.1.1", "local=//", "address=/#/::", "bogus-nxdomain=1.1.1.1"))
		w.bad++
	case 2:
		w.line("", "address=%s/0.0.0.0", w.means(match.Under, "/*.", ""))
	default:
		w.text.WriteString(pick(w, "server", "local", "address", "ipset", "nftset") + pick(w, "=", " = "))
		for range 1 + w.IntN(3) {
			w.text.WriteString(w.means(match.Tree, pick(w, "/", "/."), ""))
		}
		w.line(" # x", "/%s", pick(w, "", "114.114.114.114", "::1#53"))
	}
}

func (w *writer) adblock() {
	switch w.IntN(6) {
	case 0:
		w.line("", "%s", pick(w, "! ||a.test^", "[Adblock]", "# x", " "))
	case 1:
		w.line("", "%s", pick(w, "@@||a.test^", "||a.test^$third-party", "||a*.test^", "/a/", "a.test##.x", "||a.test", "|a.test^"))
		w.bad++
	default:
		w.line("", "||%s", w.means(match.Tree, "", pick(w, "^", "^|")))
	}
}

func (w *writer) rpz() {
	if w.text.Len() == 0 {
		w.line("", "$TTL 60\n@ SOA a. b. ( 1 2 ; x\n 3 4 5 )\n  NS a.")
	}
	does := pick(w, " CNAME .", " 60 IN CNAME *.", "\tIN 60 cname rpz-drop.", " (\n CNAME\n . )")
	switch w.IntN(8) {
	case 0:
		w.line("", "%s", pick(w, "; x", "$TTL 5", " "))
	case 1:
		w.line("", "%s", pick(w, "a.test CNAME rpz-passthru.", "a.test A 192.0.2.1", "32.1.2.0.192.rpz-ip CNAME .", "a.test CNAME b.test.", "a.test", `a.test TXT "x`, "a.test )"))
		w.bad++
	case 2:
		w.line(" ; x", "%s%s", w.means(match.Under, "*.", ""), does)
	default:
		w.line("; x", "%s%s", w.means(match.Exact, "", ""), does)
	}
}

// covered tells by looking at each entry whether one covers the name.
func (w *writer) covered(name string) bool {
	for entry, kind := range w.meant {
		rest, under := strings.CutSuffix(name, "."+entry)
		if name == entry && kind&match.Exact != 0 || under && kind&match.Under != 0 ||
			under && kind&match.One != 0 && !strings.Contains(rest, ".") {
			return true
		}
	}
	return false
}

func TestListsMeanWhatTheyAreWrittenFor(t *testing.T) {
	for format, write := range map[string]func(*writer){
		"plain": (*writer).plain, "hosts": (*writer).hosts, "dnsmasq": (*writer).dnsmasq, "adblock": (*writer).adblock, "rpz": (*writer).rpz,
	} {
		for seed := range uint64(150) {
			w := &writer{Rand: rand.New(rand.NewPCG(seed, 1)), meant: map[string]match.Kind{}}
			for range 1 + w.IntN(30) {
				write(w)
			}
			w.check(t, format)
		}
	}
}

func (w *writer) check(t *testing.T, format string) {
	t.Helper()
	text := w.text.String()
	set, stats, err := Names(format, strings.NewReader(text), "l")
	if err != nil {
		if w.entries > 0 {
			t.Fatalf("%s: %v in\n%s", format, err, text)
		}
		return
	}
	if stats.Entries != w.entries || stats.Bad != w.bad || set.Len() != len(w.meant) {
		t.Fatalf("%s: %d entries, %d names, %d bad, want %d, %d and %d: %v in\n%s", format, stats.Entries, set.Len(), stats.Bad, w.entries, len(w.meant), w.bad, stats.BadLines, text)
	}
	for range 30 {
		_, name := w.name()
		for _, name := range []string{name, "x." + name, "x.y." + name, strings.TrimPrefix(name, "a.")} {
			if m, ok := set.Lookup(name); name != "" && ok != w.covered(name) {
				t.Fatalf("%s: %s is covered by %v, %v, want %v in\n%s", format, name, m, ok, !ok, text)
			}
		}
	}
}
