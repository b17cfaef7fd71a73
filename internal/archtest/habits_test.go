package archtest

import (
	"bytes"
	"go/ast"
	"go/format"
	"path"
	"slices"
	"strings"
	"testing"
)

const (
	maxFunc      = 80 // lines
	maxFile      = 600
	maxMedian    = 12 // of the lengths of all functions
	maxNineTenth = 35 // nine in ten functions are no longer
)

// banned are names that say nothing about what a package provides.
var banned = []string{
	"base", "common", "core", "helper", "helpers", "manager", "misc",
	"models", "types", "util", "utils",
}

func TestNamesAndDocs(t *testing.T) {
	docs := map[string][]string{}
	for _, f := range goFiles(t) {
		for _, n := range []string{f.ast.Name.Name, path.Base(f.dir)} {
			if slices.Contains(banned, n) {
				t.Errorf("%s: package name %q says nothing", f.name, n)
			}
		}
		d := f.ast.Doc
		if _, seen := docs[f.dir]; !seen {
			docs[f.dir] = nil
		}
		if d != nil {
			docs[f.dir] = append(docs[f.dir], f.name)
			if n := f.ast.Name.Name; n != "main" && !strings.HasPrefix(d.Text(), "Package "+n+" ") {
				t.Errorf("%s: the package comment does not begin with \"Package %s\"", f.name, n)
			}
		}
	}
	for dir, in := range docs {
		if len(in) != 1 {
			t.Errorf("%s has %d package comments, want 1: %q", dir, len(in), in)
		}
	}
}

func TestSizes(t *testing.T) {
	var lengths []int
	for _, f := range goFiles(t) {
		if f.test() || ast.IsGenerated(f.ast) {
			continue
		}
		if n := f.line(f.ast.FileEnd); n > maxFile {
			t.Errorf("%s has %d lines, more than %d", f.name, n, maxFile)
		}
		for _, fn := range f.functions() {
			n := f.length(fn)
			lengths = append(lengths, n)
			if n > maxFunc {
				t.Errorf("%s: %s has %d lines, more than %d", f.name, fn.Name.Name, n, maxFunc)
			}
		}
	}
	if len(lengths) == 0 {
		t.Fatal("there are no functions")
	}
	slices.Sort(lengths)
	median, nineTenth := lengths[len(lengths)/2], lengths[len(lengths)*9/10]
	t.Logf("%d functions: median %d lines, nine in ten at most %d, the longest %d", len(lengths), median, nineTenth, lengths[len(lengths)-1])
	if median > maxMedian || nineTenth > maxNineTenth {
		t.Errorf("functions have a median of %d lines and nine in ten at most %d, want %d and %d", median, nineTenth, maxMedian, maxNineTenth)
	}
}

func TestFormat(t *testing.T) {
	for _, f := range goFiles(t) {
		want, err := format.Source(f.src)
		if err != nil || !bytes.Equal(want, f.src) {
			t.Errorf("%s is not as gofmt writes it", f.name)
		}
	}
}

func TestNoInit(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, fn := range f.functions() {
			if fn.Name.Name == "init" && fn.Recv == nil {
				t.Errorf("%s:%d: no init functions", f.name, f.line(fn.Pos()))
			}
		}
	}
}

// Sleeping makes tests slow where it is too long and flaky where it is too
// short. In a bubble of testing/synctest it is exact, and costs nothing.
func TestNoSleepInTests(t *testing.T) {
	for _, f := range goFiles(t) {
		if !f.test() || slices.Contains(f.imports(), "testing/synctest") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if isSelector(n, "time", "Sleep") {
				t.Errorf("%s:%d: sleeps", f.name, f.line(n.Pos()))
			}
			return true
		})
	}
}

// A context belongs to a call. One in a struct outlives it.
func TestNoContextInStruct(t *testing.T) {
	for _, f := range goFiles(t) {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			s, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range s.Fields.List {
				if isSelector(field.Type, "context", "Context") {
					t.Errorf("%s:%d: a context in a struct", f.name, f.line(field.Pos()))
				}
			}
			return true
		})
	}
}

// isSelector reports whether the node is pkg.name.
func isSelector(n ast.Node, pkg, name string) bool {
	s, ok := n.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != name {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == pkg
}

// The project speaks of itself alone: it names no place on the machines that
// it is written on, and leaves no notes of what is still to do. (The words are
// put together here so that this file does not hold them.)
func TestForeignWords(t *testing.T) {
	foreign := []string{"/wor" + "k/", "../sha" + "red", "/tmp/" + "sf/"}
	notes := []string{"TO" + "DO", "FIX" + "ME"}
	for _, f := range load(t) {
		words := foreign
		if f.ast != nil {
			words = append(slices.Clone(foreign), notes...)
		}
		if !f.text() {
			continue
		}
		for i, line := range bytes.Split(f.src, []byte("\n")) {
			for _, w := range words {
				if bytes.Contains(line, []byte(w)) {
					t.Errorf("%s:%d: the word %q", f.name, i+1, w)
				}
			}
		}
	}
}
