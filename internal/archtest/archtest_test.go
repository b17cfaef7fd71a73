// Package archtest holds the tree to its own rules: who may import whom, which
// library has which home, that every package says what it is for, that functions
// and files stay small, and a few things that nobody does here.
//
// It reads the files itself rather than asking "go list", so that the go
// command knows what the results depend on and caches them correctly.
package archtest

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "github.com/starferry/starferry/"
	root   = "../.."
)

// A file is one file of the tree, tests included.
type file struct {
	name string // slash-separated, from the root of the tree
	dir  string
	src  []byte
	ast  *ast.File // of Go files
	fset *token.FileSet
}

// load reads the tree but for what is hidden. Go files are parsed; those in
// testdata, which tests may have broken on purpose, are not Go files here.
func load(t *testing.T) []file {
	t.Helper()
	fset := token.NewFileSet()
	var files []file
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		f := file{name: filepath.ToSlash(rel), fset: fset}
		f.dir = path.Dir(f.name)
		if f.src, err = os.ReadFile(p); err != nil {
			return err
		}
		if strings.HasSuffix(p, ".go") && !strings.Contains(f.name, "testdata/") {
			if f.ast, err = parser.ParseFile(fset, p, f.src, parser.ParseComments|parser.SkipObjectResolution); err != nil {
				t.Errorf("%s does not parse: %v", f.name, err)
				return nil
			}
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// goFiles returns the Go files of the tree.
func goFiles(t *testing.T) []file {
	t.Helper()
	var out []file
	for _, f := range load(t) {
		if f.ast != nil {
			out = append(out, f)
		}
	}
	return out
}

func (f file) test() bool { return strings.HasSuffix(f.name, "_test.go") }

func (f file) text() bool { return bytes.IndexByte(f.src, 0) < 0 }

func (f file) imports() []string {
	var paths []string
	for _, s := range f.ast.Imports {
		p, _ := strconv.Unquote(s.Path.Value) // the parser has checked it
		paths = append(paths, p)
	}
	return paths
}

func (f file) line(p token.Pos) int { return f.fset.Position(p).Line }

// functions returns the file's functions and methods.
func (f file) functions() []*ast.FuncDecl {
	var out []*ast.FuncDecl
	for _, d := range f.ast.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			out = append(out, fn)
		}
	}
	return out
}

// length returns how many lines a function has.
func (f file) length(fn *ast.FuncDecl) int { return f.line(fn.End()) - f.line(fn.Pos()) + 1 }

// within reports whether pkg is dir or lies under it.
func within(pkg, dir string) bool {
	rest, ok := strings.CutPrefix(pkg, dir)
	return ok && (rest == "" || rest[0] == '/')
}
