// Package archtest holds the tree to its own rules: who may import whom, that
// every package says what it is for, and that functions and files stay small.
//
// It reads the files itself rather than asking "go list", so that the go
// command knows what the results depend on and caches them correctly.
package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module  = "github.com/starferry/starferry/"
	root    = "../.."
	maxFunc = 80  // lines
	maxFile = 600 // lines
)

// layers lists, from the bottom up, which packages stand on one level.
// A package may import what is below it, and its own subpackages.
var layers = [][]string{
	{"internal", "policy/match", "tunnel/packet"},
	{"device", "steer/geo", "dex/stats"},
	{"policy"},
	{"state"},
	{"steer"},
	{"resolver", "tunnel", "dex"},
	{"console", "configs"},
	{"cmd", "integration"},
}

// homes names the only places that may import a library, so that each can be
// replaced, and found, in one place.
var homes = map[string][]string{
	"gopkg.in/yaml.v3":              {"internal/yamlpos"},
	"github.com/hashicorp/go-memdb": {"state"},
	"golang.zx2c4.com/wireguard":    {"tunnel/link", "internal/simnet"},
	"github.com/miekg/dns":          {"resolver", "dex/probe", "cmd/ztctl"},
}

// banned are names that say nothing about what a package provides.
var banned = []string{
	"base", "common", "core", "helper", "helpers", "manager", "misc",
	"models", "types", "util", "utils",
}

// A file is one parsed source file, tests included.
type file struct {
	name string // slash-separated, from the root of the tree
	dir  string
	test bool
	ast  *ast.File
	fset *token.FileSet
}

func load(t *testing.T) []file {
	t.Helper()
	fset := token.NewFileSet()
	var files []file
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && d.Name() != "..") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		files = append(files, file{name, path.Dir(name), strings.HasSuffix(name, "_test.go"), f, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func (f file) imports() []string {
	var paths []string
	for _, s := range f.ast.Imports {
		p, _ := strconv.Unquote(s.Path.Value) // the parser has checked it
		paths = append(paths, p)
	}
	return paths
}

func (f file) line(p token.Pos) int { return f.fset.Position(p).Line }

// level returns the level of the package, and the top of the tree it is in:
// the longest entry of layers that it is or lies under.
func level(pkg string) (lvl int, top string) {
	lvl = -1
	for i, names := range layers {
		for _, n := range names {
			if len(n) > len(top) && within(pkg, n) {
				lvl, top = i, n
			}
		}
	}
	return lvl, top
}

// within reports whether pkg is dir or lies under it.
func within(pkg, dir string) bool {
	rest, ok := strings.CutPrefix(pkg, dir)
	return ok && (rest == "" || rest[0] == '/')
}

func TestImports(t *testing.T) {
	for _, f := range load(t) {
		from, top := level(f.dir)
		if from < 0 {
			t.Errorf("%s has no place in layers", f.dir)
		}
		for _, imp := range f.imports() {
			pkg, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			if to, below := level(pkg); to >= from && below != top {
				t.Errorf("%s (level %d) imports %s (level %d)", f.name, from, pkg, to)
			}
		}
	}
}

func TestLibraries(t *testing.T) {
	for _, f := range load(t) {
		for _, imp := range f.imports() {
			for lib, dirs := range homes {
				if within(imp, lib) && !f.test && !slices.ContainsFunc(dirs, func(d string) bool { return within(f.dir, d) }) {
					t.Errorf("%s imports %s, whose home is %q", f.name, lib, dirs)
				}
			}
		}
	}
}

func TestNamesAndDocs(t *testing.T) {
	docs := map[string]int{}
	for _, f := range load(t) {
		if slices.Contains(banned, f.ast.Name.Name) {
			t.Errorf("%s: package name %q says nothing", f.name, f.ast.Name.Name)
		}
		if n := docs[f.dir]; f.ast.Doc != nil {
			docs[f.dir] = n + 1
		} else {
			docs[f.dir] = n
		}
	}
	for dir, n := range docs {
		if n != 1 {
			t.Errorf("%s has %d package comments, want 1", dir, n)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, f := range load(t) {
		if f.test || ast.IsGenerated(f.ast) {
			continue
		}
		if n := f.line(f.ast.FileEnd); n > maxFile {
			t.Errorf("%s has %d lines, more than %d", f.name, n, maxFile)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := f.line(fn.End()) - f.line(fn.Pos()) + 1; n > maxFunc {
				t.Errorf("%s: %s has %d lines, more than %d", f.name, fn.Name.Name, n, maxFunc)
			}
			if fn.Name.Name == "init" {
				t.Errorf("%s:%d: no init functions", f.name, f.line(fn.Pos()))
			}
		}
	}
}
