package configs

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/starferry/starferry/policy"
)

// The example policies are in order, their tests pass, and nothing in them is
// odd.
func TestExamplePolicies(t *testing.T) {
	files, err := filepath.Glob("examples/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		set, err := LoadPolicy(OS, file)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		results := set.Policy.RunTests(nil, time.Now())
		if err := policy.TestsErr(results); err != nil || len(results) < 5 {
			t.Errorf("%s: %d tests: %v", file, len(results), err)
		}
		for _, w := range Check([]string{file}).Warnings {
			if w.At.IsZero() { // the place of a missing country database is known
				t.Errorf("%v", w)
			}
		}
	}
}
