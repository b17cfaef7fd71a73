package list

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
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
	out     map[string]match.Kind // exceptions: the closer entry counts
	rules   []meantRule           // of adblock lists
	entries int
	bad     int
}

// A meantRule is what an adblock rule is written for.
type meantRule struct {
	name                    string
	excepts, important, off bool
	but                     string
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

// excepts notes what was written as an exception, and returns it.
func (w *writer) excepts(kind match.Kind, before, after string) string {
	written, clean := w.name()
	if clean == "" {
		w.bad++
	} else {
		w.entries++
		w.out[clean] |= kind
	}
	return before + written + after
}

func pick2(w *writer) (match.Kind, string, string) {
	if w.IntN(2) == 0 {
		return match.Exact, "", ""
	}
	return match.Under, "*.", ""
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
		w.line("", "%s", pick(w, "no-resolv", "server=1.1.1.1", "local=//", "address=/#/::", "bogus-nxdomain=1.1.1.1"))
		w.bad++
	case 3:
		w.line("", "server=%s/#", w.excepts(match.Tree, "/", ""))
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
		w.line("", "%s", pick(w, "@@||a.test^$third-party", "||a.test^$third-party", "||a*.test^", "/(/", "a.test##.x", "||a.test", "a.test", "||a.test^$important,ctag=x"))
		w.bad++
	default:
		written, clean := w.name()
		r := meantRule{name: clean, excepts: w.IntN(4) == 0, important: w.IntN(4) == 0, off: w.IntN(6) == 0}
		var options []string
		if w.IntN(5) == 0 && !r.excepts {
			r.but = pick(w, "a.com", "a.test", "b.test")
			options = append(options, "denyallow="+r.but)
		}
		if r.important {
			options = append(options, "important")
		}
		if r.off {
			options = append(options, "badfilter")
		}
		w.rule(r, written, options)
	}
}

// rule writes an adblock rule and notes it.
func (w *writer) rule(r meantRule, written string, options []string) {
	if r.name == "" {
		w.bad++
	} else {
		w.entries++
		w.rules = append(w.rules, r)
	}
	text := pick(w, "||"+written+"^", "||"+written+"^|")
	if r.excepts {
		text = "@@" + text
	}
	if len(options) > 0 {
		w.Shuffle(len(options), func(i, k int) { options[i], options[k] = options[k], options[i] })
		text += "$" + strings.Join(options, ",")
	}
	w.line("", "%s", text)
}

// blocked tells what adblock rules mean for a name: of those that cover it an
// important exception counts for most, then an important rule, then an exception.
func (w *writer) blocked(name string) bool {
	var has [4]bool
	for _, r := range w.rules {
		off := slices.Contains(w.rules, meantRule{r.name, r.excepts, r.important, true, r.but})
		if off || !inTree(name, r.name) || r.but != "" && inTree(name, r.but) {
			continue
		}
		switch {
		case r.excepts && r.important:
			has[3] = true
		case r.important:
			has[2] = true
		case r.excepts:
			has[1] = true
		default:
			has[0] = true
		}
	}
	return !has[3] && (has[2] || !has[1] && has[0])
}

func inTree(name, top string) bool { return name == top || strings.HasSuffix(name, "."+top) }

func (w *writer) rpz() {
	if w.text.Len() == 0 {
		w.line("", "$TTL 60\n@ SOA a. b. ( 1 2 ; x\n 3 4 5 )\n  NS a.")
	}
	does := pick(w, " CNAME .", " 60 IN CNAME *.", "\tIN 60 cname rpz-drop.", " (\n CNAME\n . )")
	switch w.IntN(8) {
	case 0:
		w.line("", "%s", pick(w, "; x", "$TTL 5", " "))
	case 1:
		w.line("", "%s", pick(w, "32.1.2.0.192.rpz-ip CNAME .", "a.test", `a.test TXT "x`, "a.test )"))
		w.bad++
	case 3:
		w.line("", "%s CNAME rpz-passthru.", w.excepts(pick2(w)))
	case 4: // another action: as good as an exception, but left out
		before := w.bad
		text, did := w.excepts(pick2(w)), pick(w, "A 192.0.2.1", "CNAME other.test.", "CNAME rpz-tcp-only.")
		w.line("", "%s %s", text, did)
		if w.bad == before {
			w.bad, w.entries = w.bad+1, w.entries-1
		}
	case 2:
		w.line(" ; x", "%s%s", w.means(match.Under, "*.", ""), does)
	default:
		w.line("; x", "%s%s", w.means(match.Exact, "", ""), does)
	}
}

// covered tells by looking at each entry whether one covers the name.
func (w *writer) covered(name string) bool {
	if w.rules != nil {
		return w.blocked(name)
	}
	in := closest(w.meant, name)
	return in >= 0 && closest(w.out, name) < in
}

// closest returns how long the longest entry is that covers the name, -1 if none does.
func closest(entries map[string]match.Kind, name string) int {
	best := -1
	for entry, kind := range entries {
		rest, under := strings.CutSuffix(name, "."+entry)
		if name == entry && kind&match.Exact != 0 || under && kind&match.Under != 0 ||
			under && kind&match.One != 0 && !strings.Contains(rest, ".") {
			best = max(best, len(entry))
		}
	}
	return best
}

func TestListsMeanWhatTheyAreWrittenFor(t *testing.T) {
	for format, write := range map[string]func(*writer){
		"plain": (*writer).plain, "hosts": (*writer).hosts, "dnsmasq": (*writer).dnsmasq, "adblock": (*writer).adblock, "rpz": (*writer).rpz,
	} {
		for seed := range uint64(150) {
			w := &writer{Rand: rand.New(rand.NewPCG(seed, 1)), meant: map[string]match.Kind{}, out: map[string]match.Kind{}}
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
	if stats.Entries != w.entries || stats.Bad != w.bad || w.rules == nil && set.Len() != len(w.meant) {
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

// One file of dnsmasq may have names and networks: what is not asked for is told
// apart from lines that cannot be read.
func TestDnsmasqOfBoth(t *testing.T) {
	const text = "server=/a.example/1.1.1.1\nlocal=/b.a.example/#\nbogus-nxdomain = 192.0.2.1\nignore-address=192.0.2.9\nno-resolv\n"
	names, stats, err := Source{Name: "x", Format: "dnsmasq"}.Names(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(stats.Warnings(), "\n"); stats.Bad != 3 || stats.Unsaid != 2 || !strings.Contains(got, "bogus-nxdomain= in a list of names: 1, first in line 3") {
		t.Errorf("%+v\n%s", stats, got)
	}
	for name, want := range map[string]bool{"a.example": true, "x.a.example": true, "b.a.example": false} {
		if _, got := names.Lookup(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	nets, stats, err := Source{Name: "x", Format: "dnsmasq"}.Networks(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if stats.Bad != 3 || stats.Unsaid != 2 || !nets.Contains(netip.MustParseAddr("192.0.2.1")) {
		t.Errorf("%+v", stats)
	}
	if _, _, err := (Source{Name: "x", Format: "dnsmasq"}).Networks(strings.NewReader("server=/a.example/1.1.1.1\n")); err == nil {
		t.Error("a list of networks without any is taken")
	}
}
