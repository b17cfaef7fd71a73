package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// All structures answer alike, or run would fail.
func TestRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "table")
	if err := run(&meter{rounds: 1, span: time.Microsecond}, 5000, file); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil || strings.Count(string(b), "\n") != 2+len(structures) {
		t.Errorf("the table is\n%s%v", b, err)
	}
}

func TestMedian(t *testing.T) {
	if m := median([]float64{3, 1, 2}); m != 2 {
		t.Error(m)
	}
	if m := median([]float64{4, 1, 2, 3}); m != 2.5 {
		t.Error(m)
	}
}
