package configs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/starferry/starferry/internal/yamlpos"
)

// A Report is what came of checking files.
type Report struct {
	Files    []string // that were looked at, lists included
	Warnings []Warning
	Mistakes []error // in the order of the files
}

// Err returns the mistakes as one error, or nil.
func (r *Report) Err() error { return yamlpos.Join(r.Mistakes...) }

// Check reads files of any kind together, with all that they name, and reports
// every mistake in any of them. A folder stands for its *.yaml files. A country
// database that is not there is only a warning, and so are policies that work and
// hardly as they are meant.
func Check(paths []string) *Report {
	f := newFleet(OS)
	f.lenient = true
	var lost []error
	for _, path := range paths {
		files, err := expand(path)
		if err != nil {
			lost = append(lost, err)
		}
		for _, file := range files {
			f.add(file)
		}
	}
	f.settle()
	f.lint()
	r := &Report{Files: f.files, Warnings: f.warnings(), Mistakes: lost}
	r.Mistakes = append(r.Mistakes, flatten([]error{f.mistakes()})...)
	return r
}

// expand returns the files that a path stands for.
func expand(path string) ([]string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, plain(err)
	}
	if !st.IsDir() {
		return []string{filepath.Clean(path)}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, plain(err)
	}
	var files []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no YAML file in this folder", path)
	}
	slices.Sort(files)
	return files, nil
}

// Folder returns the folder that is meant where none is given: ./configs if it
// is there, else [DefaultFolder].
func Folder() string {
	if st, err := os.Stat("configs"); err == nil && st.IsDir() {
		return "configs"
	}
	return DefaultFolder
}

// LoadLenient is [Load] for those who only look, on a machine that need not be
// the node's own: a country database that is not there is only a warning.
func LoadLenient(open Opener, path string) (*Set, error) {
	return new(Loader).load(open, path, true)
}
