package yamlpos_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/starferry/starferry/internal/yamlpos"
)

// mistakes are files that cannot be read and what is said of each.
var mistakes = []struct{ what, src, want string }{
	{"empty", "", `f:1:1: empty file`},
	{"comments only", "# nothing\n", `f:1:1: empty file
    # nothing
    ^`},
	{"a list", "- a\n", `f:1:1: want a mapping, got a list
    - a
    ^`},
	{"nothing", "---\n", `f:2:1: want a mapping, got nothing`},
	{"two documents", "a: 1\n---\nb: 2\n", `f:2:1: a second document begins; want one
    ---
    ^`},
	{"a tab", "a:\n\t- b\n", `f:2:1: found character that cannot start any token
    	- b
    ^ indent with spaces, not with tabs`},
	{"a tab further down", "a:\n  b: 1\n  \tc: 2\n", `f:3:3: found a tab character that violates indentation
      	c: 2
      ^ indent with spaces, not with tabs`},
	{"indentation", "a:\n  b: 1\n c: 2\nd: 3\n", `f:3:2: did not find expected key
     c: 2
     ^ is it indented like its neighbours?`},
	{"two colons", "a: 1\nb: c: d\n", `f:2:4: mapping values are not allowed in this context
    b: c: d
       ^ a value that holds ": " needs quotes`},
	{"unquoted wildcard", "name: 1\npattern: *.example.com\n", `f:2:10: did not find expected alphabetic or numeric character
    pattern: *.example.com
             ^ a value that begins with * needs quotes: "*.example.com"`},
	{"unclosed bracket", "a: [1, 2\nb: 3\n", `f:1:8: did not find expected ',' or ']'
    a: [1, 2
           ^ is a bracket not closed?`},
	{"a colon within brackets", "a: {b: 1, c: d: e}\n", `f:1:14: did not find expected ',' or '}'
    a: {b: 1, c: d: e}
                 ^ a value that holds ": " needs quotes`},
	{"a colon that is quoted already", "a: {b: \"c: d: e\", f: {g: 1}\nh: 2\n", `f:1:15: did not find expected ',' or '}'
    a: {b: "c: d: e", f: {g: 1}
                  ^ is a bracket not closed?`},
	{"indentation of a member", "a:\n- b: c\n   d: e\n", `f:3:4: mapping values are not allowed in this context
       d: e
       ^ is it indented like its neighbours? a value of several lines that holds ": " needs quotes`},
	{"unclosed quote", "a: 1\nb: \"x\nc: 3\n", `f:2:4: found unexpected end of stream
    b: "x
       ^ is a quote not closed?`},
	{"not UTF-8", "a: ok\nb: \xff\n", "f:2:4: not UTF-8: byte 0xff\n    b: \uFFFD\n       ^"},
	{"control character", "a: ok\r\nb: \x01\n", "f:2:4: control character U+0001\n    b: \x01\n       ^"},
	{"duplicate key", "a: 1\nb: 2\na: 3\n", `f:3:1: key "a" is given twice
    a: 3
    ^ first in line 1`},
	{"alias", "a: &x 1\nb: *x\n", `f:2:4: alias *x: aliases are not read
    b: *x
       ^ a value that begins with * needs quotes: "*.example.com"`},
	{"merge", "a: {<<: {b: 1}}\n", `f:1:5: merge keys are not read
    a: {<<: {b: 1}}
        ^ write the keys out`},
	{"tag", "a: !secret x\n", `f:1:4: tag !secret is not read
    a: !secret x
       ^`},
	{"key that is a list", "{[a]: 1}\n", `f:1:2: want a word as key, got a list
    {[a]: 1}
     ^`},
	{"BOM, CRLF", "\uFEFFa: 1\r\nttl: soon\r\n", `f:2:6: ttl: "soon" is no time span
    ttl: soon
         ^ write it like 90s, 15m or 2h30m`},
	{"wide characters", "{名字: x, ttl: soon}\n", `f:1:14: ttl: "soon" is no time span
    {名字: x, ttl: soon}
                   ^ write it like 90s, 15m or 2h30m`},
	{"no value", "ttl:\n", `f:1:5: ttl: want a single value, got nothing
    ttl:
        ^`},
	{"misspelt key", "tll: 1s\n", `f:1:1: unknown key "tll"
    tll: 1s
    ^ did you mean "ttl"?`},
	{"a string for a list", "list: x\n", `f:1:7: list: want a list, got "x"
    list: x
          ^`},
	{"misspelt word", "word: blok\n", `f:1:7: word: "blok" is none of allow, block
    word: blok
          ^ did you mean "block"?`},
	{"in the order of the file", "ttl: -1s\nword: x\nzz: 1\n", `f:1:6: ttl: "-1s" must be longer than zero
    ttl: -1s
         ^
f:2:7: word: "x" is none of allow, block
    word: x
          ^
f:3:1: unknown key "zz"
    zz: 1
    ^`},
}

// read reads a file of a few keys and returns all that is wrong with it.
func read(src []byte) error {
	f, m, err := yamlpos.Open("f", src)
	if err != nil {
		return err
	}
	yamlpos.ReadList(m, "list", yamlpos.Word)
	yamlpos.Read(m, "word", "", yamlpos.OneOf("allow", "block"))
	yamlpos.Read(m, "ttl", time.Second, yamlpos.Duration)
	for _, k := range []string{"a", "b", "pattern", "名字"} {
		if n := m.Node(k); n != nil && n.Kind == yamlpos.Mapping {
			n.AsMap()
		}
	}
	m.Done()
	return f.Err()
}

func TestMistakes(t *testing.T) {
	for _, tt := range mistakes {
		err := read([]byte(tt.src))
		if err == nil {
			t.Errorf("%s: no mistake found in %q", tt.what, tt.src)
			continue
		}
		if got := err.Error(); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.what, got, tt.want)
		}
		var e *yamlpos.Error
		if !errors.As(err, &e) || e.Pos.File != "f" {
			t.Errorf("%s: %T carries no place", tt.what, err)
		}
	}
}

func TestAliasBombCostsNothing(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x]\n")
	for i := range 60 {
		fmt.Fprintf(&b, "a%d: &a%d [*a%d, *a%d, *a%d]\n", i+1, i+1, i, i, i)
	}
	_, _, err := yamlpos.Open("bomb", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	f, m, _ := yamlpos.Open("self", []byte("a: &a [*a]\n"))
	m.Node("a").Items()
	if f.Err() == nil {
		t.Error("an alias of itself was read")
	}
}

func TestDeepNesting(t *testing.T) {
	src := "a: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "\n"
	f, _, err := yamlpos.Open("deep", []byte(src))
	if err == nil {
		err = f.Err()
	}
	if err == nil || !strings.Contains(err.Error(), "nested more than 64 deep") {
		t.Errorf("Open = %v", err)
	}
}

func TestLongLineIsCut(t *testing.T) {
	err := read([]byte("{a: " + strings.Repeat("x", 500) + ", ttl: soon}"))
	lines := strings.Split(err.Error(), "\n")
	if col := strings.IndexByte(lines[2], '^'); !strings.HasPrefix(string([]rune(lines[1])[col:]), "soon") {
		t.Errorf("the caret is off:\n%v", err)
	}
}

func TestForms(t *testing.T) {
	f, m, err := yamlpos.Open("f", []byte("one: x\nmany: [x, y]\nmap: {b: 1, a: on}\nnone: ~\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := yamlpos.ReadOneOrList(m, "one", yamlpos.Word); len(got) != 1 || got[0] != "x" {
		t.Errorf("one = %q", got)
	}
	if got := yamlpos.ReadOneOrList(m, "many", yamlpos.Word); len(got) != 2 {
		t.Errorf("many = %q", got)
	}
	n := m.Node("map")
	if n.Kind != yamlpos.Mapping || n.Text() != "" || n.Pos().String() != "f:3:6" {
		t.Errorf("map is %v at %v", n, n.Pos())
	}
	if k := n.AsMap().Keys(); fmt.Sprint(k) != "[b a]" || n.AsMap().Node("a").Text() != "on" {
		t.Errorf("keys %q", k)
	}
	if m.Node("none").Kind != yamlpos.Null || m.Node("absent") != nil || m.Map("absent").Has("x") {
		t.Error("absent and empty are mixed up")
	}
	if err := f.Err(); err != nil {
		t.Error(err)
	}
	n.Errorf("look again", "%d is wrong", 7)
	m.KeyErrorf("many", "", "too many")
	if want := "f:2:1: too many\n    many: [x, y]\n    ^\nf:3:6: map: 7 is wrong\n    map: {b: 1, a: on}\n         ^ look again"; f.Err().Error() != want {
		t.Errorf("Err = %v", f.Err())
	}
}

func TestJoin(t *testing.T) {
	a, b := read([]byte("ttl: x\nzz: 1\n")), read([]byte("yy: 1\n"))
	err := yamlpos.Join(a, nil, b, os.ErrNotExist)
	var all yamlpos.Errors
	if !errors.As(err, &all) || len(all) != 4 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Join = %v", err)
	}
	if yamlpos.Join(nil, nil) != nil {
		t.Error("nothing joined is something")
	}
}

func FuzzOpen(f *testing.F) {
	for _, tt := range mistakes {
		f.Add([]byte(tt.src))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		if err := read(src); err != nil {
			_ = err.Error()
		}
		if _, m, err := yamlpos.Open("f", src); err == nil {
			walk(m)
		}
	})
}

func walk(m *yamlpos.Map) {
	for _, k := range m.Keys() {
		for _, n := range m.Node(k).OneOrMore() {
			if n.Kind == yamlpos.Mapping {
				walk(n.AsMap())
			}
			n.Items()
		}
	}
}
